#include "data/token_file.h"

#include <algorithm>
#include <cstring>

#include "engine/core/error.h"
#include "engine/core/file.h"
#include "engine/core/json.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

constexpr size_t kHeaderBytes = 1024;
constexpr int32_t kMagic16 = 20240520, kMagic32 = 20240801;

template <class T>
T load(const std::byte* data, int64_t i) {
  T value;
  std::memcpy(&value, data + static_cast<size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

// Largest id; a plain loop that the compiler vectorises.
template <class T>
int64_t largest(const std::byte* data, int64_t count) {
  T most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, load<T>(data, i));
  return most;
}

template <class T>
int64_t first_at_least(const std::byte* data, int64_t count, int64_t bound) {
  int64_t i = 0;
  while (i < count && load<T>(data, i) < bound) ++i;
  return i;
}

bool is_split_file(const std::string& name, const std::string& split) {
  // NAME_SPLIT.bin or NAME_SPLIT_DIGITS.bin
  if (!name.ends_with(".bin")) return false;
  std::string stem = name.substr(0, name.size() - 4);
  const size_t digits = stem.find_last_not_of("0123456789");
  if (digits != std::string::npos && digits + 1 < stem.size() && stem[digits] == '_') stem.resize(digits);
  return stem.ends_with("_" + split);
}

std::vector<fs::path> files_of_split(const fs::path& folder, const std::string& split) {
  std::vector<std::string> names = {split};
  if (split == "valid") names.push_back("val");
  if (split == "val") names.push_back("valid");
  for (const std::string& name : names)
    if (const fs::path file = folder / (name + ".bin"); fs::exists(file)) return {file};
  std::vector<fs::path> shards;
  for (const auto& entry : fs::directory_iterator(folder))
    for (const std::string& name : names)
      if (is_split_file(entry.path().filename().string(), name)) shards.push_back(entry.path());
  std::sort(shards.begin(), shards.end());
  check(!shards.empty(), "tokens", "the folder ", folder.string(), " has no split \"", split, "\"; expected ", split,
        ".bin or shards NAME_", split, "_000000.bin");
  return shards;
}

}  // namespace

TokenFile TokenFile::from_memory(std::span<const std::byte> bytes, const TokenFormat& format,
                                 const std::string& where) {
  TokenFile file;
  file.data_ = bytes.data();
  file.width_ = format.width;
  check(format.width == 2 || format.width == 4, where, "ids must have 2 or 4 bytes; got ", format.width);
  check(!bytes.empty(), where, "is empty; expected token ids");
  const int32_t magic = bytes.size() >= kHeaderBytes ? load<int32_t>(bytes.data(), 0) : 0;
  if (magic == kMagic16 || magic == kMagic32) {
    const int32_t version = load<int32_t>(bytes.data(), 1), count = load<int32_t>(bytes.data(), 2);
    const int32_t known = magic == kMagic16 ? 1 : 7;
    check(version == known, where, "is an llm.c shard of version ", version, "; expected ", known);
    file.width_ = magic == kMagic16 ? 2 : 4;
    file.data_ += kHeaderBytes;
    file.size_ = count;
    check(count > 0 && bytes.size() - kHeaderBytes == static_cast<size_t>(count) * file.width_, where,
          "has a header for ", count, " tokens, which need ",
          kHeaderBytes + static_cast<size_t>(std::max(count, 0)) * file.width_, " bytes; got ", bytes.size());
  } else {
    check(bytes.size() % file.width_ == 0, where, "is cut short or of another kind: ids have ", file.width_,
          " bytes; got a size of ", bytes.size(), " bytes");
    file.size_ = static_cast<int64_t>(bytes.size()) / file.width_;
  }

  const auto most = file.width_ == 2 ? largest<uint16_t> : largest<uint32_t>;
  const auto find = file.width_ == 2 ? first_at_least<uint16_t> : first_at_least<uint32_t>;
  const int64_t bound = format.vocab_size > 0 ? format.vocab_size : INT32_MAX;
  const int64_t top = most(file.data_, file.size_);
  if (top >= bound) {
    const int64_t at = find(file.data_, file.size_, bound);
    const int64_t id = file.width_ == 2 ? load<uint16_t>(file.data_, at) : load<uint32_t>(file.data_, at);
    fail(where, "token ", at, " has the id ", id, ", outside the vocabulary; expected 0..", bound - 1,
         "; were these tokens made with another tokenizer?");
  }
  file.vocab_size_ = format.vocab_size > 0 ? format.vocab_size : top + 1;
  return file;
}

TokenFile TokenFile::open(const fs::path& path, int64_t vocab_size) {
  const auto mapped = std::make_shared<const MappedFile>(path);
  const std::string where = path.string();
  TokenFormat format{token_width(std::max<int64_t>(1, vocab_size)), vocab_size};
  std::optional<TokenMeta> meta = TokenMeta::read(path.parent_path());
  const SplitMeta* split = nullptr;
  if (meta) {
    for (const auto& [name, s] : meta->splits)
      if (s.file == path.filename().string()) split = &s;
    if (!split && !meta->splits.empty()) meta.reset();  // it describes other files
  }
  if (meta) {
    if (meta->width) format.width = meta->width;
    if (vocab_size == 0) format.vocab_size = meta->vocab_size;
  }
  TokenFile file = from_memory(mapped->bytes(), format, where);
  check(!split || split->tokens == file.size(), where, "has ", file.size(), " tokens, but meta.json says ",
        split ? split->tokens : 0, "; prepare the text again");
  file.owner_ = mapped;
  return file;
}

void TokenFile::copy(int64_t begin, int64_t count, int32_t* out) const {
  check(begin >= 0 && count >= 0 && begin <= size_ && count <= size_ - begin, "tokens", "range ", begin, "..",
        begin + count, " lies outside the ", size_, " tokens");
  if (width_ == 2) {
    for (int64_t i = 0; i < count; ++i) out[i] = load<uint16_t>(data_, begin + i);
  } else {
    std::memcpy(out, data_ + begin * 4, static_cast<size_t>(count) * 4);
  }
}

TokenStream::TokenStream(std::vector<TokenFile> files) : files_(std::move(files)), starts_{0} {
  for (const TokenFile& file : files_) {
    starts_.push_back(starts_.back() + file.size());
    vocab_size_ = std::max(vocab_size_, file.vocab_size());
  }
  size_ = starts_.back();
}

TokenStream TokenStream::slice(int64_t begin, int64_t count) const {
  check(begin >= 0 && count > 0 && begin <= size_ && count <= size_ - begin, "tokens", "part ", begin, "..",
        begin + count, " is empty or lies outside the ", size_, " tokens");
  TokenStream part = *this;
  part.begin_ += begin;
  part.size_ = count;
  part.meta_.reset();
  return part;
}

TokenStream TokenStream::open(const fs::path& path, const std::string& split, int64_t vocab_size) {
  std::error_code ignored;
  const bool folder = fs::is_directory(path, ignored);
  std::vector<TokenFile> files;
  const std::vector<fs::path> paths = folder ? files_of_split(path, split) : std::vector<fs::path>{path};
  for (const fs::path& file : paths) files.push_back(TokenFile::open(file, vocab_size));
  TokenStream stream(std::move(files));
  if (const auto meta = TokenMeta::read(paths.front().parent_path()))
    for (const auto& [name, s] : meta->splits)
      if (s.file == paths.front().filename().string()) stream.meta_ = s;
  return stream;
}

void TokenStream::copy(int64_t begin, int64_t count, int32_t* out) const {
  check(begin >= 0 && count >= 0 && begin <= size() && count <= size() - begin, "tokens", "range ", begin, "..",
        begin + count, " lies outside the ", size(), " tokens");
  begin += begin_;
  size_t file = std::upper_bound(starts_.begin(), starts_.end() - 1, begin) - starts_.begin() - 1;
  while (count > 0) {
    const int64_t inside = begin - starts_[file], part = std::min(count, files_[file].size() - inside);
    files_[file].copy(inside, part, out);
    out += part, begin += part, count -= part;
    ++file;
  }
}

}  // namespace accrete
