// A row that stays in registers: a team of kWarps warps shares it, and every thread holds kPacks packs of 16 bytes, so
// that a kernel which looks at a row several times reads it from memory once. The number of packs is known to the
// compiler (an array in registers cannot be indexed otherwise); with_held_row chooses the smallest team that fits.
#pragma once

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

// Where the columns of a row are: pack p of a thread covers columns column(p) .. column(p) + W - 1, so neighbouring
// threads load neighbouring 16 bytes. The rows of a block's teams are consecutive.
template <class T, int kWarps, int kPacks>
struct HeldRow {
  static constexpr int W = kLaneWidth<T>;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kTeams = kBlockWarps / kWarps;
  static constexpr int kSlots = kPacks * W * kThreads;  // columns that a team can hold

  static __device__ __forceinline__ int rank() { return static_cast<int>(threadIdx.x) % kThreads; }
  static __device__ __forceinline__ int team() { return static_cast<int>(threadIdx.x) / kThreads; }
  static __device__ __forceinline__ int64_t column(int p) { return static_cast<int64_t>(p * kThreads + rank()) * W; }

  // Packs of one row of C columns; zeros beyond it, and everywhere when the row is not there.
  static __device__ __forceinline__ void load(Words<T, W> (&packs)[kPacks], const T* row, int64_t C, bool there) {
    ACCRETE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      packs[p] = Words<T, W>{};
      if (there && column(p) < C) packs[p] = load_words<W>(row + column(p));
    }
  }

  // K sums over the team, in every thread of it. All threads of the block take part. part: (K * kBlockWarps), free
  // again on return.
  template <int K>
  static __device__ __forceinline__ void sum(float (&v)[K], Shared<float> part) {
    ACCRETE_UNROLL
    for (int k = 0; k < K; ++k) v[k] = warp_sum(v[k]);
    if constexpr (kWarps > 1) {
      const int warp = static_cast<int>(threadIdx.x) / kWarpSize, first = warp / kWarps * kWarps;
      ACCRETE_UNROLL
      for (int k = 0; k < K; ++k) {
        if (threadIdx.x % kWarpSize == 0) part[k * kBlockWarps + warp] = v[k];
      }
      __syncthreads();
      ACCRETE_UNROLL
      for (int k = 0; k < K; ++k) {
        v[k] = part[k * kBlockWarps + first];
        ACCRETE_UNROLL
        for (int w = 1; w < kWarps; ++w) v[k] += part[k * kBlockWarps + first + w];
      }
      __syncthreads();
    }
  }
};

// Calls fn.operator()<kWarps, kPacks>() with the team for rows of C elements of T. False, without a call, when no team
// holds a row: beyond 16 KB, or where C is no whole number of packs. (The rows' pointers are aligned: wide_rows.)
template <class T, class Fn>
bool with_held_row(int64_t C, Fn&& fn) {
  if (C % kLaneWidth<T> != 0) return false;
  const int64_t packs = C / kLaneWidth<T>;
  if (packs <= 32) return fn.template operator()<1, 1>(), true;
  if (packs <= 64) return fn.template operator()<1, 2>(), true;
  if (packs <= 96) return fn.template operator()<1, 3>(), true;
  if (packs <= 128) return fn.template operator()<2, 2>(), true;
  if (packs <= 192) return fn.template operator()<2, 3>(), true;
  if (packs <= 256) return fn.template operator()<4, 2>(), true;
  if (packs <= 384) return fn.template operator()<4, 3>(), true;
  if (packs <= 512) return fn.template operator()<8, 2>(), true;
  if (packs <= 768) return fn.template operator()<8, 3>(), true;
  if (packs <= 1024) return fn.template operator()<8, 4>(), true;
  return false;
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
