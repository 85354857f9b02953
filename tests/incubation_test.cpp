// Deep Incubation on weights: the cut, the hybrids, what trains in them and what it costs, the assembly. Real runs:
// incubation_train_test.cpp. The identities are those that the method's definition implies; those that hold exactly are
// checked bit for bit.
#include <doctest/doctest.h>

#include <set>

#include "tests/grow_testing.h"
#include "tests/reference.h"
#include "training/checkpoint.h"
#include "training/trainers/incubation.h"

using namespace accrete;

namespace {

const Partition kCut{{2, 1, 3}, {1, 2, 1}};

GptConfig config_of(int64_t depth, bool tied) { return grow_config(8, 2, depth, tied); }
Snapshot random_weights(int64_t depth, bool tied, uint64_t seed) {
  return snapshot(random_gpt(config_of(depth, tied), seed)->params());
}

struct World {
  Ends ends;
  bool tied;
  Partition cut = kCut;
  Snapshot meta = random_weights(cut.meta_depth(), tied, 1), fresh = random_weights(cut.target_depth(), tied, 2);

  Snapshot hybrid(int64_t k, Begin begin = Begin::random) const {
    Gpt layout(config_of(cut.hybrid_depth(k), tied), DType::f32, kDry);
    return assemble(hybrid_parts(meta, fresh, cut, ends, begin, k), layout.params().entries());
  }
  std::unique_ptr<Gpt> job(int64_t k, Begin begin = Begin::random, DType compute = DType::f32) const {
    auto model = std::make_unique<Gpt>(config_of(cut.hybrid_depth(k), tied), compute, kCpu);
    restore(model->params(), hybrid(k, begin));
    freeze(model->params(), [&](const ParamEntry& e) { return trains(cut, ends, k, e); });
    return model;
  }
  Snapshot assembled(const std::vector<Snapshot>& jobs) const {
    std::vector<Snapshot> parts;
    for (int64_t k = 0; k < cut.modules(); ++k)
      parts.push_back(target_part(jobs[static_cast<size_t>(k)], cut, k, cut.hybrid_begin(k)));
    Gpt layout(config_of(cut.target_depth(), tied), DType::f32, kDry);
    return assemble(parts, layout.params().entries());
  }
};

const World kShared{Ends::shared_frozen, true}, kOwn{Ends::own, false};

std::vector<float> logits_with(const Snapshot& weights, bool tied) {
  const auto groups = block_groups(weights.entries);
  return logits_of(*gpt_with(config_of(groups.at(0).second, tied), weights));
}

bool same_value(const Snapshot& a, const std::string& name, const Snapshot& b, const std::string& other) {
  return same_bits(values_of_entry(a, name), values_of_entry(b, other));
}

std::string in_block(int64_t block, const ParamEntry& e) {
  return "blocks." + std::to_string(block) + "." + e.local_name();
}

// Some optimizer steps on random batches.
void train(Gpt& model, int steps, const OptimConfig& config = {.lr = 1e-2, .weight_decay = 0.5}) {
  Optimizer optimizer(config, model.params());
  for (int i = 0; i < steps; ++i) {
    gradients_of(model, static_cast<uint64_t>(i));
    optimizer.gradient_norm();
    optimizer.step(config.lr);
  }
}

// One block outside of any model.
Tensor through_block(const Snapshot& weights, int64_t block, const GptConfig& config, const Tensor& x) {
  ParamStore store(DType::f32, kCpu);
  const GptBlock layer((Scope(store) / "blocks" / std::to_string(block)).in_block(static_cast<int>(block)), config);
  store.allocate();
  for (size_t i = 0; i < store.entries().size(); ++i)
    store.value(static_cast<int>(i)).copy_from(weights.value(weights.find(store.entries()[i].name)));
  store.refresh();
  return layer(nn::Stream{x, {}, {}}, {}).sum({});
}

Tensor value_of(const Snapshot& s, const std::string& name) { return s.value(s.find(name)); }

// Stem of one snapshot, blocks of several, final norm and head of another.
struct Link {
  const Snapshot* weights;
  int64_t first, count;
};
std::vector<float> chained(const Snapshot& stem, const std::vector<Link>& links, const Snapshot& end, bool tied) {
  const GptConfig config = config_of(1, tied);
  Tensor x = ops::embedding(token_batch().inputs, value_of(stem, "tokens.weight"), value_of(stem, "positions.weight"));
  for (const Link& l : links)
    for (int64_t b = l.first; b < l.first + l.count; ++b) x = through_block(*l.weights, b, config, x);
  x = ops::layernorm(x, value_of(end, "norm.weight"), value_of(end, "norm.bias"), 1e-5f);
  return ops::linear(x, tied ? value_of(stem, "tokens.weight") : value_of(end, "head.weight"), Tensor())
      .to_vector<float>();
}

}  // namespace

TEST_CASE("T1 the cut is a disjoint cover of all parameters, with the published counts") {
  // Blocks of width 768 and 1024 have 12 d^2 + 13 d parameters: 21,263,616 in three and 75,577,344 in six of them, the
  // middle modules of ViT-B and ViT-L in four (the blocks are the same as those of these GPTs).
  const std::tuple<const char*, std::vector<int64_t>, int64_t> rows[] = {{"gpt2", {3, 3, 3, 3}, 21'263'616},
                                                                         {"gpt2-medium", {6, 6, 6, 6}, 75'577'344}};
  for (const auto& [name, depths, middle] : rows) {
    GptConfig config = gpt_preset(name);
    config.tied = false;
    const Partition cut{depths, {1, 1, 1, 1}};
    Gpt target(config, DType::f32, kDry);
    int64_t total = 0;
    for (int64_t k = 0; k < cut.modules(); ++k) {
      config.depth = cut.hybrid_depth(k);
      Gpt hybrid(config, DType::f32, kDry);
      int64_t mine = 0;
      for (const ParamEntry& e : hybrid.params().entries()) mine += trains(cut, Ends::own, k, e) ? e.count() : 0;
      const int64_t d = config.embed_dim;
      const int64_t ends = k == 0   ? (config.vocab_size + config.context) * d
                           : k == 3 ? 2 * d + config.vocab_size * d
                                    : 0;
      CHECK(mine == middle + ends);
      CHECK(hybrid.params().parameter_count() ==
            target.params().parameter_count() - (middle / cut.depths[0]) * (cut.target_depth() - cut.hybrid_depth(k)));
      total += mine;
    }
    CHECK(total == target.params().parameter_count());
  }
  // By name: each parameter of the target comes from one job; with shared ends these belong to none.
  for (const World* w : {&kShared, &kOwn}) {
    std::map<std::string, int> owners;
    for (int64_t k = 0; k < 3; ++k)
      for (const ParamEntry& e : w->hybrid(k).entries)
        if (trains(w->cut, w->ends, k, e))
          ++owners[e.block < 0 ? e.name : in_block(e.block - w->cut.hybrid_begin(k) + w->cut.target_begin(k), e)];
    for (const ParamEntry& e : w->fresh.entries) {
      CAPTURE(e.name);
      CHECK(owners[e.name] == (e.block >= 0 || w->ends == Ends::own));
    }
  }
}

TEST_CASE("a tied table belongs to both ends: it cannot be own") {
  const Snapshot tied = random_weights(2, true, 3);
  CHECK_THROWS_WITH_AS(trains(kCut, Ends::own, 0, tied.entries[0]), doctest::Contains("embeddings=shared_frozen"),
                       Error);
  CHECK(!trains(kCut, Ends::shared_frozen, 0, tied.entries[0]));
}

TEST_CASE("T2 modules one after the other are the model") {
  for (const World* w : {&kShared, &kOwn}) {
    std::vector<Link> links;
    for (int64_t k = 0; k < 3; ++k) links.push_back({&w->fresh, w->cut.target_begin(k), w->cut.depths[size_t(k)]});
    CHECK(same_bits(chained(w->fresh, links, w->fresh, w->tied), logits_with(w->fresh, w->tied)));
  }
}

TEST_CASE("T3 a hybrid whose module is a copy of the meta module is the meta model") {
  for (World w : {kShared, kOwn}) {
    w.cut.depths = w.cut.meta;
    w.fresh = w.meta;
    for (int64_t k = 0; k < 3; ++k)
      for (const Begin begin : {Begin::random, Begin::from_meta})
        CHECK(same_bits(logits_with(w.hybrid(k, begin), w.tied), logits_with(w.meta, w.tied)));
  }
}

TEST_CASE("the module begins with the values of the target, the rest with those of the meta model") {
  for (const World* w : {&kShared, &kOwn})
    for (int64_t k = 0; k < 3; ++k) {
      const Snapshot h = w->hybrid(k);
      const int64_t at = w->cut.hybrid_begin(k), depth = w->cut.depths[size_t(k)];
      for (const ParamEntry& e : h.entries) {
        CAPTURE(e.name);
        if (e.block < 0)
          CHECK(same_value(h, e.name, trains(w->cut, w->ends, k, e) ? w->fresh : w->meta, e.name));
        else if (e.block < at)
          CHECK(same_value(h, e.name, w->meta, e.name));
        else if (e.block < at + depth)
          CHECK(same_value(h, e.name, w->fresh, in_block(e.block - at + w->cut.target_begin(k), e)));
        else
          CHECK(same_value(h, e.name, w->meta, in_block(e.block - depth + w->cut.meta[size_t(k)], e)));
      }
      // What comes before the module computes the same as in the meta model.
      const auto hybrid = gpt_with(config_of(w->cut.hybrid_depth(k), w->tied), h);
      const auto meta = gpt_with(config_of(w->cut.meta_depth(), w->tied), w->meta);
      if (k > 0)
        CHECK(same_bits(hybrid->features(token_batch(), {}, at).to_vector<float>(),
                        meta->features(token_batch(), {}, at).to_vector<float>()));
    }
}

TEST_CASE("T4 T5 what is frozen stays as it is, whatever the optimizer does; it has no gradient and no step") {
  for (const World* w : {&kShared, &kOwn})
    for (const char* name : {"adamw", "sgd", "lamb", "lars", "lion", "muon"})
      for (int64_t k = 0; k < 3; ++k) {
        const Snapshot before = w->hybrid(k);
        const auto model = w->job(k);
        OptimConfig config{.name = name, .lr = 1e-2, .weight_decay = 0.5, .clip = 0};
        Optimizer optimizer(config, model->params());
        for (int i = 0; i < 3; ++i) {
          gradients_of(*model, static_cast<uint64_t>(i));
          // Forced gradients change nothing either.
          for (size_t j = 0; i == 2 && j < model->params().entries().size(); ++j)
            if (!model->params().entries()[j].trainable)
              model->params().grad(static_cast<int>(j)).copy_from(model->params().value(static_cast<int>(j)));
          optimizer.gradient_norm();
          optimizer.step(config.lr);
        }
        const Snapshot after = snapshot(model->params(), &optimizer);
        for (size_t j = 0; j < after.entries.size(); ++j) {
          const ParamEntry& e = after.entries[j];
          const int n = static_cast<int>(j);
          CAPTURE(e.name);
          CHECK(e.trainable == trains(w->cut, w->ends, k, e));
          CHECK(requires_grad(model->params().leaf(n)) == e.trainable);
          CHECK(after.steps[j] == (e.trainable ? 3 : 0));
          CHECK(same_bits(after.value(n).to_vector<float>(), before.value(n).to_vector<float>()) == !e.trainable);
          for (const auto& [kind, flat] : after.moments)
            if (!e.trainable)
              for (const float m : after.part(flat, n).to_vector<float>()) CHECK(m == 0.0f);
        }
      }
}

TEST_CASE("T6 the module's gradients are those of a full backward pass, bit for bit; frozen parameters get none") {
  for (const World* w : {&kShared, &kOwn})
    for (const DType compute : {DType::f32, DType::bf16})
      for (const bool again : {false, true})
        for (int64_t k = 0; k < 3; ++k) {
          const auto run = [&](bool everything) {
            const auto model = w->job(k, Begin::random, compute);
            if (everything) freeze(model->params(), [](const ParamEntry&) { return true; });
            model->params().zero_grads();
            Context ctx;
            ctx.training = true;
            ctx.recompute = again;
            Tape tape;
            backward(model->loss(token_batch(), ctx));
            return model->params().grads().clone();
          };
          const Tensor pruned = run(false), full = run(true);
          const Snapshot layout = w->hybrid(k);
          for (size_t j = 0; j < layout.entries.size(); ++j) {
            const ParamEntry& e = layout.entries[j];
            CAPTURE(e.name);
            const auto mine = layout.part(pruned, static_cast<int>(j)).to_vector<float>();
            if (trains(w->cut, w->ends, k, e))
              CHECK(same_bits(mine, layout.part(full, static_cast<int>(j)).to_vector<float>()));
            else
              CHECK(std::all_of(mine.begin(), mine.end(), [](float g) { return g == 0.0f; }));
          }
        }
}

// The loss of a GPT in double precision, from the plain loops of tests/reference.h.
double reference_loss(const Snapshot& s, const std::vector<double>& flat, int64_t depth, bool tied) {
  namespace r = reference;
  const auto value = [&](const std::string& name) {
    const int i = s.find(name);
    REQUIRE(i >= 0);
    const ParamEntry& e = s.entries[static_cast<size_t>(i)];
    r::Array a(e.shape);
    std::copy_n(flat.begin() + e.offset, e.count(), a.v.begin());
    return a;
  };
  const auto ids_of = [](const Tensor& t) {
    r::Array a(t.shape());
    const auto v = t.to_vector<int32_t>();
    std::copy(v.begin(), v.end(), a.v.begin());
    return a;
  };
  const auto plus = [](const r::Array& a, const r::Array& b) {
    return r::zip(a, b, [](double p, double q) { return p + q; });
  };
  const auto linear = [&](const r::Array& x, const std::string& path) {
    return r::linear({x, value(path + ".weight"), value(path + ".bias")});
  };
  const auto norm = [&](const r::Array& x, const std::string& path) {
    return r::layernorm(x, value(path + ".weight"), value(path + ".bias"), 1e-5);
  };
  r::Settings attention;
  attention.heads = 2;
  attention.causal = true;
  const Batch batch = token_batch();
  r::Array x = r::embedding({ids_of(batch.inputs), value("tokens.weight"), value("positions.weight")}, {});
  for (int64_t b = 0; b < depth; ++b) {
    const std::string path = "blocks." + std::to_string(b);
    const r::Array a = r::packed_attention(linear(norm(x, path + ".norm1"), path + ".attn.qkv"), attention);
    x = plus(x, linear(a, path + ".attn.proj"));
    const r::Array u = linear(norm(x, path + ".norm2"), path + ".mlp.fc1");
    x = plus(x, linear(r::map(u, [](double v) { return r::gelu(v, true); }), path + ".mlp.fc2"));
  }
  r::Array none;
  none.present = false;
  const r::Array logits = r::linear({norm(x, "norm"), value(tied ? "tokens.weight" : "head.weight"), none});
  return r::cross_entropy(logits, ids_of(batch.targets), 0)[0];
}

TEST_CASE("T7 finite differences in double precision through the frozen modules") {
  const World w{Ends::own, false, {{2, 1, 2}, {1, 1, 1}}};
  for (int64_t k = 0; k < 3; ++k) {
    const auto model = w.job(k);
    const Tensor gradient = gradients_of(*model);
    const Snapshot s = w.hybrid(k);
    const auto values = s.values.to_vector<float>();
    const std::vector<double> at(values.begin(), values.end());
    std::mt19937_64 random(static_cast<uint64_t>(k));
    std::normal_distribution<double> normal;
    for (size_t j = 0; j < s.entries.size(); ++j) {
      const ParamEntry& e = s.entries[j];
      if (!trains(w.cut, w.ends, k, e)) continue;
      CAPTURE(e.name);
      // Along a random direction of this parameter; errors of the difference are h^2 and 1e-16 / h.
      const double h = 1e-5;
      std::vector<double> up = at, down = at;
      double want = 0, size = 0;
      const auto g = s.part(gradient, static_cast<int>(j)).to_vector<float>();
      for (int64_t i = 0; i < e.count(); ++i) {
        const double d = normal(random);
        up[static_cast<size_t>(e.offset + i)] += h * d;
        down[static_cast<size_t>(e.offset + i)] -= h * d;
        want += d * static_cast<double>(g[static_cast<size_t>(i)]);
        size += std::abs(d * static_cast<double>(g[static_cast<size_t>(i)]));
      }
      const int64_t depth = w.cut.hybrid_depth(k);
      const double got = (reference_loss(s, up, depth, false) - reference_loss(s, down, depth, false)) / (2 * h);
      // The engine's gradients are f32: roundings of 6e-8 in each of some hundred terms that are summed, of either
      // sign.
      CHECK(std::abs(got - want) < 1e-5 * size);
    }
  }
}

TEST_CASE("T8 modules before the target keep nothing, those after it have no weight gradients: counted FLOPs") {
  GptConfig config = grow_config(32, 2, 1, false);
  const Partition cut{{3, 2, 4}, {1, 2, 1}};
  Batch batch;
  const double B = 3, T = 12, C = 32, V = 31;
  batch.inputs = batch.targets = Tensor::empty(Shape{3, 12}, DType::i32, kDry);
  // Per block: products (qkv 3 C^2, proj C^2, MLP of width 2 C: 4 C^2) and causal attention, whose backward has five
  // products of the forward's two and no weights.
  const double products = 2 * B * T * 8 * C * C, attention = 2 * 2 * B * C * T * (T + 1) / 2, head = 2 * B * T * C * V;
  for (const Ends ends : {Ends::shared_frozen, Ends::own})
    for (const bool again : {false, true})
      for (int64_t k = 0; k < 3; ++k) {
        config.depth = cut.hybrid_depth(k);
        Gpt model(config, DType::f32, kDry);
        freeze(model.params(), [&](const ParamEntry& e) { return trains(cut, ends, k, e); });
        Tape tape({.keep_nodes = true});
        Context ctx;
        ctx.training = true;
        ctx.recompute = again;
        const Tensor loss = model.loss(batch, ctx);
        for (const auto& node : tape.nodes()) {
          CAPTURE(node->module);
          int block = -1;
          if (node->module.starts_with("blocks.")) block = std::stoi(node->module.substr(7));
          const bool before = block >= 0 && block < cut.hybrid_begin(k);
          if (before && !(ends == Ends::own && k == 0)) CHECK(node->saved_bytes == 0);
        }
        backward(loss);
        double forward = 0, back = 0;
        for (const auto& node : tape.nodes()) {
          const bool output = node->name == "linear_cross_entropy";
          if (!output && node->name != "linear" && node->name != "mlp" && node->name != "attention") continue;
          const double of_loss = output ? 3 * B * T * V : 0;  // not a product
          forward += node->cost.flops - of_loss;
          if (node->done) back += node->cost.backward_flops - of_loss;
        }
        const double target = static_cast<double>(cut.depths[size_t(k)]);
        const double depth = static_cast<double>(cut.hybrid_depth(k));
        const double suffix = depth - target - static_cast<double>(cut.hybrid_begin(k));
        const double head_back = ends == Ends::own && k == 2 ? 2 * head : head;
        if (again) continue;  // counted below
        CHECK(forward == depth * (products + attention) + head);
        CHECK(back == target * (2 * products + 2.5 * attention) + suffix * (products + 2.5 * attention) + head_back);
      }
}

TEST_CASE("T8 under recompute the frozen modules before the target run once") {
  GptConfig config = grow_config(32, 2, 8, true);
  const Partition cut{{2, 2}, {6, 6}};
  config.depth = cut.hybrid_depth(1);  // six frozen blocks, then two
  const auto flops = [&](bool again) {
    Gpt model(config, DType::f32, kDry);
    freeze(model.params(), [&](const ParamEntry& e) { return trains(cut, Ends::shared_frozen, 1, e); });
    Batch batch;
    batch.inputs = batch.targets = Tensor::empty(Shape{3, 12}, DType::i32, kDry);
    Context ctx;
    ctx.training = true;
    ctx.recompute = again;
    Tape tape;
    backward(model.loss(batch, ctx));
    return std::pair(tape.cost().flops, tape.total_flops());
  };
  const auto [forward, total] = flops(false);
  const double head = 2.0 * 3 * 12 * 32 * 31;
  CHECK((flops(true).second - total) / (forward - head) == doctest::Approx(2.0 / 8).epsilon(0.02));
}

TEST_CASE("section 6: units of all jobs are 3 L + 1.5 K (K - 1) m") {
  for (const auto& [L, K, m] : {std::tuple<int64_t, int64_t, int64_t>{12, 4, 1}, {24, 4, 1}, {12, 3, 2}}) {
    const Partition cut{std::vector<int64_t>(size_t(K), L / K), std::vector<int64_t>(size_t(K), m)};
    double units = 0;
    // Products of blocks alone, in units of a block's forward pass.
    GptConfig config = grow_config(16, 2, 1, true);
    const double unit = 2 * 3 * 12 * 8 * 16 * 16;
    for (int64_t k = 0; k < K; ++k) {
      config.depth = cut.hybrid_depth(k);
      Gpt model(config, DType::f32, kDry);
      freeze(model.params(), [&](const ParamEntry& e) { return trains(cut, Ends::shared_frozen, k, e); });
      Batch batch;
      batch.inputs = batch.targets = Tensor::empty(Shape{3, 12}, DType::i32, kDry);
      Tape tape({.keep_nodes = true});
      backward(model.loss(batch, {}));
      for (const auto& node : tape.nodes())
        if ((node->name == "linear" || node->name == "mlp") && node->module.starts_with("blocks."))
          units += (node->cost.flops + (node->done ? node->cost.backward_flops : 0)) / unit;
    }
    CHECK(units == doctest::Approx(3.0 * L + 1.5 * K * (K - 1) * m).epsilon(1e-9));
  }
}

TEST_CASE("T9 T10 the target is the jobs' modules one after the other, ends from the first and last job") {
  for (const World* w : {&kShared, &kOwn}) {
    std::vector<Snapshot> jobs;
    for (int64_t k = 0; k < 3; ++k) {
      const auto model = w->job(k);
      train(*model, 3);
      jobs.push_back(snapshot(model->params()));
    }
    const Snapshot target = w->assembled(jobs);
    std::vector<Link> links;
    for (int64_t k = 0; k < 3; ++k)
      links.push_back({&jobs[size_t(k)], w->cut.hybrid_begin(k), w->cut.depths[size_t(k)]});
    CHECK(same_bits(logits_with(target, w->tied), chained(jobs[0], links, jobs[2], w->tied)));
    for (const ParamEntry& e : target.entries) {
      CAPTURE(e.name);
      if (e.block < 0) {
        CHECK(same_value(target, e.name, jobs[e.last ? 2 : 0], e.name));
        CHECK(same_value(target, e.name, w->meta, e.name) == (w->ends == Ends::shared_frozen));
        continue;
      }
      int64_t k = 0;
      while (e.block >= w->cut.target_begin(k) + w->cut.depths[size_t(k)]) ++k;
      const int64_t place = e.block - w->cut.target_begin(k) + w->cut.hybrid_begin(k);
      CHECK(same_value(target, e.name, jobs[size_t(k)], in_block(place, e)));
      CHECK(!same_value(target, e.name, w->fresh, e.name));  // trained
    }
  }
}

TEST_CASE("an assembly with a module missing, twice or of another depth is refused") {
  const Snapshot jobs[] = {kShared.hybrid(0), kShared.hybrid(1), kShared.hybrid(2)};
  const auto part = [&](int64_t k) { return target_part(jobs[k], kCut, k, kCut.hybrid_begin(k)); };
  const auto put = [&](std::vector<Snapshot> parts) { assemble(parts, kShared.fresh.entries); };
  CHECK_NOTHROW(put({part(2), part(0), part(1)}));
  CHECK_THROWS_WITH_AS(put({part(0), part(2)}), doctest::Contains("blocks.2.norm1.weight comes from no part"), Error);
  CHECK_THROWS_WITH_AS(put({part(0), part(1), part(2), part(1)}),
                       doctest::Contains("blocks.2.norm1.weight comes from part 1 and from part 3"), Error);
  CHECK_THROWS_WITH_AS(target_part(jobs[2], {{2, 1, 4}, {1, 2, 1}}, 2, 3),
                       doctest::Contains("blocks 3 to 6 are wanted; the model has 6"), Error);
}

TEST_CASE("T12 from_meta: hybrids and target compute exactly what the meta model computes") {
  for (World w : {kShared, kOwn}) {
    w.cut.meta = {1, 1, 2};
    w.meta = random_weights(w.cut.meta_depth(), w.tied, 5);
    const auto want = logits_with(w.meta, w.tied);
    std::vector<Snapshot> jobs;
    for (int64_t k = 0; k < 3; ++k) {
      jobs.push_back(w.hybrid(k, Begin::from_meta));
      CHECK(same_bits(logits_with(jobs.back(), w.tied), want));
    }
    CHECK(same_bits(logits_with(w.assembled(jobs), w.tied), want));
    // And the silent blocks learn: their last layers get a gradient.
    const auto model = w.job(0, Begin::from_meta);
    const Tensor g = gradients_of(*model);
    const Snapshot layout = w.hybrid(0);
    double size = 0;
    for (const float x : layout.part(g, layout.find("blocks.1.mlp.fc2.weight")).to_vector<float>()) size += std::abs(x);
    CHECK(size > 0);
  }
}

TEST_CASE("T18 T20 decay goes to the matrices of the module; the norm for clipping is that of the module's gradients") {
  for (const World* w : {&kShared, &kOwn})
    for (int64_t k = 0; k < 3; ++k) {
      const auto model = w->job(k);
      const Tensor g = gradients_of(*model);
      const Snapshot layout = w->hybrid(k);
      double sum = 0;
      std::set<std::string> decayed;
      for (size_t j = 0; j < layout.entries.size(); ++j) {
        const ParamEntry& e = model->params().entries()[j];
        if (!e.trainable) continue;
        if (e.decay) decayed.insert(e.block < 0 ? e.name : e.local_name());
        for (const float x : layout.part(g, static_cast<int>(j)).to_vector<float>()) sum += static_cast<double>(x) * x;
      }
      Optimizer optimizer({}, model->params());
      CHECK(optimizer.gradient_norm() == doctest::Approx(std::sqrt(sum)).epsilon(1e-6));
      std::set<std::string> want{"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"};
      if (w->ends == Ends::own && k == 0) want.insert({"tokens.weight", "positions.weight"});
      if (w->ends == Ends::own && k == 2) want.insert("head.weight");
      CHECK(decayed == want);
    }
}

TEST_CASE("checksums: the same as those of a model's store") {
  CHECK(checksum(kShared.fresh) == checksum(gpt_with(config_of(6, true), kShared.fresh)->params()));
  CHECK(checksum(kShared.fresh) != checksum(kShared.meta));
}
