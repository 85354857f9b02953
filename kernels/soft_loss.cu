// Losses with a target for every class. Bandwidth-bound. Floors, in bytes per class (T: 2 or 4): forward T + 4 (one
// pass: running maximum, sum of exponentials, sums of t and t x), backward 2 T + 4. A warp per row, a block for more
// than 4096 classes.
#include "kernels/soft_loss.h"

#include "kernels/map.h"
#include "kernels/online_softmax.h"

namespace accrete::kernels {

namespace {

template <class T, bool kBlock, bool kWide>
__global__ void soft_cross_entropy_kernel(float* loss, float* lse, float* total, const T* logits, const float* targets,
                                          int64_t N, int64_t V) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    OnlineSoftmax row;
    float v[W], t[W], all = 0.0f, dot = 0.0f;
    for (int64_t c = Team::rank() * W; c < V; c += Team::kSize * W) {
      load_row<W, kWide>(v, logits + n * V, c, V, -INFINITY);
      load_row<W, kWide>(t, targets + n * V, c, V);
      row.add(v);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        all += t[j];
        dot += t[j] == 0.0f ? 0.0f : t[j] * v[j];
      }
    }
    row.template join<Team>(part);
    all = Team::sum(all, part);
    dot = Team::sum(dot, part);
    if (Team::rank() == 0) {
      const float log_sum = row.m + logf(row.s);
      lse[n] = log_sum;
      total[n] = all;
      loss[n] = all * log_sum - dot;
    }
  }
}

template <class T, bool kBlock, bool kWide>
__global__ void soft_cross_entropy_backward_kernel(T* dlogits, const T* logits, const float* targets, const float* lse,
                                                   const float* total, const float* dloss, float factor, int64_t N,
                                                   int64_t V) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  const float upstream = factor * dloss[0];
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const float log_sum = lse[n], all = total[n];
    float v[W], t[W];
    for (int64_t c = Team::rank() * W; c < V; c += Team::kSize * W) {
      load_row<W, kWide>(v, logits + n * V, c, V);
      load_row<W, kWide>(t, targets + n * V, c, V);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) v[j] = upstream * (exp_f32(v[j] - log_sum) * all - t[j]);
      store_row<W, kWide>(dlogits + n * V, c, V, v);
    }
  }
}

template <class T, bool kBlock, bool kWide>
__global__ void binary_cross_entropy_kernel(float* loss, const T* logits, const float* targets, int64_t N, int64_t V) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    float z[W], t[W], sum = 0.0f;
    for (int64_t c = Team::rank() * W; c < V; c += Team::kSize * W) {
      load_row<W, kWide>(z, logits + n * V, c, V);
      load_row<W, kWide>(t, targets + n * V, c, V);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        if (c + j < V) sum += fmaxf(z[j], 0.0f) - z[j] * t[j] + log1pf(exp_f32(-fabsf(z[j])));
      }
    }
    sum = Team::sum(sum, part);
    if (Team::rank() == 0) loss[n] = sum;
  }
}

struct BinaryGradient {
  const float* dloss;
  float factor;
  __device__ void operator()(int64_t, float& d, float z, float t) const { d = factor * *dloss * (sigmoid_f32(z) - t); }
};

constexpr int kNone = 0x7fffffff;
// A warp per row: the result is for evaluation and small.
template <class T, bool kWide>
__global__ void argmax_kernel(int32_t* y, const T* x, int64_t N, int64_t V) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    float v[W], best = -INFINITY;
    int at = kNone;
    for (int64_t c = Team::rank() * W; c < V; c += Team::kSize * W) {
      load_row<W, kWide>(v, x + n * V, c, V, NAN);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        if (v[j] > best || (v[j] == best && at == kNone)) best = v[j], at = static_cast<int>(c) + j;
      }
    }
    ACCRETE_UNROLL
    for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
      const float other = __shfl_xor_sync(kFullWarp, best, lanes);
      const int where = __shfl_xor_sync(kFullWarp, at, lanes);
      if (other > best || (other == best && where < at)) best = other, at = where;
    }
    if (Team::rank() == 0) y[n] = at == kNone ? 0 : at;
  }
}

}  // namespace

template <class T>
void soft_cross_entropy_forward(const Gpu& ctx, float* loss, float* lse, float* total, const T* logits,
                                const float* targets, int64_t N, int64_t V) {
  if (N <= 0) return;
  const bool wide = wide_rows(logits, kLaneWidth<T>, V) && wide_rows(targets, kLaneWidth<T>, V);
  with_row_team(V, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(soft_cross_entropy_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0,
                   ctx, loss, lse, total, logits, targets, N, V);
  });
}

template <class T>
void soft_cross_entropy_backward(const Gpu& ctx, T* dlogits, const T* logits, const float* targets, const float* lse,
                                 const float* total, const float* dloss, float factor, int64_t N, int64_t V) {
  if (N <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const bool wide = wide_rows(logits, W, V) && wide_rows(dlogits, W, V) && wide_rows(targets, W, V);
  with_row_team(V, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(soft_cross_entropy_backward_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)},
                   dim3{kBlockSize}, 0, ctx, dlogits, logits, targets, lse, total, dloss, factor, N, V);
  });
}

template <class T>
void binary_cross_entropy_forward(const Gpu& ctx, float* loss, const T* logits, const float* targets, int64_t N,
                                  int64_t V) {
  if (N <= 0) return;
  const bool wide = wide_rows(logits, kLaneWidth<T>, V) && wide_rows(targets, kLaneWidth<T>, V);
  with_row_team(V, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(binary_cross_entropy_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0,
                   ctx, loss, logits, targets, N, V);
  });
}

template <class T>
void binary_cross_entropy_backward(const Gpu& ctx, T* dlogits, const T* logits, const float* targets,
                                   const float* dloss, float factor, int64_t n) {
  map(ctx, n, BinaryGradient{dloss, factor}, Out<T>{dlogits}, In<T>{logits}, In<float>{targets});
}

template <class T>
void argmax(const Gpu& ctx, int32_t* y, const T* x, int64_t N, int64_t V) {
  if (N <= 0) return;
  const dim3 grid{RowTeam<false>::blocks(N)}, block{kBlockSize};
  if (wide_rows(x, kLaneWidth<T>, V)) {
    ACCRETE_LAUNCH(argmax_kernel<T, true>, grid, block, 0, ctx, y, x, N, V);
  } else {
    ACCRETE_LAUNCH(argmax_kernel<T, false>, grid, block, 0, ctx, y, x, N, V);
  }
}

#define ACCRETE_INSTANTIATE(T)                                                                                       \
  template void soft_cross_entropy_forward(const Gpu&, float*, float*, float*, const T*, const float*, int64_t,      \
                                           int64_t);                                                                 \
  template void soft_cross_entropy_backward(const Gpu&, T*, const T*, const float*, const float*, const float*,      \
                                            const float*, float, int64_t, int64_t);                                  \
  template void binary_cross_entropy_forward(const Gpu&, float*, const T*, const float*, int64_t, int64_t);          \
  template void binary_cross_entropy_backward(const Gpu&, T*, const T*, const float*, const float*, float, int64_t); \
  template void argmax(const Gpu&, int32_t*, const T*, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
