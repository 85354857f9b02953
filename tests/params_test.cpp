// ParamStore and the layers on top of it.
#include "engine/nn/params.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "engine/core/random.h"
#include "engine/nn/layers.h"
#include "kernels/cast.h"
#include "tests/op_testing.h"

using namespace accrete;
namespace o = accrete::ops;

namespace {

Tensor numbers(Shape shape, uint64_t stream, DType dtype = DType::f32) {
  std::vector<float> v(static_cast<size_t>(shape.count()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = 2.0f * to_uniform(random_words(RandomKey{1, stream, 0}, i).v[0]) - 1.0f;
  return o::cast(Tensor::from(v, shape), dtype).detach();
}

// Largest difference as a part of the largest magnitude.
double relative_error(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<float>(), y = b.to_vector<float>();
  REQUIRE(x.size() == y.size());
  double error = 0, size = 1e-6;
  for (size_t i = 0; i < x.size(); ++i) {
    error = std::max(error, static_cast<double>(std::abs(x[i] - y[i])));
    size = std::max(size, static_cast<double>(std::abs(y[i])));
  }
  return error / size;
}

// A pre-norm block whose parts the tests reach for.
struct TestBlock {
  ParamStore store;
  nn::LayerNorm ln1, ln2;
  nn::SelfAttention attention;
  nn::Mlp mlp;

  explicit TestBlock(DType dtype = DType::f32, float attn_dropout = 0.0f) : store(dtype, kCpu) {
    const Scope s = Scope(store) / "blocks" / "0";
    const Init init = Init::normal(0.2f);
    ln1 = nn::LayerNorm(s / "ln1", 24, 1e-5f);
    attention = nn::SelfAttention(s / "attn", 24, 3, true, attn_dropout, init, init);
    ln2 = nn::LayerNorm(s / "ln2", 24, 1e-5f);
    mlp = nn::Mlp(s / "mlp", 24, 96, o::Gelu::tanh, init, init);
    store.allocate();
    store.initialise(1);
    store.zero_grads();
  }

  // Uses every layer function: of_sum too.
  Tensor operator()(const Tensor& x, const Context& ctx) const {
    const Tensor a = nn::dropout(attention(ln1(x, ctx), ctx), 0.3f, "blocks.0.attn.residual", ctx);
    const auto [sum, normed] = ln2.of_sum({x, a, {}}, ctx);
    return o::add(sum, nn::dropout(mlp(normed, ctx), 0.3f, "blocks.0.mlp.residual", ctx));
  }
};

}  // namespace

TEST_CASE("declare: names, roles, blocks and stages are kept; mistakes are refused") {
  ParamStore store(DType::f32, kCpu);
  const Scope s = (Scope(store) / "blocks" / "3").in_block(3).in_stage(1);
  const nn::SelfAttention attention(s / "attn", 8, 2, true, 0.0f, Init::normal(0.02f), Init::zeros());
  REQUIRE(store.entries().size() == 4);
  const ParamEntry& qkv = store.entries()[0];
  CHECK(qkv.name == "blocks.3.attn.qkv.weight");
  CHECK(qkv.shape == Shape{24, 8});
  CHECK(qkv.axes[0].role == Role::heads);
  CHECK(qkv.axes[0].parts == 3);
  CHECK(qkv.axes[0].unit == 4);
  CHECK(qkv.axes[1].role == Role::embed);
  CHECK(qkv.block == 3);
  CHECK(qkv.stage == 1);
  CHECK(qkv.decay);
  CHECK(!store.entries()[1].decay);  // biases do not decay
  CHECK(store.find("blocks.3.attn.proj.bias") == 3);
  CHECK(store.find("blocks.3.attn.proj") == -1);
  CHECK(error_of([&] { s.param("attn.qkv.weight", Shape{1}, {kNone}, Init::zeros(), true); }) ==
        "[params] \"blocks.3.attn.qkv.weight\" declared twice");
  CHECK(error_of([&] {
          s.param("w", Shape{1, 2}, {kNone}, Init::zeros(), true);
        }) == "[params] \"blocks.3.w\" of shape (1, 2) names 1 axis roles");
  store.allocate();
  CHECK(error_of([&] { s.param("late", Shape{1}, {kNone}, Init::zeros(), true); }) ==
        "[params] \"blocks.3.late\" declared after the store was allocated");
  CHECK(!Param()().defined());
  CHECK(error_of([&] { nn::SelfAttention(s / "b", 9, 2, true, 0, Init::zeros(), Init::zeros()); }) ==
        "[model] embed_dim 9 is not divisible by num_heads 2");
}

TEST_CASE("flat buffers: aligned, disjoint, padded with zeros, shared with the entries") {
  ParamStore store(DType::bf16, kCpu);
  const Scope s(store);
  for (const int64_t n : {1, 31, 32, 33, 129}) s.param("p" + std::to_string(n), Shape{n}, {kNone}, Init::ones(), true);
  s.param("m", Shape{3, 7}, {kNone, kNone}, Init::ones(), true);
  store.allocate();
  store.initialise(1);
  store.zero_grads();
  CHECK(store.parameter_count() == 1 + 31 + 32 + 33 + 129 + 21);
  int64_t end = 0;
  double sum = 0;
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const ParamEntry& e = store.entries()[i];
    CHECK(e.offset % 32 == 0);
    CHECK(e.offset >= end);
    end = e.offset + e.count();
    CHECK(store.value(static_cast<int>(i)).same_storage(store.values()));
    CHECK(store.grad(static_cast<int>(i)).same_storage(store.grads()));
    CHECK(store.value(static_cast<int>(i)).shape() == e.shape);
  }
  CHECK(store.flat_count() >= end);
  CHECK(store.flat_count() % 32 == 0);
  for (const float v : store.values().to_vector<float>()) sum += v;
  CHECK(sum == static_cast<double>(store.parameter_count()));  // padding is zero
  CHECK(store.leaf(0).dtype() == DType::f32);                  // vectors stay f32
  CHECK(store.leaf(5).dtype() == DType::bf16);
  CHECK(store.leaf(5).same_storage(store.copy()));
}

TEST_CASE("initialise: same seed same bits, whatever else is in the store; normal has its mean and deviation") {
  const auto values = [](uint64_t seed, bool more) {
    ParamStore store(DType::f32, kCpu);
    const Scope s(store);
    if (more) s.param("first", Shape{100}, {kNone}, Init::normal(1.0f), true);
    const Param w = s.param("w", Shape{200, 300}, {kNone, kNone}, Init::normal(0.02f), true);
    const Param u = s.param("u", Shape{5000}, {kNone}, Init::uniform(0.5f), true);
    store.allocate();
    store.initialise(seed);
    return std::pair{store.value(w.index()).to_vector<float>(), store.value(u.index()).to_vector<float>()};
  };
  const auto a = values(1, false);
  CHECK(a == values(1, true));
  CHECK(a.first != values(2, false).first);
  double sum = 0, squares = 0, fourth = 0;
  for (const float v : a.first) sum += v, squares += v * v, fourth += std::pow(v, 4);
  const double n = static_cast<double>(a.first.size()), variance = squares / n;
  CHECK(std::abs(sum / n) < 4 * 0.02 / std::sqrt(n));                  // four standard errors
  CHECK(std::sqrt(variance) == doctest::Approx(0.02).epsilon(0.012));  // four standard errors of the deviation
  CHECK(fourth / n / (variance * variance) == doctest::Approx(3.0).epsilon(0.03));  // kurtosis of a normal
  double low = 1, high = -1;
  for (const float v : a.second) low = std::min(low, double{v}), high = std::max(high, double{v});
  CHECK(low >= -0.5);
  CHECK(low < -0.49);
  CHECK(high < 0.5);
  CHECK(high > 0.49);
}

TEST_CASE("gradients of the leaves land in the flat buffer, also after allocate without zero_grads") {
  TestBlock block;
  const Tensor x = numbers(Shape{2, 5, 24}, 1);
  Tape tape;
  backward(o::sum(block(x, {})));
  for (size_t i = 0; i < block.store.entries().size(); ++i) {
    const auto leaf_grad = grad_of(block.store.leaf(static_cast<int>(i)));
    INFO(block.store.entries()[i].name);
    CHECK(leaf_grad.same_storage(block.store.grads()));
    double size = 0;
    for (const float v : block.store.grad(static_cast<int>(i)).to_vector<float>()) size += std::abs(v);
    CHECK(size > 0);
    CHECK(std::isfinite(size));
  }
  block.store.zero_grads();
  for (const float v : block.store.grads().to_vector<float>()) REQUIRE(v == 0.0f);
}

TEST_CASE("freeze: no gradient, no product for it; thaw brings it back") {
  TestBlock block;
  const Tensor x = numbers(Shape{2, 5, 24}, 1);
  const int fc1 = block.store.find("blocks.0.mlp.fc1.weight");
  const auto cost = [&] {
    Tape tape;
    backward(o::sum(block(x, {})));
    return tape.cost().backward_flops;
  };
  const int64_t all = block.store.trainable_count();
  CHECK(all == block.store.parameter_count());
  const double full = cost();
  const std::vector<float> gradient = block.store.grad(fc1).to_vector<float>();
  block.store.zero_grads();
  block.store.set_trainable(fc1, false);
  CHECK(!requires_grad(block.store.leaf(fc1)));
  CHECK(block.store.trainable_count() == all - 24 * 96);
  CHECK(cost() == full - 2.0 * 10 * 24 * 96);
  for (const float v : block.store.grad(fc1).to_vector<float>()) REQUIRE(v == 0.0f);
  block.store.zero_grads();
  block.store.set_trainable(fc1, true);
  CHECK(cost() == full);
  CHECK(block.store.grad(fc1).to_vector<float>() == gradient);
}

TEST_CASE("refresh renews the bf16 copy, rounded to nearest") {
  TestBlock block(DType::bf16);
  const int w = block.store.find("blocks.0.mlp.fc1.weight");
  const Tensor value = block.store.value(w);
  value.ptr<float>()[3] = 1.00390625f + 0.0001f;  // just above the middle between two bf16 numbers
  CHECK(block.store.leaf(w).to_vector<float>()[3] != 1.0078125f);
  const uint64_t version = block.store.leaf(w).version();
  block.store.refresh();
  CHECK(block.store.leaf(w).to_vector<float>()[3] == 1.0078125f);
  CHECK(block.store.leaf(w).version() > version);  // a tape that saved the old weight notices
  CHECK(block.store.leaf(w).to_vector<float>()[4] == to_float(from_float<bf16>(value.ptr<float>()[4])));
}

TEST_CASE("a whole block: plain equals fused, values and gradients, f32 and bf16") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TestBlock block(dtype, 0.2f);
    const Tensor dy = numbers(Shape{2, 9, 24}, 3, dtype);
    Context ctx{.training = true, .seed = 5, .step = 2};
    const auto run = [&](bool plain) {
      ctx.plain = plain;
      block.store.zero_grads();
      const Tensor x = require_grad(numbers(Shape{2, 9, 24}, 2, dtype));
      Tape tape;
      const Tensor y = block(x, ctx);
      backward(y, dy);
      return std::vector<Tensor>{y, grad_of(x), block.store.grads().clone()};
    };
    const auto fused = run(false), plain = run(true);
    // f32: sums in another order. bf16: plain rounds every intermediate (2^-8 each), a dozen in a row.
    const double tolerance = dtype == DType::f32 ? 2e-5 : 0.05;
    for (size_t i = 0; i < fused.size(); ++i) CHECK(relative_error(fused[i], plain[i]) < tolerance);
  }
}

TEST_CASE("attention with a cache equals full attention, however the tokens arrive") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const TestBlock block(dtype);
    const int64_t B = 2, T = 7, C = 24;
    const Tensor x = numbers(Shape{B, T, C}, 6, dtype);
    const Tensor full = block.attention(x, {});
    for (const std::vector<int64_t>& pieces : {std::vector<int64_t>{1, 1, 1, 1, 1, 1, 1}, {4, 1, 2}, {7}}) {
      nn::KeyValueCache cache{Tensor::zeros(Shape{B, 10, C}, dtype), Tensor::zeros(Shape{B, 10, C}, dtype), 0};
      for (const int64_t n : pieces) {
        const int64_t at = cache.length;
        // tokens [at, at + n) of every sequence
        std::vector<float> rows, want;
        const auto all = x.to_vector<float>(), expected = full.to_vector<float>();
        for (int64_t b = 0; b < B; ++b) {
          const auto begin = (b * T + at) * C, end = begin + n * C;
          rows.insert(rows.end(), all.begin() + begin, all.begin() + end);
          want.insert(want.end(), expected.begin() + begin, expected.begin() + end);
        }
        const Tensor piece = o::cast(Tensor::from(rows, Shape{B, n, C}), dtype);
        const Tensor got = block.attention.cached(piece, cache, {});
        CHECK(cache.length == at + n);
        CHECK(relative_error(got, Tensor::from(want, Shape{B, n, C})) < (dtype == DType::f32 ? 1e-5 : 0.02));
      }
      CHECK(error_of([&] { block.attention.cached(x, cache, {}); }) ==
            "[attention] the cache holds 10 tokens; 14 wanted");
    }
  }
}

TEST_CASE("dropout masks do not depend on how a batch is split") {
  const TestBlock block(DType::f32, 0.25f);
  const Tensor x = numbers(Shape{5, 6, 24}, 7);
  Context ctx{.training = true, .seed = 8, .step = 3, .first_sample = 40};
  const Tensor whole = block(x, ctx);
  for (const int64_t cut : {1, 3}) {
    const Tensor first = block(x.rows(0, cut), ctx);
    Context rest = ctx;
    rest.first_sample += cut;
    const Tensor second = block(x.rows(cut, 5), rest);
    // A product of fewer rows may add in another order: equal up to rounding. A different mask would differ by much.
    CHECK(relative_error(first, whole.rows(0, cut)) < 1e-5);
    CHECK(relative_error(second, whole.rows(cut, 5)) < 1e-5);
  }
  Context other = ctx;
  other.step = 4;
  CHECK(relative_error(block(x, other), whole) > 0.01);
  other = ctx;
  other.training = false;
  const Tensor quiet = block(x, other);
  CHECK(relative_error(quiet, whole) > 0.01);
  other.seed = 9;
  CHECK(relative_error(block(x, other), quiet) == 0.0);  // evaluation draws nothing
}

TEST_CASE("two dropouts of one step have different masks") {
  const Tensor x = Tensor::from(std::vector<float>(1000, 1.0f), Shape{10, 100});
  const Context ctx{.training = true, .seed = 1};
  const auto a = nn::dropout(x, 0.5f, "one", ctx).to_vector<float>();
  const auto b = nn::dropout(x, 0.5f, "two", ctx).to_vector<float>();
  int same = 0;
  for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
  CHECK(same > 400);
  CHECK(same < 600);
}
