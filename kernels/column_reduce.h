// Sums down the columns of a matrix of terms, K sums at a time: y_k[c] (+)= sum_r term_k(r, c).
//
// Two kernels, no atomics: blocks sum chunks of rows into a device array of partial sums, then one thread per column
// adds the chunks in order. The cut into chunks depends on the sizes only. Reads every term once, coalesced over c.
#pragma once

#include "kernels/warp.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

template <int K>
struct ColumnSums {
  float* y[K];  // each (cols) f32 or null
  bool accumulate;
  __device__ __forceinline__ void store(int64_t c, const float (&sums)[K]) const {
    ACCRETE_UNROLL
    for (int k = 0; k < K; ++k) {
      if (y[k]) y[k][c] = accumulate ? y[k][c] + sums[k] : sums[k];
    }
  }
};

inline constexpr int64_t kColumnPartials = 1 << 18;
ACCRETE_DEVICE_ARRAY(float, column_partials, kColumnPartials);  // (chunks, K, cols)

// Block of 32 columns x 8 warps for chunk blockIdx.y; warp w sums rows w, w + 8, ... of the chunk.
template <int K, class Term>
__global__ void column_sum_kernel(ColumnSums<K> out, Term term, int64_t rows, int64_t cols, int64_t chunk_rows) {
  ACCRETE_SHARED(float, part, K* kBlockSize);
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int64_t begin = blockIdx.y * chunk_rows, end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  for (int64_t c0 = static_cast<int64_t>(blockIdx.x) * kWarpSize; c0 < cols; c0 += gridDim.x * kWarpSize) {
    const int64_t c = c0 + lane;
    float sums[K] = {};
    if (c < cols) {
      ACCRETE_UNROLL_BY_4
      for (int64_t r = begin + warp; r < end; r += kBlockWarps) term(r, c, sums);
    }
    ACCRETE_UNROLL
    for (int k = 0; k < K; ++k) part[(k * kBlockWarps + warp) * kWarpSize + lane] = sums[k];
    __syncthreads();
    if (warp == 0 && c < cols) {
      ACCRETE_UNROLL
      for (int k = 0; k < K; ++k) {
        for (int w = 1; w < kBlockWarps; ++w) sums[k] += part[(k * kBlockWarps + w) * kWarpSize + lane];
        if (gridDim.y > 1) column_partials[(static_cast<int64_t>(blockIdx.y) * K + k) * cols + c] = sums[k];
      }
      if (gridDim.y == 1) out.store(c, sums);
    }
    __syncthreads();
  }
}

// One thread per column adds the chunks in order. Static like the partial sums: every file that includes this has its
// own array, and one instance of this kernel for all of them would read another file's.
template <int K>
static __global__ void column_finish_kernel(ColumnSums<K> out, int64_t cols, int64_t chunks) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= cols) return;
  float sums[K] = {};
  for (int64_t i = 0; i < chunks; ++i) {
    ACCRETE_UNROLL
    for (int k = 0; k < K; ++k) sums[k] += column_partials[(i * K + k) * cols + c];
  }
  out.store(c, sums);
}

template <int K, class Term>
void column_reduce(const Gpu& ctx, const ColumnSums<K>& out, const Term& term, int64_t rows, int64_t cols) {
  if (cols <= 0) return;
  const int64_t across = blocks_for(cols, kWarpSize, 65536);
  int64_t chunks = blocks_for(rows, 8 * kBlockWarps, 1 + 1024 / across);
  if (chunks * K * cols > kColumnPartials) chunks = kColumnPartials / (K * cols);
  if (chunks < 1) chunks = 1;
  const int64_t chunk_rows = (rows + chunks - 1) / chunks;
  const dim3 grid{static_cast<uint32_t>(across), static_cast<uint32_t>(chunks)};
  ACCRETE_LAUNCH(column_sum_kernel<K, Term>, grid, dim3{kWarpSize, kBlockWarps}, 0, ctx, out, term, rows, cols,
                 chunk_rows);
  if (chunks > 1) {
    ACCRETE_LAUNCH(column_finish_kernel<K>, dim3{blocks_covering(cols, kBlockSize)}, dim3{kBlockSize}, 0, ctx, out,
                   cols, chunks);
  }
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
