#include "apps/sampling.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "engine/core/error.h"

using namespace accrete;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const std::vector<float> kLogits = {1.0f, 3.0f, -2.0f, 3.0f, 0.5f, -kInf};

SamplingOptions with(double temperature, int64_t top_k, double top_p) { return {temperature, top_k, top_p, 1}; }

std::vector<int32_t> ids(const SamplingOptions& o, const std::vector<float>& logits = kLogits) {
  return candidates(logits, o).ids;
}

}  // namespace

TEST_CASE("greedy: the largest, the lowest id among equals, also as temperature 0 and top-k 1") {
  CHECK(greedy_token(kLogits) == 1);
  for (uint64_t i = 0; i < 20; ++i) {
    CHECK(sample_token(kLogits, with(0, 0, 1), i) == 1);
    CHECK(sample_token(kLogits, with(0, 3, 0.5), i) == 1);
    CHECK(sample_token(kLogits, with(1, 1, 1), i) == 1);
    CHECK(sample_token(kLogits, with(1, 0, 0), i) == 1);
  }
}

TEST_CASE("top-k keeps exactly k, equals in the order of their ids") {
  CHECK(ids(with(1, 1, 1)) == std::vector<int32_t>{1});
  CHECK(ids(with(1, 2, 1)) == std::vector<int32_t>{1, 3});
  CHECK(ids(with(1, 3, 1)) == std::vector<int32_t>{1, 3, 0});
  CHECK(ids(with(1, 6, 1)) == std::vector<int32_t>{1, 3, 0, 4, 2});  // 5 cannot be drawn
  CHECK(ids(with(1, 100, 1)).size() == 5);
  CHECK(ids(with(1, 0, 1)).size() == 5);
}

TEST_CASE("top-p keeps the smallest set that reaches p, at least one token") {
  // Probabilities 1/2, 1/4, 1/8, 1/8.
  const std::vector<float> logits = {std::log(2.0f), std::log(1.0f), std::log(4.0f), std::log(1.0f)};
  CHECK(ids(with(1, 0, 0), logits) == std::vector<int32_t>{2});
  CHECK(ids(with(1, 0, 0.49), logits) == std::vector<int32_t>{2});
  CHECK(ids(with(1, 0, 0.51), logits) == std::vector<int32_t>{2, 0});
  CHECK(ids(with(1, 0, 0.76), logits) == std::vector<int32_t>{2, 0, 1});
  CHECK(ids(with(1, 0, 0.99), logits) == std::vector<int32_t>{2, 0, 1, 3});
  CHECK(ids(with(1, 0, 1), logits).size() == 4);
  // After top-k 2 the shares are 2/3 and 1/3.
  CHECK(ids(with(1, 2, 0.6), logits) == std::vector<int32_t>{2});
  CHECK(ids(with(1, 2, 0.7), logits) == std::vector<int32_t>{2, 0});
  const Candidates c = candidates(logits, with(1, 0, 0.6));
  CHECK(c.probabilities[0] == doctest::Approx(2.0 / 3));
  CHECK(c.probabilities[1] == doctest::Approx(1.0 / 3));
}

TEST_CASE("temperature sharpens and flattens; extreme values stay finite") {
  const std::vector<float> logits = {0.0f, 1.0f};
  CHECK(candidates(logits, with(0.5, 0, 1)).probabilities[0] == doctest::Approx(1 / (1 + std::exp(-2.0))));
  CHECK(candidates(logits, with(2, 0, 1)).probabilities[0] == doctest::Approx(1 / (1 + std::exp(-0.5))));
  CHECK(candidates(std::vector<float>{-3e38f, 3e38f}, with(1e-3, 0, 1)).probabilities[0] == 1.0);
  CHECK(candidates(logits, with(1e6, 0, 1)).probabilities[0] == doctest::Approx(0.5).epsilon(1e-5));
  CHECK(ids(with(1, 0, 1), {-kInf, 2.0f}) == std::vector<int32_t>{1});
}

TEST_CASE("draws follow the probabilities and depend on seed and index alone") {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f, 0.5f};
  const Candidates want = candidates(logits, with(1, 0, 1));
  SamplingOptions o;
  std::vector<double> count(5, 0.0);
  const int n = 20000;
  bool same = true, other = false;
  for (int i = 0; i < n; ++i) {
    const auto index = static_cast<uint64_t>(i);
    o.seed = 1;
    const int32_t id = sample_token(logits, o, index);
    ++count[static_cast<size_t>(id)];
    same = same && id == sample_token(logits, o, index);
    o.seed = 2;
    other = other || id != sample_token(logits, o, index);
  }
  CHECK(same);
  CHECK(other);
  // Chi-square with 4 degrees of freedom: above 23.5 once in 10,000 sets of draws; this set is fixed.
  double chi2 = 0;
  for (size_t i = 0; i < want.ids.size(); ++i) {
    const double expected = want.probabilities[i] * n;
    chi2 += std::pow(count[static_cast<size_t>(want.ids[i])] - expected, 2) / expected;
  }
  CHECK(chi2 < 23.5);
}

TEST_CASE("what is refused") {
  CHECK_THROWS_WITH_AS(check_sampling(with(-1, 0, 1)), doctest::Contains("temperature out of range"), Error);
  CHECK_THROWS_WITH_AS(check_sampling(with(NAN, 0, 1)), doctest::Contains("temperature"), Error);
  CHECK_THROWS_WITH_AS(check_sampling(with(1, -1, 1)), doctest::Contains("top-k"), Error);
  CHECK_THROWS_WITH_AS(check_sampling(with(1, 0, 1.5)), doctest::Contains("top-p"), Error);
  CHECK_THROWS_WITH_AS(check_sampling(with(1, 0, NAN)), doctest::Contains("top-p"), Error);
  CHECK_THROWS_WITH_AS(sample_token(std::vector<float>{1, NAN}, with(1, 0, 1), 0), doctest::Contains("NaN for token 1"),
                       Error);
  CHECK_THROWS_WITH_AS(sample_token(std::vector<float>{kInf, 1}, with(1, 0, 1), 0), doctest::Contains("inf"), Error);
  CHECK_THROWS_AS(greedy_token({}), Error);
}
