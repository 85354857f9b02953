// Reductions. Order of additions: lanes of a thread's elements, then the warp tree, the warps, the blocks; which
// element goes where depends on the sizes only, so equal input gives equal bits. All are bandwidth-bound, one read.
#include "kernels/reduce.h"

#include "kernels/column_reduce.h"
#include "kernels/vector.h"

namespace accrete::kernels {

namespace {

template <class T>
struct ColumnTerm {
  const T* x;
  int64_t cols;
  __device__ void operator()(int64_t r, int64_t c, float (&sums)[1]) const { sums[0] += to_float(x[r * cols + c]); }
};
template <class T>
struct ColumnProduct {
  const T *a, *b;
  int64_t cols;
  __device__ void operator()(int64_t r, int64_t c, float (&sums)[1]) const {
    sums[0] += to_float(a[r * cols + c]) * to_float(b[r * cols + c]);
  }
};

// y[r] = sum_c x[r, c].   One team of threads per row.
template <class T, bool kBlock, bool kWide>
__global__ void row_sum_kernel(float* y, const T* x, int64_t rows, int64_t cols) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t r = Team::first_row(); r < rows; r += Team::row_step()) {
    float total = 0.0f, v[W];
    for (int64_t c = Team::rank() * W; c < cols; c += Team::kSize * W) {
      load_row<W, kWide>(v, x + r * cols, c, cols);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) total += v[j];
    }
    total = Team::sum(total, part);
    if (Team::rank() == 0) y[r] = total;
  }
}

struct Identity {
  __device__ float operator()(float a, float) const { return a; }
};
struct Square {
  __device__ float operator()(float a, float) const { return a * a; }
};
struct Product {
  __device__ float operator()(float a, float b) const { return a * b; }
};
struct NotFinite {
  __device__ float operator()(float a, float) const {
    return (float_to_bits(a) & 0x7f800000u) == 0x7f800000u ? 1.0f : 0.0f;
  }
};

constexpr int64_t kMaxPartials = 1024;
ACCRETE_DEVICE_ARRAY(float, partials, kMaxPartials);

// partials[block] = sum of fn(a[i], b[i]) over the block's elements. W sums per thread, so that rounding errors of long
// runs stay small.
template <class T, class Fn, bool kWide>
__global__ void partial_sum_kernel(const T* a, const T* b, int64_t n, Fn fn) {
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  float sums[W] = {}, va[W], vb[W] = {};
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockSize * W;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x) * W; i < n; i += step) {
    load_row<W, kWide>(va, a, i, n);
    if (b) load_row<W, kWide>(vb, b, i, n);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) sums[j] += fn(va[j], vb[j]);
  }
  float total = 0.0f;
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) total += sums[j];
  total = block_sum(total, part);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// out[0] = min(limit, sum of the partial sums). One block.
__global__ void finish_sum_kernel(float* out, int64_t count, float limit) {
  ACCRETE_SHARED(float, part, kBlockWarps);
  float total = 0.0f;
  for (int64_t i = threadIdx.x; i < count; i += kBlockSize) total += partials[i];
  total = block_sum(total, part);
  if (threadIdx.x == 0) out[0] = total > limit ? limit : total;
}

template <class T, class Fn>
void sum_terms(const Gpu& ctx, float* out, const T* a, const T* b, int64_t n, const Fn& fn, float limit = INFINITY) {
  const dim3 grid{blocks_for(n, kLaneWidth<T> * kBlockSize, kMaxPartials)}, block{kBlockSize};
  if (wide_rows(a, kLaneWidth<T>) && wide_rows(b, kLaneWidth<T>)) {
    ACCRETE_LAUNCH(partial_sum_kernel<T, Fn, true>, grid, block, 0, ctx, a, b, n, fn);
  } else {
    ACCRETE_LAUNCH(partial_sum_kernel<T, Fn, false>, grid, block, 0, ctx, a, b, n, fn);
  }
  ACCRETE_LAUNCH(finish_sum_kernel, dim3{1}, block, 0, ctx, out, grid.x, limit);
}

}  // namespace

template <class T>
void column_sum(const Gpu& ctx, float* y, const T* x, int64_t rows, int64_t cols, bool accumulate) {
  column_reduce(ctx, ColumnSums<1>{{y}, accumulate}, ColumnTerm<T>{x, cols}, rows, cols);
}

template <class T>
void column_dot(const Gpu& ctx, float* y, const T* a, const T* b, int64_t rows, int64_t cols, bool accumulate) {
  column_reduce(ctx, ColumnSums<1>{{y}, accumulate}, ColumnProduct<T>{a, b, cols}, rows, cols);
}

template <class T>
void row_sum(const Gpu& ctx, float* y, const T* x, int64_t rows, int64_t cols) {
  if (rows <= 0) return;
  with_row_team(cols, wide_rows(x, kLaneWidth<T>, cols), [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(row_sum_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(rows)}, dim3{kBlockSize}, 0, ctx, y,
                   x, rows, cols);
  });
}

template <class T>
void sum(const Gpu& ctx, float* out, const T* x, int64_t n) {
  sum_terms(ctx, out, x, static_cast<const T*>(nullptr), n, Identity{});
}

template <class T>
void sum_of_squares(const Gpu& ctx, float* out, const T* x, int64_t n) {
  sum_terms(ctx, out, x, static_cast<const T*>(nullptr), n, Square{});
}

void dot(const Gpu& ctx, float* out, const float* a, const float* b, int64_t n) {
  sum_terms(ctx, out, a, b, n, Product{});
}

template <class T>
void count_nonfinite(const Gpu& ctx, float* out, const T* x, int64_t n) {
  sum_terms(ctx, out, x, static_cast<const T*>(nullptr), n, NotFinite{}, 16777216.0f);
}

#define ACCRETE_INSTANTIATE(T)                                                              \
  template void column_sum(const Gpu&, float*, const T*, int64_t, int64_t, bool);           \
  template void row_sum(const Gpu&, float*, const T*, int64_t, int64_t);                    \
  template void column_dot(const Gpu&, float*, const T*, const T*, int64_t, int64_t, bool); \
  template void sum(const Gpu&, float*, const T*, int64_t);                                 \
  template void sum_of_squares(const Gpu&, float*, const T*, int64_t);                      \
  template void count_nonfinite(const Gpu&, float*, const T*, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
