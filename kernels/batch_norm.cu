// Batch normalisation. Bandwidth-bound: forward reads x three times (mean, variance about it, result) and writes y;
// backward reads dy and x twice and writes dx. The sums go down columns (column_reduce.h), in an order that depends on
// the sizes only. Everything stays on the device, so that launches can be recorded.
//
// Gradient of x: mean and rstd depend on every x of the column, as those of layernorm do on the row (layernorm.cu).
#include "kernels/batch_norm.h"

#include "kernels/column_reduce.h"
#include "kernels/vector.h"

namespace accrete::kernels {

namespace {

template <class T>
struct ValueTerm {
  const T* x;
  int64_t C;
  __device__ void operator()(int64_t n, int64_t c, float (&sums)[1]) const { sums[0] += to_float(x[n * C + c]); }
};

// Squares about the mean; `sum` is that of the column.
template <class T>
struct SquareTerm {
  const T* x;
  const float* sum;
  float inverse;  // 1 / N
  int64_t C;
  __device__ void operator()(int64_t n, int64_t c, float (&sums)[1]) const {
    const float d = to_float(x[n * C + c]) - sum[c] * inverse;
    sums[0] += d * d;
  }
};

template <class T>
struct GradientTerm {
  const T *dy, *x;
  const float *mean, *rstd;
  int64_t C;
  __device__ void operator()(int64_t n, int64_t c, float (&sums)[2]) const {
    const float g = to_float(dy[n * C + c]);
    sums[0] += g * (to_float(x[n * C + c]) - mean[c]) * rstd[c];
    sums[1] += g;
  }
};

// From the sums of a column (in `mean`) and of its squares about the mean (in `rstd`) to the statistics.
__global__ void batch_norm_finish_kernel(float* mean, float* rstd, float* running_mean, float* running_var, int64_t C,
                                         float N, float momentum, float eps) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= C) return;
  const float m = mean[c] * (1.0f / N), squares = rstd[c];
  mean[c] = m;
  rstd[c] = 1.0f / sqrtf(squares / N + eps);
  running_mean[c] += momentum * (m - running_mean[c]);
  running_var[c] += momentum * (squares / (N - 1.0f) - running_var[c]);
}

__global__ void batch_norm_running_kernel(float* mean, float* rstd, const float* running_mean, const float* running_var,
                                          int64_t C, float eps) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= C) return;
  mean[c] = running_mean[c];
  rstd[c] = 1.0f / sqrtf(running_var[c] + eps);
}

__global__ void batch_norm_parameters_kernel(float* dgamma, float* dbeta, const float* sums, int64_t C) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= C) return;
  if (dgamma) dgamma[c] += sums[c];
  if (dbeta) dbeta[c] += sums[C + c];
}

// Threads of a block stand side by side on a row of `abreast` packs of W channels, and below each other on as many rows
// as fit. A thread keeps its columns, so what depends on the column alone is read once. Rows beyond 256 packs go to
// further blocks (blockIdx.y).
template <int W>
struct ColumnThreads {
  int64_t column, row, row_step;
  __device__ ColumnThreads(int64_t C, int abreast) {
    const int side = static_cast<int>(threadIdx.x) % abreast, below = static_cast<int>(threadIdx.x) / abreast;
    const int deep = kBlockSize / abreast;
    column = (static_cast<int64_t>(blockIdx.y) * abreast + side) * W;
    if (below >= deep) column = C;
    row = static_cast<int64_t>(blockIdx.x) * deep + below;
    row_step = static_cast<int64_t>(gridDim.x) * deep;
  }
  static int abreast(int64_t C) { return static_cast<int>(C / W < kBlockSize ? C / W : kBlockSize); }
  static dim3 grid(int64_t N, int64_t C) {
    const int wide = abreast(C);
    return dim3{blocks_for(N, kBlockSize / wide * 8), blocks_covering(C / W, wide)};
  }
};

template <class T, int W>
__global__ void batch_norm_kernel(T* y, const T* x, const float* mean, const float* rstd, const float* gamma,
                                  const float* beta, int64_t N, int64_t C, int abreast) {
  const ColumnThreads<W> at(C, abreast);
  const int64_t c = at.column;
  if (c >= C) return;
  float m[W], factor[W], shift[W], v[W];
  load_vec(m, mean + c);
  load_vec(factor, rstd + c);
  load_vec(shift, beta + c);
  load_vec(v, gamma + c);
  ACCRETE_UNROLL
  for (int k = 0; k < W; ++k) factor[k] *= v[k];
  ACCRETE_UNROLL_BY_4
  for (int64_t n = at.row; n < N; n += at.row_step) {
    load_vec(v, x + n * C + c);
    ACCRETE_UNROLL
    for (int k = 0; k < W; ++k) v[k] = (v[k] - m[k]) * factor[k] + shift[k];
    store_vec(y + n * C + c, v);
  }
}

// dx = a (dy - b - (x - m) d) with a = gamma rstd, b = mean(dy), d = rstd mean(dy h); b = d = 0 for running statistics.
template <class T, int W>
__global__ void batch_norm_backward_kernel(T* dx, const float* sums, const T* dy, const T* x, const float* mean,
                                           const float* rstd, const float* gamma, int64_t N, int64_t C, float inverse,
                                           int abreast) {
  const ColumnThreads<W> at(C, abreast);
  const int64_t c = at.column;
  if (c >= C) return;
  float m[W], a[W], b[W], d[W], v[W], g[W];
  load_vec(m, mean + c);
  load_vec(a, gamma + c);
  load_vec(v, rstd + c);
  load_vec(d, sums + c);
  load_vec(b, sums + C + c);
  ACCRETE_UNROLL
  for (int k = 0; k < W; ++k) {
    a[k] *= v[k];
    b[k] *= inverse;
    d[k] *= inverse * v[k];
  }
  ACCRETE_UNROLL_BY_4
  for (int64_t n = at.row; n < N; n += at.row_step) {
    load_vec(g, dy + n * C + c);
    load_vec(v, x + n * C + c);
    ACCRETE_UNROLL
    for (int k = 0; k < W; ++k) g[k] = a[k] * (g[k] - b[k] - (v[k] - m[k]) * d[k]);
    store_vec(dx + n * C + c, g);
  }
}

}  // namespace

template <class T>
void batch_norm_statistics(const Gpu& ctx, float* mean, float* rstd, float* running_mean, float* running_var,
                           const T* x, int64_t N, int64_t C, float momentum, float eps) {
  if (C <= 0) return;
  const float count = static_cast<float>(N);
  column_reduce(ctx, ColumnSums<1>{{mean}, false}, ValueTerm<T>{x, C}, N, C);
  column_reduce(ctx, ColumnSums<1>{{rstd}, false}, SquareTerm<T>{x, mean, 1.0f / count, C}, N, C);
  ACCRETE_LAUNCH(batch_norm_finish_kernel, dim3{blocks_covering(C, kBlockSize)}, dim3{kBlockSize}, 0, ctx, mean, rstd,
                 running_mean, running_var, C, count, momentum, eps);
}

void batch_norm_running(const Gpu& ctx, float* mean, float* rstd, const float* running_mean, const float* running_var,
                        int64_t C, float eps) {
  if (C <= 0) return;
  ACCRETE_LAUNCH(batch_norm_running_kernel, dim3{blocks_covering(C, kBlockSize)}, dim3{kBlockSize}, 0, ctx, mean, rstd,
                 running_mean, running_var, C, eps);
}

template <class T>
void batch_norm_forward(const Gpu& ctx, T* y, const T* x, const float* mean, const float* rstd, const float* gamma,
                        const float* beta, int64_t N, int64_t C) {
  if (N <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const auto launch = [&]<int kWide>() {
    using Threads = ColumnThreads<kWide>;
    ACCRETE_LAUNCH(batch_norm_kernel<T, kWide>, Threads::grid(N, C), dim3{kBlockSize}, 0, ctx, y, x, mean, rstd, gamma,
                   beta, N, C, Threads::abreast(C));
  };
  if (wide_rows(y, W, C) && wide_rows(x, W, C) && wide_rows(mean, W) && wide_rows(rstd, W) && wide_rows(gamma, W) &&
      wide_rows(beta, W))
    launch.template operator()<W>();
  else
    launch.template operator()<1>();
}

template <class T>
void batch_norm_backward(const Gpu& ctx, T* dx, float* dgamma, float* dbeta, float* sums, const T* dy, const T* x,
                         const float* mean, const float* rstd, const float* gamma, int64_t N, int64_t C,
                         bool of_batch) {
  if (N <= 0 || C <= 0) return;
  column_reduce(ctx, ColumnSums<2>{{sums, sums + C}, false}, GradientTerm<T>{dy, x, mean, rstd, C}, N, C);
  if (dgamma || dbeta) {
    ACCRETE_LAUNCH(batch_norm_parameters_kernel, dim3{blocks_covering(C, kBlockSize)}, dim3{kBlockSize}, 0, ctx, dgamma,
                   dbeta, sums, C);
  }
  if (!dx) return;
  constexpr int W = kLaneWidth<T>;
  const float inverse = of_batch ? 1.0f / static_cast<float>(N) : 0.0f;
  const auto launch = [&]<int kWide>() {
    using Threads = ColumnThreads<kWide>;
    ACCRETE_LAUNCH(batch_norm_backward_kernel<T, kWide>, Threads::grid(N, C), dim3{kBlockSize}, 0, ctx, dx, sums, dy, x,
                   mean, rstd, gamma, N, C, inverse, Threads::abreast(C));
  };
  if (wide_rows(dx, W, C) && wide_rows(dy, W, C) && wide_rows(x, W, C) && wide_rows(mean, W) && wide_rows(rstd, W) &&
      wide_rows(gamma, W) && wide_rows(sums, W))
    launch.template operator()<W>();
  else
    launch.template operator()<1>();
}

#define ACCRETE_INSTANTIATE(T)                                                                                       \
  template void batch_norm_statistics(const Gpu&, float*, float*, float*, float*, const T*, int64_t, int64_t, float, \
                                      float);                                                                        \
  template void batch_norm_forward(const Gpu&, T*, const T*, const float*, const float*, const float*, const float*, \
                                   int64_t, int64_t);                                                                \
  template void batch_norm_backward(const Gpu&, T*, float*, float*, float*, const T*, const T*, const float*,        \
                                    const float*, const float*, int64_t, int64_t, bool);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
