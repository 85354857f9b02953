// Tokens of a sequence. All are bandwidth-bound. Floors, in elements read and written: copies 2 per token moved (with
// zeros: 1 more per token cleared), sequence 2 per token of x forward and backward (positions and their gradient stay
// in the second-level cache), means 1 per token.
#include "kernels/tokens.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

// A warp per token of y that is written: the copied ones, or all.
template <class T, int W>
__global__ void copy_tokens_kernel(T* y, int64_t y_tokens, int64_t y_begin, const T* x, int64_t x_tokens,
                                   int64_t x_begin, int64_t count, int64_t first, int64_t written, int64_t B,
                                   int64_t C) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockWarps;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.y; r < B * written; r += step) {
    const int64_t b = r / written, t = first + r % written, from = t - y_begin;
    T* to = y + (b * y_tokens + t) * C;
    const T* source = x + (b * x_tokens + x_begin + from) * C;
    const bool copied = from >= 0 && from < count;
    for (int64_t c = static_cast<int64_t>(threadIdx.x) * W; c < C; c += kWarpSize * W) {
      Pack<T, W> pack{};
      if (copied) pack = load_pack<W>(source + c);
      store_pack(to + c, pack);
    }
  }
}

// A warp per token of y.
template <class T, bool kWide>
__global__ void sequence_kernel(T* y, const T* x, const T* cls, const T* extra, const T* positions, SequenceShape s) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  const int64_t length = s.cls + s.extra + s.tokens, C = s.channels;
  for (int64_t r = Team::first_row(); r < s.batch * length; r += Team::row_step()) {
    const int64_t b = r / length, t = r % length, n = t - s.cls - s.extra;
    const T* row = n >= 0 ? x + (b * s.tokens + n) * C : t < s.cls ? cls : extra + (t - s.cls) * C;
    const T* position = positions && t >= s.unplaced ? positions + (t - s.unplaced) * C : nullptr;
    float v[W], p[W] = {};
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load_row<W, kWide>(v, row, c, C);
      if (position) load_row<W, kWide>(p, position, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) v[j] += p[j];
      store_row<W, kWide>(y + r * C, c, C, v);
    }
  }
}

// sums = the sum over the 8 warps of a block of 32 x 8 threads, in the threads of warp 0. part: (8 * 32 * W)
template <int W>
__device__ __forceinline__ void sum_of_warps(float (&sums)[W], Shared<float> part) {
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) part[(warp * W + j) * kWarpSize + lane] = sums[j];
  __syncthreads();
  if (warp == 0) {
    for (int w = 1; w < kBlockWarps; ++w) {
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) sums[j] += part[(w * W + j) * kWarpSize + lane];
    }
  }
  __syncthreads();
}

// A block of 32 x 8 threads per 32 W columns of dy seen as (batch, length * C): warp w takes samples w, w + 8, ...,
// copies their part to dx and adds it up.
template <class T, bool kWide>
__global__ void sequence_backward_kernel(T* dx, float* dcls, float* dextra, float* dpositions, const T* dy,
                                         SequenceShape s) {
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockSize* W);
  const int64_t C = s.channels, front = (s.cls + s.extra) * C, inner = s.tokens * C, cols = front + inner;
  for (int64_t c0 = static_cast<int64_t>(blockIdx.x) * kWarpSize * W; c0 < cols; c0 += gridDim.x * kWarpSize * W) {
    const int64_t c = c0 + static_cast<int64_t>(threadIdx.x) * W;
    float sums[W] = {}, v[W];
    if (c < cols) {
      ACCRETE_UNROLL_BY_4
      for (int64_t b = threadIdx.y; b < s.batch; b += kBlockWarps) {
        load_row<W, kWide>(v, dy + b * cols, c, cols);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) sums[j] += v[j];
        if (!dx || c + W <= front) continue;
        if (kWide && c >= front) {
          store_row<W, kWide>(dx + b * inner, c - front, inner, v);
          continue;
        }
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) {
          if (c + j >= front && c + j < cols) dx[b * inner + c + j - front] = from_float<T>(v[j]);
        }
      }
    }
    sum_of_warps(sums, part);
    if (threadIdx.y != 0) continue;
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) {
      const int64_t at = c + j, cls = s.cls * C, unplaced = s.unplaced * C;
      if (at >= cols) continue;
      if (dcls && at < cls) dcls[at] += sums[j];
      if (dextra && at >= cls && at < front) dextra[at - cls] += sums[j];
      if (dpositions && at >= unplaced) dpositions[at - unplaced] += sums[j];
    }
  }
}

// A block of 32 x 8 threads per sample and 32 W channels; warp w adds tokens begin + w, begin + w + 8, ...
template <class T, bool kWide>
__global__ void mean_tokens_kernel(T* y, const T* x, int64_t B, int64_t tokens, int64_t begin, int64_t C,
                                   float factor) {
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockSize* W);
  const int64_t across = (C + kWarpSize * W - 1) / (kWarpSize * W);
  for (int64_t i = blockIdx.x; i < B * across; i += gridDim.x) {
    const int64_t b = i / across, c = (i % across * kWarpSize + threadIdx.x) * W;
    float sums[W] = {}, v[W];
    if (c < C) {
      ACCRETE_UNROLL_BY_4
      for (int64_t t = begin + threadIdx.y; t < tokens; t += kBlockWarps) {
        load_row<W, kWide>(v, x + (b * tokens + t) * C, c, C);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) sums[j] += v[j];
      }
    }
    sum_of_warps(sums, part);
    if (threadIdx.y != 0 || c >= C) continue;
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) sums[j] *= factor;
    store_row<W, kWide>(y + b * C, c, C, sums);
  }
}

// A warp per token of dx.
template <class T, bool kWide>
__global__ void mean_tokens_backward_kernel(T* dx, const T* dy, int64_t B, int64_t tokens, int64_t begin, int64_t C,
                                            float factor) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  for (int64_t r = Team::first_row(); r < B * tokens; r += Team::row_step()) {
    const int64_t b = r / tokens;
    const bool counted = r % tokens >= begin;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      float v[W] = {};
      if (counted) load_row<W, kWide>(v, dy + b * C, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) v[j] *= factor;
      store_row<W, kWide>(dx + r * C, c, C, v);
    }
  }
}

}  // namespace

template <class T>
void copy_tokens(const Gpu& ctx, T* y, int64_t y_tokens, int64_t y_begin, const T* x, int64_t x_tokens, int64_t x_begin,
                 int64_t count, int64_t B, int64_t C, bool zero_rest) {
  const int64_t first = zero_rest ? 0 : y_begin, written = zero_rest ? y_tokens : count;
  if (B * written <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{blocks_for(B * written, kBlockWarps, 16384)}, block{kWarpSize, kBlockWarps};
  if (wide_rows(y, W, C) && wide_rows(x, W, C)) {
    ACCRETE_LAUNCH(copy_tokens_kernel<T, W>, grid, block, 0, ctx, y, y_tokens, y_begin, x, x_tokens, x_begin, count,
                   first, written, B, C);
  } else {
    ACCRETE_LAUNCH(copy_tokens_kernel<T, 1>, grid, block, 0, ctx, y, y_tokens, y_begin, x, x_tokens, x_begin, count,
                   first, written, B, C);
  }
}

template <class T>
void sequence_forward(const Gpu& ctx, T* y, const T* x, const T* cls, const T* extra, const T* positions,
                      SequenceShape s) {
  const int64_t rows = s.batch * s.length(), C = s.channels;
  if (rows <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(rows)}, block{kBlockSize};
  if (wide_rows(y, W, C) && wide_rows(x, W, C) && wide_rows(cls, W) && wide_rows(extra, W) && wide_rows(positions, W)) {
    ACCRETE_LAUNCH(sequence_kernel<T, true>, grid, block, 0, ctx, y, x, cls, extra, positions, s);
  } else {
    ACCRETE_LAUNCH(sequence_kernel<T, false>, grid, block, 0, ctx, y, x, cls, extra, positions, s);
  }
}

template <class T>
void sequence_backward(const Gpu& ctx, T* dx, float* dcls, float* dextra, float* dpositions, const T* dy,
                       SequenceShape s) {
  const int64_t cols = s.length() * s.channels;
  if (s.batch <= 0 || cols <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{blocks_for(cols, kWarpSize * W, 65536)}, block{kWarpSize, kBlockWarps};
  if (wide_rows(dy, W, s.channels) && wide_rows(dx, W)) {
    ACCRETE_LAUNCH(sequence_backward_kernel<T, true>, grid, block, 0, ctx, dx, dcls, dextra, dpositions, dy, s);
  } else {
    ACCRETE_LAUNCH(sequence_backward_kernel<T, false>, grid, block, 0, ctx, dx, dcls, dextra, dpositions, dy, s);
  }
}

template <class T>
void mean_tokens(const Gpu& ctx, T* y, const T* x, int64_t B, int64_t tokens, int64_t begin, int64_t C) {
  if (B <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{blocks_for(B * ((C + kWarpSize * W - 1) / (kWarpSize * W)), 1, 65536)};
  const dim3 block{kWarpSize, kBlockWarps};
  const float factor = 1.0f / static_cast<float>(tokens - begin);
  if (wide_rows(y, W, C) && wide_rows(x, W, C)) {
    ACCRETE_LAUNCH(mean_tokens_kernel<T, true>, grid, block, 0, ctx, y, x, B, tokens, begin, C, factor);
  } else {
    ACCRETE_LAUNCH(mean_tokens_kernel<T, false>, grid, block, 0, ctx, y, x, B, tokens, begin, C, factor);
  }
}

template <class T>
void mean_tokens_backward(const Gpu& ctx, T* dx, const T* dy, int64_t B, int64_t tokens, int64_t begin, int64_t C) {
  if (B * tokens <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(B * tokens)}, block{kBlockSize};
  const float factor = 1.0f / static_cast<float>(tokens - begin);
  if (wide_rows(dx, W, C) && wide_rows(dy, W, C)) {
    ACCRETE_LAUNCH(mean_tokens_backward_kernel<T, true>, grid, block, 0, ctx, dx, dy, B, tokens, begin, C, factor);
  } else {
    ACCRETE_LAUNCH(mean_tokens_backward_kernel<T, false>, grid, block, 0, ctx, dx, dy, B, tokens, begin, C, factor);
  }
}

#define ACCRETE_INSTANTIATE(T)                                                                                       \
  template void copy_tokens(const Gpu&, T*, int64_t, int64_t, const T*, int64_t, int64_t, int64_t, int64_t, int64_t, \
                            bool);                                                                                   \
  template void sequence_forward(const Gpu&, T*, const T*, const T*, const T*, const T*, SequenceShape);             \
  template void sequence_backward(const Gpu&, T*, float*, float*, float*, const T*, SequenceShape);                  \
  template void mean_tokens(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);                           \
  template void mean_tokens_backward(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
