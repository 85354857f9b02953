// Wide loads and stores, and the loop over a row that uses them. Values are f32 in registers whatever is stored.
#pragma once

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

// v = p[0..W-1]; p is aligned for the wide access.
template <int W, class T>
__device__ __forceinline__ void load_vec(float (&v)[W], const T* p) {
  const Pack<T, W> pack = load_pack<W>(p);
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) v[j] = to_float(pack.e[j]);
}

template <int W, class T>
__device__ __forceinline__ void store_vec(T* p, const float (&v)[W]) {
  Pack<T, W> pack;
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) pack.e[j] = from_float<T>(v[j]);
  store_pack(p, pack);
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
