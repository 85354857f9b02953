// The V-cycle: its stages, what happens at a change of level, real tiny runs, resume, and everything refused.
#include "training/trainers/vcycle.h"

#include "tests/grow_testing.h"
#include "tests/train_testing.h"
#include "training/checkpoint.h"
#include "training/optimizer.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

Stage whole(Json model = {{"embed_dim", 32}, {"depth", 4}, {"num_heads", 4}, {"mlp_dim", 0}}) {
  Recipe recipe;
  recipe.model = std::move(model);
  recipe.duration = "1000st";
  recipe.optim.lr = 1e-3;
  recipe.schedule.name = "linear";
  recipe.schedule.warmup = "0.05run";
  return stage_of(recipe, "train");
}

Json vcycle(Json more = Json::object()) {
  Json plan = {{"name", "vcycle"}};
  if (more.is_object()) plan.merge_patch(more);  // {} is null
  return plan;
}

std::string refusal(const Json& more, const Stage& stage = whole()) {
  return error_of([&] { planned_stages(*make_plan(vcycle(more), stage)); });
}

VCycleConfig config_of(const Json& more) {
  VCycleConfig c;
  from_json(c, vcycle(more), "plan");
  return c;
}

}  // namespace

TEST_CASE("stages of two levels, by default: half the width, heads and depth") {
  const auto stages = planned_stages(*make_plan(vcycle(), whole()));
  REQUIRE(stages.size() == 3);
  CHECK(stages[0].name == "level 1 warm-up");
  CHECK(stages[1].name == "level 2");
  CHECK(stages[2].name == "level 1");
  CHECK(stages[0].model == whole().model);
  CHECK(stages[1].model == Json{{"embed_dim", 16}, {"depth", 2}, {"num_heads", 2}, {"mlp_dim", 0}});
  CHECK(stages[2].model == whole().model);
  CHECK(stages[0].duration == "50st");
  CHECK(stages[1].duration == "500st");
  CHECK(stages[2].duration == "650st");
  CHECK(stages[0].optim.lr == 1e-3);
  CHECK(stages[1].optim.lr == 2e-3);
  CHECK(stages[2].optim.lr == 1e-3);
  // E_a is the ramp; the others are schedules of their own with a short warm-up.
  CHECK(stages[0].schedule.name == "constant");
  const Schedule ramp(stages[0].schedule, Clock{.run_steps = 50});
  for (int64_t t = 0; t < 50; ++t) CHECK(ramp.factor(t) == doctest::Approx(static_cast<double>(t + 1) / 51));
  for (const int i : {1, 2}) {
    CHECK(stages[static_cast<size_t>(i)].schedule.name == "linear");
    CHECK(stages[static_cast<size_t>(i)].schedule.warmup == "10st");
    CHECK(stages[static_cast<size_t>(i)].notes.size() == 1);
    CHECK(stages[static_cast<size_t>(i)].evaluate_first);
  }
  CHECK(stages[0].keep);
  CHECK_FALSE(stages[1].keep);
  CHECK_FALSE(stages[2].keep);
  CHECK(stages[0].initialised_at_random);
  CHECK_FALSE(stages[1].initialised_at_random);
  CHECK(stages[1].notes[0] == Json{{"event", "growth"},
                                   {"method", "coalesce"},
                                   {"depth", "4 -> 2"},
                                   {"embed_dim", "32 -> 16"},
                                   {"num_heads", "4 -> 2"}});
  CHECK(stages[2].notes[0]["w_dec"] == 0.75);
  CHECK(stages[2].notes[0]["depth"] == "2 -> 4");
}

TEST_CASE("three levels, each with settings of its own; what is asked of the whole is asked of its end") {
  Stage stage = whole();
  stage.keep = true;
  stage.averages["ema.grow"] = 0.9;
  stage.collect = Collect{.count = 2};
  stage.seed = 7;
  stage.last_block = 4;  // all
  const Json plan =
      vcycle({{"levels", 3},
              {"warm", "20st"},
              {"small",
               {{{"duration", "0.3run"}, {"lr_factor", 3}, {"schedule", {{"name", "cosine"}, {"final_factor", 0.5}}}},
                {{"duration", "0.4run"}, {"lr_factor", 4}, {"warmup", "0st"}}}},
              {"final", {{"duration", "0.5run"}, {"lr_factor", 0.5}, {"warmup", "0.02run"}}},
              {"evaluate_first", false}});
  const auto stages = planned_stages(*make_plan(plan, stage));
  REQUIRE(stages.size() == 5);
  const char* names[] = {"level 1 warm-up", "level 2 warm-up", "level 3", "level 2", "level 1"};
  const int depths[] = {4, 2, 1, 2, 4};
  const char* durations[] = {"20st", "20st", "400st", "300st", "500st"};
  const double factors[] = {0.5, 3, 4, 3, 0.5};
  const bool kept[] = {true, true, false, false, true};
  for (size_t i = 0; i < 5; ++i) {
    const Stage& s = stages[i];
    CAPTURE(i);
    CHECK(s.name == names[i]);
    CHECK(s.model["depth"] == depths[i]);
    CHECK(s.model["num_heads"] == depths[i]);
    CHECK(s.model["embed_dim"] == 8 * depths[i]);
    CHECK(s.duration == durations[i]);
    CHECK(s.optim.lr == doctest::Approx(1e-3 * factors[i]));
    CHECK(s.keep == kept[i]);
    CHECK(s.averages.empty() == (i < 4));
    CHECK(s.collect.has_value() == (i == 4));
    CHECK_FALSE(s.evaluate_first);
    CHECK(s.last_block == -1);
    for (size_t j = 0; j < i; ++j) CHECK(s.seed != stages[j].seed);
  }
  CHECK(stages[2].schedule.name == "linear");
  CHECK(stages[2].schedule.warmup == "0st");
  CHECK(stages[3].schedule.name == "cosine");
  CHECK(stages[3].schedule.final_factor == 0.5);
  CHECK(stages[4].schedule.warmup == "20st");
}

TEST_CASE("only width, only depth, another ratio, lists of depths, an inner width") {
  const auto small = [](const Json& more, const Stage& stage = whole()) {
    return planned_stages(*make_plan(vcycle(more), stage))[1].model;
  };
  CHECK(small({{"grow", {"width"}}}) == Json{{"embed_dim", 16}, {"depth", 4}, {"num_heads", 2}, {"mlp_dim", 0}});
  CHECK(small({{"grow", {"depth"}}}) == Json{{"embed_dim", 32}, {"depth", 2}, {"num_heads", 4}, {"mlp_dim", 0}});
  CHECK(small({{"ratio", 4}}) == Json{{"embed_dim", 8}, {"depth", 1}, {"num_heads", 1}, {"mlp_dim", 0}});
  CHECK(small({}, whole({{"embed_dim", 32}, {"depth", {4, 8}}, {"num_heads", 4}, {"mlp_dim", 48}})) ==
        Json{{"embed_dim", 16}, {"depth", {2, 4}}, {"num_heads", 2}, {"mlp_dim", 24}});
}

TEST_CASE("a level may be carried out by another plan") {
  const auto stages =
      planned_stages(*make_plan(vcycle({{"small", {{{"plan", {{"name", "vcycle"}, {"warm", "0.1run"}}}}}}}), whole()));
  REQUIRE(stages.size() == 5);
  CHECK(stages[1].name == "level 2: level 1 warm-up");
  CHECK(stages[2].name == "level 2: level 2");
  CHECK(stages[1].duration == "50st");  // a tenth of the 500 steps of level 2
  CHECK(stages[1].notes[0]["method"] == "coalesce");
  CHECK(stages[2].model["depth"] == 1);
  CHECK(stages[4].name == "level 1");
}

TEST_CASE("models one level down and up have the sizes of the level; the function stays where it should") {
  for (const bool tied : {true, false})
    for (const Json& settings : {Json::object(), Json{{"width_pairs", "adjacent"}, {"depth_pairs", "half"}},
                                 Json{{"grow", {"width"}}}, Json{{"grow", {"depth"}}}}) {
      CAPTURE(settings.dump());
      const VCycleConfig config = config_of(settings);
      const bool width = config.grow.front() == "width", depth = config.grow.back() == "depth";
      const GptConfig big = grow_config(16, 4, 4, tied);
      const GptConfig small = grow_config(width ? 8 : 16, width ? 2 : 4, depth ? 2 : 4, tied);
      const auto below = random_gpt(small, 2);
      const std::vector<ParamEntry> like_big = random_gpt(big, 1)->params().entries();
      const Snapshot x = snapshot(below->params());
      const Snapshot up = decoalesced(x, like_big, config, 1);
      CHECK(same(coalesced(up, x.entries, config), x));
      const double gap = relative_error(logits_of(*gpt_with(big, up)), logits_of(*below));
      CHECK((gap < 1e-5) == !depth);
      // Silent second copies preserve the function in depth too; halved branches do not.
      VCycleConfig other = config;
      other.depth_copy = "zero_second";
      const Snapshot quiet = decoalesced(x, like_big, other, 1);
      CHECK(relative_error(logits_of(*gpt_with(big, quiet)), logits_of(*below)) < 1e-5);
      other.depth_copy = "half_branch";
      const Snapshot half = decoalesced(x, like_big, other, 1);
      CHECK(values_of_entry(half, "blocks.0.mlp.fc2.weight")[3] ==
            (depth ? 0.5f : 1.0f) * values_of_entry(up, "blocks.0.mlp.fc2.weight")[3]);
      other.depth_copy = "zero_second", other.split = "lemon";
      const Snapshot split = decoalesced(x, like_big, other, 1);
      CHECK(relative_error(logits_of(*gpt_with(big, split)), logits_of(*below)) < 1e-5);
      CHECK(same(split, quiet) == !width);
      other.tied = "released";
      if (tied && width)
        CHECK(relative_error(logits_of(*gpt_with(big, decoalesced(x, like_big, other, 1))), logits_of(*below)) > 1e-3);
    }
}

TEST_CASE("at a change of level moments are zero or carried, averages begin anew, the mixture is the formula") {
  for (const char* moments : {"reset", "carry"}) {
    const Json settings = {{"moments", moments}, {"w_dec", 0.75}};
    const VCycleConfig config = config_of(settings);
    const GptConfig big = grow_config(16, 4, 4, true), small = grow_config(8, 2, 2, true);
    Stage stage = whole(to_json(big));
    const auto plan = make_plan(vcycle(settings), stage);
    const std::vector<StageResult> results = {{.index = 3}, {.index = 4}};
    // What a stage leaves: weights after two steps, with moments and an average.
    const auto end_of = [](const GptConfig& c, uint64_t seed) {
      const auto model = random_gpt(c, seed);
      Optimizer optimizer(OptimConfig{.ema = 0.5}, model->params());
      for (uint64_t i = 0; i < 2; ++i) gradients_of(*model, i), optimizer.gradient_norm(), optimizer.step(1e-2);
      return snapshot(model->params(), &optimizer);
    };
    const Snapshot kept = end_of(big, 1), below = end_of(small, 2);
    const auto transition = [&](size_t stages_done, const GptConfig& c, const Snapshot& previous) {
      const Stage next = *plan->next(std::span(results).first(stages_done));
      GptConfig wanted;
      from_json(wanted, next.model, "model");
      CHECK(to_json(wanted) == to_json(c));
      Gpt model(c, DType::f32, kCpu);
      Optimizer optimizer(OptimConfig{.ema = 0.5}, model.params());
      StageStart start{.store = model.params(), .optimizer = &optimizer, .previous = &previous};
      start.earlier = [&](int index) {
        CHECK(index == 3);
        return kept;
      };
      next.initialise(start);
      const Snapshot s = snapshot(model.params(), &optimizer);
      CHECK(difference(s, s.averages.at("ema"), s, s.values) == 0);
      CHECK(s.find("head.weight") == -1);  // tied stays tied: one table
      double sum = 0;
      for (const char* name : {"m", "v"})
        for (const float v : s.moments.at(name).to_vector<float>()) sum += std::abs(v);
      CHECK((sum == 0) == (std::string(moments) == "reset"));
      for (const double steps : s.steps) CHECK(steps == (std::string(moments) == "reset" ? 0 : 2));
      return s;
    };
    const Snapshot down = transition(1, small, kept);
    CHECK(same(down, coalesced(kept, below.entries, config)));
    const Snapshot up = transition(2, big, below);
    const Snapshot grown = decoalesced(below, kept.entries, config, 1);
    double worst = 0;
    for (int64_t i = 0; i < up.flat_count(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(up.values.ptr<float>()[i]) -
                                       (0.25 * static_cast<double>(kept.values.ptr<float>()[i]) +
                                        0.75 * static_cast<double>(grown.values.ptr<float>()[i]))));
    CHECK(worst < 1e-6);
  }
}

TEST_CASE("impossible cycles are refused before anything runs, with what would work") {
  check_sentence(refusal({{"levels", 4}}), {"vcycle with levels 4", "num_heads (4)", "divisible by 8", "e.g. 8"});
  check_sentence(refusal({}, whole({{"embed_dim", 30}, {"depth", 4}, {"num_heads", 3}})),
                 {"num_heads (3)", "divisible by 2", "e.g. 4"});
  check_sentence(refusal({}, whole({{"embed_dim", 32}, {"depth", 5}, {"num_heads", 4}})), {"depth (5)", "e.g. 6"});
  check_sentence(refusal({}, whole({{"embed_dim", 32}, {"depth", 4}, {"num_heads", 4}, {"mlp_dim", 33}})),
                 {"mlp_dim (33)"});
  CHECK(refusal({{"grow", {"depth"}}}, whole({{"embed_dim", 30}, {"depth", 4}, {"num_heads", 3}})) == "");
  for (const double w : {-0.1, 1.1}) check_sentence(refusal({{"w_dec", w}}), {"plan.w_dec", "from 0 to 1"});
  CHECK(refusal({{"w_dec", 0}}) == "");
  CHECK(refusal({{"w_dec", 1}}) == "");
  check_sentence(refusal({{"levels", 1}}), {"plan.levels", "from 2 to 8"});
  check_sentence(refusal({{"ratio", 1}}), {"plan.ratio"});
  check_sentence(refusal({{"grow", Json::array()}}), {"plan.grow", "empty"});
  check_sentence(refusal({{"grow", {"vocab"}}}), {"plan.grow", "width, depth"});
  check_sentence(refusal({{"levels", 3}, {"small", {Json::object()}}}), {"plan.small", "1 lower", "expected 2"});
  check_sentence(refusal({{"alpha", 0.25}}), {"unknown key \"plan.alpha\""});
  check_sentence(refusal({{"tied", "code"}}), {"plan.tied", "released"});
  check_sentence(refusal({{"split", "lemon"}, {"moments", "carry"}}), {"lemon", "moments reset"});
  check_sentence(refusal({{"final", {{"duration", "half"}}}}), {"plan.final.duration"});
  check_sentence(refusal({{"small", {{{"warmup", "5"}}}}}), {"plan.small.0.warmup", "unit"});
  check_sentence(refusal({{"small", {{{"schedule", {{"shape", "cosine"}}}}}}}), {"plan.small.0.schedule.shape"});
  check_sentence(refusal({{"final", {{"schedule", {{"warmup", "5st"}}}}}}),
                 {"plan.final.schedule.warmup", "plan.final.warmup"});
  check_sentence(refusal({{"final", {{"plan", {{"name", "magic"}}}}}}), {"magic"});
  Stage stage = whole();
  stage.trainable = [](const ParamEntry&) { return true; };
  check_sentence(refusal({}, stage), {"vcycle", "trains only a part"});
  stage = whole();
  stage.first_block = 1;
  check_sentence(refusal({}, stage), {"all blocks", "\"train\""});
  stage = whole();
  stage.objective = [](StageStart&) { return LossFn(); };
  check_sentence(refusal({}, stage), {"objective", "one size"});
}

// ---- real runs -----------------------------------------------------------------------------------------------------
namespace {

Json tiny_cycle(const Json& plan, const char* duration = "60st") {
  return {{"model", {{"embed_dim", 32}, {"depth", 4}, {"num_heads", 4}}},
          {"duration", duration},
          {"optim", {{"ema", 0.9}}},
          {"plan", vcycle(plan)}};
}

struct Run {
  TempFolder folder;
  explicit Run(const Json& recipe) {
    make_tiny_data(folder);
    put_recipe(folder, recipe);
  }
  std::vector<Json> events(const std::string& out = "out") const {
    return read_metrics(folder / out / "metrics.jsonl");
  }
  void train(const std::string& out = "out") const {
    const RunResult result = run(train_command(folder, out));
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
  }
};

// FLOPs of one training step by the spec's formula (section 5): 6 (L (4 d^2 + 2 m d^2) + 2 L S d + V d) a token.
double formula(const Json& model, double tokens) {
  const double d = model["embed_dim"].get<double>(), L = model["depth"].get<double>(),
               V = model["vocab_size"].get<double>(), S = model["context"].get<double>();
  return 6 * (L * 12 * d * d + 2 * L * S * d + V * d) * tokens;
}

}  // namespace

TEST_CASE("a tiny run: cost by the formula and as predicted, schedules, sizes, events") {
  Json recipe = tiny_cycle({{"levels", 3}, {"warm", "0.1run"}});
  recipe["eval"]["every"] = "0.5run";  // of the whole: 30 steps
  const Run t(recipe);
  const RunResult dry = run(train_command(t.folder, "out", "--dry-run --json"));
  CAPTURE(dry.err);
  REQUIRE(dry.exit_code == 0);
  CHECK(!fs::exists(t.folder / "out"));
  const Json predicted = parse_json<Json>(dry.out, "dry-run");
  t.train();
  const auto events = t.events();
  const Json& end = events.back();
  CHECK(predicted["flops"].get<double>() == doctest::Approx(end["flops"].get<double>()).epsilon(0.05));
  CHECK(predicted["flops"].get<double>() == doctest::Approx(end["flops"].get<double>()).epsilon(1e-9));
  CHECK(predicted["tokens"] == end["tokens"]);
  CHECK(predicted["stages"].size() == 5);

  std::vector<Json> starts, ends, growths, first_evals;
  CHECK(std::count_if(events.begin(), events.end(), [](const Json& e) { return e["event"] == "eval"; }) ==
        4 + 5 + 1);  // after each change, at each end, and at step 30 of the last stage
  for (const Json& e : events) {
    if (e["event"] == "stage_start") starts.push_back(e);
    if (e["event"] == "stage_end") ends.push_back(e);
    if (e["event"] == "growth") growths.push_back(e);
    if (e["event"] == "eval" && e["step"] == starts.back()["step"]) first_evals.push_back(e);
  }
  REQUIRE(starts.size() == 5);
  REQUIRE(ends.size() == 5);
  CHECK(growths.size() == 4);
  CHECK(first_evals.size() == 4);  // the loss right after each change of level
  const int64_t steps[] = {6, 6, 30, 30, 39};
  double before = 0, by_formula = 0;
  for (size_t i = 0; i < 5; ++i) {
    CHECK(ends[i]["steps"] == steps[i]);
    const double spent = ends[i]["flops"].get<double>() - before;
    const double want = formula(starts[i]["model"], static_cast<double>(steps[i]) * 8 * 32);
    // The tape also counts what the formula leaves out: norms, softmax, GELU, the optimizer's reading.
    CHECK(spent == doctest::Approx(want).epsilon(0.1));
    before += spent, by_formula += want;
  }
  CHECK(end["flops"].get<double>() == doctest::Approx(by_formula).epsilon(0.1));
  CHECK(starts[2]["params"].get<int64_t>() < starts[1]["params"].get<int64_t>());
  CHECK(starts[4]["params"] == starts[0]["params"]);
  CHECK(starts[3]["params"] == starts[1]["params"]);
  // The rate ramps, and each level has a schedule of its own, restarted.
  std::vector<std::vector<double>> rates(5);
  for (const Json& e : events)
    if (e["event"] == "step") rates[e["stage"].get<size_t>()].push_back(e["lr"].get<double>());
  for (size_t i = 0; i < 6; ++i) {
    CHECK(rates[0][i] == doctest::Approx(3e-3 * static_cast<double>(i + 1) / 7));
    CHECK(rates[1][i] == doctest::Approx(6e-3 * static_cast<double>(i + 1) / 7));
  }
  const auto top = [](const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); };
  CHECK(top(rates[2]) == doctest::Approx(6e-3));
  CHECK(top(rates[3]) == doctest::Approx(6e-3));
  CHECK(top(rates[4]) == doctest::Approx(3e-3));
  CHECK(rates[4].back() < 5e-4);
  // It learns: below the entropy of equally likely bytes from the start, and better at the end.
  CHECK(end["loss"].get<double>() < first_evals[0]["loss"].get<double>());
  CHECK(end["loss"].get<double>() < 4.0);
}

TEST_CASE("the first level is kept; the optimizer counts its steps anew in each level") {
  const Run t(tiny_cycle({{"warm", "0.1run"}}));
  t.train();
  const fs::path kept = stage_folder(t.folder / "out", 0);
  CHECK(fs::exists(kept / "COMPLETE"));
  CHECK_FALSE(fs::exists(stage_folder(t.folder / "out", 1)));
  const auto last = list_checkpoints(t.folder / "out").back();
  const Json state = read_checkpoint_state(last);
  GptConfig c;
  from_json(c, state["model"], "model");
  const auto model = std::make_unique<Gpt>(c, DType::f32, kDry);
  for (const double steps : read_snapshot(last, model->params().entries()).steps) CHECK(steps == 39);
  for (const double steps : read_snapshot(kept, model->params().entries()).steps) CHECK(steps == 6);
}

TEST_CASE("every variant runs: width only, depth only, LEMON, carried moments, nested plans") {
  for (const Json& plan :
       {Json{{"grow", {"width"}}, {"split", "lemon"}, {"w_dec", 1}},
        Json{{"grow", {"depth"}}, {"depth_copy", "zero_second"}, {"moments", "carry"}},
        Json{{"width_pairs", "adjacent"}, {"depth_pairs", "half"}, {"tied", "released"}, {"depth_copy", "half_branch"}},
        Json{{"tied", "half_stream"}, {"small", {{{"plan", {{"name", "vcycle"}}}}}}},
        Json{{"small", {{{"plan", {{"name", "autoprog"}}}}}},
             {"final", {{"plan", {{"name", "twa"}, {"snapshots", 3}}}}}}}) {
    CAPTURE(plan.dump());
    const Run t(tiny_cycle(plan, "40st"));
    const RunResult dry = run(train_command(t.folder, "out", "--dry-run --json"));
    CAPTURE(dry.err);
    REQUIRE(dry.exit_code == 0);
    t.train();
    CHECK(parse_json<Json>(dry.out, "dry-run")["flops"].get<double>() ==
          doctest::Approx(t.events().back()["flops"].get<double>()).epsilon(0.05));
    CHECK(t.events().back()["loss"].get<double>() < 5.0);
  }
}

TEST_CASE("killed in every stage and resumed: the same bits") {
  const Json recipe = tiny_cycle({{"levels", 3}, {"warm", "0.15run"}, {"moments", "carry"}}, "80st");
  const Run t(recipe);
  t.train("whole");
  bool begun = false;
  for (int stage = 0; stage < 5; ++stage) {
    // As soon as the stage has made a step, the process is killed.
    const std::string metrics = (t.folder / "killed/metrics.jsonl").string();
    const RunResult killed =
        run("( exec " + train_command(t.folder, "killed", begun ? "--resume" : "") + " ) & pid=$!; " +
            "for i in $(seq 20000); do grep -qs '\"event\":\"step\".*\"stage\":" + std::to_string(stage) + "' '" +
            metrics + "' && break; kill -0 $pid 2>/dev/null || break; sleep 0.003; done; kill -9 $pid; wait $pid");
    CAPTURE(stage);
    CAPTURE(killed.err);
    CHECK(killed.exit_code == 137);
    begun = true;
    CHECK(t.events("killed").back()["event"] != "run_end");
  }
  const RunResult rest = run(train_command(t.folder, "killed", "--resume"));
  CAPTURE(rest.err);
  REQUIRE(rest.exit_code == 0);
  CHECK(final_checksum(t.folder / "killed") == final_checksum(t.folder / "whole"));
  CHECK(lasting_events(t.folder / "killed") == lasting_events(t.folder / "whole"));
}

TEST_CASE("killed at random moments and resumed: the same bits") {
  check_kill_and_resume(tiny_cycle({{"split", "lemon"}, {"small", {{{"plan", {{"name", "vcycle"}}}}}}}), 3);
}

TEST_CASE("the program refuses impossible cycles in one line, --dry-run too") {
  const Run t(tiny_cycle({}));
  const auto refused = [&](const std::string& more, const std::vector<std::string>& words) {
    for (const std::string mode : {"", " --dry-run"}) {
      const RunResult result = run(train_command(t.folder, "out", more + mode));
      CAPTURE(result.err);
      CHECK(result.one_line_error());
      for (const auto& word : words) CHECK(result.err.find(word) != std::string::npos);
      CHECK(!fs::exists(t.folder / "out/ckpt"));
    }
  };
  refused("plan.levels=4", {"num_heads (4)", "not divisible by 8"});
  refused("plan.w_dec=2", {"plan.w_dec", "from 0 to 1"});
  refused("model.depth=3", {"depth (3)", "not divisible by 2"});
  refused("plan.warm=0.1", {"plan.warm", "expected text"});
  put_recipe(t.folder, tiny_cycle({{"final", {{"warmup", "2run"}}}}));
  refused("", {"warmup", "longer than the stage"});
}
