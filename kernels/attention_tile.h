// Tiles of the attention kernels: 64 rows that stay in shared memory for the life of a block, against tiles of 16 to
// 64 rows of the other side that pass by. 256 threads as 16 x 16: thread (ty, tx) owns rows 4 ty .. 4 ty + 3 of every
// product, and columns tx, tx + 16, ... So the 16 lanes of half a warp share their rows, and a tile of probabilities
// written by rows is read again by the same half warp.
#pragma once

#include "kernels/attention_head.h"
#include "kernels/warp.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

// Sizes for head sizes up to kD, with kLoop rows of the other side at a time.
template <int kD_, int kLoop_>
struct AttentionTile {
  static constexpr int kD = kD_;
  static constexpr int kRows = 64;
  static constexpr int kLoop = kLoop_;
  static constexpr int kPitch = kD + 4;  // rows start 4 banks apart: 16-byte reads of 8 rows do not collide
  static constexpr int kScorePitch = kLoop + 4;
  static constexpr int kR = 4;           // rows of a thread
  static constexpr int kC = kLoop / 16;  // score columns of a thread
  static constexpr int kDims = kD / 16;  // channels of a thread, in groups of kGroup neighbours
  static constexpr int kGroup = kDims < 4 ? kDims : 4;

  static __device__ int tx() { return static_cast<int>(threadIdx.x) % 16; }
  static __device__ int ty() { return static_cast<int>(threadIdx.x) / 16; }
  // Channel of the thread's value n.
  static __device__ int channel(int n) { return n / kGroup * (16 * kGroup) + tx() * kGroup + n % kGroup; }
};

template <int W>
__device__ __forceinline__ void load_shared(float (&v)[W], Shared<float> tile, int i) {
#if defined(__CUDACC__)
  const Pack<float, W> pack = *reinterpret_cast<const Pack<float, W>*>(tile + i);
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) v[j] = pack.e[j];
#else
  for (int j = 0; j < W; ++j) v[j] = tile[i + j];
#endif
}

template <int W>
__device__ __forceinline__ void store_shared(Shared<float> tile, int i, const float (&v)[W]) {
#if defined(__CUDACC__)
  ACCRETE_UNROLL
  for (int j = 0; j < W; j += 4) {
    *reinterpret_cast<Pack<float, 4>*>(tile + i + j) = Pack<float, 4>{{v[j], v[j + 1], v[j + 2], v[j + 3]}};
  }
#else
  for (int j = 0; j < W; ++j) tile[i + j] = v[j];
#endif
}

// tile[r][d] = factor * x[r*stride + d] for r < rows and d < D, 0 elsewhere.   tile: (count, kPitch)
template <class Tile, class T>
__device__ __forceinline__ void load_tile(Shared<float> tile, int count, const T* x, int64_t stride, int64_t rows,
                                          int64_t D, float factor, bool wide) {
  constexpr int W = kLaneWidth<T>, kGroups = Tile::kD / W;
  for (int g = static_cast<int>(threadIdx.x); g < count * kGroups; g += kBlockSize) {
    const int r = g / kGroups, d = g % kGroups * W;
    float v[W] = {};
    if (r < rows && wide) load_row<W, true>(v, x + r * stride, d, D);
    if (r < rows && !wide) load_row<W, false>(v, x + r * stride, d, D);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) v[j] *= factor;
    store_shared(tile, r * Tile::kPitch + d, v);
  }
}

// s[i][j] = sum_d a[row i][d] * b[column j][d].   a: (kRows, kPitch), b: (kLoop, kPitch)
template <class Tile>
__device__ __forceinline__ void tile_dot(float (&s)[Tile::kR][Tile::kC], Shared<float> a, Shared<float> b) {
  ACCRETE_UNROLL
  for (int i = 0; i < Tile::kR; ++i) {
    ACCRETE_UNROLL
    for (int j = 0; j < Tile::kC; ++j) s[i][j] = 0.0f;
  }
  ACCRETE_UNROLL_BY_4
  for (int d = 0; d < Tile::kD; d += 4) {
    float row[Tile::kR][4], column[4];
    ACCRETE_UNROLL
    for (int i = 0; i < Tile::kR; ++i) load_shared(row[i], a, (Tile::ty() * Tile::kR + i) * Tile::kPitch + d);
    ACCRETE_UNROLL
    for (int j = 0; j < Tile::kC; ++j) {
      load_shared(column, b, (Tile::tx() + 16 * j) * Tile::kPitch + d);
      ACCRETE_UNROLL
      for (int i = 0; i < Tile::kR; ++i) {
        ACCRETE_UNROLL
        for (int n = 0; n < 4; ++n) s[i][j] += row[i][n] * column[n];
      }
    }
  }
}

// Puts the thread's scores into the tile and makes them visible to its half warp.   tile: (kRows, kScorePitch)
template <class Tile>
__device__ __forceinline__ void store_scores(Shared<float> tile, const float (&s)[Tile::kR][Tile::kC]) {
  ACCRETE_UNROLL
  for (int i = 0; i < Tile::kR; ++i) {
    ACCRETE_UNROLL
    for (int j = 0; j < Tile::kC; ++j) {
      tile[(Tile::ty() * Tile::kR + i) * Tile::kScorePitch + Tile::tx() + 16 * j] = s[i][j];
    }
  }
  __syncwarp();
}

// acc[i][n] += sum_k scores[row i][k] * b[k][channel n].   scores: (kRows, kScorePitch), b: (kLoop, kPitch)
template <class Tile>
__device__ __forceinline__ void tile_accumulate(float (&acc)[Tile::kR][Tile::kDims], Shared<float> scores,
                                                Shared<float> b) {
  constexpr int G = Tile::kGroup;
  for (int k = 0; k < Tile::kLoop; k += 4) {
    float p[Tile::kR][4], value[G];
    ACCRETE_UNROLL
    for (int i = 0; i < Tile::kR; ++i) load_shared(p[i], scores, (Tile::ty() * Tile::kR + i) * Tile::kScorePitch + k);
    ACCRETE_UNROLL
    for (int kk = 0; kk < 4; ++kk) {
      ACCRETE_UNROLL
      for (int n = 0; n < Tile::kDims; n += G) {
        load_shared(value, b, (k + kk) * Tile::kPitch + Tile::channel(n));
        ACCRETE_UNROLL
        for (int i = 0; i < Tile::kR; ++i) {
          ACCRETE_UNROLL
          for (int g = 0; g < G; ++g) acc[i][n + g] += p[i][kk] * value[g];
        }
      }
    }
  }
}

// y[r*stride + channel] = factor * acc for the thread's rows r < rows and channels < D.
template <class Tile, class T>
__device__ __forceinline__ void store_tile_row(T* y, const float (&acc)[Tile::kDims], int64_t D, float factor,
                                               bool wide) {
  constexpr int G = Tile::kGroup;
  ACCRETE_UNROLL
  for (int n = 0; n < Tile::kDims; n += G) {
    float v[G];
    ACCRETE_UNROLL
    for (int g = 0; g < G; ++g) v[g] = factor * acc[n + g];
    if (wide) {
      store_row<G, true>(y, Tile::channel(n), D, v);
    } else {
      store_row<G, false>(y, Tile::channel(n), D, v);
    }
  }
}

// Largest value over the 16 lanes that share a row, and the sum.
__device__ __forceinline__ float half_warp_max(float v) {
  ACCRETE_UNROLL
  for (int lanes = 8; lanes > 0; lanes /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, lanes));
  return v;
}
__device__ __forceinline__ float half_warp_sum(float v) {
  ACCRETE_UNROLL
  for (int lanes = 8; lanes > 0; lanes /= 2) v += __shfl_xor_sync(kFullWarp, v, lanes);
  return v;
}

// Calls fn.operator()<Tile>() with the smallest tile that holds the head size. `spare`: half as many rows at a time.
template <class Fn>
void with_attention_tile(int64_t head_dim, bool spare, Fn&& fn) {
  if (head_dim <= 32) return fn.template operator()<AttentionTile<32, 64>>();
  if (head_dim <= 64 && spare) return fn.template operator()<AttentionTile<64, 32>>();
  if (head_dim <= 64) return fn.template operator()<AttentionTile<64, 64>>();
  if (spare) return fn.template operator()<AttentionTile<128, 16>>();
  fn.template operator()<AttentionTile<128, 32>>();
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
