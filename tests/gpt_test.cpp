// Sizes, initial values and cost of GPT models, without their memory where they are large (dry device).
#include "models/gpt.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "tests/op_testing.h"

using namespace accrete;

namespace {

int64_t parameters(const GptConfig& config) { return Gpt(config, DType::f32, kDry).params().parameter_count(); }

struct Moments {
  double mean = 0, stddev = 0;
  float largest = 0;
};

Moments moments(const std::vector<float>& v) {
  double sum = 0, squares = 0;
  Moments m;
  for (const float x : v) {
    sum += x;
    squares += static_cast<double>(x) * x;
    m.largest = std::max(m.largest, std::abs(x));
  }
  m.mean = sum / static_cast<double>(v.size());
  m.stddev = std::sqrt(squares / static_cast<double>(v.size()) - m.mean * m.mean);
  return m;
}

// FLOPs of one forward pass, by kind of op.
struct Flops {
  double products = 0, attention = 0, other = 0;
};

Flops forward_flops(const GptConfig& config, int64_t T) {
  Gpt model(config, DType::f32, kDry);
  const Tape tape({.keep_nodes = true});
  model.logits(Tensor::empty(Shape{1, T}, DType::i32, kDry), {});
  Flops f;
  for (const auto& node : tape.nodes()) {
    const bool product = node->name == "linear" || node->name == "mlp";
    double& kind = product ? f.products : node->name == "attention" ? f.attention : f.other;
    kind += node->cost.flops;
  }
  return f;
}

}  // namespace

TEST_CASE("parameter counts of the published sizes") {
  struct Row {
    const char* name;
    int64_t plain, padded, padded_without_bias;
  };
  // Hugging Face checkpoints; vocabulary padded to 50304; the same with nanoGPT's bias=False.
  const Row rows[] = {{"gpt2", 124'439'808, 124'475'904, 124'373'760},
                      {"gpt2-medium", 354'823'168, 354'871'296, 354'599'936},
                      {"gpt2-large", 774'030'080, 774'090'240, 773'582'080},
                      {"gpt2-xl", 1'557'611'200, 1'557'686'400, 1'556'840'000}};
  for (const Row& row : rows) {
    GptConfig c = gpt_preset(row.name);
    CHECK(parameters(c) == row.plain);
    c.vocab_size = 50304;
    CHECK(parameters(c) == row.padded);
    c.bias = false;
    CHECK(parameters(c) == row.padded_without_bias);
  }
  GptConfig characters;  // nanoGPT's character model
  characters.vocab_size = 65;
  characters.context = 256;
  characters.embed_dim = 384;
  characters.depth = 6;
  characters.num_heads = 6;
  CHECK(parameters(characters) == 10'770'816);
  characters.bias = false;
  CHECK(parameters(characters) == 10'745'088);
}

TEST_CASE("entries declare roles, blocks and decay") {
  GptConfig c;
  c.vocab_size = 50;
  c.context = 8;
  c.embed_dim = 12;
  c.depth = 2;
  c.num_heads = 3;
  const Gpt model(c, DType::f32, kDry);
  const ParamStore& store = static_cast<const Model&>(model).params();
  CHECK(store.entries().size() == 4 + 12 * 2);
  for (const ParamEntry& e : store.entries()) {
    CAPTURE(e.name);
    CHECK(e.decay == (e.shape.rank() >= 2));  // matrices and embeddings, not biases and norms
    CHECK(e.block == (e.name.starts_with("blocks.") ? e.name[7] - '0' : -1));
  }
  const ParamEntry& qkv = store.entries()[static_cast<size_t>(store.find("blocks.1.attn.qkv.weight"))];
  CHECK(qkv.shape == Shape{36, 12});
  CHECK(qkv.axes[0].role == Role::heads);
  CHECK(qkv.axes[0].parts == 3);
  CHECK(qkv.axes[0].unit == 4);
  CHECK(qkv.axes[1].role == Role::embed);
}

TEST_CASE("initial values") {
  GptConfig c;
  c.vocab_size = 1000;
  c.context = 64;
  c.embed_dim = 96;
  c.depth = 8;
  c.num_heads = 4;
  Gpt model(c, DType::f32, kCpu);
  model.params().initialise(3);
  const ParamStore& store = model.params();
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const ParamEntry& e = store.entries()[i];
    CAPTURE(e.name);
    const auto values = store.value(static_cast<int>(i)).to_vector<float>();
    if (e.shape.rank() < 2) {
      const float constant = e.name.ends_with(".weight") ? 1.0f : 0.0f;  // norm gains; biases
      CHECK(std::all_of(values.begin(), values.end(), [&](float x) { return x == constant; }));
      continue;
    }
    const bool residual = e.name.ends_with("proj.weight") || e.name.ends_with("fc2.weight");
    const double want = residual ? 0.02 / std::sqrt(2.0 * 8) : 0.02;
    const Moments m = moments(values);
    const double n = std::sqrt(static_cast<double>(values.size()));
    CHECK(std::abs(m.mean) < 5 * want / n);  // five standard errors
    CHECK(std::abs(m.stddev - want) < 5 * want / (std::sqrt(2.0) * n));
    CHECK(m.largest > 2.5 * want);  // a normal, not a truncated one
    CHECK(m.largest < 7 * want);
  }
  // Another seed gives other values, the same seed the same, and a parameter keeps its values in a deeper model.
  Gpt again(c, DType::f32, kCpu), other(c, DType::f32, kCpu);
  c.depth = 9;
  Gpt deeper(c, DType::f32, kCpu);
  again.params().initialise(3);
  other.params().initialise(4);
  deeper.params().initialise(3);
  const auto tokens = [](Gpt& g) { return g.params().value(g.params().find("tokens.weight")).to_vector<float>(); };
  CHECK(tokens(again) == tokens(model));
  CHECK(tokens(other) != tokens(model));
  CHECK(tokens(deeper) == tokens(model));
}

TEST_CASE("FLOPs of a forward pass over 1024 tokens") {
  // Published totals count the whole T x T square of attention: 2 [L (12 T D^2 + 2 T^2 D) + T V D]. A causal kernel
  // visits T (T + 1) / 2 of its T^2 pairs, and that is what the tape counts.
  const std::pair<const char*, double> rows[] = {{"gpt2", 291'648'307'200.0},
                                                 {"gpt2-medium", 826'951'073'792.0},
                                                 {"gpt2-large", 1'774'570'700'800.0},
                                                 {"gpt2-xl", 3'506'703'564'800.0}};
  const double T = 1024;
  for (const auto& [name, dense] : rows) {
    CAPTURE(name);
    const GptConfig c = gpt_preset(name);
    const Flops f = forward_flops(c, 1024);
    CHECK(f.products + f.attention * (2 * T / (T + 1)) == dense);
    CHECK(f.attention == 2.0 * static_cast<double>(c.depth * c.embed_dim) * T * (T + 1));
    CHECK(f.other < 0.002 * f.products);  // norms, sums, embeddings: counted too, and small
  }
}

TEST_CASE("a training step costs three forward passes, recomputed four") {
  const auto flops = [](bool again) {
    Gpt model(gpt_preset("gpt2"), DType::f32, kDry);
    Batch batch;
    batch.inputs = batch.targets = Tensor::empty(Shape{1, 256}, DType::i32, kDry);
    Context ctx;
    ctx.recompute = again;
    const Tape tape;
    backward(model.loss(batch, ctx));
    return std::pair(tape.cost().flops, tape.total_flops());
  };
  const auto [forward, total] = flops(false);
  CHECK(total / forward == doctest::Approx(3.0).epsilon(0.02));  // attention's backward costs 2.5 times its forward
  const double head = 2.0 * 256 * 768 * 50257;                   // not recomputed
  CHECK((flops(true).second - total) / (forward - head) == doctest::Approx(1.0).epsilon(0.02));
}

TEST_CASE("what a GPT refuses") {
  const auto message = [](GptConfig c, Shape ids) {
    return error_of([&] { Gpt(c, DType::f32, kCpu).logits(Tensor::zeros(ids, DType::i32), {}); });
  };
  GptConfig c;
  c.vocab_size = 5;
  c.context = 4;
  c.embed_dim = 8;
  c.depth = 1;
  c.num_heads = 2;
  CHECK(message(c, Shape{1, 4}) == "");
  CHECK(message(c, Shape{1, 5}).find("sequence of 5 tokens exceeds the context of 4") != std::string::npos);
  c.num_heads = 3;
  CHECK(message(c, Shape{1, 4}).find("embed_dim 8 is not divisible by num_heads 3") != std::string::npos);
  c.num_heads = 2;
  c.vocab_size = 0;
  CHECK(message(c, Shape{1, 4}).find("vocab_size is 0") != std::string::npos);
  CHECK_THROWS_WITH_AS(gpt_preset("gpt3"), doctest::Contains("expected gpt2, gpt2-medium"), Error);
}
