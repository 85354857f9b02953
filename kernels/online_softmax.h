// Maximum and sum of exponentials of a row in one pass: a thread keeps the maximum m it has seen and s = sum exp(x -
// m), and shrinks s when m grows.
#pragma once

#include "kernels/math.h"
#include "kernels/warp.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

struct OnlineSoftmax {
  float m = -INFINITY, s = 0.0f;

  template <int W>
  __device__ __forceinline__ void add(const float (&v)[W]) {
    float top = m;
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) top = fmaxf(top, v[j]);
    if (top == -INFINITY) return;  // nothing but masked elements so far
    s *= exp_f32(m - top);
    m = top;
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) s += exp_f32(v[j] - m);
  }

  // Joins what the threads of the team have seen; every thread gets the result.
  template <class Team>
  __device__ __forceinline__ void join(Shared<float> part) {
    const float top = Team::max(m, part);
    s = Team::sum(m == -INFINITY ? s : s * exp_f32(m - top), part);
    m = top;
  }
};

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
