// compare: several runs against a baseline: the cost to be as good as it, honest totals, curves.
#include <iostream>

#include "apps/program.h"
#include "engine/core/error.h"
#include "training/comparison.h"
#include "training/report.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

// Two names for one folder are one run.
fs::path plain(const fs::path& path) { return fs::weakly_canonical(path.has_filename() ? path : path.parent_path()); }

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Compares runs with a baseline: what each spent until it was as good, everything included. Runs that differ only "
      "in their seed stand in one row.",
      "compare");
  ReportOptions report;
  std::vector<std::string> folders;
  std::string baseline, metric = "loss", out, title;
  app.add_option("runs", folders, "Run folders")->required();
  app.add_option("--baseline", baseline, "Run that the others are compared with (default: the first)");
  app.add_option("--metric", metric, "What \"as good\" means: loss, perplexity, top1, ... of the validation split")
      ->capture_default_str();
  app.add_option("--out", out, "HTML page to write (default: none)");
  app.add_option("--title", title, "Heading of the page (default: \"Comparison of N runs\")");
  add_report_options(app, report);
  return run_program(app, argc, argv, [&] {
    if (baseline.empty()) baseline = folders[0];
    size_t base = folders.size();
    for (size_t i = 0; i < folders.size(); ++i) {
      for (size_t k = 0; k < i; ++k)
        check(plain(folders[i]) != plain(folders[k]), "compare", folders[i], " is given twice");
      if (plain(folders[i]) == plain(baseline)) base = i;
    }
    if (base == folders.size()) folders.push_back(baseline);
    std::vector<RunRecord> runs;
    for (const std::string& folder : folders) runs.push_back(load_run(folder));
    const std::string split = main_split(runs[base]);
    check(!evaluations(runs[base], split, metric).empty(), "compare", folders[base], " has no evaluation of \"", metric,
          "\"; expected a metric of its metrics.jsonl such as loss");
    const Comparison comparison = compare_runs(runs, base, metric);
    if (!out.empty()) {
      write_report(out, runs, {.title = title, .baseline = base, .metric = metric});
      report.log("page in " + out);
    }
    if (report.json)
      std::cout << comparison_json(comparison, runs).dump(2) << "\n";
    else
      std::cout << comparison_text(comparison);
  });
}
