// Runs side by side: what each spent until it was as good as the baseline at its end, everything included.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "training/run_record.h"

namespace accrete {

// Runs of one recipe that differ only in the seed stand in one row.
struct CompareRow {
  std::string name;              // of the run, or what the names of the runs have in common
  std::vector<size_t> runs;      // indices
  double mean, lowest, highest;  // last value of the metric over the runs; NaN: never evaluated
  size_t reached = 0;            // runs that became as good as the baseline
  RunCost reaching;              // mean cost of those, at that evaluation
  RunCost total;                 // mean of all runs, to their end
  double peak_memory;            // bytes, the largest of any stage of any run
};

struct Comparison {
  std::string split, metric;
  size_t baseline = 0;  // row
  double target = 0;    // mean of the baseline's last values; NaN: none
  std::vector<CompareRow> rows;
};

// Evaluations count from the moment they were made, without interpolation, and only those of the model that the run
// ends with: a small model of an earlier stage that is as good has not trained the large one. Error when `baseline_run`
// does not exist.
Comparison compare_runs(const std::vector<RunRecord>& runs, size_t baseline_run, const std::string& metric);

// "-24.1 %", "+3.0 %"; empty when one of them is not known.
std::string change_text(double value, double baseline);

// The comparison as plain text for a terminal, and as JSON.
std::string comparison_text(const Comparison& comparison);
Json comparison_json(const Comparison& comparison, const std::vector<RunRecord>& runs);

}  // namespace accrete
