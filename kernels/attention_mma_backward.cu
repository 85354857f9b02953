// Attention on tensor cores, backward (the formulas: attention_backward.cu). Two kernels, no atomics, no scratch:
//   dq      owns 128 queries, keys pass by:     s = q k^T,  dp = do v^T,  dq += ds k               3 products; and
//   delta dk, dv  owns 64 keys, queries pass by:  s^T = k q^T,  dp^T = v do^T,  dv += p^T do,  dk += ds^T q      4
//   products
// p and ds are rounded to 16 bits for the second product of each pair; all else is f32.
//
// Seven products where five would do if dq were summed across the blocks that own keys. That sum costs more than it
// saves: atomics would make results differ from run to run; writing ds (2 bytes a visible pair, then read again) moves
// 4 bytes to save 4 D FLOPs, and D = 64 gives 64 FLOPs a byte where the chip needs about 100 (450 TFLOP/s against 4.3
// TB/s) to break even, with memory that grows with the square of the length; partial sums of dq in f32 move as much
// through L2. So 14 D FLOPs and 2 exp2 a visible pair; q, k, v, do and the results pass through memory about once
// (blocks of one head are neighbours in the grid and share L2).
#include "kernels/attention_mma.h"

namespace accrete::kernels {

namespace {

// The two halves of the gradient of a tile of scores: p = exp(s - lse), ds = p (z dp - delta). On entry p holds q k and
// ds holds do v.
__device__ __forceinline__ void gradient_of_score(float& p, float& ds, float scale, float lse, float delta, bool kept,
                                                  float kept_factor) {
  p = fast_exp2(fmaf(p, scale, -lse));
  ds = p * ((kept ? ds * kept_factor : 0.0f) - delta);
}

// ---- dq and delta ---------------------------------------------------------------------------------------------------

// delta of the warp's own rows, do * o summed over the row, to memory and to `sums`; d_o is there already.
template <class Tile, class T>
__device__ __forceinline__ void row_deltas(Shared<float> sums, float* delta, Shared<T> do_tile, const T* o,
                                           int64_t stride, int rows, int D) {
  constexpr int kAcross = Tile::kChunks > 8 ? 16 : Tile::kChunks, kStep = kWarpSize / kAcross;
  const int c = lane_id() % kAcross;
  ACCRETE_UNROLL
  for (int n = 0; n < Tile::kWarpRows; n += kStep) {
    const int r = Tile::warp_row() + n + lane_id() / kAcross;
    float sum = 0.0f;
    if (r < rows && 8 * c < D) {
      const Pack<T, 8> x = load_chunk<T>(do_tile, chunk_at<Tile::kD>(r, c)), y = load_pack<8>(o + r * stride + 8 * c);
      ACCRETE_UNROLL
      for (int j = 0; j < 8; ++j) sum += to_float(x.e[j]) * to_float(y.e[j]);
    }
    ACCRETE_UNROLL
    for (int lanes = kAcross / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kFullWarp, sum, lanes);
    if (c != 0) continue;
    sums[r] = sum;
    if (r < rows) delta[r] = sum;
  }
  __syncwarp();
}

template <class Tile>
struct QueryRows {
  float lse[Tile::kM][2], delta[Tile::kM][2];  // lse in units of log 2
  float acc[Tile::kM][Tile::kDTiles][4];
};

template <class Tile, int kN, bool kDropout, class T>
__device__ __forceinline__ void add_to_dq(QueryRows<Tile>& rows, const OwnRows<Tile>& q, const OwnRows<Tile>& d_o,
                                          Shared<T> k_tile, Shared<T> v_tile, int base, const Columns& columns,
                                          float scale, const AttentionHead& head, int i, uint32_t threshold,
                                          float kept_factor) {
  float p[Tile::kM][kN][4], ds[Tile::kM][kN][4];
  dot_rows<Tile, kN, T>(p, q, k_tile, base);
  dot_rows<Tile, kN, T>(ds, d_o, v_tile, base);
  ACCRETE_UNROLL
  for (int m = 0; m < Tile::kM; ++m) {
    ACCRETE_UNROLL
    for (int n = 0; n < kN; ++n) {
      ACCRETE_UNROLL
      for (int h = 0; h < 2; ++h) {
        bool keep[2] = {true, true};
        if constexpr (kDropout) {
          keep_neighbours(keep, head, i + 16 * m + 8 * h + lane_row(), columns.j0 + 8 * n + lane_column(), threshold);
        }
        ACCRETE_UNROLL
        for (int e = 0; e < 2; ++e) {
          gradient_of_score(p[m][n][2 * h + e], ds[m][n][2 * h + e], scale, rows.lse[m][h], rows.delta[m][h], keep[e],
                            kept_factor);
        }
      }
    }
  }
  if (columns.hides<8 * kN>()) {  // p of a hidden pair may be infinite: it is replaced, not multiplied
    ACCRETE_UNROLL
    for (int m = 0; m < Tile::kM; ++m) {
      ACCRETE_UNROLL
      for (int n = 0; n < kN; ++n) {
        ACCRETE_UNROLL
        for (int e = 0; e < 4; ++e) {
          if (!columns.sees(16 * m + 8 * (e / 2) + lane_row(), 8 * n + lane_column() + e % 2)) ds[m][n][e] = 0.0f;
        }
      }
    }
  }
  add_product<Tile, kN, T>(rows.acc, ds, k_tile, base);
}

template <class T, class Tile, bool kDropout>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    attention_mma_dq_kernel(T* dq, float* delta, const T* d_o, const T* q, const T* k, const T* v, const T* o,
                            const float* lse, AttentionShape s) {
  constexpr int kRows = Tile::kRows, kCols = Tile::kCols, kM = Tile::kM;
  SharedCarver carve;
  const auto q_tile = carve.take<T>("q", Tile::kOwn);
  const auto do_tile = carve.take<T>("d_o", Tile::kOwn);
  const auto k_tile = carve.take<T>("k", 2 * Tile::kPassing);
  const auto v_tile = carve.take<T>("v", 2 * Tile::kPassing);
  const auto sums = carve.take<float>("delta", kRows);
  AsyncCopies copies;

  const int q_len = static_cast<int>(s.q_len), kv_len = static_cast<int>(s.kv_len), D = static_cast<int>(s.head_dim);
  const OwnBlock<Tile> block(s, s.q_len, true, blockIdx.x);
  const AttentionHead& head = block.head;
  const int i0 = block.row, warp_i = i0 + Tile::warp_row();
  if constexpr (kDropout) settle(s.key);
  const int ahead = s.causal ? kv_len - q_len + 1 : kv_len;  // query i sees the keys below min(i + ahead, kv_len)
  const int end = keys_seen(min_of(i0 + kRows, q_len) - 1 + ahead, kv_len);
  const int warp_end = warp_i < q_len ? keys_seen(min_of(warp_i + Tile::kWarpRows, q_len) - 1 + ahead, kv_len) : 0;
  const T *const k_head = k + head.kv_at(0), *const v_head = v + head.kv_at(0);
  const auto start_copies = [&](int j0) {
    const int base = j0 / kCols % 2 * Tile::kPassing;
    copy_rows<Tile, kCols, T>(copies, k_tile, base, k_head + j0 * s.kv_row, s.kv_row, kv_len - j0, D);
    copy_rows<Tile, kCols, T>(copies, v_tile, base, v_head + j0 * s.kv_row, s.kv_row, kv_len - j0, D);
    copies.commit();
  };
  copy_rows<Tile, kRows, T>(copies, q_tile, 0, q + head.q_at(i0), s.q_row, q_len - i0, D);
  copy_rows<Tile, kRows, T>(copies, do_tile, 0, d_o + head.o_at(i0), head.o_row(), q_len - i0, D);
  copies.commit();
  if (end > 0) start_copies(0);
  copies.wait<1>();
  if (end <= 0) copies.wait<0>();
  __syncthreads();  // q and d_o are there

  row_deltas<Tile, T>(sums, delta + head.lse_at(i0), do_tile, o + head.o_at(i0), head.o_row(), q_len - i0, D);
  QueryRows<Tile> rows;
  fill_zero(rows.acc);
  ACCRETE_UNROLL
  for (int m = 0; m < kM; ++m) {
    ACCRETE_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int r = Tile::warp_row() + 16 * m + 8 * h + lane_row();
      rows.delta[m][h] = sums[r];
      rows.lse[m][h] = i0 + r < q_len ? lse[head.lse_at(i0 + r)] * kLog2e : 0.0f;
    }
  }
  OwnRows<Tile> own_q(q_tile), own_do(do_tile);
  own_q.hold();
  own_do.hold();
  const float scale = s.scale * kLog2e, kept_factor = kDropout ? 1.0f / (1.0f - s.dropout) : 1.0f;
  const uint32_t threshold = kDropout ? drop_threshold(s.dropout) : 0;

  for (int j0 = 0; j0 < end; j0 += kCols) {
    copies.wait<0>();
    __syncthreads();
    if (j0 + kCols < end) start_copies(j0 + kCols);
    const int base = j0 / kCols % 2 * Tile::kPassing;
    const int most = warp_end - j0, least = min_of(warp_i + ahead, kv_len) - j0;
    const Columns columns{j0, least, kv_len - j0, s.causal};
    if (most > kCols / 2) {
      add_to_dq<Tile, kCols / 8, kDropout, T>(rows, own_q, own_do, k_tile, v_tile, base, columns, scale, head, warp_i,
                                              threshold, kept_factor);
    } else if (most > 0) {
      add_to_dq<Tile, kCols / 16, kDropout, T>(rows, own_q, own_do, k_tile, v_tile, base, columns, scale, head, warp_i,
                                               threshold, kept_factor);
    }
  }

  const OwnBlock<Tile> again(s, s.q_len, true, block_index_again());
  store_rows<Tile, T>(dq + again.head.q_at(again.row), s.q_row, q_len - again.row, D, q_tile, rows.acc, s.scale);
}

// ---- dk and dv ------------------------------------------------------------------------------------------------------

// One tile of queries, of which those from column 8 * kN on do not exist. `own` and `column` number keys and queries
// from the warp's and the tile's first; key r is seen by the queries from column first + r on.
template <class Tile, int kN, bool kDropout, class T>
__device__ __forceinline__ void add_to_dkv(float (&dk)[Tile::kM][Tile::kDTiles][4],
                                           float (&dv)[Tile::kM][Tile::kDTiles][4], const OwnRows<Tile>& k,
                                           const OwnRows<Tile>& v, Shared<T> q_tile, Shared<T> do_tile, int base,
                                           Shared<float> lse, Shared<float> delta, int row_base, int first, float scale,
                                           const AttentionHead& head, int i0, int j, uint32_t threshold,
                                           float kept_factor) {
  float p[Tile::kM][kN][4], ds[Tile::kM][kN][4];
  dot_rows<Tile, kN, T>(p, k, q_tile, base);
  dot_rows<Tile, kN, T>(ds, v, do_tile, base);
  ACCRETE_UNROLL
  for (int n = 0; n < kN; ++n) {
    ACCRETE_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int column = 8 * n + lane_column() + e;
      const float column_lse = lse[row_base + column] * kLog2e, column_delta = delta[row_base + column];
      ACCRETE_UNROLL
      for (int m = 0; m < Tile::kM; ++m) {
        ACCRETE_UNROLL
        for (int h = 0; h < 2; ++h) {
          bool kept = true;
          if constexpr (kDropout) {
            kept = head.keep(i0 + column, j + 16 * m + 8 * h + lane_row(), threshold, 1.0f) > 0.0f;
          }
          float &p_e = p[m][n][2 * h + e], &ds_e = ds[m][n][2 * h + e];
          gradient_of_score(p_e, ds_e, scale, column_lse, column_delta, kept, kept_factor);
          if (!kept) p_e = 0.0f;
        }
      }
    }
  }
  if (first + Tile::kWarpRows - 1 > 0) {  // some query does not see some key; p may be infinite there
    ACCRETE_UNROLL
    for (int m = 0; m < Tile::kM; ++m) {
      ACCRETE_UNROLL
      for (int n = 0; n < kN; ++n) {
        ACCRETE_UNROLL
        for (int e = 0; e < 4; ++e) {
          if (8 * n + lane_column() + e % 2 < first + 16 * m + 8 * (e / 2) + lane_row()) {
            p[m][n][e] = ds[m][n][e] = 0.0f;
          }
        }
      }
    }
  }
  add_product<Tile, kN, T>(dv, p, do_tile, base);
  add_product<Tile, kN, T>(dk, ds, q_tile, base);
}

template <class T, class Tile, bool kDropout>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    attention_mma_dkv_kernel(T* dk, T* dv, const float* delta, const T* d_o, const T* q, const T* k, const T* v,
                             const float* lse, AttentionShape s) {
  constexpr int kRows = Tile::kRows, kCols = Tile::kCols;
  SharedCarver carve;
  const auto k_tile = carve.take<T>("k", Tile::kOwn);
  const auto v_tile = carve.take<T>("v", Tile::kOwn);
  const auto q_tile = carve.take<T>("q", 2 * Tile::kPassing);
  const auto do_tile = carve.take<T>("d_o", 2 * Tile::kPassing);
  const auto lse_tile = carve.take<float>("lse", 2 * kCols);
  const auto delta_tile = carve.take<float>("delta", 2 * kCols);
  AsyncCopies copies;

  const int q_len = static_cast<int>(s.q_len), kv_len = static_cast<int>(s.kv_len), D = static_cast<int>(s.head_dim);
  const OwnBlock<Tile> block(s, s.kv_len, false, blockIdx.x);  // causal: the first keys are seen by most queries
  const AttentionHead& head = block.head;
  const int j0 = block.row, warp_j = j0 + Tile::warp_row();
  if constexpr (kDropout) settle(s.key);
  const int offset = s.causal ? q_len - kv_len : -kv_len;  // key j is seen by the queries from j + offset on
  const int begin = j0 + offset > 0 ? (j0 + offset) / kCols * kCols : 0;
  const T *const q_head = q + head.q_at(0), *const do_head = d_o + head.o_at(0);
  const auto start_copies = [&](int i0) {
    const int stage = i0 / kCols % 2, base = stage * Tile::kPassing, lane = static_cast<int>(threadIdx.x);
    copy_rows<Tile, kCols, T>(copies, q_tile, base, q_head + i0 * s.q_row, s.q_row, q_len - i0, D);
    copy_rows<Tile, kCols, T>(copies, do_tile, base, do_head + i0 * head.o_row(), head.o_row(), q_len - i0, D);
    if (lane < kCols) {
      const int64_t at = head.lse_at(i0 + lane);
      const bool valid = i0 + lane < q_len;
      copies.copy4<float>(lse_tile, stage * kCols + lane, valid ? lse + at : lse, valid);
      copies.copy4<float>(delta_tile, stage * kCols + lane, valid ? delta + at : delta, valid);
    }
    copies.commit();
  };
  OwnRows<Tile> own_k(k_tile), own_v(v_tile);
  float dk_sum[Tile::kM][Tile::kDTiles][4], dv_sum[Tile::kM][Tile::kDTiles][4];
  fill_zero(dk_sum);
  fill_zero(dv_sum);
  if (begin < q_len) {
    copy_rows<Tile, kRows, T>(copies, k_tile, 0, k + head.kv_at(j0), s.kv_row, kv_len - j0, D);
    copy_rows<Tile, kRows, T>(copies, v_tile, 0, v + head.kv_at(j0), s.kv_row, kv_len - j0, D);
    start_copies(begin);
  }
  const float scale = s.scale * kLog2e, kept_factor = kDropout ? 1.0f / (1.0f - s.dropout) : 1.0f;
  const uint32_t threshold = kDropout ? drop_threshold(s.dropout) : 0;

  for (int i0 = begin; i0 < q_len; i0 += kCols) {
    copies.wait<0>();
    __syncthreads();
    if (i0 + kCols < q_len) start_copies(i0 + kCols);
    if (i0 == begin) {
      own_k.hold();
      own_v.hold();
    }
    const int stage = i0 / kCols % 2, base = stage * Tile::kPassing, row_base = stage * kCols;
    const int first = warp_j + offset - i0, count = min_of(q_len - i0, kCols);
    if (warp_j >= kv_len || first >= count) continue;  // no keys, or none of these queries sees one
    if (count > kCols / 2) {
      add_to_dkv<Tile, kCols / 8, kDropout, T>(dk_sum, dv_sum, own_k, own_v, q_tile, do_tile, base, lse_tile,
                                               delta_tile, row_base, first, scale, head, i0, warp_j, threshold,
                                               kept_factor);
    } else {
      add_to_dkv<Tile, kCols / 16, kDropout, T>(dk_sum, dv_sum, own_k, own_v, q_tile, do_tile, base, lse_tile,
                                                delta_tile, row_base, first, scale, head, i0, warp_j, threshold,
                                                kept_factor);
    }
  }

  const OwnBlock<Tile> again(s, s.kv_len, false, block_index_again());
  const int64_t at = again.head.kv_at(again.row);
  store_rows<Tile, T>(dk + at, s.kv_row, kv_len - again.row, D, k_tile, dk_sum, s.scale);
  store_rows<Tile, T>(dv + at, s.kv_row, kv_len - again.row, D, v_tile, dv_sum, kept_factor);
}

// What fits into 255 registers. dq: one sum and two tiles of scores, so two row tiles per warp against 32 keys (one
// with dropout, as in the forward kernel). dk and dv: two sums, so one row tile, and shared memory sets the pace there.
template <class T, int kD, bool kDropout>
using DqTile = MmaTile<T, kD, kDropout ? 1 : 2, 4, kDropout ? 64 : 32, (kD <= 64)>;
template <class T, int kD, bool kDropout>
using DkvTile = MmaTile<T, kD, 1, 4, kDropout || kD == 128 ? 32 : 64, (kD <= 64)>;

}  // namespace

template <class T>
void attention_mma_backward(const Gpu& ctx, T* dq, T* dk, T* dv, float* delta, const T* d_o, const T* q, const T* k,
                            const T* v, const T* o, const float* lse, const AttentionShape& s) {
  const int64_t heads = s.batch * s.heads;
  const auto launch = [&]<int kD, bool kDropout>() {
    if (s.q_len > 0) {
      using Tile = DqTile<T, kD, kDropout>;
      const int64_t bytes =
          2 * shared_bytes<T>(Tile::kOwn) + 2 * shared_bytes<T>(2 * Tile::kPassing) + shared_bytes<float>(Tile::kRows);
      const dim3 grid{blocks_covering(heads * ((s.q_len + Tile::kRows - 1) / Tile::kRows), 1)};
      ACCRETE_LAUNCH(attention_mma_dq_kernel<T, Tile, kDropout>, grid, dim3{Tile::kThreads}, bytes, ctx, dq, delta, d_o,
                     q, k, v, o, lse, s);
    }
    if (s.kv_len > 0) {
      using Tile = DkvTile<T, kD, kDropout>;
      const int64_t bytes = 2 * shared_bytes<T>(Tile::kOwn) + 2 * shared_bytes<T>(2 * Tile::kPassing) +
                            2 * shared_bytes<float>(2 * Tile::kCols);
      const dim3 grid{blocks_covering(heads * ((s.kv_len + Tile::kRows - 1) / Tile::kRows), 1)};
      ACCRETE_LAUNCH(attention_mma_dkv_kernel<T, Tile, kDropout>, grid, dim3{Tile::kThreads}, bytes, ctx, dk, dv, delta,
                     d_o, q, k, v, lse, s);
    }
  };
  with_mma_size(s, launch);
}

template void attention_mma_backward(const Gpu&, bf16*, bf16*, bf16*, float*, const bf16*, const bf16*, const bf16*,
                                     const bf16*, const bf16*, const float*, const AttentionShape&);
template void attention_mma_backward(const Gpu&, f16*, f16*, f16*, float*, const f16*, const f16*, const f16*,
                                     const f16*, const f16*, const float*, const AttentionShape&);

}  // namespace accrete::kernels
