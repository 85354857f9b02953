// Training on a device whose work is queued, the emulator or that of ACCRETE_TEST_DEVICE: steps that are recorded once
// and replayed leave the bits of steps that are launched kernel by kernel, in every kind of stage.
#include <algorithm>

#include "tests/train_testing.h"
#include "training/checkpoint.h"

using namespace accrete;

namespace {

const std::string kQueued = train_device("emu"), kOnQueued = "--device " + kQueued;

bool has_emulator(const RunResult& r) {
  if (r.err.find("no block emulator") == std::string::npos) return true;
  MESSAGE("skipped: this build has no emulator");
  return false;
}

// The smallest runs that have dropout, several micro-batches, evaluation and checkpoints.
Json tiny(const Json& plan, const Json& more = Json::object()) {
  Json recipe = {{"model",
                  {{"embed_dim", 16},
                   {"depth", 4},
                   {"num_heads", 2},
                   {"attn_dropout", 0.1},
                   {"resid_dropout", 0.1},
                   {"embed_dropout", 0.1}}},
                 {"data", {{"length", 8}}},
                 {"batch", {{"size", 4}, {"micro", 2}}},
                 {"duration", "12st"},
                 {"schedule", {{"warmup", "1st"}}},
                 {"eval", {{"every", "5st"}, {"batches", 1}}},
                 {"plan", plan}};
  recipe.merge_patch(more);
  return recipe;
}

}  // namespace

TEST_CASE("recorded steps and launched steps train alike") {
  const Json search = {{"name", "autoprog"}, {"search", Json::object()}, {"stages", 2}};
  const std::vector<Json> recipes = {
      tiny({{"name", "plain"}}, {{"precision", "bf16"}, {"optim", {{"ema", 0.9}}}}),
      tiny({{"name", "plain"}}, {{"precision", "f16"}, {"loss_scale", {{"initial", 1e9}}}}),
      tiny({{"name", "vcycle"}}),
      tiny({{"name", "incubation"}, {"modules", 2}}),
      tiny(search),
      tiny({{"name", "twa"}, {"snapshots", 3}}),
  };
  const TempFolder folder;
  make_tiny_data(folder);
  for (size_t i = 0; i < recipes.size(); ++i) {
    CAPTURE(recipes[i].dump());
    put_recipe(folder, recipes[i]);
    const std::string n = std::to_string(i);
    const RunResult recorded = run(train_command(folder, "recorded" + n, kOnQueued));
    if (!has_emulator(recorded)) return;
    CAPTURE(recorded.err);
    REQUIRE(recorded.exit_code == 0);
    const RunResult launched = run(train_command(folder, "launched" + n, kOnQueued + " --eager"));
    CAPTURE(launched.err);
    REQUIRE(launched.exit_code == 0);
    CHECK(final_checksum(folder / ("recorded" + n)) != "unfinished");
    CHECK(final_checksum(folder / ("recorded" + n)) == final_checksum(folder / ("launched" + n)));
    CHECK(lasting_events(folder / ("recorded" + n)) == lasting_events(folder / ("launched" + n)));
    for (const Json& event : read_metrics(folder / ("recorded" + n) / "metrics.jsonl"))
      CHECK_MESSAGE(event["event"] != "launches", event.dump());  // nothing stood in the way of recording
  }
}

TEST_CASE("f16: steps whose gradients overflow change nothing, and the scale finds its place") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, tiny({{"name", "plain"}}, {{"precision", "f16"},
                                                {"duration", "30st"},
                                                {"loss_scale", {{"initial", 1e9}, {"backoff", 0.0625}}}}));
  for (const std::string& device : {std::string("cpu"), kQueued}) {
    const RunResult r = run(train_command(folder, device, "--device " + device));
    if (!has_emulator(r)) return;
    CAPTURE(r.err);
    REQUIRE(r.exit_code == 0);
    int skipped = 0, taken = 0;
    double last = 0;
    for (const Json& event : read_metrics(folder / device / "metrics.jsonl")) {
      if (event["event"] != "step") continue;
      (event["grad_norm"].is_string() ? skipped : taken)++;
      CHECK(event["loss"].is_number());
      last = event["loss_scale"].get<double>();
    }
    CHECK(skipped >= 2);
    CHECK(skipped <= 12);
    CHECK(taken >= 18);
    CHECK(last < 1e9);
  }
}

TEST_CASE("memory stands still after the second step, and the losses are those of the CPU") {
  const TempFolder folder;
  make_tiny_data(folder);
  const auto steps_of = [&](const std::string& device, const std::string& out) {
    std::vector<Json> steps;
    const RunResult r = run(train_command(folder, out, "--device " + device));
    CAPTURE(r.err);
    if (!has_emulator(r)) return steps;
    REQUIRE(r.exit_code == 0);
    for (const Json& event : read_metrics(folder / out / "metrics.jsonl"))
      if (event["event"] == "step") steps.push_back(event);
    REQUIRE(steps.size() == 6);
    return steps;
  };
  // Relative gaps: f32 sums in another order; bf16 keeps 8 bits and rounds in other places, for 6 steps.
  for (const auto& [precision, gap] : {std::pair<std::string, double>{"f32", 1e-4}, {"bf16", 2e-2}}) {
    CAPTURE(precision);
    put_recipe(folder,
               tiny({{"name", "plain"}},
                    {{"precision", precision}, {"duration", "6st"}, {"eval", {{"every", "6st"}}}, {"seed", 3}}));
    const auto there = steps_of(kQueued, precision + "queued"), here = steps_of("cpu", precision + "cpu");
    if (there.empty()) return;
    for (size_t i = 0; i < here.size(); ++i) {
      CHECK(there[i]["loss"].get<double>() == doctest::Approx(here[i]["loss"].get<double>()).epsilon(gap));
      CHECK(there[i]["grad_norm"].get<double>() ==
            doctest::Approx(here[i]["grad_norm"].get<double>()).epsilon(10 * gap));
      if (i >= 2) CHECK(there[i]["allocations"] == there[2]["allocations"]);
    }
  }
}

TEST_CASE("a run that is killed on a queued device continues with the same bits") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, tiny({{"name", "plain"}}, {{"checkpoint", {{"every", "3st"}}}}));
  const RunResult whole = run(train_command(folder, "whole", kOnQueued));
  if (!has_emulator(whole)) return;
  CAPTURE(whole.err);
  REQUIRE(whole.exit_code == 0);
  REQUIRE(run(train_command(folder, "half", kOnQueued + " --hours 1e-9")).exit_code == 0);
  CHECK(final_checksum(folder / "half") == "unfinished");
  const RunResult rest = run(train_command(folder, "half", kOnQueued + " --resume"));
  CAPTURE(rest.err);
  REQUIRE(rest.exit_code == 0);
  CHECK(final_checksum(folder / "half") == final_checksum(folder / "whole"));
}

TEST_CASE("averaging with its rows on the device: the losses of the CPU, the same bits when resumed, and no room") {
  const TempFolder folder;
  make_tiny_data(folder);
  const auto put = [&](const Json& average) {
    Json plan = {{"name", "twa"}, {"snapshots", 6}, {"from", 0}, {"collect", {{"duration", "6st"}}}};
    plan["average"] = {{"duration", "4st"}};
    plan["average"].merge_patch(average);
    put_recipe(folder, tiny(plan, {{"duration", "10st"},
                                   {"model", {{"depth", 2}}},
                                   {"data", {{"holdout", 0.1}}},
                                   {"checkpoint", {{"every", "2st"}}}}));
  };
  const auto train = [&](const std::string& out, const std::string& more) {
    const RunResult r = run(train_command(folder, out, more));
    CAPTURE(r.err);
    if (!has_emulator(r)) return false;
    REQUIRE(r.exit_code == 0);
    return true;
  };
  // Relative gaps: f32 sums in another order, for 10 steps.
  const auto check_alike = [&](const std::vector<Json>& there, const std::vector<Json>& here) {
    REQUIRE(there.size() == here.size());
    for (size_t i = 0; i < here.size(); ++i) {
      CHECK(there[i]["event"] == here[i]["event"]);
      for (const char* number : {"loss", "moved"})
        if (here[i].contains(number))
          CHECK(there[i][number].get<double>() == doctest::Approx(here[i][number].get<double>()).epsilon(2e-4));
    }
  };
  const auto events = [&](const std::string& out) { return read_metrics(folder / out / "metrics.jsonl"); };
  put({{"precision", "q4"}, {"optimizer", "adamw"}, {"lr", 0.01}, {"blocks", "per_tensor"}, {"data", "held_out"}});
  if (!train("q4", kOnQueued) || !train("q4cpu", "--device cpu")) return;
  check_alike(events("q4"), events("q4cpu"));
  // What a process leaves that is killed in the averaging stage.
  std::filesystem::copy(folder / "q4", folder / "parts", std::filesystem::copy_options::recursive);
  REQUIRE(std::filesystem::exists(checkpoint_folder(folder / "parts", 8)));
  std::filesystem::remove_all(checkpoint_folder(folder / "parts", 10));
  train("parts", kOnQueued + " --resume");
  CHECK(final_checksum(folder / "parts") == final_checksum(folder / "q4"));
  CHECK(lasting_events(folder / "parts") == lasting_events(folder / "q4"));

  put({{"precision", "f32"}});
  train("f32", kOnQueued);
  const auto peak = [&](const std::string& more) {
    const Json stages = Json::parse(run(train_command(folder, "none", "--dry-run --json " + more)).out)["stages"];
    return stages.at(1)["peak_memory"].get<int64_t>();
  };
  const int64_t with = peak(kOnQueued), without = peak("--device cpu"), rows = with - without;
  CHECK(static_cast<double>(rows) ==
        doctest::Approx(events("f32").at(0)["params"].get<double>() * 4 * 6).epsilon(0.05));
  const std::string limit = kOnQueued + " --memory-limit " + std::to_string(without + rows * 9 / 10);
  CHECK(peak(limit) == without);
  train("no_room", limit);
  std::vector<Json> over_the_host = events("no_room");
  const auto told = std::find_if(over_the_host.begin(), over_the_host.end(),
                                 [](const Json& e) { return e["event"] == "projection"; });
  REQUIRE(told != over_the_host.end());
  CHECK((*told)["on"] == "cpu");
  CHECK((*told)["why"].get<std::string>().find("every step goes over the host") != std::string::npos);
  over_the_host.erase(told);
  check_alike(over_the_host, events("f32"));
}

TEST_CASE("a bad number ends the run with the name of the op, one step later than it came") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, tiny({{"name", "plain"}}, {{"optim", {{"lr", 1e30}, {"clip", 0}}}}));
  const RunResult r = run(train_command(folder, "out", kOnQueued));
  if (!has_emulator(r)) return;
  CHECK(r.exit_code == 1);
  CHECK_MESSAGE(r.err.find("first non-finite result") != std::string::npos, r.err);
}
