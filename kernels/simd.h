// Vectors of floats as wide as the processor's registers, through the vector extension of GCC and clang: the same
// source serves AVX-512, AVX2, SSE2 and NEON. A function written as [&]<class V>(int64_t i) runs with V = Vec on whole
// vectors and with V = float on the rest.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/math.h"
#include "kernels/types.h"

namespace accrete::kernels {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t UintVec __attribute__((vector_size(kLanes * 4)));
typedef double DoubleVec __attribute__((vector_size(kLanes * 4)));  // kLanes / 2 of them
typedef uint64_t WideVec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));

// V x from memory, V = Vec or float; bf16 and f16 are widened.
template <class V>
inline V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
inline V load(const bf16* p) {
  if constexpr (std::is_same_v<V, float>) {
    return to_float(*p);
  } else {
#if defined(__AVX512F__)
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const UintVec u = reinterpret_cast<UintVec>(_mm512_maskz_cvtepu16_epi32(0xffff, h));
#else
    HalfVec h;
    std::memcpy(&h, p, sizeof h);
    const UintVec u = __builtin_convertvector(h, UintVec);
#endif
    return reinterpret_cast<Vec>(u << 16);
  }
}

template <class V>
inline V load(const f16* p) {
  if constexpr (std::is_same_v<V, float>) {
    return to_float(*p);
  } else {
#if defined(__AVX512F__)
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return reinterpret_cast<Vec>(_mm512_maskz_cvtph_ps(0xffff, h));
#elif defined(__F16C__) && defined(__AVX2__)
    return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    float a[kLanes];
    for (int i = 0; i < kLanes; ++i) a[i] = to_float(p[i]);
    return load<Vec>(a);
#endif
  }
}

inline void store(float* p, float v) { *p = v; }
inline void store(bf16* p, float v) { *p = from_float<bf16>(v); }
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
// Rounds exactly as from_float<bf16>.
inline void store(bf16* p, Vec v) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  // The instruction rounds the same way but takes subnormal numbers as zero: those go the long way.
  constexpr int kSubnormal = 0x20;
  if (_mm512_fpclass_ps_mask(reinterpret_cast<__m512>(v), kSubnormal) == 0) [[likely]] {
    const __m256bh half = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
    std::memcpy(&p->bits, &half, sizeof half);
    return;
  }
#endif
  const UintVec u = reinterpret_cast<UintVec>(v);
  const UintVec rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const UintVec bits = reinterpret_cast<UintVec>((u & 0x7fffffffu) > 0x7f800000u) ? ((u >> 16) | 0x40u) : rounded;
  const HalfVec h = __builtin_convertvector(bits, HalfVec);
  std::memcpy(&p->bits, &h, sizeof h);
}

// Rounds exactly as from_float<f16>.
inline void store(f16* p, float v) { *p = from_float<f16>(v); }
inline void store(f16* p, Vec v) {
#if defined(__AVX512F__)
  const __m256i h = _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(&p->bits, &h, sizeof h);
#elif defined(__F16C__) && defined(__AVX2__)
  const __m128i h = _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(&p->bits, &h, sizeof h);
#else
  float a[kLanes];
  std::memcpy(a, &v, sizeof v);
  for (int i = 0; i < kLanes; ++i) p[i] = from_float<f16>(a[i]);
#endif
}

inline Vec broadcast(float x) { return x - Vec{}; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline float max(float a, float b) { return a > b ? a : b; }

// The first n < kLanes elements, the rest 0.
template <class T>
inline Vec load_part(const T* p, int64_t n) {
  float a[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) a[i] = to_float(p[i]);
  return load<Vec>(a);
}

// Lanes of a and b, picked by number: 0 .. kLanes-1 are a's, the next kLanes b's.
template <int... lane>
inline Vec pick(Vec a, Vec b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, lane...);
#else
  return __builtin_shuffle(a, b, IntVec{lane...});
#endif
}

// Exchanges lane i+width of rows[r] with lane i of rows[r + width], for all i and r without the bit `width`.
template <int width, int... lane>
inline void exchange(Vec* rows, std::integer_sequence<int, lane...>) {
  for (int r = 0; r < kLanes; ++r) {
    if (r & width) continue;
    const Vec a = rows[r], b = rows[r + width];
    rows[r] = pick<(lane & width ? kLanes + lane - width : lane)...>(a, b);
    rows[r + width] = pick<(lane & width ? kLanes + lane : lane + width)...>(a, b);
  }
}

// rows[i] lane j <-> rows[j] lane i
inline void transpose_square(Vec* rows) {
  constexpr std::make_integer_sequence<int, kLanes> lanes{};
  exchange<1>(rows, lanes);
  exchange<2>(rows, lanes);
  if constexpr (kLanes >= 8) exchange<4 % kLanes>(rows, lanes);
  if constexpr (kLanes >= 16) exchange<8 % kLanes>(rows, lanes);
}

// The lower (part 0) or upper (part 1) half of v in double.
template <int part>
inline DoubleVec half_in_double(Vec v) {
  typedef float HalfFloats __attribute__((vector_size(kLanes * 2)));
  HalfFloats h;
  std::memcpy(&h, reinterpret_cast<const char*>(&v) + part * sizeof h, sizeof h);
  return __builtin_convertvector(h, DoubleVec);
}

inline float lane_sum(Vec v) {  // fixed tree
  float a[kLanes];
  std::memcpy(a, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) a[i] += a[i + width];
  return a[0];
}
inline float lane_max(Vec v) {
  float a[kLanes];
  std::memcpy(a, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) a[i] = max(a[i], a[i + width]);
  return a[0];
}

inline float square_root(float v) { return std::sqrt(v); }
inline Vec square_root(Vec v) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(v)));
#else
  float a[kLanes];
  std::memcpy(a, &v, sizeof v);
  for (int i = 0; i < kLanes; ++i) a[i] = std::sqrt(a[i]);
  return load<Vec>(a);
#endif
}

// e^x by the method of exp_f32 in math.h: error at most 2 ulp, 0 below -104, infinity above 88.73, NaN stays NaN.
inline float exp(float x) { return exp_f32(x); }
inline Vec exp(Vec x) {
#if defined(__AVX512F__)
  // The instructions return their second operand when one is NaN.
  const __m512 low = reinterpret_cast<__m512>(broadcast(-105.0f)), high = reinterpret_cast<__m512>(broadcast(89.0f));
  const __m512 below = _mm512_maskz_min_ps(0xffff, high, reinterpret_cast<__m512>(x));
  x = reinterpret_cast<Vec>(_mm512_maskz_max_ps(0xffff, low, below));
#else
  x = x > 89.0f ? broadcast(89.0f) : x;
  x = x < -105.0f ? broadcast(-105.0f) : x;
#endif
  const Vec shifted = x * 1.44269504f + 12582912.0f;
  const Vec n = shifted - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec q = r * 1.99177361e-4f + 1.39460492e-3f;
  q = q * r + 8.33326578e-3f;
  q = q * r + 4.16662693e-2f;
  q = q * r + 0.166666672f;
  q = q * r + 0.5f;
  q = q * r + 1.0f;
  const Vec p = q * r + 1.0f;
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(
      _mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
  const IntVec whole = reinterpret_cast<IntVec>(shifted) - 0x4B400000;
  const IntVec half = whole >> 1;
  const Vec scale1 = reinterpret_cast<Vec>((half + 127) << 23);
  const Vec scale2 = reinterpret_cast<Vec>((whole - half + 127) << 23);
  return p * scale1 * scale2;
#endif
}

// store(y + i, f<V>(i)) for i = begin .. end-1 without dependence between elements.
template <class F>
inline void each(int64_t begin, int64_t end, const F& f) {
  const int64_t whole = begin + (end - begin) / kLanes * kLanes;
  for (int64_t i = begin; i < whole; i += kLanes) f.template operator()<Vec>(i);
  for (int64_t i = whole; i < end; ++i) f.template operator()<float>(i);
}

// sum of f<V>(i) for i = 0 .. n-1, in four vector accumulators and a fixed order.
template <class F>
inline float sum_over(int64_t n, const F& f) {
  Vec a0{}, a1{}, a2{}, a3{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a0 += f.template operator()<Vec>(i);
    a1 += f.template operator()<Vec>(i + kLanes);
    a2 += f.template operator()<Vec>(i + 2 * kLanes);
    a3 += f.template operator()<Vec>(i + 3 * kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) a0 += f.template operator()<Vec>(i);
  float tail = 0.0f;
  for (; i < n; ++i) tail += f.template operator()<float>(i);
  return lane_sum((a0 + a1) + (a2 + a3)) + tail;
}

// Maximum of f<V>(i) for i = 0 .. n-1; -infinity when n = 0. NaN elements are passed over.
template <class F>
inline float max_over(int64_t n, const F& f) {
  const float lowest = -std::numeric_limits<float>::infinity();
  Vec a0 = broadcast(lowest), a1 = a0, a2 = a0, a3 = a0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a0 = max(f.template operator()<Vec>(i), a0);
    a1 = max(f.template operator()<Vec>(i + kLanes), a1);
    a2 = max(f.template operator()<Vec>(i + 2 * kLanes), a2);
    a3 = max(f.template operator()<Vec>(i + 3 * kLanes), a3);
  }
  for (; i + kLanes <= n; i += kLanes) a0 = max(f.template operator()<Vec>(i), a0);
  float tail = lowest;
  for (; i < n; ++i) tail = max(f.template operator()<float>(i), tail);
  return max(lane_max(max(max(a0, a1), max(a2, a3))), tail);
}

}  // namespace accrete::kernels
