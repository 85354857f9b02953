// Token files, read by mapping: bare ids (this project's and nanoGPT's train.bin) and llm.c shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/token_meta.h"

namespace accrete {

// How to read the bytes. An llm.c header (256 x i32: magic 20240520 version 1 for u16 ids, 20240801 version 7 for u32;
// third number: count) is recognised and overrides `width`.
struct TokenFormat {
  int width = 2;           // bytes of an id in a bare file
  int64_t vocab_size = 0;  // every id must be below; 0: the largest id + 1 is taken
};

// Ids of one file. Sizes are checked and all ids are looked at once when it is made; copies share the mapping.
class TokenFile {
 public:
  // The format follows from meta.json in the same folder, else ids have 2 bytes, or 4 when `vocab_size` needs them.
  // `vocab_size`, when given, is the number of ids that the user of the tokens can take.
  // Throws for a missing or empty file, sizes that do not fit, and ids beyond the vocabulary (naming position and id).
  static TokenFile open(const std::filesystem::path& path, int64_t vocab_size = 0);
  // The same for bytes in memory, which must outlive the result. `where` names them in errors.
  static TokenFile from_memory(std::span<const std::byte> bytes, const TokenFormat& format, const std::string& where);

  int64_t size() const { return size_; }              // ids
  int64_t vocab_size() const { return vocab_size_; }  // of the format, else the largest id + 1
  // ids[begin .. begin+count) -> out; the range must lie inside.
  void copy(int64_t begin, int64_t count, int32_t* out) const;

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
  int64_t vocab_size_ = 0;
  int width_ = 2;
};

// One or more token files, one after the other.
class TokenStream {
 public:
  explicit TokenStream(std::vector<TokenFile> files);
  // `path` is a token file, or a folder in which the files of the split are found: SPLIT.bin (valid is also val), or
  // llm.c shards NAME_SPLIT.bin, NAME_SPLIT_000001.bin, ... in order.
  static TokenStream open(const std::filesystem::path& path, const std::string& split, int64_t vocab_size = 0);

  int64_t size() const { return size_; }
  int64_t vocab_size() const { return vocab_size_; }
  void copy(int64_t begin, int64_t count, int32_t* out) const;
  // The tokens [begin, begin + count) alone, sharing the files; meta() is not known for a part.
  TokenStream slice(int64_t begin, int64_t count) const;
  // What meta.json says about this split; nothing for foreign files.
  const std::optional<SplitMeta>& meta() const { return meta_; }

 private:
  std::vector<TokenFile> files_;
  std::vector<int64_t> starts_;   // position of the first id of each file, and the total
  int64_t begin_ = 0, size_ = 0;  // the part of them that this stream is
  int64_t vocab_size_ = 0;
  std::optional<SplitMeta> meta_;
};

}  // namespace accrete
