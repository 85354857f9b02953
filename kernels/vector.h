// Wide loads and stores, and the loop over a row that uses them. Values are f32 in registers whatever is stored.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels/launch.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

// Elements that one thread moves at a time: 16 bytes.
template <class T>
inline constexpr int kLaneWidth = 16 / static_cast<int>(sizeof(T));

// W stored elements; the compiler turns a copy into 16-byte accesses.
template <class T, int W>
struct alignas(W * sizeof(T) < 16 ? W * sizeof(T) : 16) Pack {
  T e[W];
};

template <int W, class T>
__device__ __forceinline__ Pack<T, W> load_pack(const T* p) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const Pack<T, W>*>(p);
#else
  Pack<T, W> pack;
  for (int j = 0; j < W; ++j) pack.e[j] = p[j];
  return pack;
#endif
}

template <int W, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, W>& pack) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<Pack<T, W>*>(p) = pack;
#else
  for (int j = 0; j < W; ++j) p[j] = pack.e[j];
#endif
}

// W stored numbers as the 32-bit words they stand in. Numbers of 16 bits that wait in registers do so in this form:
// one by one they would take a register each.
template <class T, int W>
using Words = Pack<uint32_t, W* static_cast<int>(sizeof(T)) / 4>;

template <int W, class T>
__device__ __forceinline__ Words<T, W> load_words(const T* p) {
  Words<T, W> words;
#if defined(__CUDA_ARCH__)
  words = *reinterpret_cast<const Words<T, W>*>(p);
#else
  std::memcpy(&words, p, sizeof(words));
#endif
  return words;
}

template <class T, int N>
__device__ __forceinline__ void store_words(T* p, const Pack<uint32_t, N>& words) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<Pack<uint32_t, N>*>(p) = words;
#else
  std::memcpy(static_cast<void*>(p), &words, sizeof(words));
#endif
}

// v = the numbers in `words`.
template <class T, int W>
__device__ __forceinline__ void unpack(float (&v)[W], const Words<T, W>& words) {
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) {
    if constexpr (sizeof(T) == 4) {
      v[j] = bits_to_float(words.e[j]);
    } else {
      v[j] = to_float(T{static_cast<uint16_t>(words.e[j / 2] >> (j % 2 * 16))});
    }
  }
}

// Two numbers rounded to T, `low` in the lower half of the word.
template <class T>
__device__ __forceinline__ uint32_t rounded_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
#else
  return static_cast<uint32_t>(from_float<T>(low).bits) | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
#endif
}

// v rounded to T.
template <class T, int W>
__device__ __forceinline__ Words<T, W> packed(const float (&v)[W]) {
  Words<T, W> words;
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) {
    if constexpr (sizeof(T) == 4) {
      words.e[j] = float_to_bits(v[j]);
    } else if (j % 2 == 0) {
      words.e[j / 2] = rounded_pair<T>(v[j], v[j + 1]);
    }
  }
  return words;
}

// v = p[0..W-1]; p is aligned for the wide access.
template <int W, class T>
__device__ __forceinline__ void load_vec(float (&v)[W], const T* p) {
  if constexpr (W == 1) {
    v[0] = to_float(p[0]);
  } else {
    unpack<T>(v, load_words<W>(p));
  }
}

template <int W, class T>
__device__ __forceinline__ void store_vec(T* p, const float (&v)[W]) {
  if constexpr (W == 1) {
    p[0] = from_float<T>(v[0]);
  } else {
    store_words(p, packed<T>(v));
  }
}

// v = row[c .. c+W-1], `fill` from column C on. kWide: row is aligned and c a multiple of W.
template <int W, bool kWide, class T>
__device__ __forceinline__ void load_row(float (&v)[W], const T* row, int64_t c, int64_t C, float fill = 0.0f) {
  if (kWide && c + W <= C) {
    load_vec(v, row + c);
    return;
  }
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) v[j] = c + j < C ? to_float(row[c + j]) : fill;
}

// row[c .. c+W-1] = v, as far as columns below C go.
template <int W, bool kWide, class T>
__device__ __forceinline__ void store_row(T* row, int64_t c, int64_t C, const float (&v)[W]) {
  if (kWide && c + W <= C) {
    store_vec(row + c, v);
    return;
  }
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) {
    if (c + j < C) row[c + j] = from_float<T>(v[j]);
  }
}

// Whether p can be read `width` elements at a time in rows of `stride` elements. A null pointer can.
template <class T>
bool wide_rows(const T* p, int width, int64_t stride = 0) {
  const auto bytes = static_cast<uintptr_t>(width) * sizeof(T);
  return reinterpret_cast<uintptr_t>(p) % (bytes < 16 ? bytes : 16) == 0 && stride % width == 0;
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
