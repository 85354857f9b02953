// Execution contexts: the first parameter of every kernel. Backends are overloads of one name.
//
//   Cpu   production CPU code (vectorised loops, OpenMP threads)
//   Emu   the .cu sources compiled by the host compiler and run block by block with one fiber per CUDA thread
//   Cuda  the .cu sources compiled by nvcc (present when ACCRETE_WITH_CUDA is defined)
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/types.h"

namespace accrete::kernels {

struct Cpu {
  int threads = 1;  // OpenMP threads to use; results do not depend on it unless a kernel says so
};

// Order in which the emulator runs the warps of a block between two barriers.
enum class WarpOrder { forward, reverse, shuffled };

// Shared memory that a block can have on the largest GPUs (A100: 163 KB; RTX 30 to 50: 99 KB).
inline constexpr int64_t kMostSharedBytes = 227 * 1024;

struct Emu;
using LaunchList = std::vector<std::function<void(const Emu&)>>;

struct Emu {
  WarpOrder order = WarpOrder::forward;
  uint64_t shuffle_seed = 1;
  Cpu cpu;                         // matrix products are sent here
  LaunchList* recorder = nullptr;  // launches are put here instead of being run (kernels/runtime.h)
  int64_t shared_limit = kMostSharedBytes;
};

struct Cuda {
  int device = 0;
  void* stream = nullptr;                   // cudaStream_t of the kernels
  void* send_stream = nullptr;              // cudaStream_t of copies that run beside them
  void* blas = nullptr;                     // cublasLtHandle_t
  void* workspace = nullptr;                // scratch in device memory that belongs to one launch at a time
  int64_t workspace_bytes = 0;              // 0: kernels that want scratch do without
  int64_t shared_limit = kMostSharedBytes;  // that a block of this GPU can have
  bool tf32 = false;                        // f32 products may round their operands to tf32 (10 bits of mantissa)
  bool capturing = false;                   // launches are being recorded into a graph: nothing may wait or be timed
  bool sync_each = false;                   // synchronise after every launch and report errors there (--sync)
};

// Declares one kernel for every backend: KERNEL(name, parameters after the context). T is the stored number type.
#define ACCRETE_KERNEL(name, ...)                         \
  template <class T>                                      \
  void name(const ::accrete::kernels::Cpu&, __VA_ARGS__); \
  template <class T>                                      \
  void name(const ::accrete::kernels::Emu&, __VA_ARGS__); \
  template <class T>                                      \
  void name(const ::accrete::kernels::Cuda&, __VA_ARGS__)

// Same for a kernel that exists for one number type only.
#define ACCRETE_KERNEL_F32(name, ...)                     \
  void name(const ::accrete::kernels::Cpu&, __VA_ARGS__); \
  void name(const ::accrete::kernels::Emu&, __VA_ARGS__); \
  void name(const ::accrete::kernels::Cuda&, __VA_ARGS__)

}  // namespace accrete::kernels
