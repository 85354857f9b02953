// Softmax cross-entropy from logits. A warp per row (a block for vocabularies above 4096). Forward: one read, with
// running maximum and sum. Backward: one read, one write. Bandwidth-bound.
#include "kernels/cross_entropy.h"

#include "kernels/online_softmax.h"
#include "kernels/vector.h"

namespace accrete::kernels {

namespace {

template <class T, bool kBlock, bool kWide>
__global__ void cross_entropy_kernel(float* loss, float* lse, const T* logits, const int32_t* targets, int64_t N,
                                     int64_t V, int64_t stride, float smoothing) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const T* x = logits + n * stride;
    OnlineSoftmax row;
    float v[W], sum = 0.0f;
    for (int64_t c = Team::rank() * W; c < V; c += Team::kSize * W) {
      load_row<W, kWide>(v, x, c, V, -INFINITY);
      row.add(v);
      if (smoothing != 0.0f) {
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) sum += c + j < V ? v[j] : 0.0f;
      }
    }
    row.template join<Team>(part);
    if (smoothing != 0.0f) sum = Team::sum(sum, part);
    if (Team::rank() == 0) {
      const float log_sum = row.m + logf(row.s);
      const int target = targets[n];
      lse[n] = log_sum;
      float value = 0.0f;
      if (target >= 0 && target < V) value = log_sum - (1.0f - smoothing) * to_float(x[target]);
      if (target >= V) value = NAN;
      if (target >= 0 && smoothing != 0.0f) value -= smoothing / static_cast<float>(V) * sum;
      loss[n] = value;
    }
  }
}

template <class T, bool kBlock, bool kWide>
__global__ void cross_entropy_backward_kernel(T* dlogits, const T* logits, const float* lse, const int32_t* targets,
                                              const float* scale, int64_t N, int64_t V, int64_t stride,
                                              float smoothing) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  const float upstream = scale[0], off = smoothing / static_cast<float>(V);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const float log_sum = lse[n];
    const int64_t target = targets[n];
    const float factor = target < V ? upstream : NAN;
    float v[W];
    for (int64_t c = Team::rank() * W; c < stride; c += Team::kSize * W) {
      if (target >= 0) load_row<W, kWide>(v, logits + n * stride, c, V);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        const float at_target = c + j == target ? 1.0f - smoothing : 0.0f;
        v[j] = target >= 0 && c + j < V ? factor * (exp_f32(v[j] - log_sum) - off - at_target) : 0.0f;
      }
      store_row<W, kWide>(dlogits + n * stride, c, stride, v);
    }
  }
}

// One block.
__global__ void count_targets_kernel(float* counts, const int32_t* targets, int64_t N) {
  ACCRETE_SHARED(float, part, kBlockWarps);
  int64_t mine = 0;
  for (int64_t n = threadIdx.x; n < N; n += kBlockSize) mine += targets[n] >= 0;
  const float total = block_sum(static_cast<float>(mine), part);  // exact up to 2^24
  if (threadIdx.x == 0) {
    counts[0] = total;
    counts[1] = total > 0.0f ? 1.0f / total : 0.0f;
  }
}

}  // namespace

void count_targets(const Gpu& ctx, float* counts, const int32_t* targets, int64_t N) {
  ACCRETE_LAUNCH(count_targets_kernel, dim3{1}, dim3{kBlockSize}, 0, ctx, counts, targets, N);
}

template <class T>
void cross_entropy_forward(const Gpu& ctx, float* loss, float* lse, const T* logits, const int32_t* targets, int64_t N,
                           int64_t V, int64_t stride, float smoothing) {
  if (N <= 0) return;
  with_row_team(V, wide_rows(logits, kLaneWidth<T>, stride), [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(cross_entropy_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0, ctx,
                   loss, lse, logits, targets, N, V, stride, smoothing);
  });
}

template <class T>
void cross_entropy_backward(const Gpu& ctx, T* dlogits, const T* logits, const float* lse, const int32_t* targets,
                            const float* scale, int64_t N, int64_t V, int64_t stride, float smoothing) {
  if (N <= 0) return;
  const bool wide = wide_rows(logits, kLaneWidth<T>, stride) && wide_rows(dlogits, kLaneWidth<T>, stride);
  with_row_team(V, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(cross_entropy_backward_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize},
                   0, ctx, dlogits, logits, lse, targets, scale, N, V, stride, smoothing);
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                         \
  template void cross_entropy_forward(const Gpu&, float*, float*, const T*, const int32_t*, int64_t, int64_t, int64_t, \
                                      float);                                                                          \
  template void cross_entropy_backward(const Gpu&, T*, const T*, const float*, const int32_t*, const float*, int64_t,  \
                                       int64_t, int64_t, float);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
