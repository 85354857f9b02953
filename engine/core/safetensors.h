// safetensors: the weight files of the Hugging Face libraries, read by mapping and written byte for byte as their
// writer does.
//
//   8 bytes   N, the length of the header (little-endian)
//   N bytes   JSON: {"name": {"dtype": "F32", "shape": [2,3], "data_offsets": [begin, end]}, ..., "__metadata__":
//   {"text": "text"}} the rest  the values, row-major, little-endian, without gaps; offsets count from the start of
//   this part
//
// This file knows bytes and names, no tensors: dtypes are the names of the format ("F32", "BF16", "I64", ...).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/file.h"

namespace accrete {

using TextMap = std::map<std::string, std::string>;

// One tensor in a file. `data` points into the mapped file and may be unaligned in files of other writers: copy with
// memcpy.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;           // one of safetensors_dtypes()
  std::vector<int64_t> shape;  // {} for a scalar; sizes may be 0
  const std::byte* data = nullptr;
  size_t bytes = 0;
};

// Names in the order of the format's enumeration, narrow to wide, which also decides the order of tensors in a written
// file.
std::span<const std::string_view> safetensors_dtypes();
// Bits per value; 0 for a name that the format does not have.
int safetensors_bits(std::string_view dtype);

// The tensors of one file, or of all shards of a model. Everything is checked on opening: the header length against the
// file, JSON without duplicate names, known dtypes, shape products without overflow, sizes equal to the offsets, no
// holes, no overlap, no bytes left over. Any violation throws an Error that names the file and the tensor. Copies share
// the mapping.
class Safetensors {
 public:
  // `path` is a .safetensors file, a .safetensors.index.json, or a folder that holds model.safetensors[.index.json].
  static Safetensors open(const std::filesystem::path& path);
  // The bytes of one file in memory; they must outlive the result. `where` names them in errors.
  static Safetensors from_memory(std::span<const std::byte> bytes, const std::string& where = "safetensors");

  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in data order, shard after shard
  const SafetensorsEntry* find(std::string_view name) const;                 // nullptr when there is none
  const TextMap& metadata() const { return metadata_; }                      // of the (first) file

 private:
  void add(std::span<const std::byte> bytes, const std::string& where);
  void add_shards(const std::filesystem::path& index);
  void make_index(const std::string& where);

  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
  TextMap metadata_;
};

// What other libraries expect to find in `__metadata__`; some refuse a file without it.
inline const TextMap kPytorchMetadata = {{"format", "pt"}};

// The header of a file with these tensors (length prefix, JSON, padding), and the order in which their values must
// follow. Order: dtype from wide to narrow, then name; so every tensor is naturally aligned. `data` and `bytes` of the
// entries are not used.
struct SafetensorsHeader {
  std::string bytes;
  std::vector<size_t> order;  // positions in `entries`
  std::vector<size_t> sizes;  // bytes of each tensor, in `entries` order
};
SafetensorsHeader safetensors_header(std::span<const SafetensorsEntry> entries,
                                     const TextMap& metadata = kPytorchMetadata);

// Writes the file atomically (see AtomicFile), streaming: nothing but the header is copied. entries[i].bytes is not
// used; the size follows from shape and dtype. Throws on unknown dtypes, duplicate names, invalid UTF-8 in names, and
// when the disk is full.
void save_safetensors(const std::filesystem::path& path, std::span<const SafetensorsEntry> entries,
                      const TextMap& metadata = kPytorchMetadata);
// The same when the values are not in host memory: fetch(i) returns the values of entries[i], valid until the next
// call.
void save_safetensors(const std::filesystem::path& path, std::span<const SafetensorsEntry> entries,
                      const std::function<const void*(size_t)>& fetch, const TextMap& metadata = kPytorchMetadata);

}  // namespace accrete
