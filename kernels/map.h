// One kernel for everything elementwise: map(ctx, n, fn, streams...) runs fn(i, a, b, ...) for i = 0 .. n-1, where each
// stream gives one f32 value by reference: In is read, Out is written, InOut both. A functor may have begin(), which
// every thread calls once (to read scalars from device memory); where it gives false, no stream is read or written.
//
// Memory-bound, so the accesses are everything. A pack has W elements, as many as fill 16 bytes of the widest type:
// neighbouring threads then touch neighbouring memory in every stream, also where f32 and bf16 stand side by side. A
// thread loads all its packs before it computes, 64 bytes or more, so that an SM keeps over 60 KB on their way (H200:
// 4.8 TB/s for about 0.7 us over 132 multiprocessors is 25 KB). Streams may be the same memory element for element.
#pragma once

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

template <class T>
struct In {
  using Type = T;
  static constexpr int kReads = sizeof(T);  // bytes per element
  const T* p;
};
template <class T>
struct Out {  // p null: the values are dropped
  using Type = T;
  static constexpr int kReads = 0;
  T* p;
};
template <class T>
struct InOut {
  using Type = T;
  static constexpr int kReads = sizeof(T);
  T* p;
};

// W elements of one stream, in registers.
template <int W, class Stream>
struct Lanes;
template <int W, class T>
struct Lanes<W, In<T>> {
  float v[W];
  __device__ __forceinline__ Lanes(const In<T>& s, int64_t i) { load_vec(v, s.p + i); }
  __device__ __forceinline__ void store() const {}
};
template <int W, class T>
struct Lanes<W, Out<T>> {
  float v[W];
  T* p;
  __device__ __forceinline__ Lanes(const Out<T>& s, int64_t i) : p(s.p ? s.p + i : nullptr) {
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) v[j] = 0.0f;
  }
  __device__ __forceinline__ void store() const {
    if (p) store_vec(p, v);
  }
};
template <int W, class T>
struct Lanes<W, InOut<T>> {
  float v[W];
  T* p;
  __device__ __forceinline__ Lanes(const InOut<T>& s, int64_t i) : p(s.p + i) { load_vec(v, p); }
  __device__ __forceinline__ void store() const { store_vec(p, v); }
};

// One pack of every stream, loaded when it is made.
template <int W, class... S>
struct Bundle;
template <int W>
struct Bundle<W> {
  __device__ __forceinline__ explicit Bundle(int64_t) {}
  template <class Fn, class... L>
  __device__ __forceinline__ void apply(int64_t i, const Fn& fn, L&... lanes) {
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) fn(i + j, lanes.v[j]...);
    (lanes.store(), ...);
  }
};
template <int W, class S, class... Rest>
struct Bundle<W, S, Rest...> {
  Lanes<W, S> first;
  Bundle<W, Rest...> rest;
  __device__ __forceinline__ Bundle(int64_t i, const S& s, const Rest&... others) : first(s, i), rest(i, others...) {}
  template <class Fn, class... L>
  __device__ __forceinline__ void apply(int64_t i, const Fn& fn, L&... lanes) {
    rest.apply(i, fn, lanes..., first);
  }
};

// U packs, `stride` elements apart: all are loaded before the first is stored.
template <int W, int U, class Fn, class... S>
__device__ __forceinline__ void map_packs(int64_t i, int64_t stride, const Fn& fn, const S&... streams) {
  Bundle<W, S...> pack(i, streams...);
  if constexpr (U > 1) map_packs<W, U - 1>(i + stride, stride, fn, streams...);
  pack.apply(i, fn);
}

// What a block does: U * kBlockSize packs at a time, from the turn `first` of so many on, `turns` apart.
template <int W, int U, class Fn, class... S>
__device__ __forceinline__ void map_block(int64_t first, int64_t turns, int64_t n, const Fn& fn, const S&... streams) {
  constexpr int64_t kStride = kBlockSize * W, kChunk = kStride * U;
  for (int64_t begin = first * kChunk; begin < n; begin += turns * kChunk) {
    int64_t i = begin + static_cast<int64_t>(threadIdx.x) * W;
    if (begin + kChunk <= n) {
      map_packs<W, U>(i, kStride, fn, streams...);
      continue;
    }
    for (; i < n; i += kStride) {
      if (i + W <= n) {
        map_packs<W, 1>(i, 0, fn, streams...);
      } else {
        for (int64_t j = i; j < n; ++j) map_packs<1, 1>(j, 0, fn, streams...);
      }
    }
  }
}

// Grid-stride; one read and one write of each stream.
template <int W, int U, class Fn, class... S>
__global__ void map_kernel(int64_t n, Fn fn, S... streams) {
  if constexpr (requires { fn.begin(); }) {
    if (!fn.begin()) return;
  }
  map_block<W, U>(blockIdx.x, gridDim.x, n, fn, streams...);
}

template <class Fn, class... S>
void map(const Gpu& ctx, int64_t n, const Fn& fn, const S&... streams) {
  if (n <= 0) return;
  constexpr int W = ((sizeof(typename S::Type) == 4) || ...) ? 4 : 8;
  constexpr int kReads = (S::kReads + ... + 0) * W;  // bytes per pack
  constexpr int U = kReads >= 64 ? 2 : kReads >= 32 ? 3 : 4;
  const dim3 block{kBlockSize};
  if ((wide_rows(streams.p, W) && ...)) {
    ACCRETE_LAUNCH(map_kernel<W, U, Fn, S...>, dim3{blocks_for(n, W * U * kBlockSize)}, block, 0, ctx, n, fn,
                   streams...);
  } else {
    ACCRETE_LAUNCH(map_kernel<1, 1, Fn, S...>, dim3{blocks_for(n, kBlockSize)}, block, 0, ctx, n, fn, streams...);
  }
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
