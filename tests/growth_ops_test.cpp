// Growth operators and the elastic supernet on a real GPT: what must agree bit for bit.
#include "training/growth_ops.h"

#include "tests/grow_testing.h"
#include "training/method.h"
#include "training/optimizer.h"

using namespace accrete;

namespace {

GptConfig config_of(int64_t depth) { return grow_config(16, 2, depth, true); }

std::string in_block(int block, const std::string& local) { return "blocks." + std::to_string(block) + "." + local; }

// All values of one block, one parameter after the other.
std::vector<float> block_values(const Snapshot& s, int block, const Tensor& flat) {
  std::vector<float> all;
  for (size_t i = 0; i < s.entries.size(); ++i) {
    if (s.entries[i].block != block) continue;
    const auto v = s.part(flat, static_cast<int>(i)).to_vector<float>();
    all.insert(all.end(), v.begin(), v.end());
  }
  REQUIRE(!all.empty());
  return all;
}
std::vector<float> block_values(const Snapshot& s, int block) { return block_values(s, block, s.values); }

Growth growth(int from, int to, GrowOperator how, OptState moments = OptState::reset) {
  Growth g;
  g.group = "blocks";
  g.from = from, g.to = to, g.how = how, g.moments = moments;
  return g;
}

// A network of 3 blocks after some steps, so that averages and moments are there and differ from the values.
struct Trained {
  std::unique_ptr<Gpt> model;
  Snapshot weights;
  explicit Trained(int64_t depth = 3, double decay = 0.7) : model(random_gpt(config_of(depth), 5)) {
    Optimizer optimizer(OptimConfig{.lr = 0.01}, model->params(), {{kGrowAverage, decay}, {"ema.other", 0.3}});
    for (uint64_t step = 1; step <= 4; ++step) {
      gradients_of(*model, step);
      optimizer.gradient_norm();
      optimizer.step(0.01);
    }
    weights = snapshot(model->params(), &optimizer);
  }
};

// Logits of a network with some blocks left out.
std::vector<float> logits_without(const Gpt& model, const std::vector<int64_t>& numbers) {
  const NoGrad quiet;
  const BlockSet skip = block_set(static_cast<const Model&>(model).params().entries(), numbers);
  Context ctx;
  ctx.skip = &skip;
  return model.logits(token_batch().inputs, ctx).to_vector<float>();
}

std::vector<int64_t> skipped(int depth, int base, int max, MapMode mode) {
  const auto runs = active_blocks(depth, base, max, mode);
  std::vector<int64_t> numbers;
  for (int i = 0; i < max; ++i)
    if (std::find(runs.begin(), runs.end(), i) == runs.end()) numbers.push_back(i);
  return numbers;
}

}  // namespace

TEST_CASE("operators: where every block of the larger network comes from") {
  const Trained t;
  const Snapshot& s = t.weights;
  const auto from_values = [&](GrowOperator how, const std::vector<int>& sources) {
    const Snapshot grown = grow_blocks(s, growth(3, 5, how), 1);
    for (int i = 0; i < 5; ++i)
      CHECK(same_bits(block_values(grown, i), block_values(s, sources[static_cast<size_t>(i)])));
    CHECK(values_of_entry(grown, "tokens.weight") == values_of_entry(s, "tokens.weight"));
    CHECK(grown.moments.empty());
    // Averages go along, each from itself.
    for (int i = 0; i < 5; ++i)
      CHECK(same_bits(block_values(grown, i, grown.averages.at("ema.other")),
                      block_values(s, sources[static_cast<size_t>(i)], s.averages.at("ema.other"))));
    gpt_with(config_of(5), grown);  // names and shapes are those of the deeper model
  };
  from_values(GrowOperator::interp, {0, 1, 1, 2, 2});
  from_values(GrowOperator::stack, {0, 1, 2, 0, 1});

  SUBCASE("rand leaves the new blocks to the store") {
    const Snapshot grown = grow_blocks(s, growth(3, 5, GrowOperator::rand), 1);
    for (int i = 0; i < 3; ++i) CHECK(same_bits(block_values(grown, i), block_values(s, i)));
    CHECK(grown.find(in_block(3, "mlp.fc1.weight")) == -1);
    CHECK(grown_blocks(growth(3, 5, GrowOperator::rand)) == std::vector<int>{3, 4});
  }
  SUBCASE("interp_noise: normal, 0.01, on the copies alone, from the seed") {
    const Snapshot plain = grow_blocks(s, growth(3, 5, GrowOperator::interp), 1);
    const Snapshot grown = grow_blocks(s, growth(3, 5, GrowOperator::interp_noise), 1);
    for (const int i : {0, 1, 3}) CHECK(same_bits(block_values(grown, i), block_values(plain, i)));
    for (const int i : {2, 4}) {
      const auto a = block_values(grown, i), b = block_values(plain, i);
      double sum = 0, squares = 0;
      for (size_t k = 0; k < a.size(); ++k) {
        const double d = static_cast<double>(a[k]) - b[k];
        sum += d, squares += d * d;
      }
      const double n = static_cast<double>(a.size());
      CHECK(std::abs(sum / n) < 5 * 0.01 / std::sqrt(n));  // five standard errors
      CHECK(std::abs(std::sqrt(squares / n) - 0.01) < 5 * 0.01 / std::sqrt(2 * n));
    }
    CHECK(same(grown, grow_blocks(s, growth(3, 5, GrowOperator::interp_noise), 1)));
    CHECK(!same(grown, grow_blocks(s, growth(3, 5, GrowOperator::interp_noise), 2)));
  }
  SUBCASE("mogrow: every parameter from the running average") {
    const Snapshot grown = grow_blocks(s, growth(3, 5, GrowOperator::mogrow), 1);
    const Tensor& average = s.averages.at(kGrowAverage);
    const int sources[] = {0, 1, 1, 2, 2};
    for (int i = 0; i < 5; ++i) CHECK(same_bits(block_values(grown, i), block_values(s, sources[i], average)));
    CHECK(values_of_entry(grown, "tokens.weight") == s.part(average, s.find("tokens.weight")).to_vector<float>());
    CHECK(values_of_entry(grown, "tokens.weight") != values_of_entry(s, "tokens.weight"));
    check_sentence(error_of([&] { grow_blocks(snapshot(t.model->params()), growth(3, 5, GrowOperator::mogrow), 1); }),
                   {"no running average", kGrowAverage});
  }
}

TEST_CASE("momentum growth: its limits") {
  // Decay 0: the average is the network itself, mogrow is interp.
  const Trained now(3, 0.0);
  CHECK(same(grow_blocks(now.weights, growth(3, 5, GrowOperator::mogrow), 1),
             grow_blocks(now.weights, growth(3, 5, GrowOperator::interp), 1)));
  // Decay 1 (nearly: decays stay below): the network at its creation.
  const Trained start(3, 1.0);
  const Snapshot created = snapshot(random_gpt(config_of(3), 5)->params());
  CHECK(difference(take_average(start.weights, kGrowAverage), created) == 0);
  // As many blocks as before: the average replaces the weights, nothing else.
  const Trained t;
  CHECK(same(grow_blocks(t.weights, growth(3, 3, GrowOperator::mogrow), 1), take_average(t.weights, kGrowAverage)));

  // Weights that stay: the distance shrinks by the decay with every step.
  const auto model = random_gpt(config_of(1), 7);
  Optimizer optimizer(OptimConfig{}, model->params(), {{kGrowAverage, 0.75}});
  model->params().values().copy_from(
      Tensor::from(std::vector<float>(static_cast<size_t>(model->params().flat_count()), 3.0f),
                   Shape{model->params().flat_count()}));
  const auto gap = [&] { return 3.0 - static_cast<double>(optimizer.average(kGrowAverage).ptr<float>()[1]); };
  const double first = gap();
  for (int k = 1; k <= 5; ++k) {
    model->params().zero_grads();
    optimizer.gradient_norm();
    optimizer.step(0.0);
    CHECK(gap() == doctest::Approx(first * std::pow(0.75, k)).epsilon(1e-5));  // f32
  }
}

TEST_CASE("optimizer state at growth: mapped with the weights, or anew for copies") {
  const Trained t;
  const Snapshot& s = t.weights;
  const Snapshot unchanged = grow_blocks(s, growth(3, 3, GrowOperator::interp, OptState::map), 1);
  for (const auto& [name, flat] : s.moments) CHECK(difference(unchanged, unchanged.moments.at(name), s, flat) == 0);
  CHECK(unchanged.steps == s.steps);

  const Snapshot mapped = grow_blocks(s, growth(3, 6, GrowOperator::interp, OptState::map), 1);
  const Snapshot zeroed = grow_blocks(s, growth(3, 6, GrowOperator::interp, OptState::map_zero_new), 1);
  for (const auto& [name, flat] : s.moments)
    for (int i = 0; i < 6; ++i) {
      const auto source = block_values(s, i / 2, flat);
      CHECK(same_bits(block_values(mapped, i, mapped.moments.at(name)), source));
      const auto kept = block_values(zeroed, i, zeroed.moments.at(name));
      if (i % 2 == 0)
        CHECK(same_bits(kept, source));
      else
        CHECK(std::all_of(kept.begin(), kept.end(), [](float x) { return x == 0; }));
    }
  for (size_t i = 0; i < zeroed.entries.size(); ++i) {
    CHECK(mapped.steps[i] == 4);
    CHECK(zeroed.steps[i] == (zeroed.entries[i].block % 2 == 1 ? 0 : 4));
  }
}

TEST_CASE("skip equals source: the grown network without its new blocks is the old one, bit for bit") {
  const Trained t;
  for (const int to : {4, 5, 6})
    for (const MapMode mode : {MapMode::top, MapMode::even}) {
      Growth g = growth(3, to, GrowOperator::interp);
      g.map = mode;
      const auto grown = gpt_with(config_of(to), grow_blocks(t.weights, g, 1));
      CHECK(same_bits(logits_without(*grown, skipped(3, 3, to, mode)), logits_of(*t.model)));
      CHECK(!same_bits(logits_of(*grown), logits_of(*t.model)));
      // With momentum growth: the averaged source.
      g.how = GrowOperator::mogrow;
      const auto momentum = gpt_with(config_of(to), grow_blocks(t.weights, g, 1));
      const auto average = gpt_with(config_of(3), take_average(t.weights, kGrowAverage));
      CHECK(same_bits(logits_without(*momentum, skipped(3, 3, to, mode)), logits_of(*average)));
    }
}

TEST_CASE("extract, then run: each candidate alone is what it was inside the supernet, bit for bit") {
  const Trained super(6);
  for (const int base : {3, 4, 5})
    for (const MapMode mode : {MapMode::top, MapMode::even})
      for (int depth = base; depth <= 6; ++depth) {
        CAPTURE(base);
        CAPTURE(depth);
        const Snapshot alone =
            keep_blocks(super.weights, "blocks", 0, 6, active_blocks(depth, base, 6, mode), OptState::map);
        CHECK(same_bits(logits_of(*gpt_with(config_of(depth), alone)),
                        logits_without(*super.model, skipped(depth, base, 6, mode))));
        CHECK(alone.averages.size() == 2);
        CHECK(alone.steps.size() == alone.entries.size());
      }
  // At full depth: the supernet itself.
  CHECK(same(keep_blocks(super.weights, "blocks", 0, 6, active_blocks(6, 3, 6, MapMode::top), OptState::map),
             super.weights));
}

TEST_CASE("identity: the same function at once, and only the silenced projections learn at first") {
  const Trained t;
  const auto grown = gpt_with(config_of(5), grow_blocks(t.weights, growth(3, 5, GrowOperator::identity), 1));
  // x + 0 is exact.
  CHECK(logits_of(*grown) == logits_of(*t.model));
  const Tensor gradients = gradients_of(*grown);
  const Snapshot s = snapshot(grown->params());
  for (size_t i = 0; i < s.entries.size(); ++i) {
    const ParamEntry& e = s.entries[i];
    if (e.block != 2 && e.block != 4) continue;
    CAPTURE(e.name);
    const auto g = s.part(gradients, static_cast<int>(i)).to_vector<float>();
    const bool zero = std::all_of(g.begin(), g.end(), [](float x) { return x == 0; });
    CHECK(zero == !e.marks.branch_end);
  }
}

TEST_CASE("blocks that are skipped keep parameters, moments and counts, whatever the optimizer") {
  for (const std::string name : {"adamw", "sgd", "lamb", "lars", "lion", "muon"}) {
    CAPTURE(name);
    const auto model = random_gpt(config_of(4), 3);
    OptimConfig config;
    config.name = name;
    Optimizer optimizer(config, model->params(), {{kGrowAverage, 0.5}});
    const auto step = [&](const std::vector<int64_t>& out, uint64_t batch) {
      const BlockSet skip = block_set(model->params().entries(), out);
      Context ctx;
      ctx.training = true;
      ctx.skip = &skip;
      model->params().zero_grads();
      Tape tape;
      backward(model->loss(token_batch(batch), ctx));
      optimizer.gradient_norm();
      optimizer.step(0.01, skip);
    };
    for (uint64_t i = 1; i <= 3; ++i) step({}, i);
    const Snapshot before = snapshot(model->params(), &optimizer);
    for (uint64_t i = 4; i <= 8; ++i) step(i % 2 ? std::vector<int64_t>{1, 3} : std::vector<int64_t>{1}, i);
    const Snapshot after = snapshot(model->params(), &optimizer);
    CHECK(same_bits(block_values(after, 1), block_values(before, 1)));
    CHECK(!same_bits(block_values(after, 3), block_values(before, 3)));
    for (const auto& [moment, flat] : before.moments)
      CHECK(same_bits(block_values(after, 1, after.moments.at(moment)), block_values(before, 1, flat)));
    for (size_t i = 0; i < after.entries.size(); ++i)
      CHECK(after.steps[i] == (after.entries[i].block == 1 ? 3 : after.entries[i].block == 3 ? 6 : 8));
  }
}

TEST_CASE("a range of blocks grows between fixed ones") {
  const Trained t(5);
  Growth g = growth(2, 4, GrowOperator::interp);
  g.first = 1;
  const Snapshot grown = grow_blocks(t.weights, g, 1);
  const int sources[] = {0, 1, 1, 2, 2, 3, 4};
  for (int i = 0; i < 7; ++i) CHECK(same_bits(block_values(grown, i), block_values(t.weights, sources[i])));
  const Snapshot back = keep_blocks(grown, "blocks", 1, 4, {0, 2}, OptState::reset);
  CHECK(difference(back, t.weights) == 0);
  g.first = 4;
  check_sentence(error_of([&] { grow_blocks(t.weights, g, 1); }), {"blocks 4 to 6", "it has 5"});
}
