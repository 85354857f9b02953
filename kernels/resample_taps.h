// Where a result of resampling lies among the samples of one axis and what it takes of them; and, for backward, which
// results can have taken something of a sample. The same source on CPU and GPU, so both find the same places.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/types.h"

namespace accrete::kernels {

// Results begin .. end-1.
struct TapRange {
  int64_t begin, end;
};

// Two samples, in exact integers: result i lies at x = ((2 i + 1) from - to) / (2 to), not below 0. Sizes are at most
// kLargestSide, so that 32 bits are enough.
inline constexpr int64_t kLargestSide = 16384;
struct LinearTaps {
  int32_t low, high;
  float upper;  // weight of `high`; that of `low` is 1 - upper

  ACCRETE_HD LinearTaps(int32_t i, int32_t from, int32_t to) {
    const int32_t shifted = (2 * i + 1) * from - to, numerator = shifted > 0 ? shifted : 0;
    low = numerator / (2 * to);
    upper = static_cast<float>(numerator - low * 2 * to) / static_cast<float>(2 * to);
    high = low + 1 < from ? low + 1 : from - 1;
  }
  // What this result takes of sample u.
  ACCRETE_HD float of(int32_t u) const { return (low == u ? 1.0f - upper : 0.0f) + (high == u ? upper : 0.0f); }
  // All results that lie between the samples u - 1 and u + 1, and perhaps a few others, which take 0.
  static ACCRETE_HD TapRange reached_by(int32_t u, int32_t from, int32_t to) {
    // x(i) = u - 1 at i = ((2 u - 1) to - from) / (2 from); rounded toward 0, so one more on both sides
    const int32_t begin = ((2 * u - 1) * to - from) / (2 * from) - 1, end = ((2 * u + 3) * to - from) / (2 * from) + 2;
    return {begin < 0 ? 0 : begin, u + 1 >= from || end > to ? to : end};
  }
};

// Four samples around x = (i + 0.5) from / (to + offset) - 0.5, in double.
struct CubicTaps {
  int64_t first, last;  // the samples are first .. first + 3, those beyond 0 .. last are the nearest of these
  float weight[4];

  ACCRETE_HD CubicTaps(int64_t i, int64_t from, double to) : last(from - 1) {
    const double x = (static_cast<double>(i) + 0.5) * static_cast<double>(from) / to - 0.5;
    const double below = floor(x), t = x - below;
    first = static_cast<int64_t>(below) - 1;
    weight[0] = far(t + 1.0);
    weight[1] = near(t);
    weight[2] = near(1.0 - t);
    weight[3] = far(2.0 - t);
  }
  ACCRETE_HD int64_t sample(int k) const {
    const int64_t u = first + k;
    return u < 0 ? 0 : u > last ? last : u;
  }
  ACCRETE_HD float of(int64_t u) const {
    float sum = 0.0f;
    for (int k = 0; k < 4; ++k) sum += sample(k) == u ? weight[k] : 0.0f;
    return sum;
  }
  // All results that lie nearer than 2 to sample u, and perhaps a few others; border samples also serve those beyond.
  static ACCRETE_HD TapRange reached_by(int64_t u, int64_t from, double to, int64_t results) {
    const double per_sample = to / static_cast<double>(from), center = (static_cast<double>(u) + 0.5) * per_sample;
    const double low = floor(center - 2.0 * per_sample) - 1.0, high = floor(center + 2.0 * per_sample) + 2.0;
    const int64_t begin = u == 0 || low < 0.0 ? 0 : static_cast<int64_t>(low);
    const bool to_the_end = u + 1 >= from || high > static_cast<double>(results);
    return {begin, to_the_end ? results : static_cast<int64_t>(high)};
  }

 private:
  static constexpr double a = -0.75;
  // Keys (1981), at distance d <= 1 and 1 < d < 2.
  static ACCRETE_HD float near(double d) { return static_cast<float>(((a + 2.0) * d - (a + 3.0)) * d * d + 1.0); }
  static ACCRETE_HD float far(double d) { return static_cast<float>(((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a); }
};

}  // namespace accrete::kernels
