// AutoProg: maps, schedules, candidates, the choice, and the stages that a plan makes of them. Golden values: the
// formulas of the paper and its release, worked out by hand or by Python in IEEE double.
#include "training/trainers/autoprog.h"

#include "tests/grow_testing.h"
#include "training/depth_map.h"
#include "training/extent.h"
#include "training/growth_ops.h"

using namespace accrete;

namespace {

using Ints = std::vector<int>;

Stage whole_stage(int64_t depth = 8, const std::string& duration = "100st", int64_t length = 256) {
  Recipe recipe;
  recipe.model = {{"depth", depth}, {"embed_dim", 8}, {"resid_dropout", 0.2}};
  recipe.duration = duration;
  recipe.data.length = length;
  recipe.batch = {.size = 8, .micro = 4};
  return stage_of(recipe, "train");
}

std::vector<Stage> stages_of(const Json& plan, const Stage& whole) {
  Json named{{"name", "autoprog"}};
  if (!plan.is_null()) named.merge_patch(plan);
  return planned_stages(*make_plan(named, whole));
}

std::string refusal(const Json& plan, const Stage& whole) {
  return error_of([&] { stages_of(plan, whole); });
}

template <class Fn>
std::vector<double> four(Fn&& fn) {
  return {fn(0), fn(1), fn(2), fn(3)};
}

std::vector<GrowthSize> volo() { return {{9, 128}, {12, 160}, {15, 192}, {18, 224}}; }

std::vector<GrowthSize> product(const std::vector<int64_t>& extents, const std::vector<int64_t>& depths) {
  std::vector<GrowthSize> sizes;
  for (const int64_t r : extents)
    for (const int64_t l : depths) sizes.push_back({l, r});
  return sizes;
}

}  // namespace

TEST_CASE("map of blocks: golden tables") {
  struct Row {
    int a, b;
    Ints sources, added;
  };
  const Row rows[] = {{6, 8, {0, 1, 2, 3, 4, 4, 5, 5}, {5, 7}},
                      {6, 9, {0, 1, 2, 3, 3, 4, 4, 5, 5}, {4, 6, 8}},
                      {6, 12, {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}, {1, 3, 5, 7, 9, 11}},
                      {8, 12, {0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7}, {5, 7, 9, 11}},
                      {9, 12, {0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8}, {7, 9, 11}},
                      {10, 12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9}, {9, 11}},
                      {7, 14, {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6}, {1, 3, 5, 7, 9, 11, 13}},
                      {11, 14, {0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 10, 10}, {9, 11, 13}},
                      {2, 4, {0, 0, 1, 1}, {1, 3}},
                      {3, 12, {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}, {1, 2, 3, 5, 6, 7, 9, 10, 11}}};
  for (const Row& r : rows) {
    CHECK(block_sources(r.a, r.b, MapMode::top) == r.sources);
    CHECK(new_blocks(r.a, r.b, MapMode::top) == r.added);
  }
  CHECK(block_sources(9, 12, MapMode::even) == Ints{0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8});
  check_sentence(error_of([] { block_sources(4, 3, MapMode::top); }), {"4 blocks", "to 3"});
  check_sentence(error_of([] { map_mode_of("middle"); }), {"middle", "top or even"});
}

TEST_CASE("map of blocks: monotone, onto, as many copies as blocks are new") {
  for (const MapMode mode : {MapMode::top, MapMode::even})
    for (int a = 1; a < 40; ++a)
      for (int b = a; b <= (a < 20 ? 6 * a : 2 * a); ++b) {
        const Ints s = block_sources(a, b, mode);
        Ints uses(static_cast<size_t>(a), 0);
        bool monotone = true;
        for (size_t i = 0; i < s.size(); ++i) {
          ++uses.at(static_cast<size_t>(s[i]));
          monotone = monotone && (i == 0 || (s[i] >= s[i - 1] && s[i] <= s[i - 1] + 1));
        }
        REQUIRE(monotone);
        REQUIRE(*std::min_element(uses.begin(), uses.end()) >= 1);
        if (b <= 2 * a) REQUIRE(*std::max_element(uses.begin(), uses.end()) <= 2);
        REQUIRE(static_cast<int>(new_blocks(a, b, mode).size()) == b - a);
      }
}

TEST_CASE("blocks that run at a depth: new ones join from the top downwards") {
  CHECK(active_blocks(11, 7, 14, MapMode::top) == Ints{0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13});
  // The example in which the release trains one network and extracts another: blocks 0 1 2 4 6 8 10 12 are trained.
  CHECK(active_blocks(8, 8, 14, MapMode::top) == Ints{0, 1, 2, 4, 6, 8, 10, 12});
  CHECK(active_blocks(11, 8, 14, MapMode::top) == Ints{0, 1, 2, 4, 6, 8, 9, 10, 11, 12, 13});
  CHECK(active_blocks(14, 8, 14, MapMode::top).size() == 14);
  for (int base = 1; base < 12; ++base)
    for (int max = base; max <= 2 * base; ++max)
      for (int depth = base; depth <= max; ++depth)
        REQUIRE(static_cast<int>(active_blocks(depth, base, max, MapMode::even).size()) == depth);
  check_sentence(error_of([] { active_blocks(5, 6, 8, MapMode::top); }), {"grew from 6", "with 5"});
}

TEST_CASE("schedule: golden values") {
  const auto sizes = [](double full, double scale, int64_t multiple) {
    return four([&](int k) { return static_cast<double>(make_divisible(staged(full, scale, k, 4), multiple)); });
  };
  using V = std::vector<double>;
  CHECK(sizes(224, 0.5, 32) == V{128, 160, 192, 224});
  CHECK(sizes(224, 0.4, 32) == V{96, 128, 192, 224});
  CHECK(sizes(18, 0.5, 1) == V{9, 12, 15, 18});
  CHECK(sizes(18, 0.4, 1) == V{7, 11, 14, 18});
  CHECK(sizes(12, 0.5, 1) == V{6, 8, 10, 12});
  CHECK(sizes(24, 0.5, 1) == V{12, 16, 20, 24});
  const auto values = [](double full, double scale) {
    return four([&](int k) { return std::max(0.0, staged(full, scale, k, 4)); });
  };
  const auto close = [](const V& got, const V& want) {
    for (size_t i = 0; i < 4; ++i) CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-12));
  };
  close(values(0.1, 0), {0, 0.1 / 3, 0.2 / 3, 0.1});
  close(values(0.25, 0), {0, 0.25 / 3, 0.5 / 3, 0.25});
  close(values(0.1, -0.5), {0, 0, 0.05, 0.1});
  close(values(0.25, -0.5), {0, 0, 0.125, 0.25});
  // Rounded to even, as the release does: 4.5 -> 4, 7.499999999999999 -> 7.
  const auto rounded = [](double full, double scale) {
    return four([&](int k) { return std::nearbyint(staged(full, scale, k, 4)); });
  };
  CHECK(rounded(9, 0.5) == V{4, 6, 7, 9});
  CHECK(rounded(9, 0) == V{0, 3, 6, 9});
  CHECK(staged(7, 0.5, 0, 1) == 7);  // one stage: the whole
}

TEST_CASE("candidates: golden lists") {
  const auto schedule = volo();
  const auto at = [&](int k, std::optional<GrowthSize> size) { return candidate_sizes(schedule, k, size, true); };
  CHECK(at(0, std::nullopt) == product({128, 192, 224}, {9, 15, 18}));
  CHECK(at(1, GrowthSize{9, 128}) == product({128, 160}, {12, 15, 18}));
  CHECK(at(2, GrowthSize{12, 160}) == product({160, 192}, {15, 18}));
  CHECK(at(2, GrowthSize{15, 192}) == product({192, 224}, {18}));
  CHECK(at(2, GrowthSize{15, 224}) == product({224}, {18}));
  CHECK(at(2, GrowthSize{18, 224}) == product({224}, {18}));  // reached: no search
  CHECK(at(3, GrowthSize{12, 160}) == product({224}, {18}));  // the last stage
  // Depth may stay where it is not forced to grow.
  CHECK(candidate_sizes(schedule, 1, GrowthSize{9, 128}, false) == product({128, 160}, {9, 12, 15}));
  // Values that the schedule repeats count once.
  const std::vector<GrowthSize> flat = {{2, 32}, {2, 32}, {3, 32}, {4, 32}};
  CHECK(candidate_sizes(flat, 0, std::nullopt, true) == product({32}, {2, 3, 4}));
}

TEST_CASE("choice: the golden example") {
  const std::vector<Scored> c = {{2.00, 1.0}, {1.86, 1.8}, {1.80, 2.1}, {1.74, 3.9}, {1.72, 3.8}, {1.66, 7.2}};
  const PowerLaw law = fit_power_law(c);
  CHECK(law.a1 == doctest::Approx(-0.0948455).epsilon(1e-6));  // as many digits as are published
  CHECK(law.a2 == doctest::Approx(1.9717744).epsilon(1e-7));
  // It is a minimum of the squared errors of the losses.
  const auto error = [&](double a1, double a2) {
    double sum = 0;
    for (const Scored& s : c) sum += std::pow(s.loss - a2 * std::pow(s.cost, a1), 2);
    return sum;
  };
  for (const double d : {1e-4, -1e-4}) {
    CHECK(error(law.a1 + d, law.a2) > error(law.a1, law.a2));
    CHECK(error(law.a1, law.a2 + d) > error(law.a1, law.a2));
    CHECK(error(law.a1 + d, law.a2 + d) > error(law.a1, law.a2));
  }
  const Selection s = choose(c, std::nullopt, 0.1);
  CHECK(s.index == 2);
  const double scores[] = {2.00000, 1.96664, 1.93123, 1.97974, 1.95217, 2.00181};
  for (size_t i = 0; i < 6; ++i) CHECK(s.scores[i] == doctest::Approx(scores[i]).epsilon(4e-6));
}

TEST_CASE("choice: units do not matter, and the cases in which a fit says nothing") {
  const std::vector<Scored> c = {{2.00, 1.0}, {1.86, 1.8}, {1.80, 2.1}, {1.74, 3.9}, {1.72, 3.8}, {1.66, 7.2}};
  for (const double unit : {1e-9, 10.0, 3e14})
    for (const double scale : {3.0, 0.01}) {
      std::vector<Scored> other = c;
      for (Scored& s : other) s.cost *= unit, s.loss *= scale;
      const Selection s = choose(other, std::nullopt, 0.1);
      CHECK(s.index == 2);
      CHECK(s.w == doctest::Approx(0.0948455).epsilon(1e-6));
    }
  // Larger networks are worse: the smallest loss.
  const Selection rising = choose(std::vector<Scored>{{1.0, 1}, {0.9, 2}, {1.2, 4}, {1.3, 5}}, std::nullopt, 0.1);
  CHECK(rising.fit->a1 > 0);
  CHECK(rising.w == 0);
  CHECK(rising.index == 1);
  // A curve through two points always fits: the exponent of before decides.
  const std::vector<Scored> two = {{2.0, 1}, {1.9, 2}};
  CHECK(choose(two, std::nullopt, 0.1).index == 0);   // 1.9 * 2^0.1 = 2.036
  CHECK(choose(two, std::nullopt, 0.05).index == 1);  // 1.9 * 2^0.05 = 1.967
  CHECK(!choose(two, std::nullopt, 0.1).fit);
  CHECK(!choose(std::vector<Scored>{{2, 1}, {1.9, 2}, {1.8, 2}}, std::nullopt, 0.1).fit);
  CHECK(choose(std::vector<Scored>{{2, 1}}, std::nullopt, 0.1).index == 0);
  CHECK(choose(std::vector<Scored>{{2, 1}, {2, 1}, {2, 1}}, std::nullopt, 0.1).index == 0);  // ties: the first
  CHECK(choose(c, 0.0, 0.1).index == 5);
  CHECK(choose(c, 5.0, 0.1).index == 0);
  check_sentence(error_of([] { choose({}, std::nullopt, 0.1); }), {"no candidate"});
  check_sentence(error_of([] { choose(std::vector<Scored>{{NAN, 1}}, std::nullopt, 0.1); }), {"above 0"});
}

TEST_CASE("extent: rows follow, tokens of a step stay as nearly as whole micro-batches allow") {
  struct Row {
    int64_t size, micro, length, to, want_size, want_micro;
  };
  const Row rows[] = {{8, 4, 256, 128, 16, 8},  {8, 4, 256, 64, 32, 16}, {16, 8, 128, 256, 8, 4},
                      {8, 0, 256, 128, 16, 16}, {8, 4, 256, 192, 10, 5}, {8, 1, 256, 192, 11, 1},
                      {8, 4, 256, 256, 8, 4},   {1, 1, 64, 256, 1, 1}};
  for (const Row& r : rows) {
    DataConfig data;
    data.length = r.length;
    BatchConfig batch{.size = r.size, .micro = r.micro};
    set_extent(data, batch, r.to);
    CHECK(extent(data) == r.to);
    CHECK(batch.size == r.want_size);
    CHECK(batch.micro_size() == r.want_micro);
  }
}

TEST_CASE("plan: the stages of the manual schedule") {
  const auto stages = stages_of({{"length_scale", 0.5},
                                 {"regularisation", {{"model.resid_dropout", 0.0}, {"optim.weight_decay", -0.5}}},
                                 {"regularisation_lists", {{"data.loader_threads", {1, 2, 3, 4}}}}},
                                whole_stage());
  REQUIRE(stages.size() == 4);
  const int64_t depths[] = {4, 5, 7, 8}, lengths[] = {128, 192, 192, 256}, rows[] = {16, 10, 10, 8};
  const double dropout[] = {0, 0.2 / 3, 0.4 / 3, 0.2}, decay[] = {0, 0, 0.05, 0.1};
  for (size_t k = 0; k < 4; ++k) {
    const Stage& s = stages[k];
    CHECK(s.name == "stage " + std::to_string(k + 1));
    CHECK(s.model["depth"] == depths[k]);
    CHECK(s.data.length == lengths[k]);
    CHECK(s.batch.size == rows[k]);
    CHECK(s.duration == "25st");
    CHECK(s.schedule_from == doctest::Approx(0.25 * static_cast<double>(k)));
    CHECK(s.schedule_to == doctest::Approx(0.25 * static_cast<double>(k + 1)));
    CHECK(s.model["resid_dropout"].get<double>() == doctest::Approx(dropout[k]));
    CHECK(s.optim.weight_decay == doctest::Approx(decay[k]));
    CHECK(s.data.loader_threads == static_cast<int64_t>(k + 1));
    CHECK(s.average_times.size() == (k < 3 ? 1 : 0));
    if (k < 3) CHECK(s.average_times.at(kGrowAverage) == "2st");
    CHECK(!s.elastic);
    CHECK(s.initialised_at_random == (k == 0));
    REQUIRE(s.notes.size() == (k == 0 ? 0 : 1));
  }
  CHECK(stages[1].notes[0]["event"] == "growth");
  CHECK(stages[1].notes[0]["blocks"] == "4 -> 5");
  CHECK(stages[1].notes[0]["length"] == "128 -> 192");
  CHECK(stages[1].notes[0]["new"] == Json::parse("[4]"));
  CHECK(!stages[2].notes[0].contains("length"));
}

TEST_CASE("plan: magnitudes of RandAugment grow by whole numbers (spec 1.1: 4, 6, 7, 9)") {
  Stage whole = whole_stage();
  whole.data.augment.magnitude = 9;
  const auto stages = stages_of({{"regularisation", {{"data.augment.magnitude", 0.5}}}}, whole);
  REQUIRE(stages.size() == 4);
  const double magnitudes[] = {4, 6, 7, 9};
  for (size_t k = 0; k < 4; ++k) CHECK(stages[k].data.augment.magnitude == magnitudes[k]);
}

TEST_CASE("plan: boundaries are whole steps, and shares of other units") {
  const auto steps_of = [](const Json& plan, const std::string& duration) {
    std::vector<std::string> d;
    for (const Stage& s : stages_of(plan, whole_stage(8, duration))) d.push_back(s.duration);
    return d;
  };
  using Texts = std::vector<std::string>;
  CHECK(steps_of({}, "100ep") == Texts{"25ep", "25ep", "25ep", "25ep"});
  CHECK(steps_of({}, "61st") == Texts{"15st", "15st", "15st", "16st"});
  CHECK(steps_of({{"stages", 3}}, "100st") == Texts{"33st", "33st", "34st"});
  CHECK(steps_of({{"stages", 3}, {"starts", {0, 0.125, 0.5}}}, "2000tok") == Texts{"250tok", "750tok", "1000tok"});
  CHECK(steps_of({{"stages", 1}}, "7st") == Texts{"7st"});
  // A part of a schedule is cut further.
  Stage second = whole_stage();
  second.schedule_from = 0.5;
  const auto stages = stages_of({{"stages", 2}}, second);
  CHECK(stages[0].schedule_from == 0.5);
  CHECK(stages[0].schedule_to == 0.75);
  CHECK(stages[1].schedule_to == 1);
}

TEST_CASE("plan: keep, snapshots and charges belong to one end of the training") {
  Stage whole = whole_stage();
  whole.keep = true;
  whole.collect = Collect{.count = 3};
  whole.charged.flops = 7;
  const auto stages = stages_of({}, whole);
  for (size_t k = 0; k < 4; ++k) {
    CHECK(stages[k].keep == (k == 3));
    CHECK(stages[k].collect.has_value() == (k == 3));
    CHECK(stages[k].charged.flops == (k == 0 ? 7 : 0));
  }
}

TEST_CASE("plan: only some blocks of the model grow; what trains is told by the numbers of the whole model") {
  Stage whole = whole_stage(10);
  whole.first_block = 2;
  whole.last_block = 6;
  whole.trainable = [](const ParamEntry& e) {
    return e.block >= 2 && e.block < 6 && e.name == "blocks." + std::to_string(e.block) + ".w";
  };
  const auto stages = stages_of({{"stages", 2}}, whole);
  REQUIRE(stages.size() == 2);
  CHECK(stages[0].model["depth"] == 8);
  CHECK(stages[0].first_block == 2);
  CHECK(stages[0].last_block == 4);
  ParamEntry e;
  e.group = "blocks";
  for (const auto& [stage, end] : {std::pair{0, 4}, std::pair{1, 6}})
    for (int b = 0; b < end + 4; ++b) {
      e.block = b;
      e.name = "blocks." + std::to_string(b) + ".w";
      CHECK(stages[static_cast<size_t>(stage)].trainable(e) == (b >= 2 && b < end));
    }
  e.block = -1, e.group = "", e.name = "tokens.weight";
  CHECK(!stages[0].trainable(e));
}

TEST_CASE("plan: a stage that begins with given weights begins the shallower network with a part of them") {
  const GptConfig config = grow_config(8, 2, 6, true);
  const Snapshot given = snapshot(random_gpt(config, 3)->params());
  Stage whole = whole_stage();
  whole.model = to_json(config);
  whole.first_block = 1;
  whole.last_block = 5;
  whole.initialised_at_random = false;
  whole.initialise = [given](StageStart& start) { restore(start.store, given, start.optimizer); };
  const auto stages = stages_of({{"stages", 2}}, whole);
  const auto small = make_gpt(stages[0].model, DType::f32, kCpu);
  StageStart start{.store = small->params()};
  start.model = [](const Json& model) { return make_gpt(model, DType::f32, kCpu); };
  stages[0].initialise(start);
  const Snapshot begun = snapshot(small->params());
  const int sources[] = {0, 1, 3, 5};  // 2 evenly spaced ones of the blocks 1 to 4
  for (int b = 0; b < 4; ++b)
    for (const char* local : {".attn.qkv.weight", ".mlp.fc2.bias", ".norm1.weight"})
      CHECK(values_of_entry(begun, "blocks." + std::to_string(b) + local) ==
            values_of_entry(given, "blocks." + std::to_string(sources[b]) + local));
  CHECK(values_of_entry(begun, "positions.weight") == values_of_entry(given, "positions.weight"));
}

TEST_CASE("plan: mogrow without an average grows the weights themselves and says so") {
  const auto stages = stages_of({{"stages", 2}}, [] {
    Stage whole = whole_stage();
    whole.model = to_json(grow_config(8, 2, 4, true));
    return whole;
  }());
  const Snapshot before = snapshot(random_gpt(grow_config(8, 2, 2, true), 3)->params());
  const auto large = make_gpt(stages[1].model, DType::f32, kCpu);
  StageStart start{.store = large->params(), .previous = &before};
  std::vector<Json> notes;
  start.note = [&](Json note) { notes.push_back(std::move(note)); };
  stages[1].initialise(start);
  REQUIRE(notes.size() == 1);
  CHECK(notes[0]["by"] == "interp");
  CHECK(values_of_entry(snapshot(large->params()), "blocks.3.mlp.fc1.weight") ==
        values_of_entry(before, "blocks.1.mlp.fc1.weight"));
}

namespace {

// Follows a plan; the losses of the candidates of each search come from a function of (search, candidate).
struct Path {
  std::vector<Stage> stages;
  explicit Path(const Plan& plan, const std::function<double(int, size_t)>& loss) {
    std::vector<StageResult> done;
    int searches = 0;
    while (auto stage = plan.next(done)) {
      StageResult result;
      result.index = static_cast<int>(done.size());
      if (stage->elastic) {
        Json variants = Json::array();
        for (size_t i = 0; i < stage->elastic->variants.size(); ++i) {
          const Variant& v = stage->elastic->variants[i];
          const double blocks = static_cast<double>(stage->model["depth"].get<size_t>() - v.skip.size());
          variants.push_back({{"name", v.name},
                              {"loss", loss(searches, i)},
                              {"tokens", 2048},
                              {"flops", 1e6 * (blocks + 0.001 * static_cast<double>(v.extent))},
                              {"seconds", i == 0 ? 0.0 : 1.0}});
        }
        result.found["variants"] = variants;
        ++searches;
      }
      done.push_back(result);
      stages.push_back(*stage);
    }
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const Stage& s : stages)
      all.push_back(s.name + ": " + s.model["depth"].dump() + "x" + std::to_string(s.data.length));
    return all;
  }
};

const Json kSearching = {{"name", "autoprog"},
                         {"lengths", {128, 160, 192, 224}},
                         {"regularisation", {{"model.resid_dropout", 0.5}}},
                         {"search", {{"duration", "0.05run"}, {"cost", "flops"}}}};

}  // namespace

TEST_CASE("plan: the search chooses, and the rest of each stage trains what was chosen") {
  const auto plan = make_plan(kSearching, whole_stage(18, "200st", 224));
  // The last candidate is always best by far, then the first.
  const Path largest(*plan, [](int, size_t i) { return 9.0 - static_cast<double>(i); });
  CHECK(largest.names() == std::vector<std::string>{"search 1: 18x224", "stage 1: 18x224", "stage 2: 18x224",
                                                    "stage 3: 18x224", "stage 4: 18x224"});
  const Path smallest(*plan, [](int, size_t i) { return 1.0 + static_cast<double>(i); });
  CHECK(smallest.names() == std::vector<std::string>{"search 1: 18x224", "stage 1: 9x128", "search 2: 18x160",
                                                     "stage 2: 12x128", "search 3: 18x160", "stage 3: 15x128",
                                                     "stage 4: 18x224"});
  const Stage& search = smallest.stages[2];
  CHECK(search.duration == "10st");
  CHECK(smallest.stages[3].duration == "40st");
  CHECK(search.schedule_from == doctest::Approx(0.25));
  CHECK(search.schedule_to == doctest::Approx(0.3));
  CHECK(smallest.stages[3].schedule_from == doctest::Approx(0.3));
  CHECK(smallest.stages[3].schedule_to == doctest::Approx(0.5));
  CHECK(search.model["resid_dropout"] == 0.2);  // final settings
  CHECK(smallest.stages[3].model["resid_dropout"].get<double>() == doctest::Approx(0.2 * (0.5 + 0.5 / 3)));
  CHECK(search.average_times.at("ema.score") == "1st");
  CHECK(search.average_times.at(kGrowAverage) == "4st");
  REQUIRE(search.elastic->variants.size() == 6);
  CHECK(search.elastic->score_average == "ema.score");
  CHECK(search.elastic->variants[0].name == "12 blocks x 128");
  CHECK(search.elastic->variants[0].extent == 128);
  CHECK(search.elastic->variants[0].skip == std::vector<int64_t>{7, 9, 11, 13, 15, 17});
  CHECK(search.elastic->variants[4].skip == std::vector<int64_t>{7, 9, 11});
  CHECK(search.elastic->variants[5].skip.empty());
  const Json& choice = smallest.stages[3].notes.at(0);
  CHECK(choice["event"] == "choice");
  CHECK(choice["chosen"] == "12 blocks x 128");
  CHECK(choice["candidates"].size() == 6);
  CHECK(choice["w"] == 0.0);
  CHECK(choice["fit"]["a1"].get<double>() > 0);
  // Base prev: the smallest candidate shares more than the network before.
  Json prev = kSearching;
  prev["search"]["base"] = "prev";
  const Path other(*make_plan(prev, whole_stage(18, "200st", 224)), [](int, size_t i) { return 1.0 + i; });
  CHECK(other.stages[2].elastic->variants[0].skip == std::vector<int64_t>{1, 3, 5, 7, 9, 11});
}

TEST_CASE("plan: the exponent of the last fit decides where there is none; time falls back to FLOPs; manual path") {
  // First search: a clear trend, exponent about 0.2. Third: {160, 192} x {18}, two candidates.
  const auto loss = [](int search, size_t i) {
    if (search == 0) return 3.0 - 0.1 * static_cast<double>(i % 3) - (i == 1 ? 0.2 : 0.0);
    return i == 1 ? 1.9 : 2.0;
  };
  const Path path(*make_plan(kSearching, whole_stage(18, "200st", 224)), loss);
  double w = 0;
  bool reused = false;
  for (const Stage& s : path.stages)
    for (const Json& note : s.notes) {
      if (note["event"] != "choice") continue;
      if (note.contains("fit")) {
        w = note["w"];
      } else {
        reused = true;
        CHECK(note["w"] == w);
      }
    }
  CHECK(reused);
  Json timed = kSearching;
  timed["search"]["cost"] = "time";
  const Path by_time(*make_plan(timed, whole_stage(18, "200st", 224)), loss);
  CHECK(by_time.names() == path.names());
  CHECK(by_time.stages[1].notes.back()["why"].get<std::string>().find("never drawn") != std::string::npos);

  const auto planned = planned_stages(*make_plan(kSearching, whole_stage(18, "200st", 224)));
  std::vector<std::string> names;
  for (const Stage& s : planned) names.push_back(s.name + " " + s.model["depth"].dump());
  CHECK(names == std::vector<std::string>{"search 1 18", "stage 1 (if as scheduled) 9", "search 2 18",
                                          "stage 2 (if as scheduled) 12", "search 3 18", "stage 3 (if as scheduled) 15",
                                          "stage 4 18"});
}

TEST_CASE("plan: the chosen part of a supernet goes on with its weights, or with their average") {
  GptConfig config = grow_config(8, 2, 4, true);
  Stage whole = whole_stage();
  whole.model = to_json(config);
  const auto super = random_gpt(config, 3);
  Snapshot before = snapshot(super->params());
  before.averages[kGrowAverage] = snapshot(random_gpt(config, 4)->params()).values;
  for (const std::string recycle : {"online", "ema"}) {
    Json plan{{"name", "autoprog"}, {"stages", 2}, {"search", {{"recycle", recycle}}}};
    const Path path(*make_plan(plan, whole), [](int, size_t i) { return 1.0 + i; });
    REQUIRE(path.names()[1] == "stage 1: 2x256");
    const auto chosen = make_gpt(path.stages[1].model, DType::f32, kCpu);
    StageStart start{.store = chosen->params(), .previous = &before};
    path.stages[1].initialise(start);
    const Snapshot now = snapshot(chosen->params());
    const Tensor& from = recycle == "ema" ? before.averages[kGrowAverage] : before.values;
    CHECK(values_of_entry(now, "blocks.1.mlp.fc1.weight") ==
          before.part(from, before.find("blocks.2.mlp.fc1.weight")).to_vector<float>());
  }
}

TEST_CASE("plan: what cannot be is refused with the reason and what would work") {
  const Stage whole = whole_stage();
  check_sentence(refusal({{"depths", {4, 6, 5, 8}}}, whole), {"plan.depths", "shrinks", "grow"});
  check_sentence(refusal({{"depths", {4, 6, 8, 10}}}, whole), {"plan.depths", "10", "blocks: 8"});
  check_sentence(refusal({{"depths", {4, 8}}}, whole), {"plan.depths", "2 values", "4 stages"});
  check_sentence(refusal({{"lengths", {64, 128, 256, 512}}}, whole), {"plan.lengths", "512", "data.length: 256"});
  check_sentence(refusal({{"stages", 0}}, whole), {"plan.stages", "from 1"});
  check_sentence(refusal({{"depth_scale", 0}}, whole), {"plan.depth_scale", "above 0"});
  check_sentence(refusal({{"depth_scale", 1.5}}, whole), {"plan.depth_scale", "at most 1"});
  check_sentence(refusal({{"length_scale", 0.5}, {"length_multiple", 100}}, whole), {"length_multiple", "256", "100"});
  check_sentence(refusal({{"grow", "double"}}, whole), {"plan.grow", "mogrow"});
  check_sentence(refusal({{"stages", 4}}, whole_stage(8, "3st")), {"stage", "no step", "fewer stages"});
  check_sentence(refusal({{"starts", {0, 0.5, 0.25, 0.75}}}, whole), {"no step", "plan.starts"});
  check_sentence(refusal({{"starts", {0.5, 0.6, 0.7, 0.8}}}, whole), {"plan.starts", "first 0"});
  check_sentence(refusal({{"regularisation", {{"model.dropout", 0.5}}}}, whole), {"model.dropout", "no setting"});
  check_sentence(refusal({{"regularisation", {{"optim.name", 0.5}}}}, whole), {"optim.name", "not a number"});
  check_sentence(refusal({{"regularisation_lists", {{"model.resid_dropout", {0, 0.1}}}}}, whole),
                 {"2 values", "4 stages"});
  // Searches.
  check_sentence(refusal({{"search", Json::object()}, {"depth_scale", 1}}, whole),
                 {"nothing to choose", "8 blocks x 256"});
  check_sentence(refusal({{"search", Json::object()}, {"stages", 1}}, whole),
                 {"nothing to choose", "at least 2 stages"});
  check_sentence(refusal({{"search", Json::object()}, {"depth_scale", 0.3}}, whole), {"factor of 2", "at least 4"});
  check_sentence(refusal({{"search", {{"duration", "0.25run"}}}}, whole), {"plan.search.duration", "leaves nothing"});
  check_sentence(refusal({{"search", {{"duration", "1ep"}}}}, whole), {"plan.search.duration", "0.02run"});
  check_sentence(refusal({{"search", {{"duration", "0st"}}}}, whole), {"plan.search.duration"});
  // Stages that are not for networks of several sizes.
  Stage own = whole;
  own.objective = [](StageStart&) { return LossFn(); };
  check_sentence(refusal({}, own), {"several sizes", "objective"});
  Stage list = whole;
  list.model["depth"] = {2, 1, 1};  // two groups divide by a rule, more do not
  check_sentence(refusal({}, list), {"3 groups of blocks", "model.depth=[2,2]"});
  list.model["depth"] = {2, 2};
  CHECK(refusal({}, list).empty());
  list.initialised_at_random = false;
  check_sentence(refusal({}, list), {"from random weights"});
}
