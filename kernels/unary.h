// The table of unary functions: name, value, derivative, one line each, in terms of `x`. Both backends read it: the CPU
// code and the .cu files instantiate unary_value<F> and unary_derivative<F> and so agree by construction.
//
// gelu(x) = x Phi(x), Phi the normal distribution function, phi its density (Hendrycks & Gimpel 2016):
//   gelu_erf   Phi(x) = (1 + erf(x / sqrt 2)) / 2                          d/dx = Phi(x) + x phi(x)
//   gelu_tanh  Phi(x) ~ (1 + tanh u) / 2,  u = sqrt(2/pi) (x + 0.044715 x^3)   d/dx = Phi(x) + x (1 - tanh^2 u) u' / 2
#pragma once

#include "kernels/elementwise.h"
#include "kernels/math.h"

namespace accrete::kernels {

// (1 + tanh u) / 2 = sigmoid(2u)
ACCRETE_HD float gelu_tanh_phi(float x) { return sigmoid_f32(1.59576912f * (x + 0.044715f * x * x * x)); }
ACCRETE_HD float gelu_tanh_derivative(float x) {
  const float phi = gelu_tanh_phi(x);
  const float du = 1.59576912f * (1.0f + 0.134145f * x * x);  // of 2u
  return phi + x * phi * (1.0f - phi) * du;
}
ACCRETE_HD float gelu_erf_derivative(float x) { return normal_cdf_f32(x) + x * normal_pdf_f32(x); }
ACCRETE_HD float tanh_derivative(float x) {
  const float t = tanh_f32(x);
  return 1.0f - t * t;
}
ACCRETE_HD float sigmoid_derivative(float x) {
  const float s = sigmoid_f32(x);
  return s * (1.0f - s);
}
ACCRETE_HD float silu_derivative(float x) {
  const float s = sigmoid_f32(x);
  return s * (1.0f + x * (1.0f - s));
}

// relu lets NaN through (x < 0 is false for it) and has derivative 0 at 0.
#define ACCRETE_UNARY_TABLE(ROW)                               \
  ROW(neg, -x, -1.0f)                                          \
  ROW(exp, exp_f32(x), exp_f32(x))                             \
  ROW(log, logf(x), 1.0f / x)                                  \
  ROW(sqrt, sqrtf(x), 0.5f / sqrtf(x))                         \
  ROW(square, x* x, 2.0f * x)                                  \
  ROW(reciprocal, 1.0f / x, -1.0f / (x * x))                   \
  ROW(tanh, tanh_f32(x), tanh_derivative(x))                   \
  ROW(sigmoid, sigmoid_f32(x), sigmoid_derivative(x))          \
  ROW(relu, x<0.0f ? 0.0f : x, x> 0.0f ? 1.0f : 0.0f)          \
  ROW(silu, x* sigmoid_f32(x), silu_derivative(x))             \
  ROW(gelu_tanh, x* gelu_tanh_phi(x), gelu_tanh_derivative(x)) \
  ROW(gelu_erf, x* normal_cdf_f32(x), gelu_erf_derivative(x))

template <Unary F>
ACCRETE_HD float unary_value([[maybe_unused]] float x) {
#define ACCRETE_ROW(name, value, derivative) \
  if constexpr (F == Unary::name) return value;
  ACCRETE_UNARY_TABLE(ACCRETE_ROW)
#undef ACCRETE_ROW
}

template <Unary F>
ACCRETE_HD float unary_derivative([[maybe_unused]] float x) {
#define ACCRETE_ROW(name, value, derivative) \
  if constexpr (F == Unary::name) return derivative;
  ACCRETE_UNARY_TABLE(ACCRETE_ROW)
#undef ACCRETE_ROW
}

// Turns the run-time name into a template argument: with_unary(f, [&]<Unary F>() { ... unary_value<F>(x) ... }).
template <class Fn>
void with_unary(Unary f, Fn&& fn) {
  switch (f) {
#define ACCRETE_ROW(name, value, derivative) \
  case Unary::name:                          \
    fn.template operator()<Unary::name>();   \
    return;
    ACCRETE_UNARY_TABLE(ACCRETE_ROW)
#undef ACCRETE_ROW
  }
}

inline const char* unary_name(Unary f) {
  switch (f) {
#define ACCRETE_ROW(name, value, derivative) \
  case Unary::name:                          \
    return #name;
    ACCRETE_UNARY_TABLE(ACCRETE_ROW)
#undef ACCRETE_ROW
  }
  return "?";
}

}  // namespace accrete::kernels
