// Helpers for tests of the verbs of growth: small GPTs with random values everywhere, toy snapshots, comparisons.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "models/gpt.h"
#include "tests/gpt_testing.h"
#include "training/grow.h"

namespace accrete {

inline GptConfig grow_config(int64_t embed_dim, int64_t heads, int64_t depth, bool tied, double eps = 1e-5) {
  GptConfig c;
  c.vocab_size = 31, c.context = 12, c.embed_dim = embed_dim, c.num_heads = heads, c.depth = depth;
  c.mlp_dim = 2 * embed_dim, c.tied = tied, c.layer_norm_eps = eps;
  return c;
}

// Scales and shifts too are random, so that nothing hides behind ones and zeros.
inline void randomise(ParamStore& store, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const ParamEntry& e = store.entries()[i];
    const bool scale = e.init.kind == Init::Kind::ones;
    const float width = e.shape.rank() >= 2 ? 0.25f : 0.1f;
    float* p = store.value(static_cast<int>(i)).ptr<float>();
    for (int64_t k = 0; k < e.count(); ++k) p[k] = (scale ? 1.0f : 0.0f) + width * normal(random);
  }
  store.refresh();
}

inline std::unique_ptr<Gpt> random_gpt(const GptConfig& config, uint64_t seed) {
  auto model = std::make_unique<Gpt>(config, DType::f32, kCpu);
  randomise(model->params(), seed);
  return model;
}

inline std::unique_ptr<Gpt> gpt_with(const GptConfig& config, const Snapshot& weights) {
  auto model = std::make_unique<Gpt>(config, DType::f32, kCpu);
  restore(model->params(), weights);
  return model;
}

inline Batch token_batch(uint64_t seed = 1) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::vector<int32_t> ids(3 * 12), targets(3 * 12);
  for (auto& i : ids) i = static_cast<int32_t>(random() % 31);
  for (auto& t : targets) t = static_cast<int32_t>(random() % 31);
  Batch b;
  b.inputs = Tensor::from(ids, Shape{3, 12});
  b.targets = Tensor::from(targets, Shape{3, 12});
  return b;
}

inline std::vector<float> logits_of(const Gpt& model) {
  const NoGrad quiet;
  return model.logits(token_batch().inputs, Context{}).to_vector<float>();
}

// Gradients of the mean loss, as a flat buffer of the store.
inline Tensor gradients_of(Gpt& model, uint64_t batch = 1) {
  model.params().zero_grads();
  Tape tape;
  Context ctx;
  ctx.training = true;
  backward(model.loss(token_batch(batch), ctx));
  return model.params().grads().clone();
}

inline std::vector<float> values_of_entry(const Snapshot& s, const std::string& name) {
  const int i = s.find(name);
  REQUIRE_MESSAGE(i >= 0, name);
  return s.value(i).to_vector<float>();
}

// Entry by entry, without the padding between them.
inline double difference(const Snapshot& a, const Tensor& flat_a, const Snapshot& b, const Tensor& flat_b) {
  REQUIRE(a.entries.size() == b.entries.size());
  double worst = 0;
  for (size_t i = 0; i < a.entries.size(); ++i) {
    const int n = static_cast<int>(i);
    CAPTURE(a.entries[i].name);
    REQUIRE(a.entries[i].name == b.entries[i].name);
    REQUIRE(a.entries[i].shape == b.entries[i].shape);
    worst = std::max(worst, relative_error(a.part(flat_a, n).to_vector<float>(), b.part(flat_b, n).to_vector<float>()));
  }
  return worst;
}
inline double difference(const Snapshot& a, const Snapshot& b) { return difference(a, a.values, b, b.values); }

inline bool same(const Snapshot& a, const Snapshot& b) {
  return difference(a, b) == 0 && same_bits(a.values.to_vector<float>(), b.values.to_vector<float>());
}

// ---- width by a ratio, for all roles of a transformer --------------------------------------------------------------
inline bool widens(Role role) { return role == Role::embed || role == Role::heads || role == Role::mlp; }

inline RoleMap merge_all(int64_t ratio, Pairing pairs) {
  return [=](Role role, int64_t n) {
    return widens(role) ? std::optional(merging(grouped(n, ratio, pairs))) : std::nullopt;
  };
}
inline RoleMap copy_all(int64_t ratio, Pairing pairs) {
  return [=](Role role, int64_t n) {
    return widens(role) ? std::optional(copying(grouped(n * ratio, ratio, pairs))) : std::nullopt;
  };
}
inline Snapshot narrower(const Snapshot& s, int64_t ratio, Pairing pairs, TiedMode tied = TiedMode::exact) {
  return map_axes(s, merge_all(ratio, pairs), tied, Moments::reset);
}
inline Snapshot wider(const Snapshot& s, int64_t ratio, Pairing pairs, TiedMode tied = TiedMode::exact) {
  return map_axes(s, copy_all(ratio, pairs), tied, Moments::reset);
}

inline DepthMap depth_map(const AxisMap& map) {
  DepthMap blocks;
  for (const auto& sources : map.sources) blocks.emplace_back(sources.begin(), sources.end());
  return blocks;
}
inline Snapshot shallower(const Snapshot& s, int64_t ratio, Pairing pairs) {
  const auto [group, n] = block_groups(s.entries).at(0);
  return map_depth(s, group, depth_map(merging(grouped(n, ratio, pairs))), Moments::reset);
}
inline Snapshot deeper(const Snapshot& s, int64_t ratio, Pairing pairs) {
  const auto [group, n] = block_groups(s.entries).at(0);
  return map_depth(s, group, depth_map(copying(grouped(n * ratio, ratio, pairs))), Moments::reset);
}

// A snapshot of hand-made parameters.
struct ToyEntry {
  std::string name;
  Shape shape;
  std::vector<Axis> axes;
  std::vector<float> values;
  Marks marks = {};
  std::string group = "";
  int block = -1;
};
inline Snapshot toy(const std::vector<ToyEntry>& list) {
  std::vector<ParamEntry> entries;
  for (const ToyEntry& t : list) {
    ParamEntry e;
    e.name = t.name, e.shape = t.shape, e.axes = t.axes, e.marks = t.marks, e.group = t.group, e.block = t.block;
    entries.push_back(e);
  }
  Snapshot s = empty_snapshot(std::move(entries));
  for (size_t i = 0; i < list.size(); ++i)
    std::copy(list[i].values.begin(), list[i].values.end(), s.value(static_cast<int>(i)).ptr<float>());
  return s;
}

}  // namespace accrete
