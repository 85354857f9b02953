// A run as its folder tells it: the resolved configuration and the events of metrics.jsonl; and the questions that
// reports ask of it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/config.h"

namespace accrete {

struct RunRecord {
  std::string name;
  Json config = Json::object();
  std::vector<Json> events;  // see metrics.h
};

// Reads RUN/config.json and RUN/metrics.jsonl; a folder without metrics is an Error, one without a configuration is
// not.
RunRecord load_run(const std::filesystem::path& folder);

// What has been spent when an event happened; NaN where the event does not say. Events carry totals since the start of
// the run.
struct RunCost {
  double step, tokens, samples, flops, seconds;
};
RunCost cost_of(const Json& event);

// One evaluation: a metric of one split, and what had been spent by then (gaps filled from the step events before it).
struct EvalPoint {
  double value;
  RunCost cost;
};
// The evaluated splits, in the order of their first evaluation.
std::vector<std::string> eval_splits(const RunRecord& run);
// The split that decides comparisons: "valid" or "val" when there is one, else the first.
std::string main_split(const RunRecord& run);
std::vector<EvalPoint> evaluations(const RunRecord& run, const std::string& split, const std::string& metric);

// Totals: the run_end event when there is one, else the newest costs seen.
RunCost total_cost(const RunRecord& run);

// Loss and perplexity fall, accuracies (top1, top5, accuracy, f1, ...) rise.
bool higher_is_better(const std::string& metric);

// The first evaluation that is as good as `target`; nothing when the run never gets there. No interpolation: a quality
// counts from the moment it was measured, for the baseline as for the others.
std::optional<EvalPoint> first_reaching(const RunRecord& run, const std::string& split, const std::string& metric,
                                        double target);

}  // namespace accrete
