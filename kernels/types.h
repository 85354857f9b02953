// Number types of the kernels, usable in host code, in nvcc device code and under the emulator.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__CUDACC__)
#define ACCRETE_HD __host__ __device__ __forceinline__
#else
#define ACCRETE_HD inline
#endif

namespace accrete {

// bfloat16: the upper 16 bits of an f32. Stored only; all arithmetic happens in f32.
struct bf16 {
  uint16_t bits = 0;
};

// IEEE binary16: 1 sign, 5 exponent and 10 mantissa bits. Largest 65504, smallest normal 2^-14, smallest 2^-24. Stored
// only, as above.
struct f16 {
  uint16_t bits = 0;
};

ACCRETE_HD float bits_to_float(uint32_t u) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(u);
#else
  return std::bit_cast<float>(u);
#endif
}

ACCRETE_HD uint32_t float_to_bits(float f) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(f);
#else
  return std::bit_cast<uint32_t>(f);
#endif
}

// to_float / from_float<T>: the only way in and out of a stored number. Rounds to nearest, ties to even; NaN stays NaN.
ACCRETE_HD float to_float(float x) { return x; }
ACCRETE_HD float to_float(bf16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
ACCRETE_HD float to_float(f16 x) {
#if defined(__CUDA_ARCH__)
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
  return f;
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16, size = x.bits & 0x7fffu;
  if (size >= 0x7c00u) {  // infinity, or a NaN made quiet
    return bits_to_float(sign | 0x7f800000u | (size & 0x3ffu) << 13 | (size > 0x7c00u ? 0x400000u : 0u));
  }
  if (size >= 0x400u) return bits_to_float(sign | ((size << 13) + (112u << 23)));  // exponent bias 127 instead of 15
  return bits_to_float(sign | float_to_bits(static_cast<float>(size) * 0x1p-24f));
#endif
}

template <class T>
ACCRETE_HD T from_float(float x);
template <>
ACCRETE_HD float from_float<float>(float x) {
  return x;
}
template <>
ACCRETE_HD bf16 from_float<bf16>(float x) {
  const uint32_t u = float_to_bits(x);
  const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return bf16{static_cast<uint16_t>(is_nan ? ((u >> 16) | 0x40u) : rounded)};
}
template <>
ACCRETE_HD f16 from_float<f16>(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return f16{bits};
#else
  const uint32_t u = float_to_bits(x), sign = (u >> 16) & 0x8000u, size = u & 0x7fffffffu;
  uint32_t rounded = 0;
  if (size > 0x7f800000u) {
    rounded = 0x7e00u | ((size >> 13) & 0x3ffu);  // NaN
  } else if (size >= 0x477ff000u) {
    rounded = 0x7c00u;  // from 65520 on the nearest number is infinity
  } else if (size >= 0x38800000u) {
    rounded = (size - (112u << 23) + 0xfffu + ((size >> 13) & 1u)) >> 13;
  } else {  // below 2^-14: a sum with 0.5, whose last bit is worth 2^-24, rounds to the multiple that is wanted
    rounded = float_to_bits(bits_to_float(size) + 0.5f) - 0x3f000000u;
  }
  return f16{static_cast<uint16_t>(sign | rounded)};
#endif
}

}  // namespace accrete
