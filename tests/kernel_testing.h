// Helpers for tests of kernels: random inputs, poisoned outputs with guard zones, comparison with double precision.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels/device.h"
#include "kernels/philox.h"

namespace accrete::testing {

using kernels::Cpu;

// Sizes that a kernel must handle: empty, one, odd, and above the size where threads start.
inline constexpr int64_t kLengths[] = {0, 1, 7, 33, 1000, 50021};
struct Matrix {
  int64_t rows, cols;
};
inline constexpr Matrix kMatrices[] = {{0, 5}, {1, 1}, {3, 1}, {1, 70}, {17, 33}, {65, 129}, {300, 257}, {3, 40001}};

// Values as the kernel sees them: already rounded to T.
template <class T>
std::vector<T> random_values(int64_t n, double low, double high, uint64_t seed) {
  std::vector<T> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t word = random_words({seed, 77, 0}, static_cast<uint64_t>(i)).v[0];
    x[static_cast<size_t>(i)] = from_float<T>(static_cast<float>(low + (high - low) * (word / 4294967296.0)));
  }
  return x;
}

template <class T>
std::vector<double> widen(const std::vector<T>& x) {
  std::vector<double> y;
  for (const T& v : x) y.push_back(to_float(v));
  return y;
}

// An output: filled with NaN (which a kernel must overwrite, never add to), with guard zones on both sides.
template <class T>
class Output {
 public:
  explicit Output(int64_t n) : n_(static_cast<size_t>(n)), data_(n_ + 2 * kGuard, poison()) {}
  Output(const std::vector<T>& initial) : Output(static_cast<int64_t>(initial.size())) {
    std::copy(initial.begin(), initial.end(), data_.begin() + kGuard);
  }
  T* ptr() { return data_.data() + kGuard; }
  // The values, widened to f32 (exactly); checks the guards.
  std::vector<float> values() const {
    const T guard = poison();
    for (size_t i = 0; i < kGuard; ++i) {
      REQUIRE(std::memcmp(&data_[i], &guard, sizeof(T)) == 0);
      REQUIRE(std::memcmp(&data_[kGuard + n_ + i], &guard, sizeof(T)) == 0);
    }
    std::vector<float> out;
    for (size_t i = 0; i < n_; ++i) out.push_back(to_float(data_[kGuard + i]));
    return out;
  }

 private:
  static constexpr size_t kGuard = 16;
  static T poison() { return from_float<T>(bits_to_float(0x7fabcdefu)); }
  size_t n_;
  std::vector<T> data_;
};

using Results = std::vector<std::vector<float>>;

// Runs f on 1, 2 and 5 threads, requires equal bits, returns the results of one thread.
template <class F>
Results on_threads(const F& f) {
  const Results first = f(Cpu{1});
  for (int threads : {2, 5}) {
    const Results other = f(Cpu{threads});
    REQUIRE(other.size() == first.size());
    for (size_t i = 0; i < first.size(); ++i) {
      REQUIRE(other[i].size() == first[i].size());
      if (!first[i].empty()) CHECK(std::memcmp(other[i].data(), first[i].data(), first[i].size() * sizeof(float)) == 0);
    }
  }
  return first;
}

// Rounding of the stored type: half a unit in the last place, relative, with a little room for the arithmetic before.
template <class T>
constexpr double kRounding = std::is_same_v<T, bf16>  ? 1.0 / 250
                             : std::is_same_v<T, f16> ? 1.0 / 2000
                                                      : 1e-6;

// |got - want| <= relative * |want| + absolute, element by element; reports the worst one.
inline void check_close(const std::vector<float>& got, const std::vector<double>& want, double relative,
                        double absolute) {
  REQUIRE(got.size() == want.size());
  double worst = 0.0;
  size_t at = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    double excess = std::fabs(got[i] - want[i]) / (relative * std::fabs(want[i]) + absolute);
    if (std::isnan(want[i]) && std::isnan(got[i])) excess = 0.0;
    if (std::isinf(want[i]) && got[i] == want[i]) excess = 0.0;
    if (!(excess <= worst)) worst = std::isnan(excess) ? std::numeric_limits<double>::infinity() : excess, at = i;
  }
  if (worst <= 1.0) return;
  CHECK_MESSAGE(worst <= 1.0, "element " << at << ": got " << got[at] << ", want " << want[at]);
}

}  // namespace accrete::testing
