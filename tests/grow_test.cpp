// The verbs of growth but for width: depth, silence, position tables, interpolation, taking apart and putting together,
// snapshots.
#include "tests/grow_testing.h"
#include "training/optimizer.h"

using namespace accrete;

namespace {

Snapshot layers(const std::vector<float>& values) {
  std::vector<ToyEntry> list = {{"before", Shape{1}, {kEmbed}, {9}}};
  for (size_t i = 0; i < values.size(); ++i)
    list.push_back(
        {"blocks." + std::to_string(i) + ".w", Shape{1}, {kEmbed}, {values[i]}, {}, "blocks", static_cast<int>(i)});
  list.push_back({"after", Shape{1}, {kEmbed}, {8}});
  return toy(list);
}

std::vector<float> in_order(const Snapshot& s) {
  std::vector<float> all;
  for (size_t i = 0; i < s.entries.size(); ++i) all.push_back(s.value(static_cast<int>(i)).ptr<float>()[0]);
  return all;
}

Snapshot table(const std::vector<float>& values, int64_t width = 1) {
  return toy({{"positions", Shape{static_cast<int64_t>(values.size()) / width, width}, {kGrid, kEmbed}, values},
              {"w", Shape{2}, {kEmbed}, {1, 2}}});
}

void check_close(const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::abs(static_cast<double>(got[i]) - want[i]) <= tolerance);
}

}  // namespace

TEST_CASE("depth: golden order of merged and copied layers") {
  const Snapshot big = layers({1, 3, 10, 20});
  CHECK(in_order(shallower(big, 2, Pairing::adjacent)) == std::vector<float>{9, 2, 15, 8});
  CHECK(in_order(shallower(big, 2, Pairing::half)) == std::vector<float>{9, 5.5f, 11.5f, 8});
  const Snapshot small = layers({1, 2});
  CHECK(in_order(deeper(small, 2, Pairing::adjacent)) == std::vector<float>{9, 1, 1, 2, 2, 8});
  CHECK(in_order(deeper(small, 2, Pairing::half)) == std::vector<float>{9, 1, 2, 1, 2, 8});
  const Snapshot grown = deeper(small, 2, Pairing::half);
  CHECK(grown.entries[4].name == "blocks.3.w");
  CHECK(grown.entries[4].block == 3);
  CHECK(block_groups(grown.entries) == std::vector<std::pair<std::string, int>>{{"blocks", 4}});
}

TEST_CASE("depth: moments and steps go along, blocks may be left out and drawn by the stage") {
  Snapshot s = layers({1, 2});
  s.moments["m"] = s.values.clone();
  s.averages["ema"] = s.values.clone();
  s.steps = {1, 2, 3, 4};
  const Snapshot carried = map_depth(s, "blocks", {{1}, {0}, {0, 1}}, Moments::carry);
  CHECK(in_order(carried) == std::vector<float>{9, 2, 1, 1.5f, 8});
  CHECK(carried.steps == std::vector<double>{1, 3, 2, 2, 4});
  CHECK(difference(carried, carried.moments.at("m"), carried, carried.values) == 0);
  CHECK(difference(carried, carried.averages.at("ema"), carried, carried.values) == 0);
  CHECK(map_depth(s, "blocks", {{1}}, Moments::reset).moments.empty());
  const Snapshot gap = map_depth(s, "blocks", {{0}, {}, {1}}, Moments::carry);
  CHECK(in_order(gap) == std::vector<float>{9, 1, 2, 8});
  CHECK(gap.find("blocks.1.w") == -1);
  CHECK(gap.find("blocks.2.w") == 2);

  const GptConfig three = grow_config(8, 2, 3, true);
  const Snapshot two = snapshot(random_gpt(grow_config(8, 2, 2, true), 1)->params());
  Gpt model(three, DType::f32, kCpu);
  model.params().initialise(5);
  const Snapshot drawn = snapshot(model.params());
  restore(model.params(), map_depth(two, "blocks", {{0}, {}, {1}}, Moments::reset), nullptr, Missing::keep);
  const Snapshot filled = snapshot(model.params());
  CHECK(values_of_entry(filled, "blocks.1.mlp.fc1.weight") == values_of_entry(drawn, "blocks.1.mlp.fc1.weight"));
  CHECK(values_of_entry(filled, "blocks.2.mlp.fc1.weight") == values_of_entry(two, "blocks.1.mlp.fc1.weight"));

  check_sentence(error_of([&] { map_depth(s, "layers", {{0}}, Moments::reset); }), {"no blocks \"layers\""});
  check_sentence(error_of([&] { map_depth(s, "blocks", {{2}}, Moments::reset); }), {"block 2", "below 2"});
  for (const DepthMap& map : {DepthMap{{0, 1}}, DepthMap{{0}, {0}, {1}}})
    check_sentence(error_of([&] { map_depth(s, "blocks", map, Moments::exact); }),
                   {"merged or copied", "reset or carry"});
  CHECK(in_order(map_depth(s, "blocks", {{1}, {}, {0}}, Moments::exact)) == std::vector<float>{9, 2, 1, 8});
  const Snapshot uneven =
      toy({{"b.0.w", Shape{1}, {kEmbed}, {1}, {}, "b", 0}, {"b.1.w", Shape{2}, {kEmbed}, {1, 2}, {}, "b", 1}});
  check_sentence(error_of([&] { map_depth(uneven, "b", {{0}, {1}}, Moments::reset); }), {"not alike"});
}

TEST_CASE("copied blocks change the function, silent second copies do not") {
  for (const bool tied : {false, true}) {
    const auto small = random_gpt(grow_config(16, 4, 2, tied), 2);
    const Snapshot grown = deeper(snapshot(small->params()), 2, Pairing::adjacent);
    const GptConfig big = grow_config(16, 4, 4, tied);
    CHECK(relative_error(logits_of(*gpt_with(big, grown)), logits_of(*small)) > 1e-3);
    BlockSet second;
    for (const int b : {1, 3}) second.insert("blocks", b);
    Snapshot with_average = grown;
    with_average.averages["ema"] = grown.values.clone();
    const Snapshot quiet = silence(with_average, second);
    CHECK(relative_error(logits_of(*gpt_with(big, quiet)), logits_of(*small)) < 1e-6);
    CHECK(difference(quiet, quiet.averages.at("ema"), quiet, quiet.values) == 0);
    CHECK_FALSE(same(quiet, grown));  // and the argument stays what it was
    for (const char* kind : {"weight", "bias"}) {
      for (const float v : values_of_entry(quiet, std::string("blocks.1.attn.proj.") + kind)) CHECK(v == 0);
      CHECK(values_of_entry(quiet, std::string("blocks.0.attn.proj.") + kind) ==
            values_of_entry(grown, std::string("blocks.0.attn.proj.") + kind));
    }
    // At first only the silent layers themselves learn.
    const auto model = gpt_with(big, quiet);
    const Tensor g = gradients_of(*model);
    const auto size = [&](const char* name) {
      double sum = 0;
      for (const float x : quiet.part(g, quiet.find(name)).to_vector<float>()) sum += std::abs(x);
      return sum;
    };
    CHECK(size("blocks.1.mlp.fc2.weight") > 0);
    CHECK(size("blocks.1.mlp.fc1.weight") == 0);
    CHECK(size("blocks.1.attn.qkv.weight") == 0);
    const Snapshot half = scale_branches(grown, second, 0.5f);
    CHECK(values_of_entry(half, "blocks.3.mlp.fc2.weight")[5] ==
          0.5f * values_of_entry(grown, "blocks.3.mlp.fc2.weight")[5]);
    CHECK(values_of_entry(half, "blocks.3.mlp.fc1.weight") == values_of_entry(grown, "blocks.3.mlp.fc1.weight"));
  }
}

TEST_CASE("position tables: bicubic golden values, both ratios") {
  const auto resized = [](const std::vector<float>& values, int64_t to, double offset) {
    const auto n = static_cast<int64_t>(values.size());
    // One column, and one row: the same numbers.
    const auto column = values_of_entry(resize_grid(table(values), {0, n, 1}, {0, to, 1}, offset), "positions");
    const auto row = values_of_entry(resize_grid(table(values), {0, 1, n}, {0, 1, to}, offset), "positions");
    CHECK(relative_error(column, row) < 1e-6);  // f32 sums in another order
    return column;
  };
  // Printed with six digits in the specification.
  check_close(resized({0, 1, 4, 9}, 2, 0), {0.21875, 6.78125}, 1e-6);
  check_close(resized({0, 1, 4, 9}, 2, 0.1), {0.194326, 6.035805}, 1e-6);
  check_close(resized({0, 1, 4, 9}, 6, 0), {-0.086806, 0.21875, 1.430556, 3.152778, 6.78125, 9.434028}, 1e-6);
  std::vector<float> squares;
  for (int i = 0; i < 14; ++i) squares.push_back(static_cast<float>(i * i));
  check_close(resized(squares, 8, 0), {0.1626, 4.6660, 14.6738, 31.2012, 54.7129, 83.9902, 117.3496, 161.5073}, 6e-5);
  check_close(resized(squares, 8, 0.1), {0.1587, 4.5081, 14.1962, 30.5374, 53.5345, 81.1656, 114.1730, 157.7622}, 6e-5);
}

TEST_CASE("position tables: two dimensions, special tokens, several channels, equal grids") {
  // Separable: resizing a product f(y) g(x) gives the product of the resized factors.
  const std::vector<float> f = {0, 1, 4, 9}, g = {2, -1, 3};
  std::vector<float> values = {7, -7};  // two special tokens before the grid
  for (const float a : f)
    for (const float b : g) values.push_back(a * b);
  const auto column = values_of_entry(resize_grid(table(f), {0, 4, 1}, {0, 6, 1}), "positions");
  const auto row = values_of_entry(resize_grid(table(g), {0, 1, 3}, {0, 1, 2}), "positions");
  const auto both = values_of_entry(resize_grid(table(values), {2, 4, 3}, {2, 6, 2}), "positions");
  REQUIRE(both.size() == 2 + 12);
  CHECK(both[0] == 7);
  CHECK(both[1] == -7);
  for (size_t y = 0; y < 6; ++y)
    for (size_t x = 0; x < 2; ++x) CHECK(both[2 + y * 2 + x] == doctest::Approx(column[y] * row[x]).epsilon(1e-5));
  // A grid that is no product, i^1.5 in 4 x 3: torch.nn.functional.interpolate(mode="bicubic"), torch 2.15.
  std::vector<float> powers;
  for (int i = 0; i < 12; ++i) powers.push_back(std::pow(static_cast<float>(i), 1.5f));
  check_close(values_of_entry(resize_grid(table(powers), {0, 4, 3}, {0, 6, 2}), "positions"),
              {-0.320123, 1.745421, 2.031638, 5.447011, 7.377725, 12.642076, 13.041838, 19.163847, 22.556925, 29.744629,
               28.957884, 36.734642},
              2e-5);  // f32 sums of sixteen numbers up to 36
  // Channels do not mix.
  const std::vector<float> pairs = {0, 5, 1, 5, 4, 5, 9, 5};
  const auto wide = values_of_entry(resize_grid(table(pairs, 2), {0, 4, 1}, {0, 2, 1}), "positions");
  check_close(wide, {0.21875, 5, 6.78125, 5}, 1e-6);
  Snapshot with_moments = table(f);
  with_moments.moments["m"] = with_moments.values.clone();
  with_moments.averages["ema"] = with_moments.values.clone();
  const Snapshot kept = resize_grid(with_moments, {0, 2, 2}, {0, 2, 2}, 0.1);
  CHECK(same(kept, with_moments));
  CHECK(kept.moments.contains("m"));
  const Snapshot moved = resize_grid(with_moments, {0, 2, 2}, {0, 3, 3});
  CHECK(moved.moments.empty());
  CHECK(difference(moved, moved.averages.at("ema"), moved, moved.values) == 0);
  CHECK(values_of_entry(moved, "w") == std::vector<float>{1, 2});

  check_sentence(error_of([&] {
                   resize_grid(table(f), {1, 2, 2}, {1, 3, 3});
                 }),
                 {"positions", "4 positions", "expected 5"});
  check_sentence(error_of([&] { resize_grid(table(f), {0, 2, 2}, {1, 3, 3}); }), {"special tokens"});
  check_sentence(error_of([&] { resize_grid(layers({1}), {0, 2, 2}, {0, 3, 3}); }), {"no table of positions"});
}

TEST_CASE("sequences: a prefix, or linear interpolation") {
  Snapshot s = table({0, 1, 4, 9});
  s.moments["m"] = s.values.clone();
  s.steps = {5, 5};
  const Snapshot prefix = resize_sequence(s, 3, SequenceResize::prefix);
  CHECK(values_of_entry(prefix, "positions") == std::vector<float>{0, 1, 4});
  CHECK(difference(prefix, prefix.moments.at("m"), prefix, prefix.values) == 0);
  CHECK(prefix.steps == s.steps);
  const Snapshot linear = resize_sequence(s, 8, SequenceResize::linear);
  // Half-pixel centres: positions -0.25, 0.25, 0.75, ... of the old table, clamped at its ends.
  check_close(values_of_entry(linear, "positions"), {0, 0.25, 0.75, 1.75, 3.25, 5.25, 7.75, 9}, 1e-6);
  check_close(values_of_entry(resize_sequence(s, 2, SequenceResize::linear), "positions"), {0.5, 6.5}, 1e-6);
  CHECK(linear.moments.empty());
  CHECK(same(resize_sequence(s, 4, SequenceResize::linear), s));
  check_sentence(error_of([&] { resize_sequence(s, 5, SequenceResize::prefix); }),
                 {"4 positions", "first 5", "linear"});
  check_sentence(error_of([&] { resize_sequence(s, 0, SequenceResize::prefix); }), {"at least one"});
  // A model with a shorter context computes the same on short texts.
  GptConfig c = grow_config(16, 4, 2, true);
  c.context = 24;
  const auto longer = random_gpt(c, 4);
  const auto shorter =
      gpt_with(grow_config(16, 4, 2, true), resize_sequence(snapshot(longer->params()), 12, SequenceResize::prefix));
  CHECK(same_bits(logits_of(*longer), logits_of(*shorter)));
}

TEST_CASE("interpolation: the ends bit for bit, linear between, everything included, strangers refused") {
  const GptConfig c = grow_config(8, 2, 2, true);
  Snapshot a = snapshot(random_gpt(c, 1)->params()), b = snapshot(random_gpt(c, 2)->params());
  a.moments["m"] = a.values.clone(), b.moments["m"] = b.values.clone();
  a.steps.assign(a.entries.size(), 3.0), b.steps.assign(b.entries.size(), 2.0);
  CHECK(same(interpolate(a, b, 0), a));
  CHECK(same(interpolate(a, b, 1), b));
  const Snapshot mix = interpolate(a, b, 0.25);
  for (size_t i = 0; i < a.entries.size(); ++i) {
    const auto x = a.value(static_cast<int>(i)).to_vector<float>(), y = b.value(static_cast<int>(i)).to_vector<float>(),
               z = mix.value(static_cast<int>(i)).to_vector<float>();
    for (size_t k = 0; k < x.size(); ++k)
      CHECK(std::abs(static_cast<double>(z[k]) -
                     (0.75 * static_cast<double>(x[k]) + 0.25 * static_cast<double>(y[k]))) < 1e-6);
  }
  CHECK(difference(mix, mix.moments.at("m"), mix, mix.values) == 0);
  CHECK(mix.steps == b.steps);
  const Snapshot deeper_one = snapshot(random_gpt(grow_config(8, 2, 3, true), 1)->params());
  const Snapshot wider_one = snapshot(random_gpt(grow_config(16, 2, 2, true), 1)->params());
  check_sentence(error_of([&] { interpolate(a, deeper_one, 0.5); }), {"cannot be interpolated"});
  check_sentence(error_of([&] { interpolate(a, wider_one, 0.5); }), {"tokens.weight", "differ"});
  check_sentence(error_of([&] { interpolate(a, b, 1.5); }), {"[0, 1]", "1.5"});
}

TEST_CASE("a model is taken apart and put together again") {
  const GptConfig c = grow_config(8, 2, 3, true);
  Snapshot whole = snapshot(random_gpt(c, 1)->params());
  whole.moments["m"] = whole.values.clone();
  whole.steps.assign(whole.entries.size(), 0.0);
  for (size_t i = 0; i < whole.steps.size(); ++i) whole.steps[i] = static_cast<double>(i);
  const auto blocks = [](int from, int to) {
    return [=](const ParamEntry& e) { return e.block >= from && e.block < to; };
  };
  const Snapshot ends = take(whole, [](const ParamEntry&e) { return e.block < 0; }), first = take(whole, blocks(0, 1)),
                 rest = take(whole, blocks(1, 3));
  CHECK(ends.entries.size() + first.entries.size() + rest.entries.size() == whole.entries.size());
  CHECK(difference(first, first.moments.at("m"), first, first.values) == 0);
  CHECK(first.steps.front() == static_cast<double>(whole.find(first.entries.front().name)));
  const std::vector<Snapshot> parts = {rest, ends, first};
  CHECK(same(assemble(parts, whole.entries), whole));
  const auto refused = [&](const std::vector<Snapshot>& p) { return error_of([&] { assemble(p, whole.entries); }); };
  check_sentence(refused({rest, ends}), {"blocks.0", "comes from no part"});
  check_sentence(refused({rest, ends, first, rest}), {"blocks.1", "from part 0 and from part 3"});
  const Snapshot strange = snapshot(random_gpt(grow_config(8, 2, 4, true), 1)->params());
  check_sentence(refused({take(strange, blocks(3, 4))}), {"blocks.3", "does not have"});
  const Snapshot wide = snapshot(random_gpt(grow_config(16, 2, 3, true), 1)->params());
  check_sentence(refused({take(wide, blocks(0, 1))}), {"blocks.0", "expected (8)"});
}

TEST_CASE("snapshot and restore: weights, moments, averages and steps, bit for bit") {
  const GptConfig c = grow_config(16, 4, 2, true);
  const std::map<std::string, double> averages = {{"ema.grow", 0.5}};
  OptimConfig config;
  config.ema = 0.9;
  const auto train = [](Gpt& model, Optimizer& optimizer, uint64_t batch) {
    gradients_of(model, batch);
    optimizer.gradient_norm();
    optimizer.step(1e-2);
  };
  const auto model = random_gpt(c, 3);
  Optimizer optimizer(config, model->params(), averages);
  optimizer.reset_averages();
  for (uint64_t i = 0; i < 3; ++i) train(*model, optimizer, i);
  const Snapshot s = snapshot(model->params(), &optimizer);
  CHECK(s.moments.size() == 2);
  CHECK(s.averages.size() == 2);
  const auto again = random_gpt(c, 99);
  Optimizer other(config, again->params(), averages);
  restore(again->params(), s, &other);
  for (uint64_t i = 3; i < 6; ++i) train(*model, optimizer, i), train(*again, other, i);
  const Snapshot one = snapshot(model->params(), &optimizer), two = snapshot(again->params(), &other);
  CHECK(same(one, two));
  CHECK(one.steps == two.steps);
  for (const auto& [name, flat] : one.moments)
    CHECK(same_bits(flat.to_vector<float>(), two.moments.at(name).to_vector<float>()));
  for (const auto& [name, flat] : one.averages)
    CHECK(same_bits(flat.to_vector<float>(), two.averages.at(name).to_vector<float>()));

  const Snapshot shallow = snapshot(random_gpt(grow_config(16, 4, 1, true), 1)->params());
  check_sentence(error_of([&] { restore(again->params(), shallow); }), {"do not fit", "missing blocks.1"});
  const Snapshot narrow = snapshot(random_gpt(grow_config(8, 4, 2, true), 1)->params());
  check_sentence(error_of([&] { restore(again->params(), narrow); }), {"tokens.weight is (31, 8) instead of (31, 16)"});
}

TEST_CASE("freeze: only what is accepted trains") {
  const auto model = random_gpt(grow_config(8, 2, 2, true), 1);
  freeze(model->params(), [](const ParamEntry& e) { return e.block == 1; });
  const Snapshot before = snapshot(model->params());
  Optimizer optimizer(OptimConfig{}, model->params());
  gradients_of(*model);
  optimizer.gradient_norm();
  optimizer.step(1e-2);
  const Snapshot after = snapshot(model->params());
  for (const ParamEntry& e : after.entries) {
    CAPTURE(e.name);
    CHECK((values_of_entry(before, e.name) == values_of_entry(after, e.name)) == (e.block != 1));
  }
}
