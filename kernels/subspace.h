// Products with the rows of a subspace that are stored in few bits: P^T g and start + P x. What trainable weight
// averaging does at every step.
//
// The elements of a flat buffer that belong to the subspace are cut into tiles; a tile holds that part of every row of
// its block of parameters, one stored row after the other. A stored row of `count` elements, by the bits of an element:
//   32, 16       f32, bf16 as they are
//   8, 4, 2, 1   groups of 64 neighbours, value = offset + scale * code: first (scale, offset) of every group in f16,
//                then the codes, of one group after the other, the first element in the lowest bits
// Both parts are filled up with zeros to multiples of 16 bytes (subspace_codes_at, subspace_row_bytes).
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

inline constexpr int64_t kSubspaceTile = 4096;  // most elements of a tile
inline constexpr int64_t kSubspaceGroup = 64;

// Bytes from the beginning of a stored row to its numbers or codes, and of the whole row.
ACCRETE_HD int64_t subspace_codes_at(int bits, int64_t count) {
  return bits < 16 ? ((count + kSubspaceGroup - 1) / kSubspaceGroup * 4 + 15) / 16 * 16 : 0;
}
ACCRETE_HD int64_t subspace_row_bytes(int bits, int64_t count) {
  return subspace_codes_at(bits, count) + (count * bits + 127) / 128 * 16;
}

struct SubspaceTile {
  int64_t begin, count;  // elements of the flat buffers; begin: a multiple of 4
  int64_t offset;        // of its first row, in bytes; a multiple of 16
  int64_t block;
};
struct SubspaceChunk {  // neighbouring tiles of one block, whose products are summed together
  int64_t first, last;  // tiles [first, last)
  int64_t block;
};
struct SubspaceBlock {
  int64_t first, last;  // its chunks [first, last)
  int64_t rows;         // at most `rank`
};
// All pointers in device memory. Coefficient l * rank + q belongs to row q of block l.
struct Subspace {
  const uint8_t* bytes = nullptr;  // aligned to 16
  int bits = 32;                   // of an element: 32, 16, 8, 4, 2 or 1
  const SubspaceTile* tiles = nullptr;
  const SubspaceChunk* chunks = nullptr;
  const SubspaceBlock* blocks = nullptr;
  int64_t n_tiles = 0, n_chunks = 0, n_blocks = 0, rank = 0;
};

// out = P^T g; 0 where a block has no such row.   out: (n_blocks, rank); g: the flat buffer, aligned to 16;
// parts: (n_chunks, rank) scratch. The order of the sums depends on the tables only.
ACCRETE_KERNEL_F32(subspace_project, float* out, float* parts, const float* g, const Subspace& s);
// out = start + P x, rounded once; where P x is 0, the bits of `start`. What lies in no tile is not written.   out,
// start: flat buffers, aligned to 16, out may be start; x: (n_blocks, rank)
ACCRETE_KERNEL_F32(subspace_expand, float* out, const float* start, const float* x, const Subspace& s);

}  // namespace accrete::kernels
