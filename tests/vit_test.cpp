// Sizes, initial values, cost and random numbers of vision transformers; large ones without their memory (dry device).
#include "models/vit.h"

#include <doctest/doctest.h>

#include <cmath>

#include "models/vit_timm.h"
#include "tests/gpu_testing.h"
#include "tests/vit_testing.h"

using namespace accrete;

namespace {

VitConfig sized(const char* preset, int64_t patch, int64_t image_size, int64_t classes = 1000) {
  VitConfig c = vit_preset(preset);
  c.patch = patch, c.image_size = image_size, c.classes = classes;
  return c;
}

// What models spec 2.5, 3.2 and 4 list; MACs in units of 1e9, 0 where none are listed.
struct Row {
  const char* preset;
  int64_t patch, size, parameters;
  double gmacs;
};
const Row kRows[] = {{"vit-tiny", 16, 224, 5'717'416, 1.2537},
                     {"vit-tiny", 16, 384, 5'790'376, 0},
                     {"vit-small", 32, 224, 22'878'952, 1.1429},
                     {"vit-small", 16, 224, 22'050'664, 4.5989},
                     {"vit-small", 16, 384, 22'196'584, 15.4904},
                     {"vit-small", 8, 224, 22'055'272, 22.4057},
                     {"vit-base", 32, 224, 88'224'232, 4.4092},
                     {"vit-base", 32, 384, 88'297'192, 13.0436},
                     {"vit-base", 16, 224, 86'567'656, 17.5638},
                     {"vit-base", 16, 384, 86'859'496, 55.4844},
                     {"vit-base", 8, 224, 86'576'872, 78.1483},
                     {"vit-large", 32, 224, 306'535'400, 15.3775},
                     {"vit-large", 32, 384, 306'632'680, 0},
                     {"vit-large", 16, 224, 304'326'632, 61.5547},
                     {"vit-large", 16, 384, 304'715'752, 191.0663},
                     {"vit-large", 14, 224, 304'203'752, 81.0130},
                     {"vit-huge", 14, 224, 632'045'800, 167.2951},
                     {"vit-huge", 16, 224, 632'199'400, 127.3149},
                     {"deit-tiny", 16, 224, 5'717'416, 1.2537},
                     {"deit-small", 16, 224, 22'050'664, 4.5989},
                     {"deit-base", 16, 224, 86'567'656, 17.5638},
                     {"deit-tiny-distilled", 16, 224, 5'910'800, 1.2610},
                     {"deit-small-distilled", 16, 224, 22'436'432, 4.6241},
                     {"deit-base-distilled", 16, 224, 87'338'192, 17.6568},
                     {"deit-base-distilled", 16, 384, 87'630'032, 55.5913},
                     {"deit3-small", 16, 224, 22'059'496, 0},
                     {"deit3-small", 16, 384, 22'205'416, 0},
                     {"deit3-medium", 16, 224, 38'849'512, 7.991},
                     {"deit3-base", 16, 224, 86'585'320, 0},
                     {"deit3-base", 16, 384, 86'877'160, 0},
                     {"deit3-large", 16, 224, 304'374'760, 0},
                     {"deit3-large", 16, 384, 304'763'880, 0},
                     {"deit3-huge", 14, 224, 632'126'440, 0}};

double forward_flops(const VitConfig& c, double* other) {
  const Vit model(c, DType::f32, kDry);
  Batch batch;
  batch.inputs = Tensor::empty(Shape{1, c.channels, c.image_size, c.image_size}, DType::f32, kDry);
  const Tape tape({.keep_nodes = true});
  model.logits(batch, {});
  double counted = 0;
  for (const auto& node : tape.nodes()) {
    const bool product = node->name == "linear" || node->name == "mlp" || node->name == "attention";
    (product ? counted : *other) += node->cost.flops;
  }
  return counted;
}

struct Moments {
  double mean = 0, stddev = 0, largest = 0;
};

Moments moments(const std::vector<float>& v) {
  double sum = 0, squares = 0;
  Moments m;
  for (const float x : v) {
    sum += x;
    squares += static_cast<double>(x) * x;
    m.largest = std::max(m.largest, std::abs(static_cast<double>(x)));
  }
  m.mean = sum / static_cast<double>(v.size());
  m.stddev = std::sqrt(squares / static_cast<double>(v.size()) - m.mean * m.mean);
  return m;
}

std::vector<float> values(const Model& model, const std::string& name) {
  const int index = model.params().find(name);
  REQUIRE_MESSAGE(index >= 0, name);
  return model.params().value(index).to_vector<float>();
}

// Mean, deviation (five standard errors) and bound of a sample.
void check_draw(const Model& model, const std::string& name, double stddev, double bound, bool flat) {
  CAPTURE(name);
  const auto v = values(model, name);
  const Moments m = moments(v);
  const double n = std::sqrt(static_cast<double>(v.size()));
  CHECK(std::abs(m.mean) < 5 * stddev / n);
  CHECK(std::abs(m.stddev - stddev) < 5 * stddev / n);
  CHECK(m.largest <= bound * (1 + 1e-6));
  CHECK(m.largest > (flat ? 0.9 : 0.33) * bound);  // normal: two deviations
}
void check_normal(const Model& model, const std::string& name, double stddev) {
  check_draw(model, name, stddev, 6 * stddev, false);
}
void check_uniform(const Model& model, const std::string& name, double half_width) {
  check_draw(model, name, half_width / std::sqrt(3.0), half_width, true);
}
void check_constant(const Model& model, const std::string& name, float value) {
  CAPTURE(name);
  const auto v = values(model, name);
  CHECK(std::all_of(v.begin(), v.end(), [&](float x) { return x == value; }));
}

std::unique_ptr<Vit> drawn(const VitConfig& c, uint64_t seed = 3, Device device = kCpu) {
  auto model = std::make_unique<Vit>(c, DType::f32, device);
  model->params().initialise(seed);
  return model;
}

std::string message(const VitConfig& c) {
  return error_of([&] { Vit(c, DType::f32, kDry); });
}

}  // namespace

TEST_CASE("parameter counts of the published sizes") {
  for (const Row& row : kRows) {
    CAPTURE(row.preset);
    CAPTURE(row.size);
    const Vit model(sized(row.preset, row.patch, row.size), DType::f32, kDry);
    CHECK(static_cast<const Model&>(model).params().parameter_count() == row.parameters);
  }
  const auto count = [](const VitConfig& c) { return Vit(c, DType::f32, kDry).params().parameter_count(); };
  CHECK(count(sized("vit-small", 4, 32, 10)) == 21'342'346);
  CHECK(count(sized("vit-tiny", 4, 32, 10)) == 5'362'762);
  // Fixed positions are no parameters; registers and a mean cost what they say.
  VitConfig c = sized("vit-tiny", 16, 224);
  c.positions = "sincos";
  CHECK(count(c) == 5'717'416 - 197 * 192);
  c = sized("vit-tiny", 16, 224);
  c.registers = 4, c.pool = "mean", c.qkv_bias = false;
  CHECK(count(c) == 5'717'416 + 2 * 4 * 192 - 12 * 3 * 192);
  CHECK(vit_preset("vit-huge").patch == 14);
  CHECK(vit_preset("vit-giant").hidden_dim() == 6144);
  for (const char* name : {"vit-medium", "deit-large", "deit3-tiny", "deit3-small-distilled", "vit", "resnet"})
    CHECK_THROWS_WITH_AS(vit_preset(name), doctest::Contains("expected vit-tiny, vit-small"), Error);
}

TEST_CASE("FLOPs of a forward pass") {
  // MACs = N D 3 P^2 + L (4 T D^2 + 2 T^2 D + 2 T D F) + heads C D; the listed figures round them.
  for (const Row& row : kRows) {
    if (row.gmacs == 0) continue;
    CAPTURE(row.preset);
    CAPTURE(row.size);
    const VitConfig c = sized(row.preset, row.patch, row.size);
    const auto D = static_cast<double>(c.embed_dim), F = static_cast<double>(c.hidden_dim());
    const auto N = static_cast<double>(c.grid() * c.grid()), T = N + static_cast<double>(c.special_tokens());
    const double patches = N * D * 3 * static_cast<double>(c.patch * c.patch);
    const double blocks = static_cast<double>(c.depth) * (4 * T * D * D + 2 * T * T * D + 2 * T * D * F);
    const double macs = patches + blocks + (c.distilled ? 2000 : 1000) * D;
    double other = 0;
    const double flops = forward_flops(c, &other);
    CHECK(flops == 2 * macs);
    CHECK(flops / 2e9 == doctest::Approx(row.gmacs).epsilon(1e-4));
    CHECK(other < 0.01 * flops);
  }
}

TEST_CASE("entries declare roles, blocks and decay") {
  VitConfig c = small_vit();
  c.distilled = true, c.layer_scale = 0.1;
  const Vit model(c, DType::f32, kDry);
  const ParamStore& store = static_cast<const Model&>(model).params();
  const auto entry = [&](const char* name) -> const ParamEntry& {
    REQUIRE_MESSAGE(store.find(name) >= 0, name);
    return store.entries()[static_cast<size_t>(store.find(name))];
  };
  CHECK(store.entries().size() == 11 + 14 * 3);
  for (const ParamEntry& e : store.entries()) {
    CAPTURE(e.name);
    const bool token = e.name == "cls_token" || e.name == "dist_token" || e.name == "pos_embed";
    CHECK(e.decay == (e.shape.rank() >= 2 && !token));
    CHECK(e.block == (e.name.starts_with("blocks.") ? e.name[7] - '0' : -1));
    const bool end = e.name.find("attn.proj.") != std::string::npos || e.name.find("mlp.fc2.") != std::string::npos;
    CHECK(e.marks.branch_end == end);
    CHECK(e.last == (e.name.starts_with("norm.") || e.name.starts_with("head")));
    for (size_t a = 0; a < e.axes.size(); ++a) CHECK(e.axes[a].input == (a == 1 && e.name.ends_with("weight")));
  }
  const auto roles = [&](const char* name) {
    std::vector<Role> r;
    for (const Axis& a : entry(name).axes) r.push_back(a.role);
    return r;
  };
  using R = std::vector<Role>;
  CHECK(roles("cls_token") == R{Role::none, Role::embed});
  CHECK(roles("dist_token") == R{Role::none, Role::embed});
  CHECK(roles("pos_embed") == R{Role::grid, Role::embed});
  CHECK(roles("patch_embed.proj.weight") == R{Role::embed, Role::none});
  CHECK(roles("blocks.1.attn.qkv.weight") == R{Role::heads, Role::embed});
  CHECK(roles("blocks.1.attn.proj.weight") == R{Role::embed, Role::heads});
  CHECK(roles("blocks.1.ls1.gamma") == R{Role::embed});
  CHECK(roles("blocks.1.mlp.fc1.weight") == R{Role::mlp, Role::embed});
  CHECK(roles("head_dist.weight") == R{Role::none, Role::embed});
  CHECK(roles("head.bias") == R{Role::none});
  CHECK(entry("blocks.2.attn.qkv.weight").axes[0].parts == 3);
  CHECK(entry("pos_embed").shape == Shape{18, 24});
  CHECK(entry("patch_embed.proj.weight").shape == Shape{24, 12});
  CHECK(Vit(small_vit(), DType::f32, kDry).params().find("blocks.0.ls1.gamma") == -1);
}

TEST_CASE("initial values: timm and deit") {
  VitConfig c = small_vit();
  c.embed_dim = 96, c.image_size = 16, c.classes = 40, c.distilled = true, c.layer_scale = 1e-4;
  const auto model = drawn(c);
  for (const std::string b : {"blocks.0.", "blocks.2."}) {
    for (const char* name : {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}) {
      check_normal(*model, b + name + ".weight", 0.02);
      check_constant(*model, b + name + ".bias", 0);
    }
    for (const char* name : {"norm1", "norm2"}) {
      check_constant(*model, b + name + ".weight", 1);
      check_constant(*model, b + name + ".bias", 0);
    }
    check_constant(*model, b + "ls1.gamma", 1e-4f);
    check_constant(*model, b + "ls2.gamma", 1e-4f);
  }
  for (const char* name : {"head.weight", "head_dist.weight", "pos_embed", "dist_token"})
    check_normal(*model, name, 0.02);
  check_normal(*model, "cls_token", 1e-6);
  // PyTorch's convolution: weight and bias within 1 / sqrt(3 * 2 * 2).
  check_uniform(*model, "patch_embed.proj.weight", 1 / std::sqrt(12.0));
  check_uniform(*model, "patch_embed.proj.bias", 1 / std::sqrt(12.0));
  c.init = "deit", c.distilled = false, c.registers = 3;
  const auto deit = drawn(c);
  check_normal(*deit, "cls_token", 0.02);
  check_normal(*deit, "reg_token", 1e-6);
  // The same address, the same values: in another model too.
  CHECK(values(*deit, "blocks.1.mlp.fc1.weight") == values(*model, "blocks.1.mlp.fc1.weight"));
  CHECK(values(*drawn(c, 4), "blocks.1.mlp.fc1.weight") != values(*model, "blocks.1.mlp.fc1.weight"));
}

TEST_CASE("initial values: jax, moco and mae") {
  VitConfig c = small_vit();
  c.embed_dim = 96, c.patch = 4, c.classes = 40;
  const auto xavier = [](double in, double out) { return std::sqrt(6 / (in + out)); };
  c.init = "jax";
  const auto jax = drawn(c);
  check_uniform(*jax, "blocks.0.attn.qkv.weight", xavier(96, 288));
  check_uniform(*jax, "blocks.0.attn.proj.weight", xavier(96, 96));
  check_uniform(*jax, "blocks.0.mlp.fc1.weight", xavier(96, 384));
  check_uniform(*jax, "blocks.0.mlp.fc2.weight", xavier(384, 96));
  check_normal(*jax, "blocks.0.mlp.fc1.bias", 1e-6);
  check_normal(*jax, "blocks.0.mlp.fc2.bias", 1e-6);
  for (const char* name : {"blocks.0.attn.qkv.bias", "head.weight", "head.bias", "patch_embed.proj.bias"})
    check_constant(*jax, name, 0);
  const double fan = 1 / std::sqrt(48.0);  // the variance after the cut at two deviations
  check_draw(*jax, "patch_embed.proj.weight", fan, 2 * fan / 0.87962566, true);
  c.init = "moco";
  const auto moco = drawn(c);
  check_uniform(*moco, "blocks.0.attn.qkv.weight", xavier(96, 96));
  check_uniform(*moco, "head.weight", xavier(96, 40));
  check_uniform(*moco, "patch_embed.proj.weight", fan);
  check_constant(*moco, "blocks.0.mlp.fc1.bias", 0);
  c.init = "mae";
  const auto mae = drawn(c);
  check_uniform(*mae, "blocks.0.attn.qkv.weight", xavier(96, 288));
  check_uniform(*mae, "patch_embed.proj.weight", xavier(48, 96));
  check_uniform(*mae, "patch_embed.proj.bias", fan);
  check_normal(*mae, "cls_token", 0.02);
}

TEST_CASE("fixed positions: sines and cosines") {
  VitConfig c = small_vit();
  c.image_size = 4, c.embed_dim = 8, c.num_heads = 2, c.positions = "sincos";
  auto model = drawn(c);
  // vectors.md 12: width 8, grid 2 x 2, column first; the class token has a row of zeros.
  const float s = 0.84147098f, t = 0.00999983f, u = 0.54030231f, v = 0.99995f;
  const std::vector<float> want = {0, 0, 0, 0, 0, 0, 0, 0,  //
                                   0, 0, 1, 1, 0, 0, 1, 1,  //
                                   s, t, u, v, 0, 0, 1, 1,  //
                                   0, 0, 1, 1, s, t, u, v,  //
                                   s, t, u, v, s, t, u, v};
  CHECK(relative_error(values(*model, "pos_embed"), want) < 1e-6);
  const ParamEntry& e = model->params().entries()[static_cast<size_t>(model->params().find("pos_embed"))];
  CHECK(e.buffer);
  CHECK_FALSE(e.trainable);
  CHECK_FALSE(e.decay);
  // It is added, and stays as it is.
  model->params().zero_grads();
  const Tape tape;
  backward(model->loss(image_batch(c, 2), {}));
  CHECK(relative_error(values(*model, "pos_embed"), want) < 1e-6);
  c.position_prefix = false;
  CHECK(relative_error(values(*drawn(c), "pos_embed"), {want.begin() + 8, want.end()}) < 1e-6);
  // and the features are those of a trained table with these values
  VitConfig learned = small_vit();
  learned.image_size = 4, learned.embed_dim = 8, learned.num_heads = 2;
  auto other = drawn(learned);
  other->params().value(other->params().find("pos_embed")).copy_from(Tensor::from(want, Shape{5, 8}));
  other->params().refresh();
  CHECK(relative_error(other->logits(image_batch(c, 2), {}).to_vector<float>(),
                       model->logits(image_batch(c, 2), {}).to_vector<float>()) < 1e-6);
}

TEST_CASE("values that the host draws reach other devices") {
  VitConfig c = small_vit();
  c.init = "jax", c.positions = "sincos", c.layer_scale = 0.25;
  const auto model = drawn(c);
  for (const Device device : queued_devices())
    for (const char* name : {"patch_embed.proj.weight", "pos_embed", "blocks.0.ls1.gamma"})
      CHECK_MESSAGE(same_bits(values(*drawn(c, 3, device), name), values(*model, name)), name);
}

TEST_CASE("the sequence: class token, special tokens, patches") {
  VitConfig c = small_vit();
  c.distilled = true, c.init = "deit";
  const auto model = drawn(c);
  const Batch batch = image_batch(c, 2);
  const Tensor x = model->features(batch, {}, 0);
  REQUIRE(x.shape() == Shape{2, 18, 24});
  const auto v = x.to_vector<float>();
  const auto cls = values(*model, "cls_token"), dist = values(*model, "dist_token"), pos = values(*model, "pos_embed");
  const auto w = values(*model, "patch_embed.proj.weight"), bias = values(*model, "patch_embed.proj.bias");
  const auto pixels = batch.inputs.to_vector<float>();
  for (size_t i = 0; i < 24; ++i) {
    CHECK(v[i] == cls[i] + pos[i]);
    CHECK(v[24 + i] == dist[i] + pos[24 + i]);
    double sum = bias[i];  // patch (row 1, column 2) of sample 0: pixels (2 .. 3, 4 .. 5)
    for (size_t ch = 0; ch < 3; ++ch)
      for (size_t dy = 0; dy < 2; ++dy)
        for (size_t dx = 0; dx < 2; ++dx)
          sum += static_cast<double>(w[i * 12 + ch * 4 + dy * 2 + dx]) * pixels[ch * 64 + (2 + dy) * 8 + 4 + dx];
    const size_t token = 2 + 1 * 4 + 2;
    CHECK(v[token * 24 + i] == doctest::Approx(sum + pos[token * 24 + i]).epsilon(1e-5));
  }
  check_sentence(error_of([&] { model->features(batch, {}, 4); }), {"features after 4 of 3 blocks"});
}

TEST_CASE("drop-path rates") {
  VitConfig c = small_vit();
  c.depth = 5, c.drop_path = 0.4;
  for (int i = 0; i < 5; ++i) CHECK(drop_path_rate(c, i) == doctest::Approx(0.1 * i));
  c.drop_path_rule = "constant";
  for (int i = 0; i < 5; ++i) CHECK(drop_path_rate(c, i) == 0.4);
  c.drop_path_rule = "linear", c.depth = 1;
  CHECK(drop_path_rate(c, 0) == 0);  // linspace of one value
  // In training a sample keeps its branch times 1 / (1 - p) or loses it, by the address of the block.
  c.drop_path_rule = "constant", c.drop_path = 0.5, c.layer_scale = 0.5;
  const auto model = drawn(c);
  auto& store = model->params();
  store.value(store.find("blocks.0.mlp.fc2.weight")).zero();  // the second branch adds nothing
  store.refresh();
  Context ctx;
  ctx.training = true, ctx.seed = 9, ctx.step = 2, ctx.first_sample = 6;
  const int64_t B = 16, row = 17 * 24;
  const Batch batch = image_batch(c, B);
  const auto in = model->features(batch, {}, 0).to_vector<float>(),
             out = model->features(batch, {}, 1).to_vector<float>();
  const auto got = model->features(batch, ctx, 1).to_vector<float>();
  const auto mask =
      ops::drop_path(Tensor::from(std::vector<float>(B, 1.0f), Shape{B, 1}), 0.5f, ctx.key("blocks.0.drop_path1"), 6)
          .to_vector<float>();
  CHECK(std::count(mask.begin(), mask.end(), 0.0f) + std::count(mask.begin(), mask.end(), 2.0f) == B);
  CHECK(std::count(mask.begin(), mask.end(), 2.0f) > 2);
  CHECK(std::count(mask.begin(), mask.end(), 0.0f) > 2);
  std::vector<float> want(in.size());
  for (size_t i = 0; i < in.size(); ++i) want[i] = in[i] + mask[i / row] * (out[i] - in[i]);
  CHECK(relative_error(got, want) < 1e-5);
}

TEST_CASE("random numbers have addresses: cut batches and recomputed blocks draw the same") {
  VitConfig c = small_vit();
  c.drop_path = 0.5, c.embed_dropout = 0.1, c.attn_dropout = 0.2, c.proj_dropout = 0.3, c.head_dropout = 0.1;
  c.distilled = true;
  const auto model = drawn(c);
  Context ctx;
  ctx.training = true, ctx.seed = 5, ctx.step = 7;
  const Batch whole = image_batch(c, 4);
  const auto all = model->logits(whole, ctx).to_vector<float>();
  CHECK(relative_error(all, model->logits(whole, {}).to_vector<float>()) > 0.05);
  Batch half = whole;
  half.inputs = whole.inputs.rows(2, 4);
  ctx.first_sample = 2;
  const auto second = model->logits(half, ctx).to_vector<float>();
  CHECK(relative_error(second, {all.begin() + 2 * 5, all.end()}) < 1e-5);
  ctx.first_sample = 0;
  CHECK(relative_error(model->logits(half, ctx).to_vector<float>(), second) > 0.01);
  ctx.step = 8;
  CHECK(relative_error(model->logits(whole, ctx).to_vector<float>(), all) > 0.01);
  std::vector<float> grads[2];
  for (const bool again : {false, true}) {
    ctx.recompute = again;
    model->params().zero_grads();
    const Tape tape;
    backward(model->loss(whole, ctx));
    grads[again] = model->params().grads().to_vector<float>();
  }
  CHECK(same_bits(grads[0], grads[1]));
}

TEST_CASE("every dropout acts, and only in training") {
  const std::vector<double VitConfig::*> rates = {&VitConfig::embed_dropout, &VitConfig::attn_dropout,
                                                  &VitConfig::proj_dropout, &VitConfig::head_dropout,
                                                  &VitConfig::drop_path};
  VitConfig c = small_vit();
  c.init = "mae";
  const Batch batch = image_batch(c, 8);
  Context ctx;
  ctx.training = true;
  const auto none = drawn(c)->logits(batch, {}).to_vector<float>();
  CHECK(same_bits(drawn(c)->logits(batch, ctx).to_vector<float>(), none));
  for (const auto rate : rates) {
    VitConfig d = c;
    d.*rate = 0.5;
    CHECK(same_bits(drawn(d)->logits(batch, {}).to_vector<float>(), none));
    CHECK(relative_error(drawn(d)->logits(batch, ctx).to_vector<float>(), none) > 0.01);
  }
}

TEST_CASE("a norm in front of the head: statistics of the batch in training, folded into the head for export") {
  for (const char* pool : {"token", "mean"}) {
    VitConfig c = small_vit();
    c.pool = pool, c.init = "mae";
    const auto plain = drawn(c);
    c.head_norm = true;
    const auto model = drawn(c);
    CHECK(model->params().parameter_count() == plain->params().parameter_count());
    const Batch batch = image_batch(c, 12);
    // At first the running statistics are 0 and 1: nothing happens but a factor 1 / sqrt(1 + 1e-6).
    CHECK(relative_error(model->logits(batch, {}).to_vector<float>(), plain->logits(batch, {}).to_vector<float>()) <
          2e-6);
    Context ctx;
    ctx.training = true;
    const auto logits = model->logits(batch, ctx).to_vector<float>();
    // What the head reads has mean 0 and variance 1, so the logits of a batch have the head's bias as their mean, and
    // the norm of the head's rows as their deviation only where columns are independent: the mean is the sharp test.
    const auto bias = values(*model, "head.bias");
    for (size_t k = 0; k < bias.size(); ++k) {
      double mean = 0;
      for (size_t b = 0; b < 12; ++b) mean += double{logits[b * bias.size() + k]} / 12;
      CHECK(mean == doctest::Approx(double{bias[k]}).epsilon(1e-5).scale(1.0));
    }
    const auto moved = values(*model, "head_norm.running_var");
    CHECK(std::any_of(moved.begin(), moved.end(), [](float v) { return v < 0.95f || v > 1.05f; }));
    for (int i = 0; i < 40; ++i) model->logits(batch, ctx);  // far from 0 and 1
    const auto want = model->logits(batch, {}).to_vector<float>();
    const auto folded = without_head_norm(*model);
    CHECK(folded->params().find("head_norm.running_mean") < 0);
    CHECK(relative_error(folded->logits(batch, {}).to_vector<float>(), want) < 1e-5);
    const TempFolder folder;
    write_vit_timm(folder / "timm", *model);
    const auto back = load_model(folder / "timm", DType::f32, kCpu);
    CHECK(same_bits(dynamic_cast<Vit&>(*back).logits(batch, {}).to_vector<float>(),
                    folded->logits(batch, {}).to_vector<float>()));
  }
}

TEST_CASE("left-out blocks, smaller pictures, gradients of resampled positions") {
  VitConfig c = small_vit();
  const auto model = drawn(c);
  const Batch batch = image_batch(c, 2);
  BlockSet skip;
  skip.insert("blocks", 0);
  skip.insert("blocks", 1);
  skip.insert("blocks", 2);
  Context ctx;
  ctx.skip = &skip;
  CHECK(same_bits(model->features(batch, ctx, 3).to_vector<float>(), model->features(batch, {}, 0).to_vector<float>()));
  Batch small = batch;
  small.resolution = 6;
  CHECK(model->features(small, {}, 3).shape() == Shape{2, 1 + 9, 24});
  model->params().zero_grads();
  const Tape tape;
  backward(model->loss(small, {}));
  const auto grad = model->params().grad(model->params().find("pos_embed")).to_vector<float>();
  for (size_t row = 0; row < 17; ++row)  // every row of the full table has its share
    CHECK(std::any_of(grad.begin() + static_cast<long>(row) * 24, grad.begin() + static_cast<long>(row + 1) * 24,
                      [](float g) { return g != 0; }));
  small.resolution = 7;
  check_sentence(error_of([&] { model->features(small, {}, 0); }), {"7 x 7", "patches of 2"});
  Batch grey = batch;
  grey.inputs = Tensor::zeros(Shape{2, 1, 8, 8});
  check_sentence(error_of([&] { model->logits(grey, {}); }), {"(2, 1, 8, 8)", "expected (B, 3, H, W)"});
}

TEST_CASE("evaluation: sums of losses, first and first five") {
  const std::vector<float> z = {3, 1, 2, 0, -1, -2,  //
                                1, 1, 0, 0, 0,  0,   //
                                5, 4, 3, 2, 1,  0,   //
                                0, 0, 0, 0, 0,  9};
  CHECK(hits(z, {0, 1, 4, 5}, 6, 1) == 2);   // a tie goes to the lower index
  CHECK(hits(z, {5, 1, 4, -1}, 6, 5) == 2);  // the sixth of six; a target that does not count
  VitConfig c = small_vit();
  c.init = "mae";
  const auto model = drawn(c);
  Batch batch = image_batch(c, 5);
  batch.targets = Tensor::from(std::vector<int32_t>{0, 3, -1, 1, 4}, Shape{5});
  const auto logits = model->logits(batch, {}).to_vector<float>();
  double loss = 0;
  for (const auto& [b, t] : std::vector<std::pair<size_t, size_t>>{{0, 0}, {1, 3}, {3, 1}, {4, 4}}) {
    double total = 0;
    for (size_t k = 0; k < 5; ++k) total += std::exp(static_cast<double>(logits[b * 5 + k]));
    loss += std::log(total) - logits[b * 5 + t];
  }
  const EvalSums sums = model->evaluate(batch, {});
  CHECK(sums.count == 4);
  CHECK(sums.loss == doctest::Approx(loss).epsilon(1e-5));
  CHECK(sums.top5 == 4);
  CHECK(sums.top1 == hits(logits, {0, 3, -1, 1, 4}, 5, 1));
  CHECK(model->task() == Task::classes);
  // The class alone is the target where there is no soft one.
  batch.targets = Tensor::from(std::vector<int32_t>{0, 3, 2, 1, 4}, Shape{5});
  const EvalSums five = model->evaluate(batch, {});
  CHECK(model->loss(batch, {}).item() == doctest::Approx(five.loss / 5).epsilon(1e-5));
}

TEST_CASE("what a Vit refuses") {
  const auto with = [](auto change) {
    VitConfig c = small_vit();
    change(c);
    return message(c);
  };
  CHECK(message(small_vit()).empty());
  check_sentence(with([](VitConfig& c) { c.patch = 3; }), {"patch 3 does not divide image_size 8"});
  check_sentence(with([](VitConfig& c) { c.num_heads = 5; }), {"embed_dim 24 is not divisible by num_heads 5"});
  check_sentence(with([](VitConfig& c) { c.classes = 0; }), {"classes is 0", "those of the data"});
  check_sentence(with([](VitConfig& c) { c.positions = "sincos", c.embed_dim = 6; }), {"that 4 divides", "got 6"});
  check_sentence(with([](VitConfig& c) { c.distilled = true, c.registers = 1; }), {"a distilled model"});
  check_sentence(with([](VitConfig& c) { c.distilled = true, c.pool = "mean"; }), {"a distilled model"});
  check_sentence(with([](VitConfig& c) { c.distilled = c.head_norm = true; }), {"head_norm goes with one head"});
  VitConfig c = small_vit();
  CHECK_THROWS_WITH_AS(from_json(c, Json{{"drop_path", 1}}), doctest::Contains("drop_path"), Error);
  CHECK_THROWS_WITH_AS(from_json(c, Json{{"init", "he"}}), doctest::Contains("(timm, deit, jax, moco, mae)"), Error);
  // Teachers.
  const std::shared_ptr<const ImageModel> teacher = drawn(c);
  check_sentence(error_of([&] { drawn(c)->set_teacher(teacher, {}); }), {"distilled = true"});
  c.distilled = true, c.classes = 6;
  check_sentence(error_of([&] { drawn(c)->set_teacher(teacher, {}); }), {"tells 5 classes apart; expected 6"});
  c.classes = 5, c.image_size = 16;
  check_sentence(error_of([&] { drawn(c)->set_teacher(teacher, {}); }), {"8 x 8", "expected 16 x 16"});
  c.loss = "bce";
  check_sentence(error_of([&] { drawn(c)->loss(image_batch(c, 2), {}); }), {"targets for every class"});
}

TEST_CASE("a training step costs three forward passes") {
  const VitConfig c = vit_preset("deit3-small");
  Vit model(c, DType::f32, kDry);
  Batch batch;
  batch.inputs = Tensor::empty(Shape{2, 3, 224, 224}, DType::f32, kDry);
  batch.extra["soft_targets"] = Tensor::empty(Shape{2, 1000}, DType::f32, kDry);
  Context ctx;
  ctx.training = true;
  const Tape tape;
  backward(model.loss(batch, ctx));
  CHECK(tape.total_flops() / tape.cost().flops == doctest::Approx(3.0).epsilon(0.03));
}
