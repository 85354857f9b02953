// Tiny runs of the real train_gpt, for tests.
#pragma once

#include <cmath>
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

// The command line of a run into folder / out.
inline std::string train_command(const TempFolder& folder, const std::string& out, const std::string& more = "") {
  return "$APPS/train_gpt --quiet --threads 2 --recipe '" + (folder / "recipe.json").string() + "' --out '" +
         (folder / out).string() + "' " + more;
}

// The events of a run without what time decides.
inline std::vector<std::string> lasting_events(const std::filesystem::path& run_folder) {
  std::vector<std::string> lines;
  for (Json event : read_metrics(run_folder / "metrics.jsonl")) {
    for (const char* key : {"seconds", "rate", "data_wait", "peak_memory", "allocations"}) event.erase(key);
    lines.push_back(event.dump());
  }
  return lines;
}

inline std::string final_checksum(const std::filesystem::path& run_folder) {
  const auto events = read_metrics(run_folder / "metrics.jsonl");
  return events.empty() || events.back()["event"] != "run_end" ? "unfinished"
                                                               : events.back()["checksum"].get<std::string>();
}

}  // namespace accrete
