// Layer normalisation over rows of C channels. A warp per row (a block for long rows); memory is read once, the second
// and third look at a row come from the first-level cache. Bandwidth-bound.
//
// Gradient of x, with h = (x - mean) rstd and g = dy gamma: mean and rstd depend on every x of the row, so
//   dx_i = rstd (g_i - d mean - h_i d rstd),   d mean = mean_c(g),   d rstd = mean_c(g h)
#include "kernels/layernorm.h"

#include "kernels/column_reduce.h"
#include "kernels/vector.h"

namespace accrete::kernels {

namespace {

// With kResidual: sum = x + residual is stored and then normalised as it was stored (rounded to T), because that is
// what the backward pass will see. Each thread reads back only what it wrote itself.
template <class T, bool kResidual, bool kBlock, bool kWide>
__global__ void layernorm_kernel(T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
                                 const float* gamma, const float* beta, int64_t N, int64_t C, float eps) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const T* row = kResidual ? sum + n * C : x + n * C;
    float v[W], total = 0.0f;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      if constexpr (kResidual) {
        float r[W];
        load_row<W, kWide>(v, x + n * C, c, C);
        load_row<W, kWide>(r, residual + n * C, c, C);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) v[j] = to_float(from_float<T>(v[j] + r[j]));
        store_row<W, kWide>(sum + n * C, c, C, v);
      } else {
        load_row<W, kWide>(v, row, c, C);
      }
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) total += v[j];
    }
    const float m = Team::sum(total, part) / static_cast<float>(C);

    float squares = 0.0f;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load_row<W, kWide>(v, row, c, C, m);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) squares += (v[j] - m) * (v[j] - m);
    }
    const float r = 1.0f / sqrtf(Team::sum(squares, part) / static_cast<float>(C) + eps);
    if (Team::rank() == 0) {
      mean[n] = m;
      rstd[n] = r;
    }

    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      float scale[W], shift[W] = {};
      load_row<W, kWide>(v, row, c, C);
      load_row<W, kWide>(scale, gamma, c, C);
      if (beta) load_row<W, kWide>(shift, beta, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) v[j] = (v[j] - m) * r * scale[j] + shift[j];
      store_row<W, kWide>(y + n * C, c, C, v);
    }
  }
}

// dx as derived above (+ dx_add).
template <class T, bool kBlock, bool kWide>
__global__ void layernorm_backward_kernel(T* dx, const T* dx_add, const T* dy, const T* x, const float* gamma,
                                          const float* mean, const float* rstd, int64_t N, int64_t C) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const float m = mean[n], r = rstd[n];
    float g[W], h[W], scale[W], sum_g = 0.0f, sum_gh = 0.0f;
    const auto load = [&](int64_t c) {
      load_row<W, kWide>(g, dy + n * C, c, C);
      load_row<W, kWide>(h, x + n * C, c, C, m);
      load_row<W, kWide>(scale, gamma, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        g[j] *= scale[j];
        h[j] = (h[j] - m) * r;
      }
    };
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load(c);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        sum_g += g[j];
        sum_gh += g[j] * h[j];
      }
    }
    const float mean_g = Team::sum(sum_g, part) / static_cast<float>(C);
    const float mean_gh = Team::sum(sum_gh, part) / static_cast<float>(C);
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load(c);
      float add[W] = {};
      if (dx_add) load_row<W, kWide>(add, dx_add + n * C, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) g[j] = r * (g[j] - mean_g - h[j] * mean_gh) + add[j];
      store_row<W, kWide>(dx + n * C, c, C, g);
    }
  }
}

// dgamma = sum_n dy h, dbeta = sum_n dy
template <class T>
struct ParameterTerm {
  const T *dy, *x;
  const float *mean, *rstd;
  int64_t C;
  __device__ void operator()(int64_t n, int64_t c, float (&sums)[2]) const {
    const float g = to_float(dy[n * C + c]);
    sums[0] += g * (to_float(x[n * C + c]) - mean[n]) * rstd[n];
    sums[1] += g;
  }
};

template <class T, bool kResidual>
void normalise(const Gpu& ctx, T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
               const float* gamma, const float* beta, int64_t N, int64_t C, float eps) {
  if (N <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const bool wide = wide_rows(sum, W, C) && wide_rows(y, W, C) && wide_rows(x, W, C) && wide_rows(residual, W, C) &&
                    wide_rows(gamma, W) && wide_rows(beta, W);
  with_row_team(C, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(layernorm_kernel<T, kResidual, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0,
                   ctx, sum, y, mean, rstd, x, residual, gamma, beta, N, C, eps);
  });
}

}  // namespace

template <class T>
void layernorm_forward(const Gpu& ctx, T* y, float* mean, float* rstd, const T* x, const float* gamma,
                       const float* beta, int64_t N, int64_t C, float eps) {
  normalise<T, false>(ctx, nullptr, y, mean, rstd, x, nullptr, gamma, beta, N, C, eps);
}

template <class T>
void residual_layernorm_forward(const Gpu& ctx, T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
                                const float* gamma, const float* beta, int64_t N, int64_t C, float eps) {
  normalise<T, true>(ctx, sum, y, mean, rstd, x, residual, gamma, beta, N, C, eps);
}

template <class T>
void layernorm_backward(const Gpu& ctx, T* dx, float* dgamma, float* dbeta, const T* dx_add, const T* dy, const T* x,
                        const float* gamma, const float* mean, const float* rstd, int64_t N, int64_t C) {
  if (N <= 0 || C <= 0) return;
  if (dgamma || dbeta) {
    column_reduce(ctx, ColumnSums<2>{{dgamma, dbeta}, true}, ParameterTerm<T>{dy, x, mean, rstd, C}, N, C);
  }
  constexpr int W = kLaneWidth<T>;
  const bool wide = wide_rows(dx, W, C) && wide_rows(dx_add, W, C) && wide_rows(dy, W, C) && wide_rows(x, W, C) &&
                    wide_rows(gamma, W);
  with_row_team(C, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(layernorm_backward_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0,
                   ctx, dx, dx_add, dy, x, gamma, mean, rstd, N, C);
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                   \
  template void layernorm_forward(const Gpu&, T*, float*, float*, const T*, const float*, const float*, int64_t, \
                                  int64_t, float);                                                               \
  template void residual_layernorm_forward(const Gpu&, T*, T*, float*, float*, const T*, const T*, const float*, \
                                           const float*, int64_t, int64_t, float);                               \
  template void layernorm_backward(const Gpu&, T*, float*, float*, const T*, const T*, const T*, const float*,   \
                                   const float*, const float*, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
