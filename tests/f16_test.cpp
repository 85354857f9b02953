// IEEE half numbers: every one of the 65,536 widened, and roundings around every gap, against the definition in double
// precision; the vector code must give the same bits.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/philox.h"
#include "kernels/simd.h"
#include "kernels/types.h"

namespace accrete {
namespace {

constexpr uint32_t kInfinity = 0x7c00;

// IEEE 754: (-1)^s * 2^(e-15) * (1 + m/1024), or 2^-14 * m/1024 where e = 0. For finite patterns.
double value_of(uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
  const double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -size : size;
}

// The nearest half number, ties to the even pattern, found by looking at all of them.
uint16_t nearest(float x) {
  static const std::vector<double> sizes = [] {
    std::vector<double> v;
    for (uint32_t b = 0; b < kInfinity; ++b) v.push_back(value_of(b));
    v.push_back(65536.0);  // where the next number would be: results that round to it are infinite
    return v;
  }();
  const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
  const double size = std::abs(static_cast<double>(x));
  if (size >= sizes.back()) return static_cast<uint16_t>(sign | kInfinity);
  const auto above = static_cast<uint32_t>(std::upper_bound(sizes.begin(), sizes.end(), size) - sizes.begin());
  const uint32_t below = above - 1;
  const double up = sizes[above] - size, down = size - sizes[below];
  const uint32_t bits = down < up ? below : up < down ? above : below % 2 == 0 ? below : above;
  return static_cast<uint16_t>(sign | bits);
}

bool is_nan(f16 x) { return (x.bits & 0x7fff) > kInfinity; }

// Interesting f32 numbers: around every half number and every middle between two, and random patterns.
std::vector<float> samples() {
  std::vector<float> x;
  const auto around = [&](double v) {
    const float f = static_cast<float>(v);
    for (const float y : {f, std::nextafterf(f, 1e30f), std::nextafterf(f, -1e30f)}) {
      x.push_back(y);
      x.push_back(-y);
    }
  };
  for (uint32_t b = 0; b < kInfinity; ++b) {
    around(value_of(b));
    around((value_of(b) + (b + 1 < kInfinity ? value_of(b + 1) : 65536.0)) / 2);
  }
  around(65536.0);
  const float limits[] = {0.0f, -0.0f, 1e-45f, 1e-38f, 3e38f, std::numeric_limits<float>::infinity()};
  for (const float v : limits) around(static_cast<double>(v));
  for (uint64_t i = 0; i < 50000; ++i) {
    for (const uint32_t u : random_words(RandomKey{1, 2}, i).v)
      if ((u & 0x7fffffffu) <= 0x7f800000u) x.push_back(bits_to_float(u));
  }
  return x;
}

}  // namespace

TEST_CASE("every half number is widened exactly") {
  for (uint32_t b = 0; b < 65536; ++b) {
    const float got = to_float(f16{static_cast<uint16_t>(b)});
    const bool special = (b & kInfinity) == kInfinity;
    if (special && (b & 1023)) {
      CHECK(std::isnan(got));
    } else if (special) {
      CHECK(got == (b & 0x8000 ? -1 : 1) * std::numeric_limits<float>::infinity());
    } else {
      REQUIRE(static_cast<double>(got) == value_of(b));
      CHECK(std::signbit(got) == ((b & 0x8000) != 0));
    }
  }
}

TEST_CASE("every half number comes back") {
  for (uint32_t b = 0; b < 65536; ++b) {
    const f16 x{static_cast<uint16_t>(b)}, back = from_float<f16>(to_float(x));
    if (is_nan(x))
      CHECK(is_nan(back));
    else
      REQUIRE(back.bits == x.bits);
  }
}

TEST_CASE("f32 is rounded to the nearest half number, ties to even, large values to infinity") {
  for (const float x : samples()) {
    const uint16_t got = from_float<f16>(x).bits;
    REQUIRE_MESSAGE(got == nearest(x), x << " became " << got);
  }
  CHECK(from_float<f16>(65519.9961f).bits == 0x7bff);  // the last number below the middle to 65536
  CHECK(from_float<f16>(65520.0f).bits == kInfinity);
  CHECK(from_float<f16>(0x1p-25f).bits == 0);  // half of the smallest number: a tie, to even
  CHECK(from_float<f16>(0x1.000002p-25f).bits == 1);
}

TEST_CASE("NaN stays NaN, whatever its payload") {
  for (const uint32_t u : {0x7f800001u, 0x7fbfffffu, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7f802000u})
    CHECK(is_nan(from_float<f16>(bits_to_float(u))));
}

TEST_CASE("vectors are converted like single numbers") {
  using namespace kernels;
  std::vector<float> x = samples();
  for (const uint32_t u : {0x7f800001u, 0x7fc12345u, 0xffc00000u}) x.push_back(bits_to_float(u));
  x.resize(x.size() / kLanes * kLanes);
  for (size_t i = 0; i < x.size(); i += kLanes) {
    f16 h[kLanes];
    store(h, load<Vec>(x.data() + i));
    float wide[kLanes];
    store(wide, load<Vec>(h));
    for (int lane = 0; lane < kLanes; ++lane) {
      REQUIRE(h[lane].bits == from_float<f16>(x[i + static_cast<size_t>(lane)]).bits);
      REQUIRE(float_to_bits(wide[lane]) == float_to_bits(to_float(h[lane])));
    }
  }
}

}  // namespace accrete
