// AdamW, from the formulas one by one to what kernels/optimizer.cu does.
//   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = p (1 - lr decay) - lr (m / c1) / (sqrt(v / c2) + eps)
// p, m, v, g: P tensors of n numbers each, behind each other; copy: p rounded to bf16, what bf16 layers read.
// 14 FLOPs an element against 30 bytes that must move (g, m, v, p in; m, v, p, copy out): memory decides.
#include <cmath>

#include "kernels/ladder/ladder.h"
#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

constexpr float kLr = static_cast<float>(kLadderLr), kBeta1 = static_cast<float>(kLadderBeta1),
                kBeta2 = static_cast<float>(kLadderBeta2), kEps = static_cast<float>(kLadderAdamEps),
                kDecay = static_cast<float>(kLadderDecay);

struct Corrections {
  float first, second;  // 1 / (1 - beta^t)
};

__device__ __forceinline__ int64_t element() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ __forceinline__ void update(float& p, float& m, float& v, float g, Corrections c) {
  m = kBeta1 * m + (1.0f - kBeta1) * g;
  v = kBeta2 * v + (1.0f - kBeta2) * g * g;
  p = p * (1.0f - kLr * kDecay) - kLr * (m * c.first) / (sqrtf(v * c.second) + kEps);
}

// Step 1. A kernel per formula, as array libraries do it: what one kernel stores the next one loads again. Bytes an
// element: 12 + 12 + 16 + 6 = 46. And every tensor costs four launches; a launch takes a few microseconds, in which an
// H200 could move about 10 MB, so small tensors are all waiting.
__global__ void first_moment(float* m, const float* g, int64_t n) {
  const int64_t i = element();
  if (i < n) m[i] = kBeta1 * m[i] + (1.0f - kBeta1) * g[i];
}
__global__ void second_moment(float* v, const float* g, int64_t n) {
  const int64_t i = element();
  if (i < n) v[i] = kBeta2 * v[i] + (1.0f - kBeta2) * g[i] * g[i];
}
__global__ void apply(float* p, const float* m, const float* v, int64_t n, Corrections c) {
  const int64_t i = element();
  if (i < n) p[i] = p[i] * (1.0f - kLr * kDecay) - kLr * (m[i] * c.first) / (sqrtf(v[i] * c.second) + kEps);
}
__global__ void round_copy(bf16* copy, const float* p, int64_t n) {
  const int64_t i = element();
  if (i < n) copy[i] = from_float<bf16>(p[i]);
}

// Steps 2 and 3. One kernel: numbers stay in registers between the formulas, 30 bytes an element. Step 2 launches it
// for each tensor. Step 3 launches it once over the flat buffers: no launch is wasted on a bias of 768 numbers, and
// nothing about the kernel changes; that is why the parameter store keeps everything in flat buffers.
__global__ void fused(float* p, float* m, float* v, bf16* copy, const float* g, int64_t n, Corrections c) {
  const int64_t i = element();
  if (i >= n) return;
  float new_p = p[i], new_m = m[i], new_v = v[i];
  update(new_p, new_m, new_v, g[i], c);
  p[i] = new_p;
  m[i] = new_m;
  v[i] = new_v;
  copy[i] = from_float<bf16>(new_p);
}

// Step 4. Four elements per thread in 16-byte accesses (8 bytes of the copy): a quarter of the instructions, and four
// independent loads of 16 bytes on their way before the first is needed. The last n % 4 elements go one by one.
__global__ void wide(float* p, float* m, float* v, bf16* copy, const float* g, int64_t n, Corrections c) {
  constexpr int W = 4;
  const int64_t i = element() * W;
  if (i >= n) return;
  if (i + W <= n) {
    float wp[W], wm[W], wv[W], wg[W];
    load_vec(wp, p + i);
    load_vec(wm, m + i);
    load_vec(wv, v + i);
    load_vec(wg, g + i);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) update(wp[j], wm[j], wv[j], wg[j], c);
    store_vec(p + i, wp);
    store_vec(m + i, wm);
    store_vec(v + i, wv);
    store_vec(copy + i, wp);
    return;
  }
  for (int64_t j = i; j < n; ++j) {
    float new_p = p[j], new_m = m[j], new_v = v[j];
    update(new_p, new_m, new_v, g[j], c);
    p[j] = new_p;
    m[j] = new_m;
    v[j] = new_v;
    copy[j] = from_float<bf16>(new_p);
  }
}

}  // namespace

void ladder_adamw(const Gpu& ctx, int step, const LadderSizes& sizes, void* const* data) {
  const int64_t P = sizes[0], n = sizes[1], all = P * n;
  if (all <= 0) return;
  auto* p = static_cast<float*>(data[0]);
  auto* m = static_cast<float*>(data[1]);
  auto* v = static_cast<float*>(data[2]);
  auto* copy = static_cast<bf16*>(data[3]);
  const auto* g = static_cast<const float*>(data[4]);
  const Corrections c{static_cast<float>(1.0 / (1.0 - std::pow(kLadderBeta1, kLadderStepNumber))),
                      static_cast<float>(1.0 / (1.0 - std::pow(kLadderBeta2, kLadderStepNumber)))};
  const dim3 grid{blocks_covering(n, kBlockSize)}, block{kBlockSize};
  for (int64_t at = 0; step <= 2 && at < all; at += n) {
    if (step == 1) {
      ACCRETE_LAUNCH(first_moment, grid, block, 0, ctx, m + at, g + at, n);
      ACCRETE_LAUNCH(second_moment, grid, block, 0, ctx, v + at, g + at, n);
      ACCRETE_LAUNCH(apply, grid, block, 0, ctx, p + at, m + at, v + at, n, c);
      ACCRETE_LAUNCH(round_copy, grid, block, 0, ctx, copy + at, p + at, n);
    } else {
      ACCRETE_LAUNCH(fused, grid, block, 0, ctx, p + at, m + at, v + at, copy + at, g + at, n, c);
    }
  }
  if (step == 3) {
    ACCRETE_LAUNCH(fused, dim3{blocks_covering(all, kBlockSize)}, block, 0, ctx, p, m, v, copy, g, all, c);
  } else if (step == 4) {
    ACCRETE_LAUNCH(wide, dim3{blocks_covering(all, 4 * kBlockSize)}, block, 0, ctx, p, m, v, copy, g, all, c);
  }
}

}  // namespace accrete::kernels
