#include "training/run_record.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "training/metrics.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

// The known values of `newer` over those of `cost`.
void update(RunCost& cost, const RunCost& newer) {
  for (double RunCost::*part :
       {&RunCost::step, &RunCost::tokens, &RunCost::samples, &RunCost::flops, &RunCost::seconds})
    if (std::isfinite(newer.*part)) cost.*part = newer.*part;
}

constexpr RunCost kNothingKnown = {NAN, NAN, NAN, NAN, NAN};

}  // namespace

RunRecord load_run(const fs::path& folder) {
  RunRecord run;
  const fs::path clean = fs::absolute(folder).lexically_normal();
  run.name = (clean.has_filename() ? clean : clean.parent_path()).filename().string();
  check(fs::is_directory(folder), "run", folder.string(), " is not a run folder");
  run.events = read_metrics(folder / "metrics.jsonl");
  if (fs::exists(folder / "config.json")) run.config = read_json(folder / "config.json");
  return run;
}

RunCost cost_of(const Json& event) {
  return {metric(event, "step"), metric(event, "tokens"), metric(event, "samples"), metric(event, "flops"),
          metric(event, "seconds")};
}

std::vector<std::string> eval_splits(const RunRecord& run) {
  std::vector<std::string> splits;
  for (const auto& event : run.events) {
    if (event["event"] != "eval") continue;
    const std::string split = event_text(event, "split", "eval");
    if (std::ranges::find(splits, split) == splits.end()) splits.push_back(split);
  }
  return splits;
}

std::string main_split(const RunRecord& run) {
  const auto splits = eval_splits(run);
  for (const char* usual : {"valid", "val", "validation"})
    if (std::ranges::find(splits, usual) != splits.end()) return usual;
  return splits.empty() ? "" : splits[0];
}

std::vector<EvalPoint> evaluations(const RunRecord& run, const std::string& split, const std::string& name) {
  std::vector<EvalPoint> points;
  RunCost spent = kNothingKnown;
  for (const auto& event : run.events) {
    update(spent, cost_of(event));
    if (event["event"] == "eval" && event_text(event, "split", "eval") == split && event.contains(name))
      points.push_back({metric(event, name), spent});
  }
  return points;
}

RunCost total_cost(const RunRecord& run) {
  RunCost spent = kNothingKnown;
  for (const auto& event : run.events) update(spent, cost_of(event));
  return spent;
}

bool higher_is_better(const std::string& name) {
  for (const char* rising : {"top", "acc", "f1", "matthews", "pearson", "spearman", "bleu"})
    if (name.find(rising) != std::string::npos) return true;
  return false;
}

std::optional<EvalPoint> first_reaching(const RunRecord& run, const std::string& split, const std::string& name,
                                        double target) {
  const bool rising = higher_is_better(name);
  for (const auto& point : evaluations(run, split, name))
    if (rising ? point.value >= target : point.value <= target) return point;
  return std::nullopt;
}

}  // namespace accrete
