// AutoProg in real tiny runs: by schedule and by search, the same again, killed and continued, predicted, refused.
#include <doctest/doctest.h>

#include "tests/train_testing.h"
#include "training/checkpoint.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

// 4 blocks; lengths 16, 24, 24, 32.
Json manual(const Json& more = Json::object()) {
  Json plan{{"name", "autoprog"}, {"length_scale", 0.5}, {"length_multiple", 8}};
  plan.merge_patch(more);
  return Json{{"model", {{"depth", 4}, {"resid_dropout", 0.1}}}, {"plan", plan}};
}

Json automatic(const Json& more = Json::object()) {
  Json search{{"duration", "0.2run"}, {"batches", 2}, {"ema_score", "0.05run"}};
  search.merge_patch(more);
  return manual({{"search", search}, {"regularisation", {{"model.resid_dropout", 0.0}}}});
}

struct Tiny {
  TempFolder folder;
  explicit Tiny(const Json& recipe) {
    make_tiny_data(folder);
    put_recipe(folder, recipe);
  }
  std::vector<Json> train(const std::string& out, const std::string& more = "") const {
    const RunResult result = run(train_command(folder, out, more));
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
    return read_metrics(folder / out / "metrics.jsonl");
  }
};

std::vector<Json> of_kind(const std::vector<Json>& events, const std::string& kind) {
  std::vector<Json> chosen;
  for (const Json& e : events)
    if (e["event"] == kind) chosen.push_back(e);
  return chosen;
}

void refused(const Json& recipe, const std::vector<std::string>& words) {
  const Tiny t(recipe);
  for (const char* more : {"", "--dry-run"}) {
    const RunResult result = run(train_command(t.folder, "out", more));
    CAPTURE(result.err);
    CHECK(result.one_line_error());
    for (const std::string& word : words) CHECK(result.err.find(word) != std::string::npos);
    CHECK(!fs::exists(t.folder / "out"));
  }
}

}  // namespace

TEST_CASE("a schedule that does not grow is plain training, bit for bit") {
  const Json model = {{"model", {{"depth", 3}, {"resid_dropout", 0.1}, {"attn_dropout", 0.1}}},
                      {"optim", {{"ema", 0.9}}},
                      {"duration", "61st"}};
  Tiny t(model);
  t.train("plain");
  const std::string plain = final_checksum(t.folder / "plain");
  for (const Json& plan : {Json{{"name", "autoprog"}, {"stages", 1}}, Json{{"name", "autoprog"}, {"depth_scale", 1}},
                           Json{{"name", "autoprog"}, {"depth_scale", 1}, {"grow", "interp"}, {"stages", 3}}}) {
    Json recipe = model;
    recipe["plan"] = plan;
    put_recipe(t.folder, recipe);
    const std::string out = "run" + plan.dump();
    t.train(std::to_string(std::hash<std::string>()(out)));
    CHECK(final_checksum(t.folder / std::to_string(std::hash<std::string>()(out))) == plain);
  }
}

TEST_CASE("by schedule: the network grows, the learning rate runs on, the prediction holds") {
  const Tiny t(manual());
  const auto events = t.train("out");
  const auto starts = of_kind(events, "stage_start"), growth = of_kind(events, "growth"),
             steps = of_kind(events, "step");
  REQUIRE(starts.size() == 4);
  const int64_t depths[] = {2, 3, 3, 4}, lengths[] = {16, 24, 24, 32};
  for (size_t k = 0; k < 4; ++k) {
    CHECK(starts[k]["model"]["depth"] == depths[k]);
    CHECK(starts[k]["length"] == lengths[k]);
    CHECK(starts[k]["steps"] == 15);
  }
  REQUIRE(growth.size() == 2);  // the third stage is like the second
  CHECK(growth[0]["blocks"] == "2 -> 3");
  CHECK(growth[1]["blocks"] == "3 -> 4");
  REQUIRE(steps.size() == 60);
  // The learning rate is that of plain training.
  put_recipe(t.folder, {{"model", {{"depth", 4}, {"resid_dropout", 0.1}}}});
  const auto plain = of_kind(t.train("plain"), "step");
  for (size_t i = 0; i < 60; ++i) CHECK(steps[i]["lr"] == plain[i]["lr"]);
  // Early steps are cheaper and all of it is counted.
  const auto cost = [](const std::vector<Json>& s, size_t i) {
    return s[i]["flops"].get<double>() - (i > 0 ? s[i - 1]["flops"].get<double>() : 0.0);
  };
  CHECK(cost(steps, 5) < 0.7 * cost(plain, 5));
  CHECK(cost(steps, 55) == cost(plain, 55));
  // It learns, and growth breaks nothing: no jump back to the loss of guessing, ln 257.
  CHECK(steps.back()["loss"].get<double>() < 3.0);
  for (const size_t i : {size_t{15}, size_t{45}})
    CHECK(steps[i]["loss"].get<double>() < steps[i - 1]["loss"].get<double>() + 1.0);

  put_recipe(t.folder, manual());
  const RunResult dry = run(train_command(t.folder, "none", "--dry-run --json"));
  REQUIRE(dry.exit_code == 0);
  const Json predicted = parse_json<Json>(dry.out, "dry-run");
  CHECK(predicted["stages"].size() == 4);
  CHECK(predicted["flops"].get<double>() == doctest::Approx(events.back()["flops"].get<double>()).epsilon(1e-9));
  CHECK(predicted["tokens"] == events.back()["tokens"]);
}

TEST_CASE("every operator, map and policy for moments trains") {
  const Tiny t(manual());
  std::vector<std::string> ends;
  for (const Json& plan :
       {Json{{"grow", "rand"}}, Json{{"grow", "stack"}, {"moments", "map"}}, Json{{"grow", "interp"}},
        Json{{"grow", "interp_noise"}, {"map", "even"}}, Json{{"grow", "identity"}, {"moments", "map_zero_new"}},
        Json{{"grow", "mogrow"}, {"ema_grow", "6st"}}}) {
    Json more = plan;
    more["depths"] = {2, 2, 3, 4};
    put_recipe(t.folder, manual(more));
    const std::string out = "run" + std::to_string(ends.size());
    const auto events = t.train(out);
    CHECK(events.back()["loss"].get<double>() < 3.0);
    CHECK(of_kind(events, "growth").size() == 3);
    ends.push_back(final_checksum(t.folder / out));
  }
  std::sort(ends.begin(), ends.end());
  CHECK(std::unique(ends.begin(), ends.end()) == ends.end());  // and they differ
}

TEST_CASE("by search: the same path and bits every time; everything it spends is counted") {
  const Tiny t(automatic());
  const auto events = t.train("a");
  t.train("b", "data.loader_threads=0");
  CHECK(lasting_events(t.folder / "a") == lasting_events(t.folder / "b"));
  const auto searches = of_kind(events, "search"), choices = of_kind(events, "choice");
  REQUIRE(searches.size() >= 1);
  CHECK(choices.size() == searches.size());
  CHECK(searches[0]["variants"].size() == 9);
  for (const Json& v : searches[0]["variants"]) CHECK(v["loss"].get<double>() > 0);
  // What was chosen has the smallest score and is what trains next.
  for (const Json& choice : choices) {
    double best = 1e300;
    std::string name;
    for (const Json& c : choice["candidates"])
      if (c["score"].get<double>() < best) best = c["score"], name = c["name"];
    CHECK(choice["chosen"] == name);
  }
  const auto starts = of_kind(events, "stage_start");
  const std::string chosen = choices[0]["chosen"];
  CHECK(chosen == starts[1]["model"]["depth"].dump() + " blocks x " + starts[1]["length"].dump());
  // Sizes never shrink and end with the whole.
  int64_t depth = 0, length = 0;
  for (const Json& s : starts) {
    if (s["name"].get<std::string>().starts_with("search")) continue;
    CHECK(s["model"]["depth"].get<int64_t>() >= depth);
    CHECK(s["length"].get<int64_t>() >= length);
    depth = s["model"]["depth"], length = s["length"];
  }
  CHECK(depth == 4);
  CHECK(length == 32);
  // The scorings are more than the steps alone.
  double steps = 0, before = 0;
  for (const Json& e : events) {
    if (e["event"] == "step") steps += e["flops"].get<double>() - before;
    if (e.contains("flops")) before = e["flops"];
  }
  CHECK(events.back()["flops"].get<double>() > 1.02 * steps);
  CHECK(events.back()["step"] == 60);
  // The first search is predicted exactly, draws included; what follows depends on its choice.
  const RunResult dry = run(train_command(t.folder, "none", "--dry-run --json"));
  REQUIRE(dry.exit_code == 0);
  const Json first = parse_json<Json>(dry.out, "dry-run")["stages"][0];
  const Json end = of_kind(events, "stage_end")[0];
  CHECK(first["flops"].get<double>() == doctest::Approx(end["flops"].get<double>()).epsilon(0.005));
  CHECK(first["tokens"] == end["tokens"]);
}

TEST_CASE("by search with measured times, and with the averages recycled") {
  const Tiny t(automatic({{"cost", "time"}, {"recycle", "ema"}, {"base", "prev"}, {"w", 0.2}}));
  const auto choices = of_kind(t.train("out"), "choice");
  REQUIRE(!choices.empty());
  CHECK(choices[0]["w"] == 0.2);
}

TEST_CASE("continued from any checkpoint inside a search: the same choice, bits and events") {
  Json recipe = automatic();
  recipe["checkpoint"] = {{"every", "1st"}, {"keep_last", 1000}};
  recipe["optim"] = {{"ema", 0.9}};
  const Tiny t(recipe);
  t.train("whole");
  const std::string end = final_checksum(t.folder / "whole");
  // The first search is steps 1 to 12, the training of its choice 13 to 15, the second search begins with 16.
  for (const int64_t from : {1, 3, 7, 11, 12, 13, 15, 17, 21}) {
    CAPTURE(from);
    fs::remove_all(t.folder / "part");
    fs::copy(t.folder / "whole", t.folder / "part", fs::copy_options::recursive);
    for (const fs::path& checkpoint : list_checkpoints(t.folder / "part"))
      if (read_checkpoint_state(checkpoint)["step"].get<int64_t>() > from) fs::remove_all(checkpoint);
    t.train("part", "--resume");
    CHECK(final_checksum(t.folder / "part") == end);
    CHECK(lasting_events(t.folder / "part") == lasting_events(t.folder / "whole"));
  }
}

TEST_CASE("kill -9 at any moment: by schedule and by search") {
  check_kill_and_resume(manual({{"moments", "map"}}), 11);
  check_kill_and_resume(automatic(), 12);
}

TEST_CASE("kill -9 at any moment: modules of incubation that grow, with a search, between fixed blocks") {
  const Json growing = {{"name", "autoprog"}, {"stages", 2}, {"moments", "map"}, {"search", {{"duration", "0.25run"}}}};
  check_kill_and_resume(
      {{"model", {{"depth", 4}}}, {"plan", {{"name", "incubation"}, {"modules", 2}, {"modular", {{"plan", growing}}}}}},
      13);
}

TEST_CASE("plans that cannot be are refused before any training, in --dry-run too") {
  refused(manual({{"depths", {2, 3, 2, 4}}}), {"plan.depths", "shrinks"});
  refused(manual({{"depths", {2, 3, 4, 5}}}), {"plan.depths", "5", "4"});
  refused(manual({{"stages", 0}}), {"plan.stages", "1"});
  refused(manual({{"length_multiple", 64}}), {"length_multiple", "32", "64"});
  refused(manual({{"search", Json::object()}, {"depth_scale", 1}, {"length_scale", 1}}), {"nothing to choose"});
  refused(manual({{"search", Json::object()}, {"depths", {1, 2, 3, 4}}}), {"factor of 2", "at least 2"});
  refused(manual({{"search", {{"cost", "money"}}}}), {"plan.search.cost", "flops"});
  refused(manual({{"grows", "mogrow"}}), {"unknown key \"plan.grows\"", "did you mean \"plan.grow\""});
  refused(manual({{"regularisation", {{"model.dropout", 0.0}}}}), {"model.dropout"});
}
