// Single-precision exp, tanh and normal distribution that a compiler can vectorise: no branches, no tables, no library
// calls on the host. Device code uses CUDA's own functions, which are as accurate. The polynomials are least-maximum
// fits made for this file (Lawson iteration in double); errors below were measured over the whole range against double
// precision.
#pragma once

#include <cmath>

#include "kernels/types.h"

namespace accrete::kernels {

// e^x, error at most 2 ulp. Infinity above 88.73, 0 below -104, NaN stays NaN.
//   x = n ln2 + r, |r| <= ln2 / 2;  e^x = 2^n (1 + r + r^2 q(r))
ACCRETE_HD float exp_f32(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  x = x > 89.0f ? 89.0f : x;
  x = x < -105.0f ? -105.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
  const float shifted = x * 1.44269504f + magic;
  const float n = shifted - magic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln2 in two parts, the first exact in few bits
  float q = 1.99177361e-4f;
  q = q * r + 1.39460492e-3f;
  q = q * r + 8.33326578e-3f;
  q = q * r + 4.16662693e-2f;
  q = q * r + 0.166666672f;
  q = q * r + 0.5f;
  const float p = (q * r) * r + r + 1.0f;
  const int32_t whole = static_cast<int32_t>(float_to_bits(shifted)) - 0x4B400000;  // n as an integer
  const int32_t half = whole >> 1;  // two steps, so that subnormal results and infinity come out right
  const float scale1 = bits_to_float(static_cast<uint32_t>(half + 127) << 23);
  const float scale2 = bits_to_float(static_cast<uint32_t>(whole - half + 127) << 23);
  return p * scale1 * scale2;
#endif
}

// tanh x, error at most 3 ulp: a polynomial in x^2 near 0, where the other form cancels; 1 - 2 / (e^2|x| + 1)
// elsewhere.
ACCRETE_HD float tanh_f32(float x) {
#if defined(__CUDA_ARCH__)
  return tanhf(x);
#else
  const float a = std::fabs(x);
  const float z = x * x;
  float q = -5.66536188e-3f;
  q = q * z + 2.06067376e-2f;
  q = q * z - 5.37309498e-2f;
  q = q * z + 0.133313552f;
  q = q * z - 0.333332807f;
  const float near = (q * z) * a + a;
  const float far = 1.0f - 2.0f / (exp_f32(2.0f * a) + 1.0f);
  return std::copysign(a < 0.625f ? near : far, x);
#endif
}

// 1 / (1 + e^-x)
ACCRETE_HD float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// Density of the standard normal distribution.
ACCRETE_HD float normal_pdf_f32(float x) { return 0.398942280f * exp_f32(-0.5f * x * x); }

// Its distribution function Phi, absolute error below 3e-7: for x > 0, Phi = 1 - pdf(x) * polynomial in t = 1 / (1 + p
// x) (Abramowitz & Stegun 26.2.17). The exponential is the density's, so a caller of both pays for one.
ACCRETE_HD float normal_cdf_f32(float x) {
#if defined(__CUDA_ARCH__)
  return normcdff(x);
#else
  const float t = 1.0f / (1.0f + 0.2316419f * std::fabs(x));
  float q = 1.330274429f;
  q = q * t - 1.821255978f;
  q = q * t + 1.781477937f;
  q = q * t - 0.356563782f;
  q = q * t + 0.319381530f;
  const float upper = normal_pdf_f32(x) * (q * t);  // the smaller tail
  return x > 0.0f ? 1.0f - upper : upper;
#endif
}

}  // namespace accrete::kernels
