// report.html: one self-contained page about a run, or about several runs side by side.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "training/run_record.h"

namespace accrete {

struct ReportSettings {
  std::string title;            // the name of the run, or "Comparison of N runs", when empty
  size_t baseline = 0;          // the run that the others are compared with
  std::string metric = "loss";  // of the main split: what "as good as the baseline" means
};

// The page: curves over steps, tokens, samples, FLOPs or seconds (switchable, zoomable, values under the pointer), what
// each stage cost, what the plan decided, samples of generated text, the configuration; for several runs also the cost
// to reach the baseline's final quality. Every text from a run is escaped. Curves are thinned to about 1,200 points
// (means of equal parts), so a page stays small.
//
// Events read, beyond those of metrics.h: {"event": "sample", "step", "prompt", "text"} is a piece of generated text.
std::string report_html(const std::vector<RunRecord>& runs, const ReportSettings& options = {});

// The same into a file, atomically.
void write_report(const std::filesystem::path& path, const std::vector<RunRecord>& runs,
                  const ReportSettings& options = {});

// What the page's script draws: axes, tables of numbers, charts (report_curves.cpp; its form stands in
// report_page.cpp).
Json report_curves(const std::vector<RunRecord>& runs);
// Style and script of the page (report_page.cpp).
extern const char* const kReportStyle;
extern const char* const kReportScript;

}  // namespace accrete
