// Every method on every family of pictures, in real tiny runs: it trains, its stages are what the method says, it is
// predicted, and killed at any moment it ends with the same bits.
#include <doctest/doctest.h>

#include "tests/vision_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

struct Family {
  const char* name;
  Json recipe;
};
std::vector<Family> families() { return {{"vit", tiny_vit()}, {"deit", tiny_deit()}, {"volo", tiny_volo()}}; }

struct MethodCase {
  const char* name;
  Json plan;
  std::vector<std::string> stages;  // names, of one list of blocks
};

// Modules of a model with one group of four blocks; VOLO's are its two groups by default.
std::vector<MethodCase> methods(bool volo) {
  const Json depths = volo ? Json::object() : Json{{"depths", {2, 2}}};
  Json incubation{{"name", "incubation"}, {"embeddings", "own"}, {"meta", {{"model", {{"drop_path", 0.0}}}}}};
  incubation.update(depths);
  return {
      {"plain", {{"name", "plain"}}, {"train"}},
      {"vcycle", {{"name", "vcycle"}}, {"level 1 warm-up", "level 2", "level 1"}},
      {"incubation", incubation, {"meta", "module 0", "module 1", "fine-tuning"}},
      {"autoprog",
       {{"name", "autoprog"},
        {"stages", 3},
        {"resolution_scale", 0.5},
        {"resolution_multiple", 4},
        {"regularisation", {{"model.drop_path", 0.0}, {"data.augment.erase", 0.0}}}},
       {"stage 1", "stage 2", "stage 3"}},
      {"autoprog search",
       {{"name", "autoprog"},
        {"stages", 2},
        {"resolution_scale", 0.5},
        {"resolution_multiple", 4},
        {"search", {{"duration", "0.2run"}, {"batches", 2}, {"scorings", 2}}}},
       {"search 1", "stage 1", "stage 2"}},
      {"twa",
       {{"name", "twa"},
        {"snapshots", 4},
        {"collect", {{"duration", "0.7run"}}},
        {"average", {{"duration", "0.3run"}, {"data", "train"}, {"statistics", 4}}}},
       {"collect", "average"}},
  };
}

void prepare(const TempFolder& folder, const Json& family, const Json& plan) {
  make_tiny_pictures(folder);
  Json recipe = family;
  recipe["plan"] = plan;
  put_vision_recipe(folder, recipe);
}

}  // namespace

TEST_CASE("every method trains every family, as predicted, and the result is a model to evaluate") {
  for (const Family& family : families())
    for (const MethodCase& method : methods(std::string(family.name) == "volo")) {
      CAPTURE(family.name);
      CAPTURE(method.name);
      const TempFolder folder;
      prepare(folder, family.recipe, method.plan);
      const RunResult trained = run(train_command(folder, "out"));
      CAPTURE(trained.err);
      REQUIRE(trained.exit_code == 0);
      std::vector<std::string> stages;
      double flops = 0;
      int evaluated = 0;
      for (const Json& e : read_metrics(folder / "out/metrics.jsonl")) {
        if (e["event"] == "stage_start") stages.push_back(e["name"]);
        if (e["event"] == "step") CHECK(std::isfinite(e["loss"].get<double>()));
        if (e["event"] == "eval") {
          ++evaluated;
          for (const char* key : {"loss", "top1", "top5"}) REQUIRE(e.contains(key));
          CHECK(!e.contains("perplexity"));
          CHECK(e["top1"] <= e["top5"]);
        }
        if (e["event"] == "run_end") flops = e["flops"].get<double>();
      }
      CHECK(stages == method.stages);
      CHECK(evaluated >= static_cast<int>(stages.size()));
      // Searches end where they end; everything else is known beforehand.
      if (std::string(method.name) != "autoprog search") {
        const RunResult dry = run(train_command(folder, "never", "--dry-run --json"));
        REQUIRE(dry.exit_code == 0);
        const double predicted = parse_json<Json>(dry.out, "dry run")["flops"].get<double>();
        CHECK(flops == doctest::Approx(predicted).epsilon(0.02));
      }
      const RunResult judged = run("$APPS/evaluate '" + (folder / "out").string() + "' --data '" +
                                   (folder / "data").string() + "' --split test --json --quiet");
      CAPTURE(judged.err);
      REQUIRE(judged.exit_code == 0);
      const Json result = parse_json<Json>(judged.out, "evaluate");
      CHECK(result["pictures"] == 40);
      CHECK(result["classes"].size() == 10);
    }
}

TEST_CASE("kill -9 at any moment, in every method and family") {
  uint64_t seed = 1;
  for (const Family& family : families())
    for (const MethodCase& method : methods(std::string(family.name) == "volo")) {
      CAPTURE(family.name);
      CAPTURE(method.name);
      const TempFolder folder;
      prepare(folder, family.recipe, method.plan);
      check_kill_and_resume(folder, seed++);
    }
}

TEST_CASE("loader threads, recompute and repeated runs change nothing") {
  for (const Family& family : families()) {
    CAPTURE(family.name);
    const TempFolder folder;
    prepare(folder, family.recipe, {{"name", "plain"}});
    REQUIRE(run(train_command(folder, "plain", "duration=12st")).exit_code == 0);
    for (const std::string change : {"recompute=true", "data.loader_threads=0", "data.loader_threads=3"}) {
      CAPTURE(change);
      REQUIRE(run(train_command(folder, change, "duration=12st " + change)).exit_code == 0);
      CHECK(final_checksum(folder / change) == final_checksum(folder / "plain"));
    }
  }
}

TEST_CASE("a schedule of stages that does not grow is plain training, bit for bit") {
  for (const Family& family : families()) {
    CAPTURE(family.name);
    const TempFolder folder;
    prepare(folder, family.recipe, {{"name", "plain"}});
    REQUIRE(run(train_command(folder, "plain")).exit_code == 0);
    prepare(folder, family.recipe, {{"name", "autoprog"}, {"depth_scale", 1}, {"stages", 2}});
    REQUIRE(run(train_command(folder, "staged")).exit_code == 0);
    CHECK(final_checksum(folder / "staged") == final_checksum(folder / "plain"));
  }
}
