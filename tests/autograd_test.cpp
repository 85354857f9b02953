// The tape: chain rules, sharing, leaves, hooks, errors, costs, recompute, memory.
#include "engine/autograd/tape.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "engine/core/random.h"
#include "engine/nn/layers.h"
#include "engine/ops/ops.h"
#include "tests/op_testing.h"

using namespace accrete;
namespace o = accrete::ops;

namespace {

Tensor numbers(Shape shape, uint64_t stream, DType dtype = DType::f32) {
  std::vector<float> v(static_cast<size_t>(shape.count()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = 2.0f * to_uniform(random_words(RandomKey{1, stream, 0}, i).v[0]) - 1.0f;
  return o::cast(Tensor::from(v, shape), dtype).detach();
}
Tensor leaf(Shape shape, uint64_t stream, DType dtype = DType::f32) {
  return require_grad(numbers(shape, stream, dtype));
}
std::vector<float> grad(const Tensor& t) { return grad_of(t).to_vector<float>(); }

void check_near(const std::vector<float>& got, const std::vector<float>& want, float tolerance = 1e-5f) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - want[i]) <= tolerance * (1 + std::abs(want[i])));
}

bool has(const std::string& text, const std::string& part) {
  INFO(text);
  const bool found = text.find(part) != std::string::npos;
  CHECK_MESSAGE(found, "expected \"" << part << "\" in: " << text);
  return found;
}

}  // namespace

TEST_CASE("chain rule: d/dx exp(x^2) = 2 x exp(x^2)") {
  const Tensor x = leaf(Shape{7}, 1);
  Tape tape;
  backward(o::sum(o::unary(o::Unary::exp, o::unary(o::Unary::square, x))));
  std::vector<float> want;
  for (const float v : x.to_vector<float>()) want.push_back(2 * v * std::exp(v * v));
  check_near(grad(x), want);
}

TEST_CASE("one tensor used twice in one op, and in several ops") {
  const Tensor x = leaf(Shape{5}, 2);
  {
    Tape tape;
    backward(o::sum(o::mul(x, x)));
  }
  std::vector<float> twice, diamond;
  for (const float v : x.to_vector<float>()) twice.push_back(2 * v), diamond.push_back(3 * v * v + std::exp(v));
  check_near(grad(x), twice);

  // A diamond: y = x; left = y^2, right = y; loss = sum(left * right + exp(y))
  const Tensor z = require_grad(x.detach());
  Tape tape;
  const Tensor y = o::scale(z, 1.0f);
  const Tensor joined = o::mul(o::unary(o::Unary::square, y), o::reshape(y, y.shape()));
  backward(o::sum(o::add(joined, o::unary(o::Unary::exp, y))));
  check_near(grad(z), diamond);
}

TEST_CASE("an op whose second or first output is not used") {
  const Shape s{3, 8};
  const Tensor gamma = numbers(Shape{8}, 5), dy = numbers(s, 6);
  const auto grads = [&](bool use_sum, bool use_normed) {
    const Tensor x = leaf(s, 3), r = leaf(s, 4), g = require_grad(gamma);
    Tape tape;
    const auto [sum, normed] = o::residual_layernorm(x, r, g, Tensor(), 1e-5f);
    if (use_sum && use_normed)
      backward(o::add(sum, normed), dy);
    else
      backward(use_sum ? sum : normed, dy);
    CHECK(grad(x) == grad(r));
    return std::pair{grad(x), grad_of(g)};
  };
  const auto only_sum = grads(true, false), only_normed = grads(false, true), both = grads(true, true);
  CHECK(only_sum.first == dy.to_vector<float>());
  CHECK(!only_sum.second.defined());  // gamma was not reached
  std::vector<float> added = only_normed.first;
  for (size_t i = 0; i < added.size(); ++i) added[i] += only_sum.first[i];
  check_near(both.first, added);
  CHECK(both.second.to_vector<float>() == only_normed.second.to_vector<float>());
}

TEST_CASE("leaves add up over two backward calls, in their own memory where it was given") {
  const Tensor memory = Tensor::zeros(Shape{4});
  const Tensor x = require_grad(numbers(Shape{4}, 7), memory, "x");
  for (int i = 0; i < 2; ++i) {
    Tape tape;
    backward(o::sum(o::scale(x, 3.0f)));
  }
  CHECK(memory.to_vector<float>() == std::vector<float>(4, 6.0f));
  CHECK(grad_of(x).same_storage(memory));
  CHECK(has(error_of([] { require_grad(Tensor::zeros(Shape{3}), Tensor::zeros(Shape{2})); }), "expected 3 f32"));
}

TEST_CASE("tied weights: embedding and output projection share one gradient buffer") {
  const Tensor ids = Tensor::from<int32_t>({0, 3, 1, 3}, Shape{2, 2});
  const Tensor targets = Tensor::from<int32_t>({3, 1, -1, 2}, Shape{2, 2});
  const Tensor values = numbers(Shape{5, 6}, 8);
  const auto loss = [&](const Tensor& in, const Tensor& out) {
    return o::cross_entropy(o::linear(o::embedding(ids, in, Tensor()), out, Tensor()), targets);
  };
  const Tensor tied = require_grad(values);
  const Tensor first = require_grad(values.clone()), second = require_grad(values.clone());
  {
    Tape tape;
    backward(loss(tied, tied));
  }
  {
    Tape tape;
    backward(loss(first, second));
  }
  std::vector<float> want = grad(first);
  const std::vector<float> other = grad(second);
  for (size_t i = 0; i < want.size(); ++i) want[i] += other[i];
  check_near(grad(tied), want, 1e-6f);
}

TEST_CASE("NoGrad and no tape keep nothing; inputs without a wish get no gradient") {
  const Tensor x = leaf(Shape{3}, 9);
  CHECK(!requires_grad(o::scale(x, 2.0f)));  // no tape
  CHECK(!grad_enabled());
  Tape tape;
  CHECK(grad_enabled());
  {
    const NoGrad quiet;
    CHECK(!grad_enabled());
    const Tensor y = o::scale(x, 2.0f);
    CHECK(!requires_grad(y));
    CHECK(has(error_of([&] { backward(o::sum(y)); }), "nothing to differentiate"));
  }
  CHECK(grad_enabled());
  const Tensor constant = numbers(Shape{3}, 10);
  CHECK(!requires_grad(o::scale(constant, 2.0f)));
  backward(o::sum(o::mul(x, constant)));
  CHECK(grad(x) == constant.to_vector<float>());
  CHECK(!grad_of(constant).defined());
}

TEST_CASE("hooks see the complete gradient once and may replace it") {
  const Tensor x = leaf(Shape{3}, 11);
  int calls = 0;
  Tape tape;
  const Tensor y = o::scale(x, 2.0f);
  add_hook(y, [&](const Tensor& g) {
    ++calls;
    CHECK(g.to_vector<float>() == std::vector<float>(3, 4.0f));  // 1 from the sum, 3 from the scaled branch
    return o::scale(g, 10.0f);
  });
  add_hook(x, [&](const Tensor& g) {
    ++calls;
    CHECK(g.to_vector<float>() == std::vector<float>(3, 80.0f));
    return o::scale(g, 0.5f);
  });
  backward(o::add(o::sum(y), o::sum(o::scale(y, 3.0f))));
  CHECK(calls == 2);
  CHECK(grad(x) == std::vector<float>(3, 40.0f));
  CHECK(has(error_of([] { add_hook(Tensor::zeros(Shape{1}), {}); }), "a hook needs a tensor that wants a gradient"));
}

TEST_CASE("hooks on a parameter whose op writes into its gradient buffer") {
  const Tensor w = require_grad(numbers(Shape{2, 3}, 12), Tensor::zeros(Shape{2, 3}), "w");
  const Tensor x = numbers(Shape{4, 3}, 13);
  int calls = 0;
  add_hook(w, [&](const Tensor& g) {
    ++calls;
    return o::scale(g, 2.0f);
  });
  {
    Tape tape;
    backward(o::sum(o::linear(x, w, Tensor())));
  }
  CHECK(calls == 1);
  const Tensor bare = require_grad(w.detach());
  Tape tape;
  backward(o::sum(o::linear(x, bare, Tensor())));
  std::vector<float> want = grad(bare);
  for (float& v : want) v *= 2;
  CHECK(grad(w) == want);
}

TEST_CASE("overwriting a saved tensor is an error that names both ops") {
  const Tensor x = leaf(Shape{3}, 14);
  Tape tape;
  const Tensor y = o::unary(o::Unary::exp, x);
  const Tensor loss = o::sum(o::unary(o::Unary::square, y));
  y.zero();
  const std::string message = error_of([&] { backward(loss); });
  CHECK(has(message, "saved by op \"square\" was overwritten by \"zero\" before backward"));
}

TEST_CASE("a second walk through a graph is an error") {
  const Tensor x = leaf(Shape{3}, 15);
  Tape tape;
  const Tensor y = o::unary(o::Unary::exp, x);
  const Tensor first = o::sum(y), second = o::sum(y);
  backward(first);
  CHECK(has(error_of([&] { backward(second); }), "a second walk through op \"exp\""));
  CHECK(has(error_of([&] { backward(first); }), "a second walk through op \"sum\""));
}

TEST_CASE("backward of a tensor needs dy of its shape and type; a scalar needs none") {
  const Tensor x = leaf(Shape{2, 3}, 16);
  Tape tape;
  const Tensor y = o::scale(x, 2.0f);
  CHECK(has(error_of([&] { backward(y); }), "needs dy for a tensor of shape (2, 3)"));
  CHECK(has(error_of([&] { backward(y, Tensor::zeros(Shape{3, 2})); }), "expected (2, 3) f32; got (3, 2)"));
  CHECK(has(error_of([&] { backward(y, Tensor::zeros(Shape{2, 3}, DType::bf16)); }), "got (2, 3) bf16"));
  const Tensor dy = numbers(Shape{2, 3}, 17);
  backward(y, dy);
  std::vector<float> want = dy.to_vector<float>();
  for (float& v : want) v *= 2;
  CHECK(grad(x) == want);
  CHECK(has(error_of([] { backward(Tensor::zeros(Shape{})); }), "nothing to differentiate"));
}

TEST_CASE("backward through an op without a gradient gives its reason") {
  const Tensor x = leaf(Shape{2, 5}, 18);
  Tape tape;
  const Tensor rows = o::token_losses(x, Tensor::from<int32_t>({1, 2}, Shape{2}));
  CHECK(error_of([&] { backward(o::sum(rows)); }) ==
        "[token_losses] has no gradient: it is a measurement; use cross_entropy");
}

TEST_CASE("costs: a linear layer is 2MNK forward and 4MNK backward, also inside NoGrad and recompute") {
  const double product = 2.0 * 6 * 4 * 3;
  const Tensor w = leaf(Shape{4, 3}, 20);
  const Tensor x = leaf(Shape{6, 3}, 19);
  Tape tape;
  const Tensor y = o::linear(x, w, Tensor());
  CHECK(tape.cost().flops == product);
  CHECK(tape.cost().backward_flops == 0);
  backward(y, Tensor::zeros(y.shape()));
  CHECK(tape.cost().flops == product);
  CHECK(tape.cost().backward_flops == 2 * product);
  CHECK(tape.total_flops() == 3 * product);
  CHECK(tape.cost().bytes == 4.0 * (18 + 12 + 24));
  {
    const NoGrad quiet;
    o::linear(x, w, Tensor());
  }
  CHECK(tape.cost().flops == 2 * product);
  {  // x wants no gradient: one product less
    Tape inner;
    const Tensor z = o::linear(x.detach(), w, Tensor());
    backward(z, Tensor::zeros(z.shape()));
    CHECK(inner.total_flops() == 2 * product);
  }
  CHECK(tape.cost().flops == 3 * product);  // what ran under an inner tape was spent here
  Tape again;
  const Tensor r = recompute([&](const Tensor& t) { return o::linear(t, w, Tensor()); }, x);
  backward(r, Tensor::zeros(r.shape()));
  CHECK(again.cost().flops == 2 * product);  // forward twice
  CHECK(again.cost().backward_flops == 2 * product);
}

TEST_CASE("causal attention costs half of the square") {
  Tape tape;
  o::AttentionOptions options{.heads = 2, .causal = true};
  o::attention(numbers(Shape{3, 8, 3 * 2 * 4}, 21), options);
  CHECK(tape.cost().flops == 2 * 2.0 * 3 * 2 * 4 * (8 * 9 / 2));
}

namespace {

struct TinyModel {
  ParamStore store;
  Tensor table;
  std::vector<nn::LayerNorm> norms;
  std::vector<nn::SelfAttention> attention;
  std::vector<nn::Mlp> mlps;
  Param tokens;

  explicit TinyModel(DType dtype) : store(dtype, kCpu) {
    const Scope root(store);
    const Init init = Init::normal(0.3f);
    tokens = root.param("tokens", Shape{11, 16}, {kVocab, kEmbed}, init, false);
    for (int b = 0; b < 3; ++b) {
      const Scope s = (root / "blocks" / std::to_string(b)).in_block(b);
      norms.emplace_back(s / "ln1", 16, 1e-5f);
      attention.emplace_back(s / "attn", 16, 2, true, 0.2f, init, init);
      norms.emplace_back(s / "ln2", 16, 1e-5f);
      mlps.emplace_back(s / "mlp", 16, 64, o::Gelu::tanh, init, init);
    }
    store.allocate();
    store.initialise(3);
    store.zero_grads();
  }

  // Loss and flat gradients of one step.
  std::pair<float, std::vector<float>> step(const Context& ctx) {
    const Tensor ids = Tensor::from<int32_t>({1, 5, 2, 10, 0, 7, 7, 3, 9, 4}, Shape{2, 5});
    store.zero_grads();
    Tape tape;
    Tensor x = o::embedding(ids, tokens(), Tensor());
    for (size_t b = 0; b < mlps.size(); ++b) {
      const auto block = [&, b](const Tensor& in) {
        const ModuleScope module("blocks." + std::to_string(b));
        const Tensor h = o::add(
            in, nn::dropout(attention[b](norms[2 * b](in, ctx), ctx), 0.1f, attention[b].path + ".residual", ctx));
        return o::add(h, nn::dropout(mlps[b](norms[2 * b + 1](h, ctx), ctx), 0.1f, mlps[b].path + ".residual", ctx));
      };
      x = ctx.recompute ? recompute(block, x) : block(x);
    }
    const Tensor loss = o::cross_entropy(o::linear(x, tokens(), Tensor()), ids);
    backward(loss);
    return {loss.item(), store.grads().to_vector<float>()};
  }
};

}  // namespace

TEST_CASE("recompute gives the same bits in loss and every gradient, with dropout, in f32 and bf16") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TinyModel model(dtype);
    Context ctx{.training = true, .seed = 4, .step = 9};
    const auto plain = model.step(ctx);
    ctx.recompute = true;
    const auto again = model.step(ctx);
    CHECK(std::isfinite(plain.first));
    CHECK(plain.first == again.first);
    CHECK(plain.second == again.second);
    ctx.step = 10;  // other dropout masks: the comparison above is not empty
    CHECK(model.step(ctx).second != plain.second);
  }
}

TEST_CASE("recompute lowers the peak of the activations, and nothing stays behind") {
  TinyModel model(DType::f32);
  Context ctx{.training = true, .seed = 4};
  const auto activations = [] { return memory_use(kCpu).segment[static_cast<int>(Segment::activations)]; };
  const int64_t before = activations().now;
  const auto peak = [&](bool recomputed) {
    ctx.recompute = recomputed;
    reset_peak(kCpu);
    model.step(ctx);
    CHECK(activations().now == before);
    return activations().peak - before;
  };
  const int64_t kept = peak(false), recomputed = peak(true);
  CHECK(recomputed < kept * 3 / 4);
}

TEST_CASE("recompute of a function that ignores its input, and of an input without history") {
  const Tensor w = leaf(Shape{3}, 30), x = leaf(Shape{3}, 31), constant = numbers(Shape{3}, 32);
  {
    Tape tape;
    backward(o::sum(recompute([&](const Tensor&) { return o::scale(w, 2.0f); }, x)));
  }
  CHECK(grad(w) == std::vector<float>(3, 2.0f));
  CHECK(!grad_of(x).defined());
  Tape tape;
  backward(o::sum(recompute([&](const Tensor& t) { return o::mul(t, x); }, constant)));
  CHECK(grad(x) == constant.to_vector<float>());
}

TEST_CASE("recompute of frozen layers on data keeps nothing and runs only forward") {
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4}, Shape{2, 2});
  const Tensor frozen = Tensor::from(std::vector<float>{1, -1, 2, 0.5f}, Shape{2, 2});
  const Tensor w = require_grad(Tensor::from(std::vector<float>{0.5f, 1, -1, 2}, Shape{2, 2}));
  const auto cost = [&](bool recomputed) {
    const auto layer = [&](const Tensor& t) { return o::linear(t, frozen, Tensor()); };
    Tape tape;
    const Tensor h = recomputed ? recompute(layer, recompute(layer, x)) : layer(layer(x));
    CHECK(!requires_grad(h));
    backward(o::sum(o::linear(h, w, Tensor())));
    return tape.total_flops();
  };
  CHECK(cost(true) == cost(false));
}

TEST_CASE("recompute inside recompute") {
  const Tensor x = leaf(Shape{4}, 33);
  const auto inner = [](const Tensor& t) { return o::unary(o::Unary::exp, o::unary(o::Unary::tanh, t)); };
  const auto outer = [&](const Tensor& t) { return o::mul(recompute(inner, o::scale(t, 0.5f)), t); };
  {
    Tape tape;
    backward(o::sum(recompute(outer, x)));
  }
  const Tensor y = require_grad(x.detach());
  Tape tape;
  backward(o::sum(o::mul(inner(o::scale(y, 0.5f)), y)));
  CHECK(grad(x) == grad(y));
}

TEST_CASE("backward frees saved tensors while it walks") {
  const Tensor x = leaf(Shape{64, 1024}, 34);
  Tape tape;
  Tensor y = x;
  for (int i = 0; i < 8; ++i) y = o::unary(o::Unary::tanh, y);  // each keeps its input
  Tensor loss = o::sum(y);
  y = Tensor();
  const auto now = [] { return memory_use(kCpu).segment[static_cast<int>(Segment::activations)].now; };
  const int64_t held = now();
  int64_t at_the_end = 0;
  const Tensor probe = x;
  add_hook(probe, [&](const Tensor& g) {
    at_the_end = now();
    return g;
  });
  backward(loss);
  const int64_t one = x.bytes();
  CHECK(at_the_end <= held - 5 * one + 1024);  // seven intermediates gone, two gradients alive
}

TEST_CASE("the residual stream: gradients equal a composition without the pending-gradient fusion") {
  const Shape s{2, 3, 16};
  const Tensor values = numbers(s, 40), dy = numbers(s, 41), gamma = numbers(Shape{16}, 42),
               beta = numbers(Shape{16}, 43);
  const Tensor weight = numbers(Shape{16, 16}, 44);
  // x feeds a norm, a branch and the stream; the norm's backward takes what has already arrived at x.
  const auto grads = [&](bool fused) {
    const Tensor x = require_grad(values), g = require_grad(gamma), b = require_grad(beta), w = require_grad(weight);
    Tape tape;
    Tensor stream = o::scale(x, 1.0f);
    for (int layer = 0; layer < 3; ++layer) {
      const Tensor normed = fused ? o::layernorm(stream, g, b, 1e-5f) : o::layernorm_plain(stream, g, b, 1e-5f);
      stream = o::add(stream, o::linear(normed, w, Tensor()));
    }
    backward(stream, dy);
    return std::vector<std::vector<float>>{grad(x), grad(g), grad(b), grad(w)};
  };
  const auto fused = grads(true), plain = grads(false);
  for (size_t i = 0; i < fused.size(); ++i) check_near(fused[i], plain[i], 1e-4f);
}

TEST_CASE("take_pending beside a hook: the hook still sees the whole gradient, once") {
  const Shape s{4, 8};
  const Tensor values = numbers(s, 45), gamma = numbers(Shape{8}, 46), dy = numbers(s, 47);
  const auto seen = [&](bool fused) {
    const Tensor x = require_grad(values), g = require_grad(gamma);
    std::vector<float> gradient;
    int calls = 0;
    Tape tape;
    const Tensor stream = o::scale(x, 1.0f);
    add_hook(stream, [&](const Tensor& d) {
      gradient = d.to_vector<float>();
      ++calls;
      return d;
    });
    const Tensor normed = fused ? o::layernorm(stream, g, {}, 1e-5f) : o::layernorm_plain(stream, g, {}, 1e-5f);
    backward(o::add(o::add(stream, normed), o::scale(stream, 2.0f)), dy);
    CHECK(calls == 1);
    return gradient;
  };
  check_near(seen(true), seen(false), 1e-5f);
}

TEST_CASE("a graph of 100,000 ops is walked and destroyed without deep recursion") {
  const auto chain = [](const Tensor& x, int n) {
    Tensor y = x;
    for (int i = 0; i < n; ++i) y = o::scale(y, 1.0f);
    return y;
  };
  const Tensor x = leaf(Shape{1}, 50);
  {
    Tape tape;
    chain(x, 100000);  // thrown away without backward
  }
  {
    Tape tape(Tape::Options{.keep_nodes = true});
    backward(chain(x, 100000));
    CHECK(tape.nodes().size() == 100000);
  }
  Tape tape;
  backward(chain(x, 100000));
  CHECK(grad(x) == std::vector<float>{2.0f});
}

TEST_CASE("module paths: kept by nodes, restored in backward, not doubled by recompute") {
  const Tensor x = leaf(Shape{3}, 51);
  std::vector<std::string> seen;
  const auto probe = [&](const Tensor& t) {
    const Tensor y = o::scale(t, 2.0f);
    if (requires_grad(y))
      add_hook(y, [&](const Tensor& g) {
        seen.push_back(ModuleScope::path());
        return g;
      });
    return y;
  };
  Tape tape(Tape::Options{.keep_nodes = true});
  {
    const ModuleScope blocks("blocks.3");
    const ModuleScope attention("attn");
    CHECK(ModuleScope::path() == "blocks.3.attn");
    backward(o::sum(recompute(probe, probe(x))));
  }
  CHECK(ModuleScope::path().empty());
  CHECK(tape.nodes()[0]->module == "blocks.3.attn");
  CHECK(seen == std::vector<std::string>{"blocks.3.attn", "blocks.3.attn"});
}

TEST_CASE("a profiling tape times every op") {
  const Tensor x = leaf(Shape{256, 256}, 52);
  Tape tape(Tape::Options{.keep_nodes = true, .profile = true});
  backward(o::sum(o::matmul(x, x)));
  REQUIRE(tape.nodes().size() == 2);
  for (const auto& node : tape.nodes()) {
    CHECK(node->seconds > 0);
    CHECK(node->backward_seconds > 0);
    CHECK(node->done);
  }
}

TEST_CASE("a profiling tape does not charge an op for the backward walk before it") {
  const Tensor x = leaf(Shape{2}, 53);
  Tape tape(Tape::Options{.keep_nodes = true, .profile = true});
  const Tensor y = o::scale(x, 2.0f);
  add_hook(y, [](const Tensor& g) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return g;
  });
  backward(o::sum(y));
  o::scale(x, 3.0f);
  CHECK(tape.nodes().back()->seconds < 0.25);
}

TEST_CASE("gradients meet in place: a residual stream needs no extra memory per branch") {
  const Tensor x = leaf(Shape{64, 64}, 54);
  const auto peak = [&](int branches) {
    Tape tape;
    Tensor y = o::scale(x, 1.0f);
    for (int i = 0; i < branches; ++i) y = o::add(y, o::scale(y, 0.5f));  // keeps nothing for backward
    const Tensor dy = like(y);
    dy.zero();
    reset_peak(kCpu);
    const int64_t before = memory_use(kCpu).now;
    backward(y, dy);
    return memory_use(kCpu).peak - before;
  };
  peak(1);
  CHECK(peak(8) == peak(2));
  CHECK(peak(8) == 2 * x.bytes());  // the gradient of the stream and that of one branch
}

TEST_CASE("check_finite names the first op that made a NaN, forward or backward, also inside recompute") {
  const auto found = [](const std::vector<float>& values, bool recomputed) {
    const Tensor x = require_grad(Tensor::from(values, Shape{3}));
    const auto root = [](const Tensor& t) {
      const ModuleScope module("root");
      return o::unary(o::Unary::sqrt, o::scale(t, 1.0f));
    };
    Tape tape(Tape::Options{.check_finite = true});
    backward(o::sum(recomputed ? recompute(root, x) : root(x)));
    return tape.first_nonfinite();
  };
  for (const bool recomputed : {false, true}) {
    CHECK(found({1, 2, 3}, recomputed).empty());
    CHECK(found({1, -2, 3}, recomputed) == "result of op \"sqrt\" in module \"root\", 1 of 3 elements");
    CHECK(found({1, 0, 0}, recomputed) == "gradient of op \"sqrt\" in module \"root\", 2 of 3 elements");
  }
}
