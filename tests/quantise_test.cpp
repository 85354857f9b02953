// Rows in few bits: sizes, rounding, and products against decoded rows.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "engine/core/error.h"
#include "training/quantise.h"

using namespace accrete;

namespace {

const std::vector<std::string> kNames = {"f32", "bf16", "q8", "q4", "q2", "q1"};

std::vector<float> draw(int64_t n, uint64_t seed, float size = 1) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(bits);
  return x;
}

struct Row {
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
  Row(Precision p, const std::vector<float>& x)
      : bytes(static_cast<size_t>(encoded_bytes(p, static_cast<int64_t>(x.size())))), decoded(x.size()) {
    encode(p, bytes.data(), x.data(), static_cast<int64_t>(x.size()));
    decode(p, decoded.data(), bytes.data(), static_cast<int64_t>(x.size()));
  }
};

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double aa = 0, bb = 0, ab = 0;
  for (size_t k = 0; k < a.size(); ++k) aa += double(a[k]) * a[k], bb += double(b[k]) * b[k], ab += double(a[k]) * b[k];
  return ab / std::sqrt(aa * bb);
}

}  // namespace

TEST_CASE("half precision: every number there and back, rounding to nearest even, the largest number") {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    if ((h & 0x7fffu) > 0x7bff) continue;  // infinities and NaN are never stored
    REQUIRE(to_half(from_half(static_cast<uint16_t>(h))) == h);
  }
  CHECK(from_half(0x3c00) == 1.0f);
  CHECK(from_half(0xc000) == -2.0f);
  CHECK(from_half(0x0001) == std::ldexp(1.0f, -24));
  CHECK(from_half(0x7bff) == 65504.0f);
  CHECK(to_half(1.0f + std::ldexp(1.0f, -11)) == 0x3c00);  // half way: to even
  CHECK(to_half(1.0f + std::ldexp(3.0f, -11)) == 0x3c02);  // half way: to even
  CHECK(to_half(1.0f + std::ldexp(1.001f, -11)) == 0x3c01);
  CHECK(to_half(1e9f) == 0x7bff);
  CHECK(to_half(-1e9f) == 0xfbff);
  CHECK(to_half(std::ldexp(1.0f, -26)) == 0);
}

TEST_CASE("sizes: true packing and four bytes for each begun group of 64") {
  const int64_t n = 1000, groups = 16;
  CHECK(encoded_bytes(Precision::f32, n) == 4000);
  CHECK(encoded_bytes(Precision::bf16, n) == 2000);
  CHECK(encoded_bytes(Precision::q8, n) == 1000 + 4 * groups);
  CHECK(encoded_bytes(Precision::q4, n) == 500 + 4 * groups);
  CHECK(encoded_bytes(Precision::q2, n) == 250 + 4 * groups);
  CHECK(encoded_bytes(Precision::q1, n) == 125 + 4 * groups);
  CHECK(encoded_bytes(Precision::q4, 65) == 33 + 8);
  CHECK(encoded_bytes(Precision::q1, 0) == 0);
  CHECK_THROWS_WITH_AS(precision_of("q3"), doctest::Contains("expected f32, bf16, q8, q4, q2 or q1"), Error);
}

TEST_CASE("every value is at most half a step away, also in short, constant and uneven groups") {
  std::vector<std::vector<float>> rows = {draw(1000, 1), draw(64, 2, 1e-3f), draw(1, 3), draw(77, 4, 200.0f)};
  rows.push_back(std::vector<float>(100, 0.0f));
  rows.push_back(std::vector<float>(100, 0.1f));
  rows.push_back({1e-6f, 3.0f, -2.0f});
  for (const auto& x : rows) {
    CHECK(Row(Precision::f32, x).decoded == x);
    const Row half(Precision::bf16, x);
    for (size_t k = 0; k < x.size(); ++k) CHECK(std::fabs(half.decoded[k] - x[k]) <= std::fabs(x[k]) / 256);
    for (const int bits : {8, 4, 2}) {
      const Precision p = precision_of("q" + std::to_string(bits));
      const Row row(p, x);
      for (size_t k = 0; k < x.size(); ++k) {
        const size_t first = k / 64 * 64, last = std::min(x.size(), first + 64);
        const auto [low, high] =
            std::minmax_element(x.begin() + static_cast<ptrdiff_t>(first), x.begin() + static_cast<ptrdiff_t>(last));
        // The step is range / levels, with f16 rounding of offset and scale outwards: 2^-10 of either, or 2^-24.
        const float edge = std::max(std::fabs(*low), *high - *low) / 1024 + 2e-7f;
        const float step = (*high - *low + edge) / static_cast<float>((1 << bits) - 1) * (1 + 1.0f / 1024) + 1e-7f;
        REQUIRE(std::fabs(row.decoded[k] - x[k]) <= 0.5f * step + 1e-6f * std::fabs(x[k]));
      }
    }
  }
}

TEST_CASE("one bit: the sign times the group's mean size") {
  const std::vector<float> x = draw(130, 5);
  const Row row(Precision::q1, x);
  for (size_t first = 0; first < x.size(); first += 64) {
    double mean = 0;
    const size_t last = std::min(x.size(), first + 64);
    for (size_t k = first; k < last; ++k) mean += std::fabs(x[k]) / static_cast<double>(last - first);
    for (size_t k = first; k < last; ++k) {
      CHECK(std::fabs(row.decoded[k]) == doctest::Approx(mean).epsilon(1e-3));  // f16
      CHECK(std::signbit(row.decoded[k]) == std::signbit(x[k]));
    }
  }
  // sign x mean of a normal row has the cosine sqrt(2 / pi) = 0.798 with it.
  const std::vector<float> large = draw(64 * 400, 6);
  CHECK(cosine(large, Row(Precision::q1, large).decoded) == doctest::Approx(0.798).epsilon(0.01));
}

TEST_CASE("the products agree with those of decoded rows") {
  for (const int64_t n : {1, 5, 64, 100, 1000, 4096}) {
    const std::vector<float> x = draw(n, 7), g = draw(n, 8);
    for (const std::string& name : kNames) {
      CAPTURE(name);
      const Precision p = precision_of(name);
      const Row row(p, x);
      double expected = 0, size = 0;
      for (size_t k = 0; k < x.size(); ++k)
        expected += double(row.decoded[k]) * g[k], size += std::fabs(double(row.decoded[k]) * g[k]);
      CHECK(std::fabs(dot(p, row.bytes.data(), g.data(), n) - expected) <= 1e-6 * size);
      std::vector<double> y(x.size(), 0.5);
      axpy(p, y.data(), -3.0, row.bytes.data(), n);
      for (size_t k = 0; k < x.size(); ++k) REQUIRE(y[k] == doctest::Approx(0.5 - 3.0 * row.decoded[k]).epsilon(1e-6));
    }
  }
}
