// Shards: the pictures of a split one after the other in a few large files, as `prepare images` writes them.
//
//   meta.json           what is here: classes, mean and deviation, splits, what was left out (ImageMeta)
//   SPLIT.index         "ACCRIMG1", u64 pictures, u64 bytes of names; then ShardRecord for each picture; then the names
//   SPLIT-00000.shard   "ACCRSHRD", u32 version, u32 number; then encoded pictures or values (rows of pixels), packed
//
// All numbers are little-endian.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace accrete {

inline constexpr char kShardMagic[9] = "ACCRSHRD", kIndexMagic[9] = "ACCRIMG1";
inline constexpr uint32_t kShardVersion = 1;
inline constexpr int64_t kShardHeader = 16, kIndexHeader = 24;

struct ShardRecord {
  uint64_t offset = 0;    // in its shard
  uint64_t name_end = 0;  // of its name among the names; it begins where the one before ends
  uint32_t length = 0;    // bytes
  uint32_t shard = 0;
  uint32_t label = 0;
  uint32_t width = 0, height = 0;
  uint32_t raw = 0;  // 1: values of pixels, 0: an encoded picture
};
static_assert(sizeof(ShardRecord) == 40);

struct SkippedImage {
  std::string file, why;
};

struct ImageSplitMeta {
  int64_t images = 0, shards = 0, bytes = 0;
  int64_t shrunk = 0;  // made smaller
  std::vector<SkippedImage> skipped;
};

struct ImageMeta {
  std::vector<std::string> classes;
  int64_t channels = 3;
  std::vector<double> mean, stddev;  // of the training split on [0, 1]; empty when there is none
  int64_t max_side = 0, quality = 0;
  std::map<std::string, ImageSplitMeta> splits;

  std::string to_json() const;
  static ImageMeta from_json(std::string_view text, const std::string& where);
};

// The index of one split, checked: every record lies inside its shard and its numbers make sense.
class ShardIndex {
 public:
  // `bytes` must outlive the index; `shard_sizes` are the sizes of the shard files in bytes.
  static ShardIndex parse(std::span<const uint8_t> bytes, const std::vector<int64_t>& shard_sizes, int64_t classes,
                          int64_t channels, const std::string& where);
  int64_t size() const { return count_; }
  ShardRecord record(int64_t i) const;
  std::string name(int64_t i) const;

 private:
  std::span<const uint8_t> bytes_;
  int64_t count_ = 0;
};

// "train-00003.shard"
std::string shard_name(const std::string& split, int64_t number);

}  // namespace accrete
