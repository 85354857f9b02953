// npz: numpy's archives of arrays. A zip file with one member NAME.npy for each array, stored without compression, as
// numpy.savez writes it and numpy.load reads it.
//
//   npy   "\x93NUMPY", version 1.0, u16 length, {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, blanks and
//   a
//         line end up to a multiple of 64, then the values, row-major, little-endian
//
// Arrays are named tensors as in safetensors.h, with the dtypes of that format: F64, F32, F16, I64, I32, I16, I8, U8,
// BOOL.
#pragma once

#include <memory>

#include "engine/core/safetensors.h"

namespace accrete {

class Npz {
 public:
  // Everything is checked on opening: the zip directory against the file, checksums, headers of arrays, sizes. Error
  // for compressed members (numpy.savez_compressed), Fortran order, objects, and other types.
  static Npz open(const std::filesystem::path& path);
  // `bytes` must outlive the result; `where` names them in errors.
  static Npz from_memory(std::span<const std::byte> bytes, const std::string& where = "npz");

  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in the order of the archive

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<SafetensorsEntry> entries_;
};

// Magic, version and dictionary of an array, up to its values.
std::string npy_header(std::string_view dtype, std::span<const int64_t> shape);

// Writes the archive atomically. fetch(i) returns the values of entries[i], valid until the next call; data and bytes
// of the entries are not used. Sizes and offsets from `large` on are written as zip64 does (tests use small ones).
void save_npz(const std::filesystem::path& path, std::span<const SafetensorsEntry> entries,
              const std::function<const void*(size_t)>& fetch, uint64_t large = 0xFFFFFFFFu);

}  // namespace accrete
