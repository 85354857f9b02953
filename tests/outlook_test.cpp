// The ops of VOLO against numbers worked out outside of the engine, and against identities that hold whatever the
// inputs are. Values and gradients over many shapes are the op table's business (op_table_test).
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "engine/ops/images.h"
#include "tests/gpu_testing.h"
#include "tests/op_testing.h"

using namespace accrete;

namespace {

// How many windows cover index i of an axis of n cells.
double coverage(int64_t i, int64_t n) {
  double count = 0;
  for (int64_t window = 0; window < (n + 1) / 2; ++window) count += std::abs(i - 2 * window) <= 1;
  return count;
}

struct Golden {
  Tensor x, wv, logit_w, logit_b, proj, proj_b;
  explicit Golden(Device device) {
    x = waves(Shape{1, 4, 4, 2}, 0.7, 0.3, device);
    wv = Tensor::from<float>({0.5f, -0.25f, 0.75f, 1.0f}, Shape{2, 2}, device);
    std::vector<float> w(162), b(81);
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(0.1 * std::cos(0.2 * static_cast<double>(i)));
    for (size_t o = 0; o < b.size(); ++o) b[o] = static_cast<float>(0.01 * static_cast<double>(o % 5));
    logit_w = Tensor::from(w, Shape{81, 2}, device);
    logit_b = Tensor::from(b, Shape{81}, device);
    proj = Tensor::from<float>({1.0f, 0.5f, -0.5f, 2.0f}, Shape{2, 2}, device);
    proj_b = Tensor::from<float>({0.1f, -0.2f}, Shape{2}, device);
  }
};

constexpr float kScale = 0.70710678f;

}  // namespace

// Numbers of an implementation in double precision, printed with six digits: half a unit of the last digit, and f32.
TEST_CASE("outlook attention gives the golden numbers") {
  constexpr double kTolerance = 1.2e-6;
  for (const Device device : all_devices()) {
    const Golden g(device);
    const Tensor v = ops::linear(g.x, g.wv, Tensor());
    const Tensor logits = ops::linear(ops::average_pool2(g.x), g.logit_w, g.logit_b);
    const Tensor rows = ops::reshape(logits, Shape{36, 9});
    const Tensor a = ops::softmax(ops::scale(ops::slice_rows(rows, 0, 1), kScale));
    expect_values(a, {.119452, .119083, .117413, .114881, .112053, .105703, .103992, .103376, .104047}, kTolerance);
    const Tensor y = ops::outlook_attention(v, logits, 1, kScale);
    expect_values(y, {.019498,  .466977, .092723, .436760,  .075072, .000401, .075389, -.016374,  //
                      -.092315, .472826, .105027, 1.016151, .199979, .514988, .200351, .529168,   //
                      -.112082, .030271, .008367, .533911,  .126676, .534066, .125075, .524143,   //
                      -.114734, .018533, .015012, .566247,  .126225, .527746, .123973, .523039},
                  kTolerance);
    const Tensor out = ops::linear(y, g.proj, g.proj_b);
    expect_values(out, {.352986,  .724205,  .411103, .627157,  .175273, -.236735, .167202, -.270442,  //
                        .244098,  .791810,  .713102, 1.779788, .557473, .729987,  .564934, .758160,   //
                        .003053,  -.083418, .375322, .863638,  .493709, .804794,  .487146, .785749,   //
                        -.005467, -.105568, .398136, .924988,  .490098, .792380,  .485492, .784091},
                  2 * kTolerance);
    CHECK(static_cast<double>(ops::sum(out).item()) == doctest::Approx(15.584244).epsilon(1e-6));
  }
}

// Probabilities of the identity: every cell receives itself once from each window that covers it.
TEST_CASE("with place r looking at place r alone, a cell becomes itself times the windows that cover it") {
  for (const Device device : all_devices())
    for (const auto& [H, W] : {std::pair<int64_t, int64_t>{4, 4}, {7, 5}, {6, 3}, {1, 2}}) {
      const int64_t heads = 2, C = 6;
      const Tensor v = waves(Shape{2, H, W, C}, 0.37, 0.1, device);
      const Shape shape{2, (H + 1) / 2, (W + 1) / 2, heads * 81};
      std::vector<float> l(static_cast<size_t>(shape.count()));
      for (size_t i = 0; i < l.size(); ++i) l[i] = i % 81 / 9 == i % 9 ? 200.0f : 0.0f;
      const Tensor y = ops::outlook_attention(v, Tensor::from(l, shape, device), heads, 1.0f);
      std::vector<double> want;
      const std::vector<float> values = v.to_vector<float>();
      for (size_t i = 0; i < values.size(); ++i) {
        const int64_t cell = static_cast<int64_t>(i) / C, col = cell % W, row = cell / W % H;
        want.push_back(static_cast<double>(values[i]) * coverage(row, H) * coverage(col, W));
      }
      expect_values(y, want, 1e-6);
    }
  CHECK(coverage(0, 28) == 1);
  CHECK(coverage(1, 28) == 2);
  CHECK(coverage(27, 28) == 1);
  CHECK(coverage(5, 7) == 2);
}

TEST_CASE("with equal logits a cell becomes the sum of the means of its windows") {
  for (const Device device : all_devices())
    for (const auto& [H, W] : {std::pair<int64_t, int64_t>{6, 4}, {5, 7}}) {
      const Tensor v = waves(Shape{1, H, W, 1}, 0.9, 0.2, device);
      const Tensor logits = Tensor::zeros(Shape{1, (H + 1) / 2, (W + 1) / 2, 81}, DType::f32, device);
      const std::vector<float> values = v.to_vector<float>();
      std::vector<double> want(values.size(), 0.0);
      for (int64_t i = 0; i < (H + 1) / 2; ++i)
        for (int64_t j = 0; j < (W + 1) / 2; ++j) {
          std::vector<size_t> cells;
          double sum = 0;
          for (int64_t r = 2 * i - 1; r <= 2 * i + 1; ++r)
            for (int64_t q = 2 * j - 1; q <= 2 * j + 1; ++q)
              if (r >= 0 && r < H && q >= 0 && q < W) cells.push_back(static_cast<size_t>(r * W + q));
          for (const size_t cell : cells) sum += static_cast<double>(values[cell]);
          for (const size_t cell : cells) want[cell] += sum / 9;
        }
      expect_values(ops::outlook_attention(v, logits, 1, 3.0f), want, 1e-6);
    }
}

// Far beyond what exp can take in f32: the largest of a row is subtracted first.
TEST_CASE("outlook attention takes logits of any size") {
  for (const Device device : all_devices()) {
    const Tensor v = require_grad(waves(Shape{1, 4, 4, 3}, 0.7, 0.3, device));
    std::vector<float> l = waves(4 * 81, 1.3, 0.0);
    for (float& x : l) x = 1e4f * x;
    Tape tape;
    const Tensor logits = require_grad(Tensor::from(l, Shape{1, 2, 2, 81}, device));
    const Tensor y = ops::outlook_attention(v, logits, 1, 1.0f);
    backward(ops::sum(y));
    for (const Tensor& t : {y, grad_of(v), grad_of(logits)})
      for (const float x : t.to_vector<float>()) CHECK(std::isfinite(x));
  }
}

TEST_CASE("tokens of every sample are mixed with those of its partner, and mixing twice is nothing") {
  for (const Device device : all_devices()) {
    const Tensor x = waves(Shape{4, 6, 8, 5}, 0.31, 0.0, device);
    const auto box = [&](std::vector<int32_t> v) { return Tensor::from(v, Shape{4}, device); };
    CHECK(ops::mix_tokens(x, box({1, 1, 0, 4}), 2).to_vector<float>() == x.to_vector<float>());
    CHECK(ops::mix_tokens(x, box({2, 1, 3, 0}), 2).to_vector<float>() == x.to_vector<float>());
    const Tensor some = ops::mix_tokens(x, box({1, 3, 0, 2}), 2);
    CHECK(ops::mix_tokens(some, box({1, 3, 0, 2}), 2).to_vector<float>() == x.to_vector<float>());
    const std::vector<float> before = x.to_vector<float>(), after = some.to_vector<float>();
    size_t moved = 0;
    for (size_t i = 0; i < before.size(); ++i) moved += before[i] != after[i];
    CHECK(moved == size_t{4} * 4 * 4 * 5);  // rows 2 to 5, columns 0 to 3
    const Tensor all = ops::mix_tokens(x, box({0, 3, 0, 4}), 2);
    for (int64_t b = 0; b < 4; ++b)
      CHECK(all.rows(b, b + 1).to_vector<float>() == x.rows(3 - b, 4 - b).to_vector<float>());
  }
}

TEST_CASE("attention from elsewhere does not depend on the order of the keys") {
  for (const Device device : all_devices()) {
    const int64_t T = 50, heads = 3, C = 24;
    const Tensor q = waves(Shape{2, 1, C}, 0.7, 0.3, device), kv = waves(Shape{2, T, 2 * C}, 0.43, 0.1, device);
    std::vector<float> shuffled = kv.to_vector<float>();
    const std::vector<float> values = shuffled;
    for (int64_t t = 0; t < 2 * T; ++t) {
      const int64_t from = t / T * T + (t % T * 7 + 3) % T;  // 7 and 50 have no common factor: every key once
      std::copy_n(values.begin() + from * 2 * C, 2 * C, shuffled.begin() + t * 2 * C);
    }
    const std::vector<float> y = ops::cross_attention(q, kv, heads).to_vector<float>();
    expect_values(ops::cross_attention(q, Tensor::from(shuffled, kv.shape(), device), heads), {y.begin(), y.end()},
                  2e-6);
  }
}

TEST_CASE("wrong inputs of the ops of VOLO are refused with what was expected") {
  const Tensor v = Tensor::zeros(Shape{1, 4, 4, 6});
  CHECK(error_of([&] {
          ops::outlook_attention(v, Tensor::zeros(Shape{1, 2, 2, 81}), 2, 1.0f);
        }).find("expected (1, 2, 2, 162)") != std::string::npos);
  CHECK(error_of([&] { ops::outlook_attention(v, v, 4, 1.0f); }).find("with 4 heads") != std::string::npos);
  CHECK(error_of([&] { ops::mix_tokens(v, Tensor::zeros(Shape{4}), 1); }).find("(4) i32") != std::string::npos);
  CHECK(error_of([&] {
          ops::cross_attention(Tensor::zeros(Shape{1, 1, 6}), Tensor::zeros(Shape{1, 5, 6}), 2);
        }).find("expected (1, T, 12)") != std::string::npos);
  CHECK(error_of([&] {
          ops::max_tokens(Tensor::zeros(Shape{2, 0, 3}));
        }).find("at least one token") != std::string::npos);
  CHECK(error_of([&] { ops::average_pool2(Tensor::zeros(Shape{2, 3})); }).find("(B, H, W, C)") != std::string::npos);
}
