// Tiny runs of the real train_gpt, for tests.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "engine/core/json.h"
#include "tests/program_testing.h"
#include "training/metrics.h"

namespace accrete {

// A byte-level data set of some thousand tokens with structure to learn: folder / "data".
inline void make_tiny_data(const TempFolder& folder) {
  std::string text;
  for (int i = 0; i < 300; ++i)
    text += "The " + std::to_string(i * 7 % 100) + " cats and " + std::to_string(i * 3 % 10) + " dogs ran home.\n";
  put_file(folder / "text.txt", text);
  const RunResult made = run("$APPS/prepare text --quiet --in '" + (folder / "text.txt").string() +
                             "' --tokenizer bytes --out '" + (folder / "data").string() + "'");
  if (made.exit_code != 0) throw std::runtime_error("prepare failed: " + made.err);
}

// A recipe of 2 blocks, width 32, 60 steps of 8 x 32 bytes; `more` is merged over it.
inline void put_recipe(const TempFolder& folder, const Json& more = Json::object(),
                       const std::string& name = "recipe.json") {
  Json recipe = {{"family", "gpt"},
                 {"model", {{"embed_dim", 32}, {"depth", 2}, {"num_heads", 2}}},
                 {"data", {{"path", (folder / "data").string()}, {"length", 32}}},
                 {"batch", {{"size", 8}, {"micro", 4}}},
                 {"optim", {{"lr", 3e-3}}},
                 {"schedule", {{"warmup", "5st"}}},
                 {"duration", "60st"},
                 {"precision", "f32"},
                 {"eval", {{"every", "20st"}, {"batches", 4}}},
                 {"checkpoint", {{"every", "7st"}}}};
  recipe.merge_patch(more);
  put_file(folder / name, recipe.dump(2));
}

// ACCRETE_TEST_DEVICE (emu or cuda), else `otherwise`: where the runs below train when nothing else is said.
inline std::string train_device(const std::string& otherwise = "cpu") {
  const char* device = std::getenv("ACCRETE_TEST_DEVICE");
  return device ? device : otherwise;
}

// The command line of a run into folder / out.
inline std::string train_command(const TempFolder& folder, const std::string& out, const std::string& more = "") {
  const std::string device = more.find("--device") == std::string::npos ? "--device " + train_device() + " " : "";
  const auto recipe = parse_json<Json>(file_bytes(folder / "recipe.json"), "recipe");
  const std::string program = recipe.value("family", "gpt") == "gpt" ? "train_gpt" : "train_vit";
  return "$APPS/" + program + " --quiet --threads 2 " + device + "--recipe '" + (folder / "recipe.json").string() +
         "' --out '" + (folder / out).string() + "' " + more;
}

// Removes what time decides, at any depth.
inline void drop_times(Json& value) {
  if (value.is_object())
    for (const char* key : {"seconds", "rate", "data_wait", "peak_memory", "allocations"}) value.erase(key);
  if (value.is_structured())
    for (Json& inner : value) drop_times(inner);
}

// The events of a run without what time decides.
inline std::vector<std::string> lasting_events(const std::filesystem::path& run_folder) {
  std::vector<std::string> lines;
  for (Json event : read_metrics(run_folder / "metrics.jsonl")) {
    drop_times(event);
    lines.push_back(event.dump());
  }
  return lines;
}

inline std::string final_checksum(const std::filesystem::path& run_folder) {
  const auto events = read_metrics(run_folder / "metrics.jsonl");
  return events.empty() || events.back()["event"] != "run_end" ? "unfinished"
                                                               : events.back()["checksum"].get<std::string>();
}

// Trains into folder / "killed", killing the process again and again; returns how often it was killed.
inline int train_with_kills(const TempFolder& folder, uint64_t seed) {
  std::mt19937_64 random(seed);
  int kills = 0;
  for (int attempt = 0; attempt < 60; ++attempt) {
    const bool begun = std::filesystem::exists(folder / "killed/config.json");
    // From a moment in which hardly anything was done; later tries get more time, so that the test ends on a busy
    // machine too.
    const double shortest = train_device() == "cpu" ? 0.04 : 0.5;  // a GPU takes its time to start
    const double seconds = shortest * std::pow(1.2, attempt) * std::uniform_real_distribution<>(0.7, 1.3)(random);
    const RunResult result = run("timeout -s KILL " + std::to_string(seconds) + " " +
                                 train_command(folder, "killed", begun ? "--resume" : ""));
    if (result.exit_code == 0) return kills;
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 137);
    ++kills;
  }
  FAIL("the run did not finish");
  return kills;
}

// A run of the recipe in the folder that is killed again and again ends with the same bits and events as one that was
// not.
inline void check_kill_and_resume(const TempFolder& folder, uint64_t seed) {
  const RunResult whole = run(train_command(folder, "whole"));
  CAPTURE(whole.err);
  REQUIRE(whole.exit_code == 0);
  const int kills = train_with_kills(folder, seed);
  MESSAGE("killed ", kills, " times");
  CHECK(kills > 0);
  CHECK(final_checksum(folder / "whole") != "unfinished");
  CHECK(final_checksum(folder / "killed") == final_checksum(folder / "whole"));
  CHECK(lasting_events(folder / "killed") == lasting_events(folder / "whole"));
  CHECK(file_bytes(folder / "killed/model/model.safetensors") == file_bytes(folder / "whole/model/model.safetensors"));
  // Nothing unfinished is left beside the checkpoints.
  for (const auto& entry : std::filesystem::directory_iterator(folder / "killed/ckpt"))
    CHECK(std::filesystem::exists(entry.path() / "COMPLETE"));
}

// The same with a tiny GPT.
inline void check_kill_and_resume(const Json& recipe, uint64_t seed) {
  CAPTURE(recipe.dump());
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, recipe);
  check_kill_and_resume(folder, seed);
}

}  // namespace accrete
