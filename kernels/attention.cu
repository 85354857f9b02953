// Attention, forward: a block holds 64 queries of one head and walks over tiles of keys (online softmax). Per row it
// keeps the largest score m, l = sum exp(s - m) and the output o = sum exp(s - m) v; when a tile raises m, l and o
// shrink by exp(m_old - m_new). At the end o / l and lse = m + log l. Memory: q, k, v once per 64 queries, o and lse
// once; no score leaves the chip. f32 multiply-adds in registers and shared memory, scores in units of log 2. 16-bit
// types go to the tensor cores (attention_mma.cu), or on a GPU to cuDNN where that was found faster
// (attention_choice.h), when their rows are aligned, and come here otherwise.
#include "kernels/attention.h"

#include <stdexcept>

#include "kernels/attention_choice.h"
#include "kernels/attention_mma.h"
#include "kernels/attention_tile.h"

namespace accrete::kernels {

namespace {

template <class T, class Tile>
__global__ void __launch_bounds__(kBlockSize)
    attention_kernel(T* o, float* lse, const T* q, const T* k, const T* v, AttentionShape s, bool wide) {
  constexpr int kRows = Tile::kRows, kLoop = Tile::kLoop, kR = Tile::kR, kC = Tile::kC;
  SharedCarver carve;
  const auto q_tile = carve.take<float>("q", kRows * Tile::kPitch);
  const auto k_tile = carve.take<float>("k", kLoop * Tile::kPitch);
  const auto v_tile = carve.take<float>("v", kLoop * Tile::kPitch);
  const auto p_tile = carve.take<float>("p", kRows * Tile::kScorePitch);
  const uint32_t threshold = drop_threshold(s.dropout);
  const float kept = 1.0f / (1.0f - s.dropout);
  const int64_t heads = s.batch * s.heads, q_tiles = (s.q_len + kRows - 1) / kRows;

  for (int64_t task = blockIdx.x; task < heads * q_tiles; task += gridDim.x) {
    const AttentionHead head(s, task % heads);
    const int64_t i0 = (q_tiles - 1 - task / heads) * kRows;  // causal: the longest rows start first
    const int64_t row0 = i0 + Tile::ty() * kR;
    load_tile<Tile>(q_tile, kRows, q + head.q_at(i0), s.q_row, s.q_len - i0, s.head_dim, s.scale * kLog2e, wide);
    float m[kR], l[kR], acc[kR][Tile::kDims];
    ACCRETE_UNROLL
    for (int i = 0; i < kR; ++i) {
      m[i] = -INFINITY;
      l[i] = 0.0f;
      ACCRETE_UNROLL
      for (int n = 0; n < Tile::kDims; ++n) acc[i][n] = 0.0f;
    }
    int64_t end = s.kv_len;
    if (s.causal && i0 + kRows + s.kv_len - s.q_len < end) end = i0 + kRows + s.kv_len - s.q_len;

    for (int64_t j0 = 0; j0 < end; j0 += kLoop) {
      __syncthreads();  // the tiles of the last round are no longer read
      load_tile<Tile>(k_tile, kLoop, k + head.kv_at(j0), s.kv_row, s.kv_len - j0, s.head_dim, 1.0f, wide);
      load_tile<Tile>(v_tile, kLoop, v + head.kv_at(j0), s.kv_row, s.kv_len - j0, s.head_dim, 1.0f, wide);
      __syncthreads();
      float p[kR][kC];
      tile_dot<Tile>(p, q_tile, k_tile);
      ACCRETE_UNROLL
      for (int i = 0; i < kR; ++i) {
        float top = m[i];
        ACCRETE_UNROLL
        for (int j = 0; j < kC; ++j) {
          if (!head.sees(row0 + i, j0 + Tile::tx() + 16 * j)) p[i][j] = -INFINITY;
          top = fmaxf(top, p[i][j]);
        }
        top = half_warp_max(top);
        const float shift = top == -INFINITY ? 0.0f : top;  // nothing seen so far: exp2(-inf - 0) = 0
        const float shrink = exp2f(m[i] - shift);
        m[i] = top;
        l[i] *= shrink;
        ACCRETE_UNROLL
        for (int j = 0; j < kC; ++j) {
          p[i][j] = exp2f(p[i][j] - shift);
          l[i] += p[i][j];  // this thread's columns; the lanes are added at the end
        }
        ACCRETE_UNROLL
        for (int n = 0; n < Tile::kDims; ++n) acc[i][n] *= shrink;
      }
      if (s.dropout > 0.0f) {
        ACCRETE_UNROLL
        for (int i = 0; i < kR; ++i) {
          ACCRETE_UNROLL
          for (int j = 0; j < kC; ++j) p[i][j] *= head.keep(row0 + i, j0 + Tile::tx() + 16 * j, threshold, kept);
        }
      }
      store_scores<Tile>(p_tile, p);
      tile_accumulate<Tile>(acc, p_tile, v_tile);
    }

    ACCRETE_UNROLL
    for (int i = 0; i < kR; ++i) {
      const float total = half_warp_sum(l[i]);
      if (row0 + i >= s.q_len) continue;
      store_tile_row<Tile>(o + head.o_at(row0 + i), acc[i], s.head_dim, total > 0.0f ? 1.0f / total : 0.0f, wide);
      if (Tile::tx() == 0) lse[head.lse_at(row0 + i)] = (m[i] + log2f(total)) * kLn2;
    }
    __syncthreads();  // q_tile is free for the next task
  }
}

}  // namespace

template <class T>
void attention_forward(const Gpu& ctx, T* o, float* lse, const T* q, const T* k, const T* v, const AttentionShape& s) {
  if (s.head_dim > 128) throw std::runtime_error("[attention_forward] head_dim is at most 128");
  const int64_t q_tiles = (s.q_len + 63) / 64, tasks = s.batch * s.heads * q_tiles;
  if (tasks <= 0 || s.head_dim <= 0) return;
  if (served_by_mma<T>(s, {q}, {k, v}, {o})) {
    if constexpr (kMmaType<T>) {
      const auto ours = [&](const void*) { attention_mma_forward(ctx, o, lse, q, k, v, s); };
      const AttentionOperands x{.q = q, .k = k, .v = v, .o = o, .lse = lse};
      if (!attention_by_cudnn(ctx, gemm_type<T>(), s, x, ours)) ours(nullptr);
    }
    return;
  }
  const bool wide = wide_heads(q, s, s.q_row, s.q_batch) && wide_heads(k, s, s.kv_row, s.kv_batch) &&
                    wide_heads(v, s, s.kv_row, s.kv_batch) && wide_heads(o, s, 0, 0);
  with_attention_tile(s.head_dim, false, [&]<class Tile>() {
    const int64_t bytes = shared_bytes<float>(Tile::kRows * Tile::kPitch) +
                          2 * shared_bytes<float>(Tile::kLoop * Tile::kPitch) +
                          shared_bytes<float>(Tile::kRows * Tile::kScorePitch);
    ACCRETE_LAUNCH(attention_kernel<T, Tile>, dim3{blocks_for(tasks, 1, 1 << 20)}, dim3{kBlockSize}, bytes, ctx, o, lse,
                   q, k, v, s, wide);
  });
}

template void attention_forward(const Gpu&, float*, float*, const float*, const float*, const float*,
                                const AttentionShape&);
template void attention_forward(const Gpu&, bf16*, float*, const bf16*, const bf16*, const bf16*,
                                const AttentionShape&);
template void attention_forward(const Gpu&, f16*, float*, const f16*, const f16*, const f16*, const AttentionShape&);

}  // namespace accrete::kernels
