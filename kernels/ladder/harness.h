// Checks a step of a ladder, and then, on a GPU, times it. Templates over the context, so that the same code serves the
// emulator and CUDA.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "kernels/ladder/ladder.h"
#include "kernels/philox.h"
#include "kernels/runtime.h"

namespace accrete::kernels {

struct LadderCheck {
  double error = 0;        // largest |got - want| over the largest |want| of its array; infinite for a NaN
  const char* array = "";  // where
  bool intact = true;      // nothing was written beyond the end of an array
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

// A problem in device memory: the arrays of a step, filled with random numbers (outputs with NaN).
template <class Gpu>
class LadderProblem {
 public:
  LadderProblem(const Gpu& ctx, const Ladder& l, int step, const LadderSizes& sizes)
      : ctx_(ctx), name_(l.name), step_(step), sizes_(sizes), arrays_(l.arrays(sizes, l.steps.at(step - 1).half)) {
    for (size_t i = 0; i < arrays_.size(); ++i) {
      const auto bytes = ladder::initial_bytes(arrays_[i], 100 + i);
      memory_.push_back(std::make_unique<ladder::DeviceArray<Gpu>>(ctx, bytes));
      data_.push_back(memory_.back()->data());
    }
  }
  const std::vector<LadderArray>& arrays() const { return arrays_; }
  std::vector<unsigned char> bytes(size_t i) const { return memory_[i]->bytes(); }
  void run() const { run_ladder(ctx_, name_, step_, sizes_, data_.data()); }

 private:
  const Gpu& ctx_;
  const char* name_;
  int step_;
  LadderSizes sizes_;
  std::vector<LadderArray> arrays_;
  std::vector<std::unique_ptr<ladder::DeviceArray<Gpu>>> memory_;
  std::vector<void*> data_;
};

// Runs step `step` (from 1) once and compares with double precision.
template <class Gpu>
LadderCheck check_step(const Gpu& ctx, const Ladder& l, int step, const LadderSizes& sizes) {
  using namespace ladder;
  const LadderProblem<Gpu> problem(ctx, l, step, sizes);
  const std::vector<LadderArray>& arrays = problem.arrays();
  std::vector<std::vector<double>> want;
  for (size_t i = 0; i < arrays.size(); ++i) want.push_back(values_of(arrays[i], initial_bytes(arrays[i], 100 + i)));
  l.reference(sizes, want);
  problem.run();
  wait(ctx);

  LadderCheck check;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto bytes = problem.bytes(i);
    for (auto b = bytes.end() - kGuard; b != bytes.end(); ++b) check.intact = check.intact && *b == kFence;
    if (arrays[i].use == LadderArray::Use::scratch) continue;
    const auto got = values_of(arrays[i], bytes);
    double largest = 1e-30, error = 0;
    for (const double w : want[i]) largest = std::max(largest, std::fabs(w));
    for (size_t j = 0; j < got.size(); ++j) {
      const double e = std::fabs(got[j] - want[i][j]) / largest;
      error = std::isfinite(e) && std::isfinite(error) ? std::max(error, e) : INFINITY;
    }
    // An array that is bf16 in every step (AdamW's copy) is right when it is rounded rightly.
    const bool always_rounded = arrays[i].type == LadderArray::Type::bf16 && !l.steps[step - 1].half;
    if (always_rounded && error <= 0x1p-8) error = 0;
    if (error > check.error) check.error = error, check.array = arrays[i].name;
  }
  return check;
}

// Seconds of one run: the median of six rounds of `repeats` runs each, after a round that warms up. For a GPU.
template <class Gpu>
double time_step(const Gpu& ctx, const Ladder& l, int step, const LadderSizes& sizes, int repeats) {
  const LadderProblem<Gpu> problem(ctx, l, step, sizes);
  std::vector<double> seconds;
  for (int round = 0; round < 7; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) problem.run();
    wait(ctx);
    const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (round > 0) seconds.push_back(all / repeats);
  }
  std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
  return seconds[3];
}

}  // namespace accrete::kernels
