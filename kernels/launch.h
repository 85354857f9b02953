// One source, two machines: what a .cu file includes instead of CUDA's keywords.
//
//   template <class T> __global__ void scale_kernel(T* x, int64_t n) { ACCRETE_SHARED(float, part, 32); ... }
//   ACCRETE_LAUNCH(scale_kernel<T>, grid, block, shared_bytes, ctx, x, n);
//
// nvcc: Gpu is Cuda, the macros become triple brackets and __shared__, and the launch is checked (statement, file,
// line; ctx.sync_each also waits for the kernel). Host compiler: Gpu is Emu and the block emulator runs the kernel.
//
// A program may contain both compilations. Everything that the .cu files share therefore stands in an inline namespace
// named after the backend, and kernels stand in unnamed namespaces: equal names would be merged by the linker.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/device.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define ACCRETE_BACKEND on_cuda

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

using Gpu = Cuda;
template <class T>
using Shared = T*;  // a shared array as a parameter of a device function

struct LaunchSite {
  const char* statement;
  const char* file;
  int line;
};

inline void check_cuda(cudaError_t status, const LaunchSite& site) {
  if (status == cudaSuccess) return;
  throw std::runtime_error("[cuda] " + std::string(cudaGetErrorString(status)) + "; statement: " + site.statement +
                           "; " + site.file + ":" + std::to_string(site.line));
}

template <class... P, class... A>
void launch_at(const LaunchSite& site, void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared_bytes,
               const Cuda& ctx, const A&... args) {
  if (shared_bytes > 48 * 1024) {  // more than the default has to be asked for
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               site);
  }
  const auto stream = static_cast<cudaStream_t>(ctx.stream);
  kernel<<<grid, block, static_cast<size_t>(shared_bytes), stream>>>(static_cast<P>(args)...);
  check_cuda(cudaGetLastError(), site);
  if (ctx.sync_each && !ctx.capturing) check_cuda(cudaStreamSynchronize(stream), site);
}

// The dynamic shared memory of a launch, cut into arrays one after the other.
class SharedCarver {
 public:
  template <class T>
  __device__ __forceinline__ T* take(const char*, int64_t size) {
    extern __shared__ __align__(16) unsigned char accrete_dynamic_shared[];
    T* p = reinterpret_cast<T*>(accrete_dynamic_shared + used_);
    used_ += (size * sizeof(T) + 15) / 16 * 16;
    return p;
  }

 private:
  int64_t used_ = 0;
};

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels

#define ACCRETE_SHARED(type, name, size) __shared__ __align__(16) type name[size]
#define ACCRETE_DEVICE_ARRAY(type, name, size) static __device__ type name[size]
#define ACCRETE_UNROLL _Pragma("unroll")
#define ACCRETE_UNROLL_BY_4 _Pragma("unroll 4")

#else

#include "kernels/emulator.h"

#define ACCRETE_BACKEND on_emulator

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

using Gpu = Emu;
template <class T>
using Shared = const SharedArray<T>&;

template <class... P, class... A>
void launch_at(const LaunchSite& site, void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared_bytes,
               const Emu& ctx, const A&... args) {
  emu::queue(ctx, [=, ... p = static_cast<P>(args)](const Emu& dev) {
    emu::run(site, dev, grid, block, shared_bytes, [&] { kernel(p...); });
  });
}

class SharedCarver {
 public:
  template <class T>
  SharedArray<T> take(const char* name, int64_t size) {
    const auto key = reinterpret_cast<const void*>(static_cast<intptr_t>(++taken_));
    return SharedArray<T>(key, name, size, true);
  }

 private:
  int taken_ = 0;
};

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels

#define ACCRETE_SHARED(type, name, size) \
  static constexpr char name##_key = 0;  \
  const ::accrete::kernels::SharedArray<type> name(&name##_key, #name, size, false)
#define ACCRETE_DEVICE_ARRAY(type, name, size) \
  static thread_local const std::unique_ptr<type[]> name = std::make_unique<type[]>(size)
#define ACCRETE_UNROLL
#define ACCRETE_UNROLL_BY_4

#endif

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

// Bytes of dynamic shared memory that SharedCarver::take<T>(size) uses.
template <class T>
constexpr int64_t shared_bytes(int64_t size) {
  return (size * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
}

// Blocks that cover `items` work items, `per_block` each; at least 1.
inline uint32_t blocks_covering(int64_t items, int64_t per_block) {
  return static_cast<uint32_t>(items <= per_block ? 1 : (items + per_block - 1) / per_block);
}

// The same, but at most `limit`: for kernels that loop over what is left (grid-stride).
inline uint32_t blocks_for(int64_t items, int64_t per_block, int64_t limit = 4096) {
#if !defined(__CUDACC__)
  if (limit > emulated_grid_limit) limit = emulated_grid_limit;
#endif
  return items > limit * per_block ? static_cast<uint32_t>(limit) : blocks_covering(items, per_block);
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels

// A device array with static lifetime (ACCRETE_DEVICE_ARRAY) serves one stream at a time.
#define ACCRETE_LAUNCH(...) \
  ::accrete::kernels::launch_at(::accrete::kernels::LaunchSite{#__VA_ARGS__, __FILE__, __LINE__}, __VA_ARGS__)
