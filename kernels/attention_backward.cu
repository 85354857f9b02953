// Attention, backward, without atomics: one kernel for delta, one over tiles of queries for dq, one over tiles of keys
// for dk and dv. Both recompute the probabilities from the scores and lse. With p = exp(s - lse), z the dropout factor
// (0 or 1 / (1 - rate)) and o_i = sum_j z_ij p_ij v_j:
//   dv_j = sum_i z_ij p_ij do_i          dp_ij = z_ij do_i . v_j
//   ds_ij = p_ij (dp_ij - sum_j p_ij dp_ij) = p_ij (dp_ij - delta_i),   delta_i = do_i . o_i
//   dq_i = scale sum_j ds_ij k_j         dk_j = scale sum_i ds_ij q_i
// 16-bit types go to the tensor cores (attention_mma_backward.cu) where their rows are aligned.
#include <stdexcept>

#include "kernels/attention_choice.h"
#include "kernels/attention_mma.h"
#include "kernels/attention_tile.h"

namespace accrete::kernels {

namespace {

// delta[b, h, i] = sum_d d_o * o. A warp per row.
template <class T>
__global__ void attention_delta_kernel(float* delta, const T* d_o, const T* o, AttentionShape s) {
  using Team = RowTeam<false>;
  for (int64_t r = Team::first_row(); r < s.batch * s.heads * s.q_len; r += Team::row_step()) {
    const int64_t at = AttentionHead(s, r / s.q_len).o_at(r % s.q_len);
    float total = 0.0f;
    for (int64_t d = Team::rank(); d < s.head_dim; d += kWarpSize) total += to_float(d_o[at + d]) * to_float(o[at + d]);
    total = warp_sum(total);
    if (Team::rank() == 0) delta[r] = total;
  }
}

// dq of 64 queries: q and d_o stay, tiles of k and v pass by.
template <class T, class Tile>
__global__ void __launch_bounds__(kBlockSize)
    attention_dq_kernel(T* dq, const float* delta, const T* d_o, const T* q, const T* k, const T* v, const float* lse,
                        AttentionShape s, bool wide) {
  constexpr int kRows = Tile::kRows, kLoop = Tile::kLoop, kR = Tile::kR, kC = Tile::kC;
  SharedCarver carve;
  const auto q_tile = carve.take<float>("q", kRows * Tile::kPitch);
  const auto do_tile = carve.take<float>("d_o", kRows * Tile::kPitch);
  const auto k_tile = carve.take<float>("k", kLoop * Tile::kPitch);
  const auto v_tile = carve.take<float>("v", kLoop * Tile::kPitch);
  const auto ds_tile = carve.take<float>("ds", kRows * Tile::kScorePitch);
  const uint32_t threshold = drop_threshold(s.dropout);
  const float kept = 1.0f / (1.0f - s.dropout);
  const int64_t heads = s.batch * s.heads, q_tiles = (s.q_len + kRows - 1) / kRows;

  for (int64_t task = blockIdx.x; task < heads * q_tiles; task += gridDim.x) {
    const AttentionHead head(s, task % heads);
    const int64_t i0 = (q_tiles - 1 - task / heads) * kRows, row0 = i0 + Tile::ty() * kR;
    load_tile<Tile>(q_tile, kRows, q + head.q_at(i0), s.q_row, s.q_len - i0, s.head_dim, s.scale * kLog2e, wide);
    load_tile<Tile>(do_tile, kRows, d_o + head.o_at(i0), head.o_row(), s.q_len - i0, s.head_dim, 1.0f, wide);
    float row_lse[kR], row_delta[kR], acc[kR][Tile::kDims];
    ACCRETE_UNROLL
    for (int i = 0; i < kR; ++i) {
      row_lse[i] = row0 + i < s.q_len ? lse[head.lse_at(row0 + i)] * kLog2e : 0.0f;
      row_delta[i] = row0 + i < s.q_len ? delta[head.lse_at(row0 + i)] : 0.0f;
      ACCRETE_UNROLL
      for (int n = 0; n < Tile::kDims; ++n) acc[i][n] = 0.0f;
    }
    int64_t end = s.kv_len;
    if (s.causal && i0 + kRows + s.kv_len - s.q_len < end) end = i0 + kRows + s.kv_len - s.q_len;

    for (int64_t j0 = 0; j0 < end; j0 += kLoop) {
      __syncthreads();
      load_tile<Tile>(k_tile, kLoop, k + head.kv_at(j0), s.kv_row, s.kv_len - j0, s.head_dim, 1.0f, wide);
      load_tile<Tile>(v_tile, kLoop, v + head.kv_at(j0), s.kv_row, s.kv_len - j0, s.head_dim, 1.0f, wide);
      __syncthreads();
      float p[kR][kC], ds[kR][kC];
      tile_dot<Tile>(p, q_tile, k_tile);
      tile_dot<Tile>(ds, do_tile, v_tile);
      ACCRETE_UNROLL
      for (int i = 0; i < kR; ++i) {
        ACCRETE_UNROLL
        for (int j = 0; j < kC; ++j) {
          const int64_t query = row0 + i, key = j0 + Tile::tx() + 16 * j;
          if (s.dropout > 0.0f) ds[i][j] *= head.keep(query, key, threshold, kept);
          ds[i][j] = head.sees(query, key) ? exp2f(p[i][j] - row_lse[i]) * (ds[i][j] - row_delta[i]) : 0.0f;
        }
      }
      store_scores<Tile>(ds_tile, ds);
      tile_accumulate<Tile>(acc, ds_tile, k_tile);
    }

    ACCRETE_UNROLL
    for (int i = 0; i < kR; ++i) {
      if (row0 + i < s.q_len) store_tile_row<Tile>(dq + head.q_at(row0 + i), acc[i], s.head_dim, s.scale, wide);
    }
    __syncthreads();
  }
}

// dk and dv of 64 keys: k and v stay, tiles of q and d_o pass by. Rows of the products are keys, columns queries.
template <class T, class Tile>
__global__ void __launch_bounds__(kBlockSize)
    attention_dkv_kernel(T* dk, T* dv, const float* delta, const T* d_o, const T* q, const T* k, const T* v,
                         const float* lse, AttentionShape s, bool wide) {
  constexpr int kRows = Tile::kRows, kLoop = Tile::kLoop, kR = Tile::kR, kC = Tile::kC;
  SharedCarver carve;
  const auto k_tile = carve.take<float>("k", kRows * Tile::kPitch);
  const auto v_tile = carve.take<float>("v", kRows * Tile::kPitch);
  const auto q_tile = carve.take<float>("q", kLoop * Tile::kPitch);
  const auto do_tile = carve.take<float>("d_o", kLoop * Tile::kPitch);
  const auto p_tile = carve.take<float>("p", kRows * Tile::kScorePitch);
  const auto ds_tile = carve.take<float>("ds", kRows * Tile::kScorePitch);
  const uint32_t threshold = drop_threshold(s.dropout);
  const float kept = 1.0f / (1.0f - s.dropout);
  const int64_t heads = s.batch * s.heads, kv_tiles = (s.kv_len + kRows - 1) / kRows;

  for (int64_t task = blockIdx.x; task < heads * kv_tiles; task += gridDim.x) {
    const AttentionHead head(s, task % heads);
    const int64_t j0 = task / heads * kRows, row0 = j0 + Tile::ty() * kR;  // causal: the first keys have most queries
    load_tile<Tile>(k_tile, kRows, k + head.kv_at(j0), s.kv_row, s.kv_len - j0, s.head_dim, s.scale * kLog2e, wide);
    load_tile<Tile>(v_tile, kRows, v + head.kv_at(j0), s.kv_row, s.kv_len - j0, s.head_dim, 1.0f, wide);
    float acc_k[kR][Tile::kDims], acc_v[kR][Tile::kDims];
    ACCRETE_UNROLL
    for (int i = 0; i < kR; ++i) {
      ACCRETE_UNROLL
      for (int n = 0; n < Tile::kDims; ++n) acc_k[i][n] = acc_v[i][n] = 0.0f;
    }
    int64_t first = 0;  // the first query that sees key j0
    if (s.causal && j0 - (s.kv_len - s.q_len) > 0) first = j0 - (s.kv_len - s.q_len);

    for (int64_t i0 = first / kLoop * kLoop; i0 < s.q_len; i0 += kLoop) {
      __syncthreads();
      load_tile<Tile>(q_tile, kLoop, q + head.q_at(i0), s.q_row, s.q_len - i0, s.head_dim, 1.0f, wide);
      load_tile<Tile>(do_tile, kLoop, d_o + head.o_at(i0), head.o_row(), s.q_len - i0, s.head_dim, 1.0f, wide);
      __syncthreads();
      float p[kR][kC], ds[kR][kC];
      tile_dot<Tile>(p, k_tile, q_tile);
      tile_dot<Tile>(ds, v_tile, do_tile);
      ACCRETE_UNROLL
      for (int j = 0; j < kC; ++j) {
        const int64_t query = i0 + Tile::tx() + 16 * j;
        const float query_lse = query < s.q_len ? lse[head.lse_at(query)] * kLog2e : 0.0f;
        const float query_delta = query < s.q_len ? delta[head.lse_at(query)] : 0.0f;
        ACCRETE_UNROLL
        for (int i = 0; i < kR; ++i) {
          const float z = s.dropout > 0.0f ? head.keep(query, row0 + i, threshold, kept) : 1.0f;
          const float e = head.sees(query, row0 + i) ? exp2f(p[i][j] - query_lse) : 0.0f;
          ds[i][j] = e * (ds[i][j] * z - query_delta);
          p[i][j] = e * z;
        }
      }
      store_scores<Tile>(p_tile, p);
      store_scores<Tile>(ds_tile, ds);
      tile_accumulate<Tile>(acc_v, p_tile, do_tile);
      tile_accumulate<Tile>(acc_k, ds_tile, q_tile);
    }

    ACCRETE_UNROLL
    for (int i = 0; i < kR; ++i) {
      if (row0 + i >= s.kv_len) continue;
      store_tile_row<Tile>(dk + head.kv_at(row0 + i), acc_k[i], s.head_dim, s.scale, wide);
      store_tile_row<Tile>(dv + head.kv_at(row0 + i), acc_v[i], s.head_dim, 1.0f, wide);
    }
    __syncthreads();
  }
}

}  // namespace

template <class T>
void attention_backward(const Gpu& ctx, T* dq, T* dk, T* dv, float* delta, const T* d_o, const T* q, const T* k,
                        const T* v, const T* o, const float* lse, const AttentionShape& s) {
  if (s.head_dim > 128) throw std::runtime_error("[attention_backward] head_dim is at most 128");
  const int64_t heads = s.batch * s.heads;
  if (heads <= 0 || s.head_dim <= 0) return;
  if (served_by_mma<T>(s, {q, dq}, {k, v, dk, dv}, {d_o, o})) {
    if constexpr (kMmaType<T>) {
      const auto ours = [&](const void* gradient) {
        attention_mma_backward(ctx, dq, dk, dv, delta, static_cast<const T*>(gradient), q, k, v, o, lse, s);
      };
      const AttentionOperands x{.q = q,
                                .k = k,
                                .v = v,
                                .o = const_cast<T*>(o),
                                .lse = const_cast<float*>(lse),
                                .d_o = d_o,
                                .dq = dq,
                                .dk = dk,
                                .dv = dv,
                                .delta = delta};
      if (!attention_by_cudnn(ctx, gemm_type<T>(), s, x, ours)) ours(d_o);
    }
    return;
  }
  const bool wide = wide_heads(q, s, s.q_row, s.q_batch) && wide_heads(dq, s, s.q_row, s.q_batch) &&
                    wide_heads(k, s, s.kv_row, s.kv_batch) && wide_heads(v, s, s.kv_row, s.kv_batch) &&
                    wide_heads(dk, s, s.kv_row, s.kv_batch) && wide_heads(dv, s, s.kv_row, s.kv_batch) &&
                    wide_heads(d_o, s, 0, 0);
  const dim3 block{kBlockSize};
  if (s.q_len > 0) {
    ACCRETE_LAUNCH(attention_delta_kernel<T>, dim3{RowTeam<false>::blocks(heads * s.q_len)}, block, 0, ctx, delta, d_o,
                   o, s);
  }
  // 104 and 120 KB for heads of 64 and 128: more than a block of a consumer's GPU can have.
  const bool spare = ctx.shared_limit < (s.head_dim <= 64 ? 104 : 120) * 1024;
  with_attention_tile(s.head_dim, spare, [&]<class Tile>() {
    const int64_t tiles =
        2 * shared_bytes<float>(Tile::kRows * Tile::kPitch) + 2 * shared_bytes<float>(Tile::kLoop * Tile::kPitch);
    const int64_t scores = shared_bytes<float>(Tile::kRows * Tile::kScorePitch);
    const auto grid = [&](int64_t len) {
      return dim3{blocks_for(heads * ((len + Tile::kRows - 1) / Tile::kRows), 1, 1 << 20)};
    };
    if (s.q_len > 0) {
      ACCRETE_LAUNCH(attention_dq_kernel<T, Tile>, grid(s.q_len), block, tiles + scores, ctx, dq, delta, d_o, q, k, v,
                     lse, s, wide);
    }
    if (s.kv_len > 0) {
      ACCRETE_LAUNCH(attention_dkv_kernel<T, Tile>, grid(s.kv_len), block, tiles + 2 * scores, ctx, dk, dv, delta, d_o,
                     q, k, v, lse, s, wide);
    }
  });
}

template void attention_backward(const Gpu&, float*, float*, float*, float*, const float*, const float*, const float*,
                                 const float*, const float*, const float*, const AttentionShape&);
template void attention_backward(const Gpu&, bf16*, bf16*, bf16*, float*, const bf16*, const bf16*, const bf16*,
                                 const bf16*, const bf16*, const float*, const AttentionShape&);
template void attention_backward(const Gpu&, f16*, f16*, f16*, float*, const f16*, const f16*, const f16*, const f16*,
                                 const f16*, const float*, const AttentionShape&);

}  // namespace accrete::kernels
