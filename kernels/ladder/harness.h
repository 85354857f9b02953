// Checks a step of a ladder, and then, on a GPU, times it. Templates over the context, so that the same code serves the
// emulator and CUDA.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "kernels/ladder/ladder.h"
#include "kernels/philox.h"
#include "kernels/runtime.h"

namespace accrete::kernels {

struct LadderCheck {
  double error = 0;        // largest |got - want| over the largest |want| of its array; infinite for a NaN
  const char* array = "";  // where
  bool intact = true;      // nothing was written beyond the end of an array
  double seconds = 0;      // of one run, when it was timed
};

namespace ladder {

inline constexpr int64_t kGuard = 256;  // bytes behind every array
inline constexpr unsigned char kFence = 0x5e, kNan = 0xff;

// One array in host memory, as the step sees it: numbers are already rounded to its type.
inline std::vector<unsigned char> initial_bytes(const LadderArray& a, uint64_t seed) {
  std::vector<unsigned char> bytes(static_cast<size_t>(a.bytes()), kNan);
  bytes.insert(bytes.end(), kGuard, kFence);
  if (a.use != LadderArray::Use::input && a.use != LadderArray::Use::updated) return bytes;
  for (int64_t i = 0; i < a.count; ++i) {
    const float u = to_uniform(random_words(RandomKey{seed, 31, 0}, static_cast<uint64_t>(i) / 4).v[i % 4]);
    const double x = a.low + (a.high - a.low) * static_cast<double>(u);
    if (a.type == LadderArray::Type::f32) {
      const float f = static_cast<float>(x);
      std::memcpy(bytes.data() + i * 4, &f, 4);
    } else if (a.type == LadderArray::Type::bf16) {
      const bf16 h = from_float<bf16>(static_cast<float>(x));
      std::memcpy(bytes.data() + i * 2, &h, 2);
    } else {
      const auto n = static_cast<int32_t>(std::floor(x));
      std::memcpy(bytes.data() + i * 4, &n, 4);
    }
  }
  return bytes;
}

inline std::vector<double> values_of(const LadderArray& a, const std::vector<unsigned char>& bytes) {
  std::vector<double> out(static_cast<size_t>(a.count));
  for (int64_t i = 0; i < a.count; ++i) {
    if (a.type == LadderArray::Type::f32) {
      float f;
      std::memcpy(&f, bytes.data() + i * 4, 4);
      out[i] = f;
    } else if (a.type == LadderArray::Type::bf16) {
      bf16 h;
      std::memcpy(&h, bytes.data() + i * 2, 2);
      out[i] = to_float(h);
    } else {
      int32_t n;
      std::memcpy(&n, bytes.data() + i * 4, 4);
      out[i] = n;
    }
  }
  return out;
}

template <class Gpu>
class DeviceArray {
 public:
  DeviceArray(const Gpu& ctx, const std::vector<unsigned char>& bytes)
      : ctx_(ctx), size_(static_cast<int64_t>(bytes.size())), data_(device_allocate(ctx, size_)) {
    if (!data_) throw std::runtime_error("[ladder] no device memory is left for this size");
    copy_in(ctx_, data_, bytes.data(), size_);
  }
  ~DeviceArray() { device_release(ctx_, data_, size_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  void* data() const { return data_; }
  std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> out(static_cast<size_t>(size_));
    copy_out(ctx_, out.data(), data_, size_);
    return out;
  }

 private:
  const Gpu& ctx_;
  int64_t size_;
  void* data_;
};

}  // namespace ladder

// Runs step `step` (from 1) once on random numbers and compares; then, where repeats > 0, times that many more runs:
// the median of rounds of them, without the check's copies. (Updated arrays go on from where they are.)
template <class Gpu>
LadderCheck check_step(const Gpu& ctx, const Ladder& l, int step, const LadderSizes& sizes, int repeats = 0) {
  using namespace ladder;
  const LadderStep& s = l.steps.at(static_cast<size_t>(step - 1));
  const std::vector<LadderArray> arrays = l.arrays(sizes, s.half);
  std::vector<std::unique_ptr<DeviceArray<Gpu>>> memory;
  std::vector<std::vector<double>> want;
  std::vector<void*> data;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto bytes = initial_bytes(arrays[i], 100 + i);
    memory.push_back(std::make_unique<DeviceArray<Gpu>>(ctx, bytes));
    want.push_back(values_of(arrays[i], bytes));
    data.push_back(memory.back()->data());
  }
  l.reference(sizes, want);
  run_ladder(ctx, l.name, step, sizes, data.data());
  wait(ctx);

  LadderCheck check;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto bytes = memory[i]->bytes();
    for (auto b = bytes.end() - kGuard; b != bytes.end(); ++b) check.intact = check.intact && *b == kFence;
    if (arrays[i].use == LadderArray::Use::scratch) continue;
    const auto got = values_of(arrays[i], bytes);
    double largest = 1e-30, error = 0;
    for (const double w : want[i]) largest = std::max(largest, std::fabs(w));
    for (size_t j = 0; j < got.size(); ++j) {
      const double e = std::fabs(got[j] - want[i][j]) / largest;
      error = std::isfinite(e) ? std::max(error, e) : INFINITY;
      if (error == INFINITY) break;
    }
    // The rounded copy of AdamW is bf16 whatever the step.
    const bool rounded = arrays[i].type == LadderArray::Type::bf16 && !s.half;
    if (rounded) error = error <= 0x1p-8 ? 0 : error;
    if (error > check.error) check.error = error, check.array = arrays[i].name;
  }
  if (repeats <= 0) return check;

  std::vector<double> seconds;
  for (int round = 0; round < 7; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) run_ladder(ctx, l.name, step, sizes, data.data());
    wait(ctx);
    const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (round > 0) seconds.push_back(all / repeats);  // the first round warms up
  }
  std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
  check.seconds = seconds[3];
  return check;
}

}  // namespace accrete::kernels
