// Attention on tensor cores, forward: 128 queries of one head per block, tiles of 64 keys (attention.cu has the same
// algorithm in f32 and explains it). Inputs are 16-bit, scores, softmax and the output's sum are f32; probabilities,
// between 0 and 1 and relative to the row's largest so far, are rounded to 16 bits for the product with v. The scale is
// applied to the scores in f32, never to q.
//
// Work: 4 D FLOPs (two products) and one exp2 for every visible pair; a warp computes at most 31 keys too many per row.
// Memory: q and o once, k and v once per 128 queries; blocks of one head are neighbours in the grid, so that k and v
// come from L2 for all but the first of them. That is T / 2 FLOPs a byte (T / 4 causal): bound by the tensor cores from
// a few hundred tokens on, by memory below. exp2 (16 a clock and multiprocessor) takes about 60 % of the time of the
// products at D = 64 and can overlap with those of other warps. Causal: the longest blocks of a head start first.
// Computed, not yet measured.
#include "kernels/attention_mma.h"

namespace accrete::kernels {

namespace {

// What a thread keeps of its rows while keys pass by.
template <class Tile>
struct OnlineRows {
  float top[Tile::kM][2];    // largest score so far, unscaled
  float total[Tile::kM][2];  // sum of the probabilities relative to it, of this lane's columns
  float acc[Tile::kM][Tile::kDTiles][4];
};

// One tile of keys, of which the warp sees none from column 8 * kN on.
template <class Tile, int kN, bool kDropout, class T>
__device__ __forceinline__ void attend(OnlineRows<Tile>& rows, const OwnRows<Tile>& q, Shared<T> k_tile,
                                       Shared<T> v_tile, int base, const Columns& columns, float scale,
                                       const AttentionHead& head, int i, uint32_t threshold) {
  float p[Tile::kM][kN][4];
  dot_rows<Tile, kN, T>(p, q, k_tile, base);
  if (columns.hides<8 * kN>()) {
    ACCRETE_UNROLL
    for (int m = 0; m < Tile::kM; ++m) {
      ACCRETE_UNROLL
      for (int n = 0; n < kN; ++n) {
        ACCRETE_UNROLL
        for (int e = 0; e < 4; ++e) {
          if (!columns.sees(16 * m + 8 * (e / 2) + lane_row(), 8 * n + lane_column() + e % 2)) p[m][n][e] = -INFINITY;
        }
      }
    }
  }
  ACCRETE_UNROLL
  for (int m = 0; m < Tile::kM; ++m) {
    ACCRETE_UNROLL
    for (int h = 0; h < 2; ++h) {
      float top = rows.top[m][h];
      ACCRETE_UNROLL
      for (int n = 0; n < kN; ++n) top = fmaxf(top, fmaxf(p[m][n][2 * h], p[m][n][2 * h + 1]));
      top = quad_max(top);
      const float shift = top == -INFINITY ? 0.0f : top * scale;  // nothing seen so far: exp2(-inf - 0) = 0
      const float shrink = fast_exp2(fmaf(rows.top[m][h], scale, -shift));
      rows.top[m][h] = top;
      float total = rows.total[m][h] * shrink;
      ACCRETE_UNROLL
      for (int n = 0; n < kN; ++n) {
        ACCRETE_UNROLL
        for (int e = 2 * h; e < 2 * h + 2; ++e) {
          p[m][n][e] = fast_exp2(fmaf(p[m][n][e], scale, -shift));
          total += p[m][n][e];
        }
      }
      rows.total[m][h] = total;
      ACCRETE_UNROLL
      for (int d = 0; d < Tile::kDTiles; ++d) {
        rows.acc[m][d][2 * h] *= shrink;
        rows.acc[m][d][2 * h + 1] *= shrink;
      }
      if constexpr (kDropout) {
        ACCRETE_UNROLL
        for (int n = 0; n < kN; ++n) {
          bool keep[2];
          keep_neighbours(keep, head, i + 16 * m + 8 * h + lane_row(), columns.j0 + 8 * n + lane_column(), threshold);
          if (!keep[0]) p[m][n][2 * h] = 0.0f;
          if (!keep[1]) p[m][n][2 * h + 1] = 0.0f;
        }
      }
    }
  }
  add_product<Tile, kN, T>(rows.acc, p, v_tile, base);
}

template <class T, class Tile, bool kDropout>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    attention_mma_kernel(T* o, float* lse, const T* q, const T* k, const T* v, AttentionShape s) {
  constexpr int kRows = Tile::kRows, kCols = Tile::kCols, kM = Tile::kM;
  SharedCarver carve;
  const auto q_tile = carve.take<T>("q", Tile::kOwn);
  const auto k_tile = carve.take<T>("k", 2 * Tile::kPassing);
  const auto v_tile = carve.take<T>("v", 2 * Tile::kPassing);
  AsyncCopies copies;

  const int q_len = static_cast<int>(s.q_len), kv_len = static_cast<int>(s.kv_len), D = static_cast<int>(s.head_dim);
  const OwnBlock<Tile> block(s, s.q_len, true, blockIdx.x);
  const AttentionHead& head = block.head;
  const int i0 = block.row, warp_i = i0 + Tile::warp_row();
  if constexpr (kDropout) settle(s.key);
  // Query i sees the keys below min(i + ahead, kv_len).
  const int ahead = s.causal ? kv_len - q_len + 1 : kv_len;
  const int end = keys_seen(min_of(i0 + kRows, q_len) - 1 + ahead, kv_len);
  const int warp_end = warp_i < q_len ? keys_seen(min_of(warp_i + Tile::kWarpRows, q_len) - 1 + ahead, kv_len) : 0;
  const T *const k_head = k + head.kv_at(0), *const v_head = v + head.kv_at(0);
  const auto start_copies = [&](int j0) {
    const int base = j0 / kCols % 2 * Tile::kPassing;
    copy_rows<Tile, kCols, T>(copies, k_tile, base, k_head + j0 * s.kv_row, s.kv_row, kv_len - j0, D);
    copy_rows<Tile, kCols, T>(copies, v_tile, base, v_head + j0 * s.kv_row, s.kv_row, kv_len - j0, D);
    copies.commit();
  };

  OwnRows<Tile> own(q_tile);
  OnlineRows<Tile> rows;
  fill_zero(rows.acc);
  ACCRETE_UNROLL
  for (int m = 0; m < kM; ++m) {
    rows.top[m][0] = rows.top[m][1] = -INFINITY;
    rows.total[m][0] = rows.total[m][1] = 0.0f;
  }
  if (end > 0) {
    copy_rows<Tile, kRows, T>(copies, q_tile, 0, q + head.q_at(i0), s.q_row, q_len - i0, D);
    start_copies(0);
  }
  const float scale = s.scale * kLog2e;
  const uint32_t threshold = kDropout ? drop_threshold(s.dropout) : 0;

  for (int j0 = 0; j0 < end; j0 += kCols) {
    copies.wait<0>();
    __syncthreads();  // this tile is there for all, and nobody reads the one before it
    if (j0 + kCols < end) start_copies(j0 + kCols);
    if (j0 == 0) own.hold();
    const int base = j0 / kCols % 2 * Tile::kPassing;
    // Columns that the warp's last row sees, and its first.
    const int most = warp_end - j0, least = min_of(warp_i + ahead, kv_len) - j0;
    const Columns columns{j0, least, kv_len - j0, s.causal};
    if (most > kCols / 2) {
      attend<Tile, kCols / 8, kDropout, T>(rows, own, k_tile, v_tile, base, columns, scale, head, warp_i, threshold);
    } else if (most > 0) {
      attend<Tile, kCols / 16, kDropout, T>(rows, own, k_tile, v_tile, base, columns, scale, head, warp_i, threshold);
    }
  }

  const OwnBlock<Tile> again(s, s.q_len, true, block_index_again());
  float factor[kM][2];
  ACCRETE_UNROLL
  for (int m = 0; m < kM; ++m) {
    ACCRETE_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float total = quad_sum(rows.total[m][h]);
      const int i = again.row + Tile::warp_row() + 16 * m + 8 * h + lane_row();
      factor[m][h] = total > 0.0f ? 1.0f / (total * (kDropout ? 1.0f - s.dropout : 1.0f)) : 0.0f;
      if (i < q_len && lane_column() == 0) lse[again.head.lse_at(i)] = rows.top[m][h] * s.scale + log2f(total) * kLn2;
    }
  }
  store_rows<Tile, T>(o + again.head.o_at(again.row), again.head.o_row(), q_len - again.row, D, q_tile, rows.acc,
                      factor);
}

// Two row tiles per warp (see attention_mma.h), but one with dropout, where making random words takes both the time and
// the registers. q stays in registers up to D = 64; at D = 128 the sums alone take 128 registers, so fewer keys at
// once.
template <class T, int kD, bool kDropout>
using ForwardTile = MmaTile<T, kD, kDropout ? 1 : 2, 4, kD == 128 ? 32 : 64, (kD <= 64)>;

}  // namespace

template <class T>
void attention_mma_forward(const Gpu& ctx, T* o, float* lse, const T* q, const T* k, const T* v,
                           const AttentionShape& s) {
  const auto launch = [&]<int kD, bool kDropout>() {
    using Tile = ForwardTile<T, kD, kDropout>;
    const int64_t bytes = shared_bytes<T>(Tile::kOwn) + 2 * shared_bytes<T>(2 * Tile::kPassing);
    const int64_t blocks = s.batch * s.heads * ((s.q_len + Tile::kRows - 1) / Tile::kRows);
    ACCRETE_LAUNCH(attention_mma_kernel<T, Tile, kDropout>, dim3{blocks_covering(blocks, 1)}, dim3{Tile::kThreads},
                   bytes, ctx, o, lse, q, k, v, s);
  };
  with_mma_size(s, launch);
}

template void attention_mma_forward(const Gpu&, bf16*, float*, const bf16*, const bf16*, const bf16*,
                                    const AttentionShape&);
template void attention_mma_forward(const Gpu&, f16*, float*, const f16*, const f16*, const f16*,
                                    const AttentionShape&);

}  // namespace accrete::kernels
