// Numbers drawn one after the other from the address of a stream: what a picture or a batch needs for one purpose.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/core/random.h"

namespace accrete {

// Two Draws of the same key give the same numbers. Every draw takes one block of the stream (gamma and beta several).
class Draws {
 public:
  explicit Draws(const RandomKey& key) : key_(key) {}

  // Uniform in [0, 1) with 53 bits.
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  bool chance(double probability) { return uniform() < probability; }
  // Uniform integer in [0, bound).
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(random_below(key_, index_++, static_cast<uint64_t>(bound)));
  }
  double normal() {
    const Philox4 w = random_words(key_, index_++);
    return static_cast<double>(to_normal(w.v[0], w.v[1]));
  }

  // Gamma(shape, 1) by Marsaglia & Tsang, "A simple method for generating gamma variables" (ACM TOMS 2000): with
  // d = shape - 1/3, v = (1 + n / sqrt(9 d))^3 and a normal n, d v has the distribution when it is accepted with
  // log u < n^2 / 2 + d (1 - v + log v). A shape below 1 is that of shape + 1 times u^(1 / shape).
  double gamma(double shape) {
    if (shape < 1) {
      const double u = 1.0 - uniform();
      return gamma(shape + 1) * std::pow(u, 1.0 / shape);
    }
    const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
    while (true) {
      const double n = normal(), root = 1.0 + c * n;
      const double u = 1.0 - uniform();
      if (root <= 0) continue;
      const double v = root * root * root;
      if (std::log(u) < 0.5 * n * n + d * (1.0 - v + std::log(v))) return d * v;
    }
  }
  // Beta(a, b) = x / (x + y) with x ~ Gamma(a), y ~ Gamma(b).
  double beta(double a, double b) {
    const double x = gamma(a), y = gamma(b);
    return x + y > 0 ? x / (x + y) : 0.5;  // both 0: shapes so small that their powers vanish
  }

 private:
  uint64_t bits() {
    const Philox4 w = random_words(key_, index_++);
    return static_cast<uint64_t>(w.v[0]) << 32 | w.v[1];
  }

  RandomKey key_;
  uint64_t index_ = 0;
};

}  // namespace accrete
