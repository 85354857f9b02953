// The formats behind open_images, one by one: class folders, CIFAR binaries, IDX files, shards. Each looks at a folder
// and says which splits of its format lie there; an empty list means that the folder is none of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/image_set.h"

namespace accrete {

struct ImageFormat {
  const char* name;
  std::vector<std::string> (*splits)(const std::filesystem::path& folder);  // of "train", "valid", "test"
  std::shared_ptr<const ImageSet> (*open)(const std::filesystem::path& folder, const std::string& split);
};
extern const ImageFormat kClassFolders, kCifar, kIdx, kImageShards;

// ---- what the openers check, on bytes in memory (`where` opens every Error) -----------------------------------------

// CIFAR: records of one label byte (CIFAR-10) or two, coarse and fine (CIFAR-100), then 32x32 red, green, blue values.
struct CifarBatch {
  int64_t label_bytes = 1, count = 0;
  std::span<const uint8_t> bytes;

  // Every label must be below `classes`.
  static CifarBatch parse(std::span<const uint8_t> bytes, int64_t label_bytes, int64_t classes,
                          const std::string& where);
  int64_t record() const { return label_bytes + 3072; }
  int32_t label(int64_t i) const { return bytes[static_cast<size_t>(i * record() + label_bytes - 1)]; }
  Image image(int64_t i) const;
};

// IDX of bytes: two zeros, 8 (u8), the number of dimensions, their sizes as big-endian u32, then the values.
struct IdxArray {
  std::vector<int64_t> shape;
  std::span<const uint8_t> values;

  static IdxArray parse(std::span<const uint8_t> bytes, size_t dimensions, const std::string& where);
};

}  // namespace accrete
