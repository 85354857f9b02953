// What kernel tests share: guarded buffers full of NaN, random inputs, comparison with double-precision references, and
// the loop over backends.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/emulator.h"
#include "kernels/runtime.h"
#include "kernels/types.h"
#include "tests/gpu_testing.h"

namespace accrete::reference {

using kernels::Cpu;
using kernels::Emu;
using kernels::WarpOrder;

// The GPU that buffers are made for at present; null: host memory. Set by on_backends.
inline const kernels::Cuda* buffer_gpu = nullptr;

// n elements of T, all NaN, between guard zones. `offset` elements away from a 64-byte boundary, to reach the paths for
// unaligned pointers. On a GPU the same bytes lie in memory of the device, and every look at them fetches them.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n, int offset = 0) : Buffer(std::vector<double>(), n, offset) {}
  Buffer(const std::vector<double>& values, int offset = 0)
      : Buffer(values, static_cast<int64_t>(values.size()), offset) {}
  T* p() { return base() + begin_; }
  int64_t size() const { return n_; }
  // Whether nothing outside the n elements was touched.
  bool intact() const {
    fetch();
    for (int64_t i = 0; i < static_cast<int64_t>(memory_.size()); ++i) {
      if (i >= begin_ && i < begin_ + n_) continue;
      if (std::memcmp(&memory_[i], &kFence, sizeof(T)) != 0) return false;
    }
    return true;
  }
  std::vector<double> values() const {
    fetch();
    std::vector<double> v(n_);
    for (int64_t i = 0; i < n_; ++i) v[i] = widen(memory_[begin_ + i]);
    return v;
  }

 private:
  Buffer(const std::vector<double>& values, int64_t n, int offset) : n_(n), memory_(n + kGuard * 2 + 64, T{}) {
    for (T& v : memory_) std::memcpy(static_cast<void*>(&v), &kFence, sizeof(T));
    place();
    const auto address = reinterpret_cast<uintptr_t>(base());
    begin_ = static_cast<int64_t>((64 - address % 64) % 64 / sizeof(T)) + 32 + offset;
    for (int64_t i = 0; i < n; ++i) memory_[begin_ + i] = values.empty() ? nan() : convert(values[i]);
    send();
  }

#if defined(ACCRETE_WITH_CUDA)
  struct Release {
    const kernels::Cuda* gpu = nullptr;
    int64_t bytes = 0;
    void operator()(T* p) const { kernels::device_release(*gpu, p, bytes); }
  };
  int64_t bytes() const { return static_cast<int64_t>(memory_.size() * sizeof(T)); }
  void place() {
    if (!buffer_gpu) return;
    there_ = {static_cast<T*>(kernels::device_allocate(*buffer_gpu, bytes())), Release{buffer_gpu, bytes()}};
    if (!there_) throw std::runtime_error("no memory left on the GPU");
  }
  void send() {
    if (there_) kernels::copy_in(*there_.get_deleter().gpu, there_.get(), memory_.data(), bytes());
  }
  void fetch() const {
    if (there_) kernels::copy_out(*there_.get_deleter().gpu, memory_.data(), there_.get(), bytes());
  }
  T* base() { return there_ ? there_.get() : memory_.data(); }
  std::unique_ptr<T, Release> there_;
#else
  void place() {}
  void send() {}
  void fetch() const {}
  T* base() { return memory_.data(); }
#endif

  static constexpr int64_t kGuard = 64;
  static constexpr uint32_t kFence = 0x5EED5EEDu;
  static double widen(int32_t v) { return v; }
  static double widen(float v) { return v; }
  static double widen(bf16 v) { return to_float(v); }
  static double widen(f16 v) { return to_float(v); }
  static T convert(double v) {
    if constexpr (std::is_same_v<T, int32_t>) {
      return static_cast<int32_t>(v);
    } else {
      return from_float<T>(static_cast<float>(v));
    }
  }
  static T nan() {
    if constexpr (std::is_same_v<T, int32_t>) {
      return -123456789;
    } else {
      return from_float<T>(std::numeric_limits<float>::quiet_NaN());
    }
  }
  int64_t n_, begin_ = 0;
  mutable std::vector<T> memory_;  // on a GPU: the last look at it
};

// Uniform numbers in [low, high), rounded to T so that reference and kernel start from the same values.
template <class T>
std::vector<double> random_values(int64_t n, uint64_t seed, double low = -2.0, double high = 2.0) {
  std::vector<double> v(n);
  uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  for (double& x : v) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const double u = static_cast<double>(state >> 11) * 0x1.0p-53;
    x = to_float(from_float<T>(static_cast<float>(low + (high - low) * u)));
  }
  return v;
}

struct Tolerance {
  double absolute, relative;
};
// Results rounded once to T: bf16 keeps 8 bits (half a unit is 2^-9), f16 11 and at least 2^-24; f32 arithmetic of a
// few hundred terms loses some.
template <class T>
Tolerance rounding(double f32_absolute = 2e-6) {
  if (std::is_same_v<T, float>) return {f32_absolute, 5e-6};
  return {f32_absolute + 1e-6, std::is_same_v<T, bf16> ? 0x1.0p-8 : 0x1.0p-11};
}

inline void check_close(const char* what, const std::vector<double>& got, const std::vector<double>& want,
                        Tolerance tol) {
  CAPTURE(what);
  REQUIRE(got.size() == want.size());
  int64_t wrong = 0, first = -1;
  for (size_t i = 0; i < got.size(); ++i) {
    const bool both_nan = std::isnan(got[i]) && std::isnan(want[i]);
    const bool ok = both_nan || got[i] == want[i] ||
                    std::fabs(got[i] - want[i]) <= tol.absolute + tol.relative * std::fabs(want[i]);
    if (!ok && wrong++ == 0) first = static_cast<int64_t>(i);
  }
  if (wrong == 0) {
    CHECK(wrong == 0);
    return;
  }
  FAIL_CHECK(what << ": " << wrong << " of " << got.size() << " wrong, first at " << first << ": got " << got[first]
                  << ", expected " << want[first]);
}

template <class T>
void check_buffer(const char* what, const Buffer<T>& got, const std::vector<double>& want, Tolerance tol) {
  CHECK_MESSAGE(got.intact(), what << ": memory outside the result was written");
  check_close(what, got.values(), want, tol);
}

inline constexpr Tolerance kExact{0.0, 0.0};

// Results must have the same bits in every warp order: keeps the first ones and compares the others.
class SameBits {
 public:
  void operator()(const std::vector<double>& values) {
    if (next_ == kept_.size()) kept_.push_back(values);
    const auto& first = kept_[next_++];
    const bool same = first.size() == values.size() &&
                      (first.empty() || std::memcmp(first.data(), values.data(), first.size() * sizeof(double)) == 0);
    CHECK_MESSAGE(same, "the result depends on the order of warps, or changes from run to run");
  }
  void restart() { next_ = 0; }

 private:
  std::vector<std::vector<double>> kept_;
  size_t next_ = 0;
};

// fn(context, same): Emu in three warp orders, Emu with tiny grids, the GPU where one serves (twice, and once without
// scratch), then Cpu. fn hands its results to `same`.
template <class Fn>
void on_backends(Fn fn) {
  SameBits cpu;
#if defined(ACCRETE_WITH_EMULATOR)
  SameBits emulated;
  for (WarpOrder order : {WarpOrder::forward, WarpOrder::reverse, WarpOrder::shuffled}) {
    INFO("emulator, warp order " << static_cast<int>(order));
    emulated.restart();
    fn(Emu{order}, emulated);
  }
  {
    INFO("emulator, grids of at most two blocks");
    struct Restore {
      int64_t before = kernels::emulated_grid_limit;
      ~Restore() { kernels::emulated_grid_limit = before; }
    } restore;
    kernels::emulated_grid_limit = 2;
    SameBits small;
    fn(Emu{WarpOrder::shuffled}, small);
  }
#endif
#if defined(ACCRETE_WITH_CUDA)
  if (const auto gpu = test_gpu()) {
    kernels::Cuda context = cuda_context(gpu->index);
    context.sync_each = true;  // an error names its launch
    struct Restore {
      ~Restore() { buffer_gpu = nullptr; }
    } restore;
    buffer_gpu = &context;
    SameBits twice;
    for (int turn = 0; turn < 2; ++turn) {
      INFO("GPU, turn " << turn);
      twice.restart();
      fn(std::as_const(context), twice);
    }
    INFO("GPU, without scratch");
    context.workspace_bytes = 0;
    SameBits bare;
    fn(std::as_const(context), bare);
  }
#endif
  INFO("cpu");
  fn(Cpu{2}, cpu);
}

}  // namespace accrete::reference
