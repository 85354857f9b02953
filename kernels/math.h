// Single-precision exp, tanh and erf that a compiler can vectorise: no branches, no tables, no library calls on the
// host. Device code uses CUDA's own functions, which are as accurate. The polynomials are least-maximum fits made for
// this file (Lawson iteration in double); errors below were measured over the whole range against double precision.
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

// erf x, absolute error below 1.5e-7: x times a polynomial in x^2 below 1, 1 - exp(polynomial) above.
ACCRETE_HD float erf_f32(float x) {
#if defined(__CUDA_ARCH__)
  return erff(x);
#else
  const float a = std::fabs(x);
  const float z = x * x;
  float q = 7.88911566e-5f;
  q = q * z - 8.02083989e-4f;
  q = q * z + 5.18953521e-3f;
  q = q * z - 2.68544443e-2f;
  q = q * z + 0.112836003f;
  q = q * z - 0.376126260f;
  q = q * z + 1.12837911f;
  const float near = a * q;
  const float t = a > 4.05f ? 4.05f : a;
  float l = -2.04198896e-5f;
  l = l * t + 4.26623534e-4f;
  l = l * t - 4.13294649e-3f;
  l = l * t + 2.50187665e-2f;
  l = l * t - 0.108124070f;
  l = l * t - 0.633488953f;
  l = l * t - 1.12944460f;
  l = l * t + 1.60039257e-4f;
  const float far = 1.0f - exp_f32(l);
  return std::copysign(a < 1.0f ? near : far, x);
#endif
}

// 1 / (1 + e^-x)
ACCRETE_HD float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

}  // namespace accrete::kernels
