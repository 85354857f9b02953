// Configurations: JSON in and out, overrides, help, differences, and one clear sentence for every mistake.
#include "engine/core/config.h"

#include <doctest/doctest.h>

#include "engine/core/error.h"
#include "engine/core/json.h"
#include "engine/core/suggest.h"

using namespace accrete;

namespace {

struct OptimConfig {
  std::string name = "adamw";
  double lr = 3e-4;
  std::vector<double> betas = {0.9, 0.95};
  std::optional<double> clip;
  template <class V>
  void fields(V& v) {
    v("name", name, "optimizer", one_of("adamw", "sgd", "lion"));
    v("lr", lr, "peak learning rate", above(0));
    v("betas", betas, "decay of the moments", between(0, 1));
    v("clip", clip, "largest gradient norm; null: no clipping", above(0));
  }
};

struct StageConfig {
  int64_t steps = 100;
  bool frozen = false;
  template <class V>
  void fields(V& v) {
    v("steps", steps, "length", at_least(1));
    v("frozen", frozen, "train nothing");
  }
};

struct RunConfig {
  std::string out = "runs/x";
  OptimConfig optim;
  std::vector<StageConfig> stages = {{}};
  std::optional<StageConfig> finish;
  std::map<std::string, std::string> labels;
  Json plan = {{"name", "plain"}};
  int threads = 2;
  template <class V>
  void fields(V& v) {
    v("out", out, "run folder");
    v("optim", optim, "the optimizer");
    v("stages", stages, "what is trained, in order");
    v("finish", finish, "an extra stage");
    v("labels", labels, "free texts");
    v("plan", plan, "settings of the plan");
    v("threads", threads, "processor threads");
  }
};

Json json(std::string_view text) { return parse_json<Json>(text, "test"); }

// The message of the refusal, "" when the input was accepted. The configuration must not change on a refusal.
std::string refusal(auto&& action) {
  RunConfig config;
  try {
    action(config);
  } catch (const Error& error) {
    CHECK(to_json(config) == to_json(RunConfig()));
    return error.what();
  }
  return "";
}
std::string read_refusal(std::string_view text) {
  return refusal([&](RunConfig& c) { from_json(c, json(text)); });
}
std::string override_refusal(std::string_view text) {
  return refusal([&](RunConfig& c) { apply_override(c, text); });
}

}  // namespace

TEST_CASE("to_json is complete, in field order, and from_json restores it") {
  RunConfig config;
  CHECK(to_json(config).dump() ==
        R"({"out":"runs/x","optim":{"name":"adamw","lr":0.0003,"betas":[0.9,0.95],"clip":null},)"
        R"("stages":[{"steps":100,"frozen":false}],"finish":null,"labels":{},"plan":{"name":"plain"},"threads":2})");
  config.optim.clip = 0.1 + 0.2;  // a double whose shortest decimal form is long
  config.stages = {{7, true}, {9, false}};
  config.finish = StageConfig{1, true};
  config.labels = {{"b", "2"}, {"a", "\u00e9\"\n"}};
  config.plan = json(R"({"name":"vcycle","z":[1,{"deep":null}],"a":-1})");
  RunConfig restored;
  from_json(restored, json(to_json(config).dump()));
  CHECK(to_json(restored) == to_json(config));
  CHECK(*restored.optim.clip == *config.optim.clip);
}

TEST_CASE("keys that are left out keep their values; why is a comment everywhere") {
  RunConfig config;
  config.threads = 5;
  from_json(config, json(R"({"why":"because","optim":{"why":["x"],"lr":1e-3},"stages":[{"why":"","steps":1e3}],
                             "labels":{"why":"ignored"},"plan":{"name":"twa","why":"ignored","inner":[{"why":1,"k":2}]}})"));
  CHECK(config.threads == 5);
  CHECK(config.optim.lr == 1e-3);
  CHECK(config.optim.name == "adamw");
  CHECK(config.stages.at(0).steps == 1000);
  CHECK(config.labels.empty());
  CHECK(config.plan.dump() == R"({"name":"twa","inner":[{"k":2}]})");
}

TEST_CASE("unknown keys stop with the nearest key") {
  CHECK(read_refusal(R"({"optim":{"lrr":1}})") == "[config] unknown key \"optim.lrr\"; did you mean \"optim.lr\"?");
  CHECK(read_refusal(R"({"optmi":{}})") == "[config] unknown key \"optmi\"; did you mean \"optim\"?");
  CHECK(read_refusal(R"({"lr":1})") == "[config] unknown key \"lr\"; did you mean \"optim.lr\"?");
  CHECK(read_refusal(R"({"stages":[{},{"stpes":1}]})") ==
        "[config] unknown key \"stages.1.stpes\"; did you mean \"stages.1.steps\"?");
  CHECK(read_refusal(R"({"optim":{"temperature":1}})") ==
        "[config] unknown key \"optim.temperature\"; expected one of: name, lr, betas, clip");
  OptimConfig optim;  // part of a larger configuration, read on its own
  CHECK_THROWS_WITH(from_json(optim, json(R"({"beta":1})"), "plan.inner", "r.json"),
                    "[r.json] unknown key \"plan.inner.beta\"; did you mean \"plan.inner.betas\"?");
}

TEST_CASE("wrong types and ranges name the key, the expectation and the value") {
  CHECK(read_refusal(R"({"optim":{"lr":"fast"}})") == "[config] optim.lr: expected number; got \"fast\"");
  CHECK(read_refusal(R"({"optim":{"lr":0}})") == "[config] optim.lr: expected number above 0; got 0.0");
  CHECK(read_refusal(R"({"optim":{"lr":null}})") == "[config] optim.lr: expected number; got null");
  CHECK(read_refusal(R"({"optim":{"clip":-1}})") == "[config] optim.clip: expected null or number above 0; got -1.0");
  CHECK(read_refusal(R"({"optim":{"betas":[0.9,1.5]}})") ==
        "[config] optim.betas.1: expected list of numbers from 0 to 1; got 1.5");
  CHECK(read_refusal(R"({"optim":{"betas":0.9}})") == "[config] optim.betas: expected list of numbers; got 0.9");
  CHECK(read_refusal(R"({"optim":{"name":"adamv"}})") ==
        "[config] optim.name: expected text (adamw, sgd, lion); got \"adamv\"; did you mean \"adamw\"?");
  CHECK(read_refusal(R"({"optim":[]})") == "[config] optim: expected object; got []");
  CHECK(read_refusal(R"({"stages":[{"steps":0}]})") ==
        "[config] stages.0.steps: expected integer of at least 1; got 0");
  CHECK(read_refusal(R"({"stages":[{"steps":1.5}]})") == "[config] stages.0.steps: expected integer; got 1.5");
  CHECK(read_refusal(R"({"stages":[{"frozen":1}]})") == "[config] stages.0.frozen: expected true or false; got 1");
  CHECK(read_refusal(R"({"threads":3000000000})") ==
        "[config] threads: expected integer from -2147483648 to 2147483647; got 3000000000");
  CHECK(read_refusal(R"({"threads":18446744073709551615})").find("got 18446744073709551615") != std::string::npos);
  CHECK(read_refusal(R"({"threads":true})") == "[config] threads: expected integer; got true");
  CHECK(read_refusal(R"({"labels":{"a":1}})") == "[config] labels.a: expected text; got 1");
  CHECK(read_refusal(R"({"plan":"vcycle"})") == "[config] plan: expected object; got \"vcycle\"");
  CHECK(read_refusal("[]") == "[config] the configuration: expected object; got []");
  CHECK(refusal([](RunConfig& c) {
          from_json(c, Json{{"optim", {{"lr", std::nan("")}}}});
        }) == "[config] optim.lr: expected number; got null");
}

TEST_CASE("recipe files are strict JSON") {
  CHECK_THROWS_WITH(json(R"({"a":1,"a":2})"), "[test] key \"a\" appears twice in one object");
  CHECK_THROWS_WITH(json(R"({"a":{"b":1},"c":[{"b":1,"b":1}]})"), "[test] key \"b\" appears twice in one object");
  CHECK_THROWS_AS(json(R"({"a":NaN})"), Error);
  CHECK_THROWS_AS(json(R"({"a":Infinity})"), Error);
  CHECK_THROWS_AS(json(R"({"a":1e999})"), Error);
  CHECK_THROWS_AS(json("{\"a\":1}}"), Error);
  CHECK_THROWS_AS(json(""), Error);
  CHECK_THROWS_WITH(json(std::string(100, '[')), doctest::Contains("nested too deeply"));
  CHECK_THROWS_WITH(json("{\"a\":\n \"\xff\"}"), doctest::Contains("line 2"));
  CHECK_THROWS_WITH(read_json("absent/recipe.json"), doctest::Contains("cannot open absent/recipe.json"));
}

TEST_CASE("overrides") {
  RunConfig config;
  apply_override(config, "optim.lr=6e-4");
  apply_override(config, "optim.name=sgd");
  apply_override(config, "optim.betas=[0.5]");
  apply_override(config, "optim.clip=1");
  apply_override(config, "stages.0.steps=12");
  apply_override(config, "finish.steps=3");
  apply_override(config, "labels.note=a=b c");
  apply_override(config, "plan.alpha=0.25");
  apply_override(config, "plan.maps.depth=[2,1]");
  apply_override(config, "out=123");
  CHECK(to_json(config).dump() ==
        R"({"out":"123","optim":{"name":"sgd","lr":0.0006,"betas":[0.5],"clip":1.0},)"
        R"("stages":[{"steps":12,"frozen":false}],"finish":{"steps":3,"frozen":false},"labels":{"note":"a=b c"},)"
        R"("plan":{"name":"plain","alpha":0.25,"maps":{"depth":[2,1]}},"threads":2})");
  apply_override(config, "out=\"quoted\"");
  apply_override(config, "optim.clip=null");
  apply_override(config, R"(stages=[{"steps":1},{"steps":2,"frozen":true}])");
  CHECK(config.out == "quoted");
  CHECK(!config.optim.clip);
  CHECK(config.stages.size() == 2);

  CHECK(override_refusal("optim.lrr=1") == "[override] unknown key \"optim.lrr\"; did you mean \"optim.lr\"?");
  CHECK(override_refusal("optim.lr=fast") == "[override] optim.lr: expected number; got \"fast\"");
  CHECK(override_refusal("optim.lr=nan") == "[override] optim.lr: expected number; got \"nan\"");
  CHECK(override_refusal("optim.lr=") == "[override] optim.lr: expected number; got \"\"");
  CHECK(override_refusal("optim.lr.x=1") ==
        "[override] optim.lr is a value, not an object; got \"optim.lr.x\"; did you mean \"optim.lr\"?");
  CHECK(override_refusal("stages.1.steps=1") == "[override] stages has elements 0 to 0; got \"1\"");
  CHECK(override_refusal("stages.x.steps=1") == "[override] stages has elements 0 to 0; got \"x\"");
  CHECK(override_refusal("optim.lr") == "[override] \"optim.lr\" is not of the form key=value");
  CHECK(override_refusal("=1") == "[override] \"=1\" is not of the form key=value");
  CHECK(override_refusal("threads=2x") == "[override] threads: expected integer; got \"2x\"");
}

TEST_CASE("describe lists every key with its default and meaning") {
  const std::string table = describe(RunConfig());
  CHECK(table.starts_with("key              default "));
  for (const char* key : {"optim.lr", "stages.N.steps", "finish.frozen", "labels", "plan"}) {
    CAPTURE(key);
    CHECK(table.find("\n" + std::string(key) + " ") != std::string::npos);
  }
  CHECK(table.find("optim.lr         0.0003                        peak learning rate; number above 0\n") !=
        std::string::npos);
}

TEST_CASE("differences name what changed") {
  RunConfig before, after;
  after.optim.lr = 6e-4;
  after.plan = json(R"({"name":"plain","alpha":1})");
  CHECK(to_text(differences(before, after)) == "optim.lr 0.0003 -> 0.0006; plan.alpha absent -> 1");
  CHECK(to_text(differences(after, before)) == "optim.lr 0.0006 -> 0.0003; plan.alpha 1 -> absent");
  CHECK(differences(after, after).empty());
  // Read back from a file, numbers may have another JSON type and keys another order; comments do not count.
  CHECK(
      differences(json(R"({"a":1,"b":{"c":2,"d":3}})"), json(R"({"why":"new","b":{"d":3.0,"c":2},"a":1.0})")).empty());
}

TEST_CASE("edit distance and suggestions") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("optmi", "optim") == 1);
  CHECK(edit_distance("abc", "abc") == 0);
  CHECK(nearest("lrr", {"name", "lr", "wd"}) == "lr");
  CHECK(nearest("x", {"y"}) == "");
  CHECK(nearest("something", {"else"}) == "");
}
