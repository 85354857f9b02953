// Block emulator: runs the .cu sources on a CPU, one fiber per CUDA thread, block after block, on the calling thread.
// It is the readable definition of what a launch means, and it tests barriers, collectives, shared memory, indexing and
// tails of every hand-written kernel where no GPU exists. A kernel can be followed in gdb like any function.
//
// One warp runs as far as it can go before the next one starts (a lock-step order would hide missing barriers); the
// order of warps, of the lanes inside a warp and of the blocks is forward, reverse or shuffled (Emu::order). Run all
// three: a race shows up in at least one of them.
//
// Reported with kernel, block and thread, as EmulatorError:
//   - a __syncthreads that only some threads reach (with the counts), or threads at two different ones
//   - a warp collective that only part of its mask reaches, or lanes of one mask at different collectives
//   - writes behind a shared array (guard zone), an index outside it, a read before any write (SharedArray)
//   - impossible launch settings, too much shared memory; waiting that can never end (never a hang)
// Shared memory holds NaN bits when a block starts, so that what the checks miss still poisons the result.
//
// Limits: no timing, no coalescing or bank conflicts, no weak memory order, no independent progress of threads (a
// kernel that spins on memory never ends), one block at a time. A thread that ends counts as missing at a later barrier
// (stricter than the hardware). Lanes that do not exist because the block is no multiple of 32 are ignored in masks;
// what a shuffle reads from them is poison. 32-bit words equal to kPoison count as never written.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "kernels/device.h"

namespace accrete::kernels {

struct EmulatorError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct dim3 {
  uint32_t x = 1, y = 1, z = 1;
};
// The built-in variables of a CUDA thread, set at every fiber switch.
extern constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

// Where a launch stands in the source: the stringised arguments, file, line.
struct LaunchSite {
  const char* statement;
  const char* file;
  int line;
};

// What the emulator tells a listener (for `inspect kernel`).
struct TraceEvent {
  enum Kind { block_begin, shared_array, barrier, block_end } kind;
  std::string kernel;
  dim3 block;
  std::string name;    // array, or "file:line" of the barrier
  int64_t amount = 0;  // bytes of the array, or threads at the barrier
};
using EmulatorTrace = std::function<void(const TraceEvent&)>;
// Sends events of later launches of this thread to `trace`; an empty function switches tracing off.
void set_emulator_trace(EmulatorTrace trace);

// Upper bound of grids that may have any size (blocks_for in launch.h). Tests lower it, so that small inputs too reach
// the second round of grid-stride loops.
extern constinit thread_local int64_t emulated_grid_limit;

namespace emu {

// The place of a call in the source. (std::source_location is missing in clang before version 16.)
struct Where {
  const char* file = "";
  int line = 0;
  static constexpr Where current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};
inline constexpr uint32_t kPoison = 0x7FBD7FBDu;  // a signalling NaN as f32, a NaN in both halves as bf16

// Runs `work` now, or puts it into the list that is being recorded.
template <class Work>
void queue(const Emu& ctx, Work&& work) {
  if (ctx.recorder)
    ctx.recorder->emplace_back(std::forward<Work>(work));
  else
    work(ctx);
}

// In its scope, the memory of the emulated device (kernels/runtime.h) can be reached.
struct DeviceAccess {
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

void run(const LaunchSite& site, const Emu& ctx, dim3 grid, dim3 block, int64_t dynamic_bytes,
         const std::function<void()>& thread_body);
// Ends the kernel with an EmulatorError that names kernel, block and thread.
[[noreturn]] void fail(const std::string& what);

enum class Collective { shfl, shfl_xor, shfl_up, shfl_down, ballot, syncwarp, together };
// Waits until every lane of `mask` is here; `argument` is the lane, lane mask or distance.
uint64_t warp_collective(Collective kind, uint32_t mask, uint64_t value, int argument, int width, const Where& where);
// An operation of a warp as a whole (a tensor-core product): when every lane of `mask` is here, `function` runs once
// and sees what each lane brought, which it may change; null for the other lanes.
using WarpFunction = void (*)(void* const (&lanes)[32]);
void warp_together(WarpFunction function, uint32_t mask, void* lane, const Where& where);
// Waits until every thread of the block is here; gives the number of threads with a true predicate.
int block_barrier(bool predicate, const Where& where);
// Memory of one shared array, the same for every thread of the block; poisoned, with a guard zone behind it.
void* shared_memory(const void* key, const char* name, int64_t bytes, bool dynamic);

template <class T>
T shuffle(Collective kind, uint32_t mask, T value, int argument, int width, const Where& where) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(kind, mask, bits, argument, width, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emu

// A shared array with checks. Under nvcc the same name is a plain pointer. Elements are reached through [], wide
// accesses through load_vec / store_vec; &array[i] gives an unchecked pointer.
template <class T>
class SharedArray {
 public:
  class Reference {
   public:
    Reference(const SharedArray& array, int64_t i) : array_(array), i_(i) {}
    operator T() const { return array_.read(i_); }
    T operator=(T value) const { return array_.data_[i_] = value; }
    T operator=(const Reference& other) const { return *this = static_cast<T>(other); }
    T operator+=(T value) const { return *this = array_.read(i_) + value; }
    T operator-=(T value) const { return *this = array_.read(i_) - value; }
    T operator*=(T value) const { return *this = array_.read(i_) * value; }
    T* operator&() const { return array_.data_ + i_; }

   private:
    const SharedArray& array_;
    int64_t i_;
  };

  SharedArray(const void* key, const char* name, int64_t size, bool dynamic)
      : data_(static_cast<T*>(emu::shared_memory(key, name, size * sizeof(T), dynamic))), size_(size), name_(name) {}

  Reference operator[](int64_t i) const {
    if (i < 0 || i >= size_) {
      emu::fail("index " + std::to_string(i) + " is outside the " + std::to_string(size_) +
                " elements of shared array `" + name_ + "`");
    }
    return Reference(*this, i);
  }

 private:
  T read(int64_t i) const {
    using Word = std::conditional_t<sizeof(T) % 4 == 0, uint32_t, uint16_t>;
    static_assert(sizeof(T) % 2 == 0);
    Word words[sizeof(T) / sizeof(Word)];
    std::memcpy(words, data_ + i, sizeof(T));
    for (Word w : words) {
      if (w == static_cast<Word>(emu::kPoison)) {
        emu::fail("element " + std::to_string(i) + " of shared array `" + name_ + "` is read before any write");
      }
    }
    return data_[i];
  }

  T* data_;
  int64_t size_;
  const char* name_;
};

// ---- CUDA's names ---------------------------------------------------------------------------------------------------

inline void __syncthreads(emu::Where where = emu::Where::current()) { emu::block_barrier(false, where); }
inline int __syncthreads_count(int predicate, emu::Where where = emu::Where::current()) {
  return emu::block_barrier(predicate != 0, where);
}
inline int __syncthreads_or(int predicate, emu::Where where = emu::Where::current()) {
  return emu::block_barrier(predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, emu::Where where = emu::Where::current()) {
  return emu::block_barrier(predicate == 0, where) == 0;
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, emu::Where where = emu::Where::current()) {
  emu::warp_collective(emu::Collective::syncwarp, mask, 0, 0, 32, where);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, emu::Where where = emu::Where::current()) {
  return static_cast<uint32_t>(emu::warp_collective(emu::Collective::ballot, mask, predicate != 0, 0, 32, where));
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, emu::Where where = emu::Where::current()) {
  return emu::shuffle(emu::Collective::shfl, mask, value, lane, width, where);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32, emu::Where where = emu::Where::current()) {
  return emu::shuffle(emu::Collective::shfl_xor, mask, value, lanes, width, where);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int delta, int width = 32, emu::Where where = emu::Where::current()) {
  return emu::shuffle(emu::Collective::shfl_up, mask, value, delta, width, where);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int delta, int width = 32, emu::Where where = emu::Where::current()) {
  return emu::shuffle(emu::Collective::shfl_down, mask, value, delta, width, where);
}
template <class T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <class T>
T atomicOr(T* p, T value) {
  const T old = *p;
  *p = old | value;
  return old;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }

}  // namespace accrete::kernels
