// Mixup, CutMix, soft targets, and the numbers they are drawn from.
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "data/mix.h"
#include "engine/core/error.h"

using namespace accrete;

namespace {

bool same(const Mixing& a, const Mixing& b) { return a.lambda == b.lambda && a.cut == b.cut && a.box == b.box; }

AugmentConfig settings(double mixup, double cutmix, const std::string& mode = "batch") {
  AugmentConfig c;
  c.mixup = mixup, c.cutmix = cutmix, c.mix_mode = mode;
  return c;
}

std::vector<Mixing> drawn(const AugmentConfig& c, int64_t batch, uint64_t step, int64_t side = 16) {
  return draw_mixing(c, batch, side, side, random_key(1, "test", step));
}

// (B, C, h, w) with different values everywhere.
std::vector<float> ramp(int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i % 977) * 0.25f - 30.0f;
  return v;
}

}  // namespace

TEST_CASE("Gamma and beta draws have the moments of their distributions") {
  // Gamma(a): mean a, variance a. 20 000 draws: the mean is within 5 sqrt(a / n), the variance within
  // 5 sqrt((2 a^2 + 6 a) / n) (its fourth central moment is 3 a^2 + 6 a).
  constexpr int n = 20000;
  for (const double a : {0.2, 0.8, 1.0, 3.5, 40.0}) {
    double sum = 0, squares = 0;
    Draws draws(random_key(11, "gamma"));
    for (int i = 0; i < n; ++i) {
      const double g = draws.gamma(a);
      REQUIRE(g >= 0);
      sum += g, squares += (g - a) * (g - a);
    }
    CHECK(std::abs(sum / n - a) < 5 * std::sqrt(a / n));
    CHECK(std::abs(squares / n - a) < 5 * std::sqrt((2 * a * a + 6 * a) / n));
  }
  // Beta(a, b): mean a / (a + b), variance ab / ((a + b)^2 (a + b + 1)).
  for (const auto& shapes : {std::pair{0.8, 0.8}, {1.0, 1.0}, {0.2, 0.2}, {2.0, 5.0}}) {
    const double a = shapes.first, b = shapes.second;
    double sum = 0, squares = 0, below = 0;
    Draws draws(random_key(12, "beta"));
    const double mean = a / (a + b), variance = a * b / ((a + b) * (a + b) * (a + b + 1));
    for (int i = 0; i < n; ++i) {
      const double x = draws.beta(a, b);
      REQUIRE(x >= 0);
      REQUIRE(x <= 1);
      sum += x, squares += (x - mean) * (x - mean), below += x < 0.25;
    }
    CHECK(std::abs(sum / n - mean) < 5 * std::sqrt(variance / n));
    CHECK(std::abs(squares / n - variance) < 0.02 * variance + 5 * 0.08 / std::sqrt(n));
    if (a == 1.0 && b == 1.0) CHECK(std::abs(below / n - 0.25) < 5 * std::sqrt(0.1875 / n));  // uniform
  }
  Draws tiny(random_key(1, "tiny"));
  for (int i = 0; i < 100; ++i) CHECK(std::isfinite(tiny.beta(1e-6, 1e-6)));
}

TEST_CASE("Draws are a function of their address") {
  const auto six = [](const RandomKey& key) {
    Draws d(key);
    return std::vector<double>{d.uniform(),     d.normal(), d.beta(0.8, 0.8), static_cast<double>(d.below(1000)),
                               d.uniform(2, 3), d.uniform()};
  };
  CHECK(six(random_key(1, "a", 5)) == six(random_key(1, "a", 5)));
  CHECK(six(random_key(1, "a", 5)) != six(random_key(1, "a", 6)));
  CHECK(six(random_key(1, "a", 5)) != six(random_key(1, "b", 5)));
  CHECK(six(random_key(1, "a", 5)) != six(random_key(2, "a", 5)));
}

TEST_CASE("Mixup: two pictures by lambda, and targets that add up") {
  const std::vector<Mixing> mixing = drawn(settings(0.8, 0), 4, 0);
  const float lambda = mixing[0].lambda;
  for (const Mixing& m : mixing) {
    CHECK(m.lambda == lambda);  // one draw for a batch
    CHECK(!m.cut);
  }
  const int64_t C = 3, h = 4, w = 5, size = C * h * w;
  const std::vector<float> before = ramp(4 * size);
  std::vector<float> x = before;
  mix_images(mixing, x.data(), C, h, w);
  for (int64_t b = 0; b < 4; ++b)
    for (int64_t i = 0; i < size; ++i) {
      const double mine = before[static_cast<size_t>(b * size + i)],
                   other = before[static_cast<size_t>((3 - b) * size + i)];
      CHECK(x[static_cast<size_t>(b * size + i)] ==
            doctest::Approx(lambda * mine + (1.0 - lambda) * other).epsilon(1e-6));
    }
  std::vector<float> targets(4 * 5);
  for (int64_t b = 0; b < 4; ++b) smooth_target(static_cast<int32_t>(b), 0.1, 5, targets.data() + b * 5);
  CHECK(targets[0] == doctest::Approx(0.92));  // 1 - 0.1 + 0.1 / 5
  CHECK(targets[1] == doctest::Approx(0.02));
  std::vector<float> lambdas;
  for (const Mixing& m : mixing) lambdas.push_back(m.lambda);
  mix_targets(lambdas, targets.data(), 5);
  for (int64_t b = 0; b < 4; ++b) {
    double sum = 0;
    for (int64_t c = 0; c < 5; ++c) sum += targets[static_cast<size_t>(b * 5 + c)];
    CHECK(sum == doctest::Approx(1).epsilon(1e-6));
  }
  CHECK(targets[0] == doctest::Approx(0.92 * lambda + 0.02 * (1 - lambda)));
  CHECK(targets[3] == doctest::Approx(0.02 * lambda + 0.92 * (1 - lambda)));
}

TEST_CASE("CutMix: the partner's box, and lambda is the share that stays") {
  for (const char* mode : {"batch", "pair", "elem"})
    for (uint64_t step = 0; step < 30; ++step) {
      const std::vector<Mixing> mixing = drawn(settings(0, 1, mode), 6, step);
      const int64_t C = 2, side = 16, size = C * side * side;
      const std::vector<float> before = ramp(6 * size);
      std::vector<float> x = before;
      mix_images(mixing, x.data(), C, side, side);
      for (int64_t b = 0; b < 6; ++b) {
        const Mixing& m = mixing[static_cast<size_t>(b)];
        REQUIRE(m.cut);
        CHECK(m.lambda == doctest::Approx(1.0 - static_cast<double>(m.box.area()) / 256));
        for (int64_t c = 0; c < C; ++c)
          for (int64_t y = 0; y < side; ++y)
            for (int64_t xx = 0; xx < side; ++xx) {
              const bool inside = y >= m.box.y0 && y < m.box.y1 && xx >= m.box.x0 && xx < m.box.x1;
              const int64_t from = inside ? 5 - b : b, at = (c * side + y) * side + xx;
              REQUIRE(x[static_cast<size_t>(b * size + at)] == before[static_cast<size_t>(from * size + at)]);
            }
      }
    }
}

TEST_CASE("mix_mode: one draw for a batch, for a pair, for an element") {
  const auto count = [](const std::vector<Mixing>& m) {
    int different = 0;
    for (size_t i = 1; i < m.size(); ++i) different += m[i].lambda != m[0].lambda;
    return different;
  };
  CHECK(count(drawn(settings(0.8, 0), 8, 1)) == 0);
  const auto pair = drawn(settings(0.8, 0, "pair"), 8, 1), elem = drawn(settings(0.8, 0, "elem"), 8, 1);
  CHECK(count(pair) == 6);
  for (size_t i = 0; i < 8; ++i) CHECK(pair[i].lambda == pair[7 - i].lambda);
  CHECK(count(elem) == 7);
  // In elem mode each mixes with what its partner was before.
  std::vector<float> x = ramp(8 * 12);
  const std::vector<float> before = x;
  mix_images(elem, x.data(), 3, 2, 2);
  for (size_t b = 0; b < 8; ++b)
    CHECK(x[b * 12 + 5] ==
          doctest::Approx(elem[b].lambda * before[b * 12 + 5] + (1 - elem[b].lambda) * before[(7 - b) * 12 + 5])
              .epsilon(1e-6));
}

TEST_CASE("How often: mix_prob, mix_switch, and both off") {
  AugmentConfig c = settings(0.8, 1.0);
  c.mix_prob = 0.6, c.mix_switch = 0.3;
  int mixed = 0, cut = 0;
  for (uint64_t step = 0; step < 4000; ++step) {
    const Mixing m = drawn(c, 2, step)[0];
    mixed += m.cut || m.lambda != 1.0f, cut += m.cut;
  }
  CHECK(std::abs(mixed - 2400) < 5 * 31);
  CHECK(std::abs(cut - 720) < 5 * 24.3);
  for (const Mixing& m : drawn(settings(0, 0), 3, 1)) CHECK(m.lambda == 1.0f);
  // Turning one of them off does not change the draws of the other.
  AugmentConfig only = settings(0.8, 0.0), both = settings(0.8, 1.0);
  both.mix_switch = 0;
  for (uint64_t step = 0; step < 20; ++step) CHECK(drawn(only, 2, step)[0].lambda == drawn(both, 2, step)[0].lambda);
}

TEST_CASE("What one element draws does not move the numbers of another") {
  for (const char* mode : {"pair", "elem"}) {
    CAPTURE(mode);
    AugmentConfig all = settings(0.8, 1.0, mode), some = all, other = all;
    some.mix_prob = 0.5;
    other.cutmix = 0.2;  // draws more numbers for one lambda
    int mixed = 0, cut = 0, moved = 0;
    for (uint64_t step = 0; step < 40; ++step) {
      const auto a = drawn(all, 8, 8 * step), b = drawn(some, 8, 8 * step), c = drawn(other, 8, 8 * step);
      for (size_t i = 0; i < 8; ++i) {
        const bool is_mixed = b[i].cut || b[i].lambda != 1.0f;
        mixed += is_mixed, cut += a[i].cut;
        if (is_mixed) CHECK(same(a[i], b[i]));
        CHECK(a[i].cut == c[i].cut);
        if (!a[i].cut) CHECK(same(a[i], c[i]));
        moved += a[i].cut && !same(a[i], c[i]);
      }
    }
    CHECK(mixed > 100);  // of 320
    CHECK(mixed < 220);
    CHECK(cut > 100);
    CHECK(moved > 50);
  }
  // An element keeps its draw when a batch is cut into others; the first has the draw of a whole batch.
  const auto eight = drawn(settings(0.8, 1.0, "elem"), 8, 16), four = drawn(settings(0.8, 1.0, "elem"), 4, 20);
  for (size_t i = 0; i < 4; ++i) CHECK(same(eight[4 + i], four[i]));
  CHECK(same(eight[0], drawn(settings(0.8, 1.0), 8, 16)[5]));
}

TEST_CASE("Boxes: sides by sqrt(1 - lambda), centres everywhere, cut at the border") {
  double rows = 0;
  for (uint64_t step = 0; step < 2000; ++step) {
    Draws draws(random_key(1, "box", step));
    const MixBox b = mix_box(14, 14, 0.75, draws);  // cut 0.5: 7 x 7, so 3 cells to either side
    REQUIRE(b.y0 >= 0);
    REQUIRE(b.y1 <= 14);
    CHECK(b.y1 - b.y0 <= 6);
    CHECK(b.y1 - b.y0 >= 3);
    rows += static_cast<double>(b.y0 + b.y1) / 2;
  }
  CHECK(std::abs(rows / 2000 - 6.5) < 0.5);
  Draws draws(random_key(1, "box"));
  CHECK(mix_box(14, 14, 1.0, draws).area() == 0);
}

TEST_CASE("An odd batch has a picture without a partner") {
  CHECK_THROWS_WITH(
      drawn(settings(0.8, 0), 3, 0),
      "[augment] mixup and cutmix mix pairs of pictures; expected an even number in a micro-batch; got 3");
  CHECK_THROWS_AS(drawn(settings(0, 1, "elem"), 1, 0), Error);
  CHECK(drawn(settings(0.8, 1), 0, 0).empty());
}
