// One kernel for everything elementwise: map(ctx, n, fn, streams...) runs fn(i, a, b, ...) for i = 0 .. n-1, where each
// stream gives one f32 value by reference: In is read, Out is written, InOut both. Wide accesses where all streams are
// aligned. Every stream is loaded before any is stored, so streams may be the same memory element for element.
#pragma once

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

template <class T>
struct In {
  using Type = T;
  const T* p;
};
template <class T>
struct Out {  // p null: the values are dropped
  using Type = T;
  T* p;
};
template <class T>
struct InOut {
  using Type = T;
  T* p;
};

// W elements of one stream, in registers.
template <int W, class Stream>
struct Lanes;
template <int W, class T>
struct Lanes<W, In<T>> {
  float v[W];
  __device__ Lanes(const In<T>& s, int64_t i) { load_vec(v, s.p + i); }
  __device__ void store() const {}
};
template <int W, class T>
struct Lanes<W, Out<T>> {
  float v[W];
  T* p;
  __device__ Lanes(const Out<T>& s, int64_t i) : p(s.p ? s.p + i : nullptr) {
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) v[j] = 0.0f;
  }
  __device__ void store() const {
    if (p) store_vec(p, v);
  }
};
template <int W, class T>
struct Lanes<W, InOut<T>> {
  float v[W];
  T* p;
  __device__ Lanes(const InOut<T>& s, int64_t i) : p(s.p + i) { load_vec(v, p); }
  __device__ void store() const { store_vec(p, v); }
};

template <int W, class Fn, class... L>
__device__ __forceinline__ void map_loaded(int64_t i, const Fn& fn, L&&... lanes) {
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) fn(i + j, lanes.v[j]...);
  (lanes.store(), ...);
}

template <int W, class Fn, class... S>
__device__ __forceinline__ void map_at(int64_t i, const Fn& fn, const S&... streams) {
  map_loaded<W>(i, fn, Lanes<W, S>(streams, i)...);
}

// One thread per W elements, grid-stride; one read and one write of each stream.
template <int W, class Fn, class... S>
__global__ void map_kernel(int64_t n, Fn fn, S... streams) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * W;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W; i < n; i += step) {
    if (i + W <= n) {
      map_at<W>(i, fn, streams...);
    } else {
      for (int64_t j = i; j < n; ++j) map_at<1>(j, fn, streams...);
    }
  }
}

template <class Fn, class... S>
void map(const Gpu& ctx, int64_t n, const Fn& fn, const S&... streams) {
  if (n <= 0) return;
  constexpr int W = ((sizeof(typename S::Type) == 2) || ...) ? 8 : 4;
  const dim3 block{kBlockSize};
  if ((wide_rows(streams.p, W) && ...)) {
    ACCRETE_LAUNCH(map_kernel<W, Fn, S...>, dim3{blocks_for(n, W * kBlockSize)}, block, 0, ctx, n, fn, streams...);
  } else {
    ACCRETE_LAUNCH(map_kernel<1, Fn, S...>, dim3{blocks_for(n, kBlockSize)}, block, 0, ctx, n, fn, streams...);
  }
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
