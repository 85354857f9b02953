// Sums and maxima over a warp or a block, always in the same order; and the team of threads that shares a row.
#pragma once

#include "kernels/launch.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

inline constexpr int kWarpSize = 32;
inline constexpr int kBlockWarps = 8;
inline constexpr int kBlockSize = kWarpSize * kBlockWarps;
inline constexpr uint32_t kFullWarp = 0xffffffffu;

// The sum of v over the 32 lanes, in every lane.
__device__ __forceinline__ float warp_sum(float v) {
  ACCRETE_UNROLL
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) v += __shfl_xor_sync(kFullWarp, v, lanes);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
  ACCRETE_UNROLL
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, lanes));
  return v;
}

// The sum of v over a block of kBlockSize threads, in every thread. part: (kBlockWarps), free again on return.
__device__ __forceinline__ float block_sum(float v, Shared<float> part) {
  v = warp_sum(v);
  if (threadIdx.x % kWarpSize == 0) part[threadIdx.x / kWarpSize] = v;
  __syncthreads();
  float total = part[0];
  ACCRETE_UNROLL
  for (int w = 1; w < kBlockWarps; ++w) total += part[w];
  __syncthreads();
  return total;
}

__device__ __forceinline__ float block_max(float v, Shared<float> part) {
  v = warp_max(v);
  if (threadIdx.x % kWarpSize == 0) part[threadIdx.x / kWarpSize] = v;
  __syncthreads();
  float largest = part[0];
  ACCRETE_UNROLL
  for (int w = 1; w < kBlockWarps; ++w) largest = fmaxf(largest, part[w]);
  __syncthreads();
  return largest;
}

// The threads that work on one row: a warp (kBlock false, kBlockWarps rows per block) or the whole block, for long
// rows.
template <bool kBlock>
struct RowTeam {
  static constexpr int kSize = kBlock ? kBlockSize : kWarpSize;

  static __device__ __forceinline__ int rank() { return static_cast<int>(threadIdx.x) % kSize; }
  static __device__ __forceinline__ int64_t first_row() {
    return kBlock ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.x / kWarpSize;
  }
  static __device__ __forceinline__ int64_t row_step() {
    return static_cast<int64_t>(gridDim.x) * (kBlock ? 1 : kBlockWarps);
  }
  static __device__ __forceinline__ float sum(float v, Shared<float> part) {
    return kBlock ? block_sum(v, part) : warp_sum(v);
  }
  static __device__ __forceinline__ float max(float v, Shared<float> part) {
    return kBlock ? block_max(v, part) : warp_max(v);
  }
  static uint32_t blocks(int64_t rows) { return blocks_for(rows, kBlock ? 1 : kBlockWarps, 16384); }
};

// Calls fn.operator()<kBlock, kWide>() with the team that suits rows of C elements.
template <class Fn>
void with_row_team(int64_t C, bool wide, Fn&& fn) {
  const bool block = C > 4096;
  if (block && wide) return fn.template operator()<true, true>();
  if (block) return fn.template operator()<true, false>();
  if (wide) return fn.template operator()<false, true>();
  fn.template operator()<false, false>();
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
