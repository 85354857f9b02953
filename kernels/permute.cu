// Data movement. Bandwidth-bound: one read, one write.
#include "kernels/permute.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

constexpr int kTile = 32;

// y[b, c, r] = x[b, r, c]. Block of 32 x 8 threads per tile of 32 x 32: reads and writes both run along rows; the odd
// pitch of the tile keeps the columns of shared memory in different banks.
template <class T>
__global__ void transpose_kernel(T* y, const T* x, int64_t rows, int64_t cols, int64_t row_tiles, int64_t tiles) {
  constexpr int kPitch = kTile + 1;
  ACCRETE_SHARED(float, tile, kTile* kPitch);
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int64_t col_tiles = (cols + kTile - 1) / kTile;
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t b = t / (row_tiles * col_tiles), in_batch = t % (row_tiles * col_tiles);
    const int64_t r0 = in_batch / col_tiles * kTile, c0 = in_batch % col_tiles * kTile;
    const T* from = x + b * rows * cols;
    T* to = y + b * rows * cols;
    for (int i = ty; i < kTile; i += kBlockWarps) {
      if (r0 + i < rows && c0 + tx < cols) tile[i * kPitch + tx] = to_float(from[(r0 + i) * cols + c0 + tx]);
    }
    __syncthreads();
    for (int i = ty; i < kTile; i += kBlockWarps) {
      if (c0 + i < cols && r0 + tx < rows) to[(c0 + i) * rows + r0 + tx] = from_float<T>(tile[tx * kPitch + i]);
    }
    __syncthreads();
  }
}

// y[a, c, b, d] = x[a, b, c, d], W elements of d per thread; sizes in units of W. Index is 32-bit where n allows, since
// divisions are what this kernel spends its instructions on.
template <class T, int W, class Index>
__global__ void swap_middle_kernel(T* y, const T* x, Index n, Index B, Index C, Index D) {
  const Index step = static_cast<Index>(gridDim.x) * kBlockSize;
  for (Index i = static_cast<Index>(blockIdx.x) * kBlockSize + threadIdx.x; i < n; i += step) {
    const Index row = i / D, d = i % D;  // i runs over y, so that writes are in order
    const Index ac = row / B, b = row % B;
    const Index a = ac / C, c = ac % C;
    const Index from = ((a * B + b) * C + c) * D + d;
    store_pack(y + static_cast<int64_t>(i) * W, load_pack<W>(x + static_cast<int64_t>(from) * W));
  }
}

template <class T, int W>
void swap_middle_wide(const Gpu& ctx, T* y, const T* x, int64_t A, int64_t B, int64_t C, int64_t D) {
  const int64_t n = A * B * C * D;
  const dim3 grid{blocks_for(n, kBlockSize)}, block{kBlockSize};
  if (n < (int64_t{1} << 31)) {  // leaves room for one step beyond the end
    ACCRETE_LAUNCH(swap_middle_kernel<T, W, uint32_t>, grid, block, 0, ctx, y, x, n, B, C, D);
  } else {
    ACCRETE_LAUNCH(swap_middle_kernel<T, W, int64_t>, grid, block, 0, ctx, y, x, n, B, C, D);
  }
}

// y[r*y_stride + c] = x[r*x_stride + c]. Block of 32 x 8 threads: warps take rows, lanes run along them.
template <class T, int W>
__global__ void copy_rows_kernel(T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t cols) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockWarps;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.y; r < rows; r += step) {
    for (int64_t c = threadIdx.x * W; c < cols; c += kWarpSize * W) {
      store_pack(y + r * y_stride + c, load_pack<W>(x + r * x_stride + c));
    }
  }
}

}  // namespace

template <class T>
void transpose(const Gpu& ctx, T* y, const T* x, int64_t batch, int64_t rows, int64_t cols) {
  const int64_t row_tiles = (rows + kTile - 1) / kTile, tiles = batch * row_tiles * ((cols + kTile - 1) / kTile);
  if (tiles <= 0) return;
  ACCRETE_LAUNCH(transpose_kernel<T>, dim3{blocks_for(tiles, 1, 65536)}, dim3{kTile, kBlockWarps}, 0, ctx, y, x, rows,
                 cols, row_tiles, tiles);
}

template <class T>
void swap_middle(const Gpu& ctx, T* y, const T* x, int64_t A, int64_t B, int64_t C, int64_t D) {
  if (A * B * C * D <= 0) return;
  constexpr int W = kLaneWidth<T>;
  if (wide_rows(y, W, D) && wide_rows(x, W, D)) {
    swap_middle_wide<T, W>(ctx, y, x, A, B, C, D / W);
  } else {
    swap_middle_wide<T, 1>(ctx, y, x, A, B, C, D);
  }
}

template <class T>
void copy_rows(const Gpu& ctx, T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t cols) {
  if (rows <= 0 || cols <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{blocks_for(rows, kBlockWarps, 16384)}, block{kWarpSize, kBlockWarps};
  if (cols % W == 0 && wide_rows(y, W, y_stride) && wide_rows(x, W, x_stride)) {
    ACCRETE_LAUNCH(copy_rows_kernel<T, W>, grid, block, 0, ctx, y, y_stride, x, x_stride, rows, cols);
  } else {
    ACCRETE_LAUNCH(copy_rows_kernel<T, 1>, grid, block, 0, ctx, y, y_stride, x, x_stride, rows, cols);
  }
}

#define ACCRETE_INSTANTIATE(T)                                                             \
  template void transpose(const Gpu&, T*, const T*, int64_t, int64_t, int64_t);            \
  template void swap_middle(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t); \
  template void copy_rows(const Gpu&, T*, int64_t, const T*, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
