// Products with the stored rows of a subspace, on any device. Not differentiable, not recorded. Layout and formulas:
// kernels/subspace.h.
#pragma once

#include "engine/core/tensor.h"
#include "kernels/subspace.h"

namespace accrete::update {

// Everything on one device.
struct SubspaceRows {
  int bits = 32;     // of an element: 32, 16, 8, 4, 2 or 1
  int64_t rank = 0;  // largest number of rows of a block
  Tensor bytes;      // u8
  Tensor tiles;      // (n, 4) i64, kernels::SubspaceTile
  Tensor chunks;     // (n, 3) i64, kernels::SubspaceChunk
  Tensor blocks;     // (n, 3) i64, kernels::SubspaceBlock
  Tensor parts;      // (chunks, rank) f32, scratch
};

// out = P^T g.   out: (blocks, rank); g: flat
void project(const Tensor& out, const Tensor& g, const SubspaceRows& rows);
// out = start + P x, rounded once.   out, start: flat, out may be start; x: (blocks, rank)
void expand(const Tensor& out, const Tensor& start, const Tensor& x, const SubspaceRows& rows);

}  // namespace accrete::update
