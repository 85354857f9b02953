// What VOLO computes, part by part (volo spec 10): class attention, the two heads, MixToken, losses, batch norms, and
// blocks that are left out. Against timm as a whole: volo_golden_test.cpp.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "engine/core/capture.h"
#include "models/volo.h"
#include "tests/gpu_testing.h"

using namespace accrete;

namespace {

VoloConfig tiny() {
  VoloConfig c;
  c.image_size = 32, c.patch = 4, c.classes = 5, c.stem_dim = 6;
  c.depth = {1, 2}, c.embed_dim = {8, 12}, c.num_heads = {2, 3}, c.mlp_dim = {16, 20};
  c.init_std = 0.3;
  return c;
}

Tensor random(Shape shape, uint64_t seed, float low = -1, float high = 1) {
  std::vector<float> v(static_cast<size_t>(shape.count()));
  const RandomKey key = random_key(seed, "volo_forward_test", 0);
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = low + (high - low) * static_cast<float>(random_words(key, i).v[0]) / 4294967296.0f;
  return Tensor::from(v, shape);
}

// Rows that sum to one.
Tensor shares(Shape shape, uint64_t seed) {
  const NoGrad quiet;
  return ops::softmax(random(shape, seed, -2, 2));
}

Batch images(int64_t B, int64_t size = 32, uint64_t seed = 1) {
  Batch b;
  b.inputs = random(Shape{B, 3, size, size}, seed);
  return b;
}

Tensor box_of(std::vector<int32_t> rows_and_columns) { return Tensor::from(rows_and_columns, Shape{4}); }

std::unique_ptr<Volo> made(const VoloConfig& c) {
  auto model = std::make_unique<Volo>(c, DType::f32, kCpu);
  model->params().initialise(7);
  return model;
}

using Values = std::vector<float>;
Values values(const Tensor& t) { return t.to_vector<float>(); }

bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Largest difference of values that are about 1.
double gap(const Values& a, const Values& b) {
  REQUIRE(a.size() == b.size());
  double g = 0;
  for (size_t i = 0; i < a.size(); ++i) g = std::max(g, std::abs(static_cast<double>(a[i]) - b[i]));
  return g;
}

// Samples in the opposite order.
Values reversed(const Values& v, size_t samples) {
  const size_t n = v.size() / samples;
  Values r;
  for (size_t b = samples; b-- > 0;)
    r.insert(r.end(), v.begin() + static_cast<long>(b * n), v.begin() + static_cast<long>((b + 1) * n));
  return r;
}

void freeze(ParamStore& store, const std::string& prefix) {
  for (size_t i = 0; i < store.entries().size(); ++i)
    if (store.entries()[i].name.starts_with(prefix)) store.set_trainable(static_cast<int>(i), false);
}

Context training() {
  Context c;
  c.training = true;
  c.seed = 2;
  return c;
}

}  // namespace

TEST_CASE("class attention: patches stay bit for bit, and their order does not matter") {
  const VoloConfig c = tiny();
  ParamStore store(DType::f32, kCpu);
  const ClassBlock block(Scope(store) / "post_network" / "0", c);
  store.allocate();
  store.initialise(3);
  const NoGrad quiet;
  constexpr int64_t B = 2, T = 7;
  const int64_t C = c.embed_dim[1];
  const Values x = values(random(Shape{B, 1 + T, C}, 5));
  Values turned = x;  // token t of the patches becomes (3 t + 2) mod T
  const auto row = [&](int64_t b, int64_t t) { return (b * (1 + T) + t) * C; };
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t)
      std::copy_n(x.begin() + row(b, 1 + t), C, turned.begin() + row(b, 1 + (3 * t + 2) % T));
  const Values y = values(block(Tensor::from(x, Shape{B, 1 + T, C}), {})),
               z = values(block(Tensor::from(turned, Shape{B, 1 + T, C}), {}));
  for (int64_t b = 0; b < B; ++b) {
    CHECK(std::memcmp(&y[static_cast<size_t>(row(b, 1))], &x[static_cast<size_t>(row(b, 1))],
                      static_cast<size_t>(T * C) * sizeof(float)) == 0);
    double change = 0, by_order = 0;
    for (int64_t i = row(b, 0); i < row(b, 1); ++i) {
      const auto at = static_cast<size_t>(i);
      change = std::max(change, std::abs(static_cast<double>(y[at]) - x[at]));
      by_order = std::max(by_order, std::abs(static_cast<double>(y[at]) - z[at]));
    }
    CHECK(change > 0.1);
    CHECK(by_order < 1e-5);  // another order of f32 sums
  }
}

TEST_CASE("evaluation says the class logits and half of the largest patch logits") {
  const auto model = made(tiny());
  const NoGrad quiet;
  const Batch batch = images(3);
  const Volo::Heads h = model->heads(batch, {});
  const Values cls = values(h.cls), patches = values(h.patches), got = values(model->logits(batch, {}));
  const int64_t T = h.patches.size(1);
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t c = 0; c < 5; ++c) {
      float top = -1e9f;
      for (int64_t t = 0; t < T; ++t) top = std::max(top, patches[static_cast<size_t>((b * T + t) * 5 + c)]);
      const auto at = static_cast<size_t>(b * 5 + c);
      CHECK(got[at] == doctest::Approx(cls[at] + 0.5f * top).epsilon(1e-6));
    }
}

TEST_CASE("training differs from evaluation by drop-path and batch norms alone") {
  VoloConfig c = tiny();
  const auto plain = made(c);
  c.drop_path = 0.5;
  const auto dropping = made(c);
  freeze(plain->params(), "patch_embed.");
  freeze(dropping->params(), "patch_embed.");
  const NoGrad quiet;
  const Batch batch = images(6);
  const Values quiet_cls = values(plain->heads(batch, {}).cls);
  CHECK(same_bits(values(plain->heads(batch, training()).cls), quiet_cls));
  CHECK(same_bits(values(dropping->heads(batch, {}).cls), quiet_cls));
  CHECK(gap(values(dropping->heads(batch, training()).cls), quiet_cls) > 1e-3);
  // The draws belong to the samples of the step, not to how a batch is cut.
  Context second = training();
  second.first_sample = 4;
  Batch part = batch;
  part.inputs = ops::slice_rows(batch.inputs, 4, 6);
  const Values whole = values(dropping->heads(batch, training()).cls);
  CHECK(gap(values(dropping->heads(part, second).cls), Values(whole.begin() + 20, whole.end())) < 1e-5);
}

TEST_CASE("MixToken: the empty box, the full box, and un-mixing") {
  const auto model = made(tiny());
  const NoGrad quiet;
  for (const int64_t B : {4, 3}) {
    const Batch batch = images(B);
    const Volo::Heads plain = model->heads(batch, {}), empty = model->heads(batch, {}, box_of({1, 1, 0, 3})),
                      full = model->heads(batch, {}, box_of({0, 4, 0, 4})),
                      part = model->heads(batch, {}, box_of({1, 3, 0, 2}));
    CHECK(same_bits(values(empty.cls), values(plain.cls)));
    CHECK(same_bits(values(empty.patches), values(plain.patches)));
    CHECK(gap(values(full.cls), reversed(values(plain.cls), static_cast<size_t>(B))) < 1e-5);
    CHECK(gap(values(full.patches), values(plain.patches)) < 1e-5);
    CHECK(gap(values(part.cls), values(plain.cls)) > 1e-3);
  }
  // With nothing between the patches but what acts on every coarse token alone, un-mixing undoes mixing.
  VoloConfig c = tiny();
  c.depth = {0, 0}, c.class_blocks = 0, c.init_std = 0.3;
  const auto tokenwise = made(c);
  Volo& m = *tokenwise;
  const Tensor positions = m.params().value(m.params().find("pos_embed"));
  positions.zero();  // a table of positions tells the places apart, but not the samples
  m.params().refresh();
  const Batch batch = images(4);
  CHECK(gap(values(m.heads(batch, {}, box_of({1, 3, 0, 2})).patches), values(m.heads(batch, {}).patches)) < 1e-6);
}

TEST_CASE("losses: what stands for what") {
  VoloConfig c = tiny();
  const auto model = made(c);
  const NoGrad quiet;
  constexpr int64_t B = 4, V = 5;
  const auto loss = [&](Volo& m, const std::map<std::string, Tensor>& extra) {
    Batch batch = images(B);
    batch.targets = Tensor::from(std::vector<int32_t>{0, 4, 2, 2}, Shape{B});
    batch.extra = extra;
    return static_cast<double>(m.loss(batch, {}).item());
  };
  const Volo::Heads h = model->heads(images(B), {});
  const int64_t T = h.patches.size(1);
  const Tensor soft = shares(Shape{B, V}, 11), other = shares(Shape{B, V}, 12), dense = shares(Shape{B, T, V}, 13);
  const auto repeated = [&](const Tensor& t) { return ops::repeat_tokens(t, T); };
  const auto by_hand = [&](const Tensor& cls, const Tensor& patches, double w = 0.5) {
    return ops::soft_cross_entropy(h.cls, cls).item() + w * ops::soft_cross_entropy(h.patches, patches).item();
  };
  const auto near = [](double x) { return doctest::Approx(x).epsilon(1e-6); };
  CHECK(loss(*model, {{"soft_targets", soft}}) == near(by_hand(soft, repeated(soft))));
  CHECK(loss(*model, {{"soft_targets", soft}, {"token_targets", other}}) == near(by_hand(soft, repeated(other))));
  CHECK(loss(*model, {{"soft_targets", soft}, {"token_targets", dense}}) == near(by_hand(soft, dense)));
  CHECK(loss(*model, {{"soft_targets", soft}, {"token_targets", repeated(other)}}) ==
        loss(*model, {{"soft_targets", soft}, {"token_targets", other}}));
  // Classes are targets that are 1 in one place.
  Values one_hot(static_cast<size_t>(B * V), 0.0f);
  for (const size_t at : {0, 5 + 4, 10 + 2, 15 + 2}) one_hot[at] = 1.0f;
  CHECK(loss(*model, {}) == near(loss(*model, {{"soft_targets", Tensor::from(one_hot, Shape{B, V})}})));

  c.token_weight = 0, c.class_weight = 2;
  const auto weighted = made(c);  // the same values
  Values smoothed = one_hot;
  for (float& x : smoothed) x = 0.9f * x + 0.1f / static_cast<float>(V);
  CHECK(loss(*weighted, {{"soft_targets", Tensor::from(smoothed, Shape{B, V})}}) ==
        near(2 * ops::cross_entropy(h.cls, Tensor::from(std::vector<int32_t>{0, 4, 2, 2}, Shape{B}), 0.1f).item()));

  const Tensor box = box_of({0, 1, 0, 1});
  CHECK_THROWS_WITH_AS(loss(*model, {{"mix_box", box}, {"soft_targets", soft}}), doctest::Contains("token_targets"),
                       Error);
  CHECK_THROWS_WITH_AS(loss(*model, {{"mix_box", box}}), doctest::Contains("mix_box"), Error);
  CHECK_THROWS_WITH_AS(loss(*model, {{"soft_targets", soft}, {"token_targets", shares(Shape{B, T + 1, V}, 1)}}),
                       doctest::Contains("token_targets of shape"), Error);
}

TEST_CASE("a batch norm in training, frozen, and in evaluation") {
  ParamStore store(DType::f32, kCpu);
  const nn::BatchNorm norm(Scope(store) / "norm", 3);
  store.allocate();
  store.initialise(1);
  const int mean = store.find("norm.running_mean"), var = store.find("norm.running_var");
  constexpr int64_t kRows = 10;
  const Tensor x = random(Shape{2, 5, 1, 3}, 4, -1, 3);
  const Values v = values(x);
  double m[3] = {}, s[3] = {};
  for (size_t i = 0; i < v.size(); ++i) m[i % 3] += v[i] / static_cast<double>(kRows);
  for (size_t i = 0; i < v.size(); ++i) s[i % 3] += (v[i] - m[i % 3]) * (v[i] - m[i % 3]) / static_cast<double>(kRows);
  const NoGrad quiet;
  // Evaluation: the running statistics, 0 and 1 at first.
  CHECK(gap(values(norm(x, {})), v) < 1e-4);
  // Training: those of the batch, and the running ones move a tenth of the way, the variance unbiased.
  Values want = v;
  for (size_t i = 0; i < v.size(); ++i) want[i] = static_cast<float>((v[i] - m[i % 3]) / std::sqrt(s[i % 3] + 1e-5));
  CHECK(gap(values(norm(x, training())), want) < 1e-5);
  const Values moved_mean = values(store.value(mean)), moved_var = values(store.value(var));
  for (size_t c = 0; c < 3; ++c) {
    CHECK(moved_mean[c] == doctest::Approx(0.1 * m[c]).epsilon(1e-5));
    CHECK(moved_var[c] == doctest::Approx(0.9 + 0.1 * s[c] * kRows / (kRows - 1)).epsilon(1e-5));
  }
  // Frozen: training changes nothing and computes what an evaluation does.
  freeze(store, "norm.weight");
  for (size_t i = 0; i < v.size(); ++i)
    want[i] = static_cast<float>((v[i] - moved_mean[i % 3]) / std::sqrt(moved_var[i % 3] + 1e-5));
  CHECK(gap(values(norm(x, training())), want) < 1e-5);
  CHECK(same_bits(values(norm(x, training())), values(norm(x, {}))));
  CHECK(same_bits(values(store.value(mean)), moved_mean));
  CHECK(same_bits(values(store.value(var)), moved_var));
}

TEST_CASE("a training step moves the running statistics of the model, and no optimizer does") {
  const auto model = made(tiny());
  const int mean = model->params().find("patch_embed.conv.1.running_mean");
  const Values before = values(model->params().value(mean));
  CHECK_FALSE(model->params().entries()[static_cast<size_t>(mean)].trainable);
  model->params().zero_grads();
  Batch batch = images(2);
  batch.extra["soft_targets"] = shares(Shape{2, 5}, 3);
  {
    const Tape tape;
    backward(model->loss(batch, training()));
  }
  CHECK(gap(values(model->params().value(mean)), before) > 1e-4);
  double largest = 0;
  for (const float g : values(model->params().grad(mean)))
    largest = std::max(largest, std::abs(static_cast<double>(g)));
  CHECK(largest == 0);
}

TEST_CASE("blocks that are left out, by their group") {
  VoloConfig c = tiny();
  c.depth = {2, 1, 2};
  const auto model = made(c);
  BlockSet skip;
  skip.insert("network.0", 1);
  skip.insert("network.3", 0);
  Context ctx;
  ctx.skip = &skip;
  // The model without them: its block network.3.0 is the other's network.3.1.
  c.depth = {1, 1, 1};
  const auto shallow = made(c);
  for (size_t i = 0; i < shallow->params().entries().size(); ++i) {
    std::string name = shallow->params().entries()[i].name;
    if (name.starts_with("network.3.0.")) name = "network.3.1." + name.substr(12);
    shallow->params().value(static_cast<int>(i)).copy_from(model->params().value(model->params().find(name)));
  }
  shallow->params().refresh();
  const NoGrad quiet;
  const Batch batch = images(2);
  CHECK(same_bits(values(model->logits(batch, ctx)), values(shallow->logits(batch, {}))));
  CHECK(gap(values(model->logits(batch, {})), values(shallow->logits(batch, {}))) > 1e-3);
}

TEST_CASE("positions on another grid, with both ratios") {
  VoloConfig c = tiny();
  const auto exact = made(c);
  c.pos_offset = 0.1;
  const auto offset = made(c);
  const NoGrad quiet;
  CHECK(same_bits(values(exact->logits(images(2), {})), values(offset->logits(images(2), {}))));
  const Batch small = images(2, 16);
  CHECK(gap(values(exact->logits(small, {})), values(offset->logits(small, {}))) > 1e-5);
  // batch.resolution is the same as handing in the resized images.
  Batch resized = images(2), direct = images(2);
  resized.resolution = 16;
  direct.inputs = ops::resize_images(direct.inputs, 16, 16);
  CHECK(same_bits(values(exact->logits(resized, {})), values(exact->logits(direct, {}))));
}

TEST_CASE("features are what the next block reads") {
  const auto model = made(tiny());
  const NoGrad quiet;
  const Batch batch = images(2);
  BlockSet all;
  all.insert("network.0", 0);
  all.insert("network.2", 0);
  all.insert("network.2", 1);
  Context none;
  none.skip = &all;
  CHECK(same_bits(values(model->features(batch, none, 1)), values(model->features(batch, {}, 0))));
  CHECK(gap(values(model->features(batch, {}, 1)), values(model->features(batch, {}, 0))) > 1e-3);
  CHECK(gap(values(model->features(batch, {}, 3)), values(model->features(batch, {}, 2))) > 1e-3);
}

TEST_CASE("a training step is recorded and replayed with the bits of a run") {
  VoloConfig c = tiny();
  c.drop_path = 0.3;
  for (const Device device : queued_devices()) {
    CAPTURE(device);
    Values grads[2], state[2];
    for (const bool recorded : {false, true}) {
      Volo model(c, DType::f32, device);
      model.params().initialise(7);
      model.params().zero_grads();
      Batch batch = images(4);
      batch.inputs = batch.inputs.to(device);
      batch.extra["soft_targets"] = shares(Shape{4, 5}, 3).to(device);
      batch.extra["token_targets"] = shares(Shape{4, 5}, 4).to(device);
      batch.extra["mix_box"] = box_of({1, 3, 0, 2}).to(device);
      const auto step = [&] {
        const Tape tape;
        backward(model.loss(batch, training()));
      };
      if (recorded)
        Capture(device, make_pool(device), step).replay();
      else
        step();
      grads[recorded] = values(model.params().grads());
      state[recorded] = values(model.params().values());
    }
    CHECK(same_bits(grads[0], grads[1]));
    CHECK(same_bits(state[0], state[1]));
  }
}
