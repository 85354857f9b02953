// Softmax over rows of C columns. A warp per row (a block for long rows). One pass for the maximum and the sum, one to
// write: memory is read once, the second look comes from the caches. Bandwidth-bound.
//
// Gradient: dy_c/dx_k = y_c ([c = k] - y_k), hence dx = y (dy - sum_c y dy).
#include "kernels/softmax.h"

#include "kernels/online_softmax.h"
#include "kernels/vector.h"

namespace accrete::kernels {

namespace {

template <class T, bool kBlock, bool kWide>
__global__ void softmax_kernel(T* y, const T* x, int64_t N, int64_t C, int64_t causal_rows) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    int64_t visible = causal_rows > 0 ? n % causal_rows + (C - causal_rows) + 1 : C;
    visible = visible < 0 ? 0 : visible > C ? C : visible;
    float v[W];
    OnlineSoftmax row;
    for (int64_t c = Team::rank() * W; c < visible; c += Team::kSize * W) {
      load_row<W, kWide>(v, x + n * C, c, visible, -INFINITY);
      row.add(v);
    }
    row.template join<Team>(part);
    const float scale = 1.0f / row.s;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load_row<W, kWide>(v, x + n * C, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) v[j] = c + j < visible ? exp_f32(v[j] - row.m) * scale : 0.0f;
      store_row<W, kWide>(y + n * C, c, C, v);
    }
  }
}

template <class T, bool kBlock, bool kWide>
__global__ void softmax_backward_kernel(T* dx, const T* y, const T* dy, int64_t N, int64_t C) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    float p[W], g[W], total = 0.0f;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load_row<W, kWide>(p, y + n * C, c, C);
      load_row<W, kWide>(g, dy + n * C, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) total += p[j] * g[j];
    }
    const float inner = Team::sum(total, part);
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load_row<W, kWide>(p, y + n * C, c, C);
      load_row<W, kWide>(g, dy + n * C, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) g[j] = p[j] * (g[j] - inner);
      store_row<W, kWide>(dx + n * C, c, C, g);
    }
  }
}

}  // namespace

template <class T>
void softmax_forward(const Gpu& ctx, T* y, const T* x, int64_t N, int64_t C, int64_t causal_rows) {
  if (N <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  with_row_team(C, wide_rows(y, W, C) && wide_rows(x, W, C), [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(softmax_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0, ctx, y, x,
                   N, C, causal_rows);
  });
}

template <class T>
void softmax_backward(const Gpu& ctx, T* dx, const T* y, const T* dy, int64_t N, int64_t C) {
  if (N <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const bool wide = wide_rows(dx, W, C) && wide_rows(y, W, C) && wide_rows(dy, W, C);
  with_row_team(C, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(softmax_backward_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0,
                   ctx, dx, y, dy, N, C);
  });
}

#define ACCRETE_INSTANTIATE(T)                                                        \
  template void softmax_forward(const Gpu&, T*, const T*, int64_t, int64_t, int64_t); \
  template void softmax_backward(const Gpu&, T*, const T*, const T*, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
