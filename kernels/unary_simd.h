// Vector forms of the activation functions of transformers, by the formulas of unary.h. The compiler turns the scalar
// forms into vector code too, but splits the range checks of exp_f32 into masked branches: 1.5 to 2 times slower.
#pragma once

#include "kernels/simd.h"
#include "kernels/unary.h"

namespace accrete::kernels {

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

inline Vec gelu_tanh_phi(Vec x) { return sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

struct NormalVec {
  Vec pdf, cdf;
};
inline NormalVec normal(Vec x) {
  const Vec pdf = 0.398942280f * exp(-0.5f * x * x);
  const Vec t = 1.0f / (1.0f + 0.2316419f * max(x, -x));
  Vec q = 1.330274429f * t - 1.821255978f;
  q = q * t + 1.781477937f;
  q = q * t - 0.356563782f;
  q = q * t + 0.319381530f;
  const Vec upper = pdf * (q * t);
  return {pdf, x > 0.0f ? 1.0f - upper : upper};
}

template <Unary F>
inline constexpr bool kHasVectorForm = F == Unary::silu || F == Unary::gelu_tanh || F == Unary::gelu_erf;

template <Unary F>
inline Vec unary_value(Vec x) {
  if constexpr (F == Unary::silu) return x * sigmoid(x);
  if constexpr (F == Unary::gelu_tanh) return x * gelu_tanh_phi(x);
  if constexpr (F == Unary::gelu_erf) return x * normal(x).cdf;
}

template <Unary F>
inline Vec unary_derivative(Vec x) {
  if constexpr (F == Unary::silu) {
    const Vec s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
  if constexpr (F == Unary::gelu_tanh) {
    const Vec phi = gelu_tanh_phi(x);
    return phi + x * phi * (1.0f - phi) * (1.59576912f + 0.214064493f * x * x);
  }
  if constexpr (F == Unary::gelu_erf) {
    const NormalVec n = normal(x);
    return n.cdf + x * n.pdf;
  }
}

}  // namespace accrete::kernels
