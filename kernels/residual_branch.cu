// The end of a residual branch. Bandwidth-bound. Floors, in elements: forward 3 per element (x, branch, y), backward 3
// (dy, branch, dbranch), or 2 without gamma; dropped samples spare one read each way. The sums of dgamma take chunks *
// cols more floats, below 1 MB.
//
// Block of 32 x 8 threads on 32 W columns and a chunk of consecutive rows: a thread keeps gamma of its columns in
// registers, its warp takes every eighth row, and the random number of a sample is drawn once per thread and sample.
#include "kernels/residual_branch.h"

#include "kernels/column_reduce.h"
#include "kernels/vector.h"

namespace accrete::kernels {

namespace {

template <int W>
__device__ __forceinline__ void load_gamma(float (&g)[W], const float* gamma, int64_t c, int64_t cols) {
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) g[j] = gamma && c + j < cols ? gamma[c + j] : 1.0f;
}

template <class T, bool kWide>
__global__ void residual_kernel(T* y, const T* x, const T* branch, const float* gamma, DropPath drop, int64_t rows,
                                int64_t rows_per_sample, int64_t cols, int64_t chunk_rows) {
  constexpr int W = kLaneWidth<T>;
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * kWarpSize + threadIdx.x) * W;
  if (c >= cols) return;
  float g[W];
  load_gamma(g, gamma, c, cols);
  RowFactor factors(drop, rows_per_sample);
  const int64_t begin = blockIdx.y * chunk_rows, end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  for (int64_t r = begin + threadIdx.y; r < end; r += kBlockWarps) {
    const float factor = factors.at(r);
    float a[W] = {}, b[W] = {};
    if (x) load_row<W, kWide>(a, x + r * cols, c, cols);
    if (factor != 0.0f) load_row<W, kWide>(b, branch + r * cols, c, cols);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) a[j] += factor * (g[j] * b[j]);
    store_row<W, kWide>(y + r * cols, c, cols, a);
  }
}

template <class T, bool kWide>
__global__ void __launch_bounds__(kBlockSize, 4)
    residual_backward_kernel(T* dbranch, ColumnSums<1> dgamma, const T* dy, const T* branch, const float* gamma,
                             DropPath drop, int64_t rows, int64_t rows_per_sample, int64_t cols, int64_t chunk_rows) {
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockSize* W);
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * kWarpSize + lane) * W;
  const int64_t begin = blockIdx.y * chunk_rows, end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  const bool sum = dgamma.y[0] != nullptr;
  float sums[W] = {};
  if (c < cols) {
    float g[W];
    load_gamma(g, gamma, c, cols);
    RowFactor factors(drop, rows_per_sample);
    for (int64_t r = begin + warp; r < end; r += kBlockWarps) {
      const float factor = factors.at(r);
      float d[W] = {}, b[W] = {};
      if (factor != 0.0f) {
        load_row<W, kWide>(d, dy + r * cols, c, cols);
        if (sum) load_row<W, kWide>(b, branch + r * cols, c, cols);
      }
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        d[j] *= factor;
        sums[j] += d[j] * b[j];
        d[j] *= g[j];
      }
      if (dbranch) store_row<W, kWide>(dbranch + r * cols, c, cols, d);
    }
  }
  if (!sum) return;
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) part[(warp * W + j) * kWarpSize + lane] = sums[j];
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < kBlockWarps; ++w) {
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) sums[j] += part[(w * W + j) * kWarpSize + lane];
  }
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) {
    if (c + j >= cols) continue;
    if (gridDim.y > 1) {
      column_partials[static_cast<int64_t>(blockIdx.y) * cols + c + j] = sums[j];
    } else {
      dgamma.store(c + j, {sums[j]});
    }
  }
}

struct Cut {
  dim3 grid;
  int64_t chunk_rows;
};
// At most `limit` chunks of at least 8 rows.
template <class T>
Cut cut(int64_t rows, int64_t cols, int64_t limit) {
  const uint32_t across = blocks_covering(cols, kLaneWidth<T> * kWarpSize);
  const int64_t wanted = 1 + 4096 / across;
  const uint32_t chunks = blocks_for(rows, kBlockWarps, limit < wanted ? (limit < 1 ? 1 : limit) : wanted);
  return {dim3{across, chunks}, (rows + chunks - 1) / chunks};
}

}  // namespace

template <class T>
void residual_branch_forward(const Gpu& ctx, T* y, const T* x, const T* branch, const float* gamma, DropPath drop,
                             int64_t rows, int64_t rows_per_sample, int64_t cols) {
  if (rows <= 0 || cols <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const auto [grid, chunk_rows] = cut<T>(rows, cols, 4096);
  const dim3 block{kWarpSize, kBlockWarps};
  if (wide_rows(y, W, cols) && wide_rows(x, W, cols) && wide_rows(branch, W, cols)) {
    ACCRETE_LAUNCH(residual_kernel<T, true>, grid, block, 0, ctx, y, x, branch, gamma, drop, rows, rows_per_sample,
                   cols, chunk_rows);
  } else {
    ACCRETE_LAUNCH(residual_kernel<T, false>, grid, block, 0, ctx, y, x, branch, gamma, drop, rows, rows_per_sample,
                   cols, chunk_rows);
  }
}

template <class T>
void residual_branch_backward(const Gpu& ctx, T* dbranch, float* dgamma, const T* dy, const T* branch,
                              const float* gamma, DropPath drop, int64_t rows, int64_t rows_per_sample, int64_t cols) {
  if (rows <= 0 || cols <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const auto [grid, chunk_rows] = cut<T>(rows, cols, dgamma ? kColumnPartials / cols : 4096);
  const dim3 block{kWarpSize, kBlockWarps};
  const ColumnSums<1> sums{{dgamma}, true};
  if (wide_rows(dbranch, W, cols) && wide_rows(dy, W, cols) && wide_rows(branch, W, cols)) {
    ACCRETE_LAUNCH(residual_backward_kernel<T, true>, grid, block, 0, ctx, dbranch, sums, dy, branch, gamma, drop, rows,
                   rows_per_sample, cols, chunk_rows);
  } else {
    ACCRETE_LAUNCH(residual_backward_kernel<T, false>, grid, block, 0, ctx, dbranch, sums, dy, branch, gamma, drop,
                   rows, rows_per_sample, cols, chunk_rows);
  }
  if (dgamma && grid.y > 1) {
    ACCRETE_LAUNCH(column_finish_kernel<1>, dim3{blocks_covering(cols, kBlockSize)}, dim3{kBlockSize}, 0, ctx, sums,
                   cols, grid.y);
  }
}

#define ACCRETE_INSTANTIATE(T)                                                                                        \
  template void residual_branch_forward(const Gpu&, T*, const T*, const T*, const float*, DropPath, int64_t, int64_t, \
                                        int64_t);                                                                     \
  template void residual_branch_backward(const Gpu&, T*, float*, const T*, const T*, const float*, DropPath, int64_t, \
                                         int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
