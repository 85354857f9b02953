// Attention on tensor cores, for 16-bit types: what the forward and the backward kernels share.
//
// A block has kRows "own" rows (queries, or keys in the dk-dv kernel), 16 * kM per warp, for its whole life; tiles of
// kCols rows of the other side pass by, loaded with cp.async while the tile before them is worked on. Scores, own rows
// against tile rows, live in registers as C fragments and become the A fragments of the next product there (mma.h), so
// no score ever touches memory and warps meet once per tile.
//
// A warp reads a tile's B fragments from shared memory once for its 16 * kM rows: 256 / kM bytes for each product of 16
// x 8 x 16. Shared memory gives 128 bytes a clock, and the tensor cores take a product every 1.6 clocks or so (Hopper,
// mma.sync; computed, not yet measured), so with kM = 1 shared memory is the limit and with kM = 2 it is not. kM = 2
// where registers allow.
//
// Tiles are swizzled: the 16-byte chunk c of row r lies at chunk c ^ (r % 8) of its row (four or twelve chunks to a
// row: c ^ (r / 2 % 4)), so that the 8 rows that ldmatrix reads at a time, and the rows that cp.async writes, fall into
// different banks without padding.
#pragma once

#include <initializer_list>

#include "kernels/attention_head.h"
#include "kernels/mma.h"
#include "kernels/warp.h"

namespace accrete::kernels {

// The tensor-core kernels for shapes that they serve (served_by_mma); the meaning is that of attention.h.
template <class T>
void attention_mma_forward(const Gpu& ctx, T* o, float* lse, const T* q, const T* k, const T* v,
                           const AttentionShape& s);
template <class T>
void attention_mma_backward(const Gpu& ctx, T* dq, T* dk, T* dv, float* delta, const T* d_o, const T* q, const T* k,
                            const T* v, const T* o, const float* lse, const AttentionShape& s);

inline namespace ACCRETE_BACKEND {

// Whether every row of these tensors begins at a multiple of 16 bytes and the sizes suit the tensor-core kernels. A
// scale of 0 or less is left to the others: these take maxima before they scale.
template <class T>
bool served_by_mma(const AttentionShape& s, std::initializer_list<const T*> q_like,
                   std::initializer_list<const T*> kv_like, std::initializer_list<const T*> o_like) {
  if constexpr (kMmaType<T>) {
    constexpr int64_t kLongest = int64_t{1} << 30;
    const int64_t blocks = s.batch * s.heads * ((s.q_len > s.kv_len ? s.q_len : s.kv_len) / 64 + 1);
    bool ok = s.scale > 0.0f && s.q_len < kLongest && s.kv_len < kLongest && blocks < 2 * kLongest;
    for (const T* x : q_like) ok = ok && wide_heads(x, s, s.q_row, s.q_batch);
    for (const T* x : kv_like) ok = ok && wide_heads(x, s, s.kv_row, s.kv_batch);
    for (const T* x : o_like) ok = ok && wide_heads(x, s, 0, 0);
    return ok;
  } else {
    return false;
  }
}

// Calls fn.operator()<kD, kDropout>() with the smallest size that holds the head.
template <class Fn>
void with_mma_size(const AttentionShape& s, Fn&& fn) {
  const auto with_dropout = [&]<bool kDropout>() {
    if (s.head_dim <= 32) return fn.template operator()<32, kDropout>();
    if (s.head_dim <= 64) return fn.template operator()<64, kDropout>();
    if (s.head_dim <= 96) return fn.template operator()<96, kDropout>();
    fn.template operator()<128, kDropout>();
  };
  if (s.dropout > 0.0f) return with_dropout.template operator()<true>();
  with_dropout.template operator()<false>();
}

// Sizes of one kernel. kHold: A fragments of the own rows stay in registers, else they are read again for every tile.
template <class T_, int kD_, int kM_, int kWarps_, int kCols_, bool kHold_>
struct MmaTile {
  using T = T_;
  static constexpr int kD = kD_, kM = kM_, kWarps = kWarps_, kCols = kCols_;
  static constexpr bool kHold = kHold_;
  static constexpr int kWarpRows = 16 * kM, kRows = kWarpRows * kWarps, kThreads = kWarpSize * kWarps;
  static constexpr int kSteps = kD / 16;   // products along a row
  static constexpr int kChunks = kD / 8;   // 16-byte chunks of a row
  static constexpr int kDTiles = kD / 8;   // 8-column tiles of a result row
  static constexpr int kOwn = kRows * kD;  // elements of the own rows
  static constexpr int kPassing = kCols * kD;

  // First row of the calling warp within the block's rows.
  static __device__ __forceinline__ int warp_row() { return static_cast<int>(threadIdx.x) / kWarpSize * kWarpRows; }
};

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x & 31); }
// Row of a fragment (and that + 8), and first of two neighbouring columns that a lane holds.
__device__ __forceinline__ int lane_row() { return lane_id() >> 2; }
__device__ __forceinline__ int lane_column() { return (lane_id() & 3) * 2; }

// Over the four lanes that share the rows of a fragment.
__device__ __forceinline__ float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, 1));
  return fmaxf(v, __shfl_xor_sync(kFullWarp, v, 2));
}
__device__ __forceinline__ float quad_sum(float v) {
  v += __shfl_xor_sync(kFullWarp, v, 1);
  return v + __shfl_xor_sync(kFullWarp, v, 2);
}

// ---- tiles in shared memory -----------------------------------------------------------------------------------------

template <int kD>
__device__ __forceinline__ int swizzle_turn(int row) {
  return kD / 8 % 8 == 0 ? row & 7 : (row >> 1) & 3;
}
// First element of a 16-byte chunk.
template <int kD>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
  return row * kD + (chunk ^ swizzle_turn<kD>(row)) * 8;
}
// The same for row rows + r and chunk chunks + c; rows a multiple of 8, chunks even, c 0 or 1. Written so that the
// lane's part takes few different values over an unrolled loop and the rest is constant.
template <int kD>
__device__ __forceinline__ int fragment_at(int rows, int r, int chunks, int c) {
  constexpr int kTurns = kD / 8 % 8 == 0 ? 7 : 3;
  return (r * kD + (c ^ swizzle_turn<kD>(r) ^ (chunks & kTurns)) * 8) + (rows * kD + (chunks & ~kTurns) * 8);
}

// Starts copying `rows` rows of D channels to tile[base ..], padded with zeros to kCount rows of kD. A thread keeps its
// chunk of the row and goes down the rows, in steps that leave its place in the swizzle as it is.
template <class Tile, int kCount, class T>
__device__ __forceinline__ void copy_rows(AsyncCopies& copies, Shared<T> tile, int base, const T* x, int64_t stride,
                                          int rows, int D) {
  constexpr int kAcross = Tile::kChunks > 8 ? 16 : Tile::kChunks, kStep = Tile::kThreads / kAcross;
  static_assert(kStep % 8 == 0 && kCount % kStep == 0);
  const int r = static_cast<int>(threadIdx.x) / kAcross, c = static_cast<int>(threadIdx.x) % kAcross;
  if (c >= Tile::kChunks) return;
  const T* from = x + r * stride + 8 * c;
  const int to = base + chunk_at<Tile::kD>(r, c);
  ACCRETE_UNROLL
  for (int n = 0; n < kCount; n += kStep) {
    const bool valid = r + n < rows && 8 * c < D;
    copies.template copy16<T>(tile, to + n * Tile::kD, valid ? from + n * stride : x, valid);
  }
}

// y[r*stride + ..] = factor * acc for the warp's rows below `rows` and channels below D, by way of the warp's own rows
// of `tile`, so that memory is written 16 bytes at a time.
template <class Tile, class T>
__device__ __forceinline__ void store_rows(T* y, int64_t stride, int rows, int D, Shared<T> tile,
                                           const float (&acc)[Tile::kM][Tile::kDTiles][4],
                                           const float (&factor)[Tile::kM][2]) {
  const int first = Tile::warp_row();
  __syncwarp();
  ACCRETE_UNROLL
  for (int m = 0; m < Tile::kM; ++m) {
    ACCRETE_UNROLL
    for (int n = 0; n < Tile::kDTiles; ++n) {
      ACCRETE_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int at = chunk_at<Tile::kD>(first + 16 * m + 8 * h + lane_row(), n) + lane_column();
        store_pair<T>(tile, at, pack_pair<T>(acc[m][n][2 * h] * factor[m][h], acc[m][n][2 * h + 1] * factor[m][h]));
      }
    }
  }
  __syncwarp();
  ACCRETE_UNROLL
  for (int n = 0; n < Tile::kWarpRows * Tile::kChunks / kWarpSize; ++n) {
    const int at = lane_id() + n * kWarpSize, r = first + at / Tile::kChunks, c = at % Tile::kChunks;
    if (r < rows && 8 * c < D) store_pack(y + r * stride + 8 * c, load_chunk<T>(tile, chunk_at<Tile::kD>(r, c)));
  }
}
// The same with one factor for all rows.
template <class Tile, class T>
__device__ __forceinline__ void store_rows(T* y, int64_t stride, int rows, int D, Shared<T> tile,
                                           const float (&acc)[Tile::kM][Tile::kDTiles][4], float factor) {
  float factors[Tile::kM][2];
  ACCRETE_UNROLL
  for (int m = 0; m < Tile::kM; ++m) factors[m][0] = factors[m][1] = factor;
  store_rows<Tile, T>(y, stride, rows, D, tile, acc, factors);
}

// ---- which rows a block owns, which columns a warp sees
// --------------------------------------------------------------------------------------

// The block's head and the first of its rows. Blocks of one head are neighbours in the grid and meet in L2.
template <class Tile>
struct OwnBlock {
  AttentionHead head;
  int row;

  // last_first: the last rows of the head come first in the grid (causal: they have the most to do).
  __device__ __forceinline__ OwnBlock(const AttentionShape& s, int64_t length, bool last_first, uint32_t block)
      : OwnBlock(s, (static_cast<int>(length) + Tile::kRows - 1) / Tile::kRows, last_first, static_cast<int>(block)) {}

 private:
  __device__ __forceinline__ OwnBlock(const AttentionShape& s, int tiles, bool last_first, int block)
      : head(s, block / tiles), row((last_first ? tiles - 1 - block % tiles : block % tiles) * Tile::kRows) {}
};

// blockIdx.x, read a second time: what is computed from it late in a kernel takes no registers before.
__device__ __forceinline__ uint32_t block_index_again() {
#if defined(__CUDACC__)
  uint32_t index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
#else
  return blockIdx.x;
#endif
}

__device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }
// The number of keys below `end` and below kv_len.
__device__ __forceinline__ int keys_seen(int end, int kv_len) { return end <= 0 ? 0 : min_of(end, kv_len); }

// A tile of keys from j0 on as a warp of queries sees it: its first row sees columns below `least`, row r those below
// least + r when causal, and there are no keys from column `count` on.
struct Columns {
  int j0, least, count;
  bool causal;
  // Whether some row does not see one of the first kWidth columns.
  template <int kWidth>
  __device__ __forceinline__ bool hides() const {
    return least < kWidth;
  }
  __device__ __forceinline__ bool sees(int row, int column) const {
    return column < count && (!causal || column < least + row);
  }
};

// ---- products of a warp ---------------------------------------------------------------------------------------------

// A fragments of the warp's own rows.
template <class Tile>
struct OwnRows {
  using T = typename Tile::T;
  Shared<T> tile;
  uint32_t held[Tile::kHold ? Tile::kSteps : 1][Tile::kM][4];

  __device__ __forceinline__ explicit OwnRows(Shared<T> rows) : tile(rows) {}
  // Once, when the rows have arrived.
  __device__ __forceinline__ void hold() {
    if constexpr (Tile::kHold) {
      ACCRETE_UNROLL
      for (int step = 0; step < Tile::kSteps; ++step) load(held[step], step);
    }
  }
  __device__ __forceinline__ void fetch(uint32_t (&a)[Tile::kM][4], int step) const {
    if constexpr (Tile::kHold) {
      ACCRETE_UNROLL
      for (int m = 0; m < Tile::kM; ++m) {
        ACCRETE_UNROLL
        for (int i = 0; i < 4; ++i) a[m][i] = held[step][m][i];
      }
    } else {
      load(a, step);
    }
  }

 private:
  __device__ __forceinline__ void load(uint32_t (&a)[Tile::kM][4], int step) const {
    ACCRETE_UNROLL
    for (int m = 0; m < Tile::kM; ++m) {
      const int at = fragment_at<Tile::kD>(16 * m, lane_id() & 15, 2 * step, lane_id() >> 4);
      ldmatrix<T>(a[m], tile, Tile::warp_row() * Tile::kD + at);
    }
  }
};

template <int kM, int kN>
__device__ __forceinline__ void fill_zero(float (&x)[kM][kN][4]) {
  ACCRETE_UNROLL
  for (int m = 0; m < kM; ++m) {
    ACCRETE_UNROLL
    for (int n = 0; n < kN; ++n) {
      ACCRETE_UNROLL
      for (int i = 0; i < 4; ++i) x[m][n][i] = 0.0f;
    }
  }
}

// s = a b^T with b = tile[base ..], its first 8 * kN rows.
template <class Tile, int kN, class T>
__device__ __forceinline__ void dot_rows(float (&s)[Tile::kM][kN][4], const OwnRows<Tile>& a, Shared<T> tile,
                                         int base) {
  fill_zero(s);
  ACCRETE_UNROLL
  for (int step = 0; step < Tile::kSteps; ++step) {
    uint32_t own[Tile::kM][4];
    a.fetch(own, step);
    ACCRETE_UNROLL
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];  // two tiles of 8 rows, 16 channels
      const int r = (lane_id() & 7) + ((lane_id() >> 4) << 3);
      ldmatrix<T>(b, tile, base + fragment_at<Tile::kD>(8 * n, r, 2 * step, (lane_id() >> 3) & 1));
      ACCRETE_UNROLL
      for (int m = 0; m < Tile::kM; ++m) {
        mma<T>(s[m][n], own[m], b[0], b[1]);
        mma<T>(s[m][n + 1], own[m], b[2], b[3]);
      }
    }
  }
}

// acc += s b with s rounded to T and b = tile[base ..], its first 8 * kN rows.
template <class Tile, int kN, class T>
__device__ __forceinline__ void add_product(float (&acc)[Tile::kM][Tile::kDTiles][4], const float (&s)[Tile::kM][kN][4],
                                            Shared<T> tile, int base) {
  ACCRETE_UNROLL
  for (int n = 0; n < kN; n += 2) {
    uint32_t a[Tile::kM][4];
    ACCRETE_UNROLL
    for (int m = 0; m < Tile::kM; ++m) {
      ACCRETE_UNROLL
      for (int i = 0; i < 4; ++i) a[m][i] = pack_pair<T>(s[m][n + i / 2][i % 2 * 2], s[m][n + i / 2][i % 2 * 2 + 1]);
    }
    ACCRETE_UNROLL
    for (int d = 0; d < Tile::kDTiles; d += 2) {
      uint32_t b[4];  // 16 rows, two tiles of 8 channels
      ldmatrix_transposed<T>(b, tile, base + fragment_at<Tile::kD>(8 * n, lane_id() & 15, d, lane_id() >> 4));
      ACCRETE_UNROLL
      for (int m = 0; m < Tile::kM; ++m) {
        mma<T>(acc[m][d], a[m], b[0], b[1]);
        mma<T>(acc[m][d + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// ---- dropout --------------------------------------------------------------------------------------------------------

// Reads the step that a key may keep in memory, once for many words.
__device__ __forceinline__ void settle(RandomKey& key) {
  if (key.live_step) key.step = *key.live_step;
  key.live_step = nullptr;
}

// Whether probabilities (i, j) and (i, j + 1) are kept: the words of AttentionHead::keep, mostly from one Philox block.
__device__ __forceinline__ void keep_neighbours(bool (&keep)[2], const AttentionHead& head, int64_t i, int64_t j,
                                                uint32_t threshold) {
  const AttentionShape& s = head.s;
  const auto index =
      static_cast<uint64_t>((((s.first_batch + head.b) * s.heads + head.h) * s.q_len + i) * s.kv_len + j);
  const Philox4 words = random_words(s.key, index / 4);
  const uint32_t place = index & 3;
  const uint32_t first = place == 0 ? words.v[0] : place == 1 ? words.v[1] : place == 2 ? words.v[2] : words.v[3];
  uint32_t second = place == 0 ? words.v[1] : place == 1 ? words.v[2] : words.v[3];
  if (place == 3) second = random_words(s.key, index / 4 + 1).v[0];
  keep[0] = first >= threshold;
  keep[1] = second >= threshold;
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
