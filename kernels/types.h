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

}  // namespace accrete
