#include "training/comparison.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "engine/core/error.h"
#include "training/metrics.h"
#include "training/progress.h"

namespace accrete {
namespace {

constexpr double RunCost::*kParts[] = {&RunCost::step, &RunCost::tokens, &RunCost::samples, &RunCost::flops,
                                       &RunCost::seconds};

// The recipe without what may differ between repetitions.
Json identity(const RunRecord& run) {
  if (!run.config.contains("recipe") || !run.config["recipe"].is_object()) return Json(run.name);
  Json recipe = run.config["recipe"];
  recipe.erase("seed");
  if (recipe.contains("data") && recipe["data"].is_object()) recipe["data"].erase("loader_threads");
  return recipe;
}

// "vcycle" of "vcycle-s1" and "vcycle-s2".
std::string common_name(const std::vector<RunRecord>& runs, const std::vector<size_t>& which) {
  std::string name = runs[which[0]].name;
  for (const size_t i : which) {
    const std::string& other = runs[i].name;
    const auto end = std::mismatch(name.begin(), name.end(), other.begin(), other.end()).first;
    name.erase(end, name.end());
  }
  if (which.size() == 1) return name;
  for (const std::string suffix : {"seed", "s"})
    for (const char separator : {'-', '_', '.'})
      if (name.ends_with(separator + suffix)) name.resize(name.size() - suffix.size() - 1);
  while (!name.empty() && (name.back() == '-' || name.back() == '_' || name.back() == '.')) name.pop_back();
  return name.empty() ? runs[which[0]].name : name;
}

RunCost mean_cost(const std::vector<RunCost>& costs) {
  RunCost mean{};
  for (double RunCost::*part : kParts) {
    mean.*part = costs.empty() ? NAN : 0;
    for (const RunCost& c : costs) mean.*part += c.*part / static_cast<double>(costs.size());
  }
  return mean;
}

// Evaluations of the model that the run ends with.
std::vector<EvalPoint> final_evaluations(const RunRecord& run, const std::string& split, const std::string& name) {
  const Json* last_model = nullptr;
  for (const Json& event : run.events)
    if (event["event"] == "stage_start" && event.contains("model")) last_model = &event["model"];
  const auto points = evaluations(run, split, name);
  if (!last_model) return points;
  std::vector<EvalPoint> kept;
  const Json* model = nullptr;
  size_t at = 0;  // evaluation events pass in the order of `points`
  for (const Json& event : run.events) {
    if (event["event"] == "stage_start" && event.contains("model")) model = &event["model"];
    if (event["event"] != "eval" || event_text(event, "split", "eval") != split || !event.contains(name)) continue;
    if (!model || *model == *last_model) kept.push_back(points[at]);
    ++at;
  }
  return kept;
}

double peak_memory(const RunRecord& run) {
  double peak = NAN;
  for (const Json& event : run.events)
    if (const double m = metric(event, "peak_memory"); std::isfinite(m)) peak = std::fmax(peak, m);
  return peak;
}

}  // namespace

Comparison compare_runs(const std::vector<RunRecord>& runs, size_t baseline_run, const std::string& metric_name) {
  check(baseline_run < runs.size(), "compare", "run ", baseline_run, " is to be the baseline; there are ", runs.size(),
        " runs");
  Comparison c;
  c.metric = metric_name;
  c.split = main_split(runs[baseline_run]);
  std::vector<Json> identities;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Json id = identity(runs[i]);
    const auto found = std::find(identities.begin(), identities.end(), id);
    if (found == identities.end()) {
      identities.push_back(id);
      c.rows.push_back({});
      c.rows.back().runs.push_back(i);
    } else {
      c.rows[static_cast<size_t>(found - identities.begin())].runs.push_back(i);
    }
    if (i == baseline_run)
      c.baseline = static_cast<size_t>(std::find(identities.begin(), identities.end(), id) - identities.begin());
  }
  for (CompareRow& row : c.rows) {
    row.name = common_name(runs, row.runs);
    row.mean = 0, row.lowest = NAN, row.highest = NAN, row.peak_memory = NAN;
    std::vector<RunCost> totals;
    for (const size_t i : row.runs) {
      const auto points = final_evaluations(runs[i], c.split, metric_name);
      const double last = points.empty() ? NAN : points.back().value;
      row.mean += last / static_cast<double>(row.runs.size());
      row.lowest = std::fmin(row.lowest, last);
      row.highest = std::fmax(row.highest, last);
      row.peak_memory = std::fmax(row.peak_memory, peak_memory(runs[i]));
      totals.push_back(total_cost(runs[i]));
    }
    row.total = mean_cost(totals);
  }
  c.target = c.rows[c.baseline].mean;
  const bool rising = higher_is_better(metric_name);
  for (size_t r = 0; r < c.rows.size(); ++r) {
    std::vector<RunCost> reaching;
    for (const size_t i : c.rows[r].runs) {
      const auto points = final_evaluations(runs[i], c.split, metric_name);
      // The baseline's quality is what it ends with.
      if (r == c.baseline && !points.empty()) {
        reaching.push_back(points.back().cost);
        continue;
      }
      const auto first = std::find_if(points.begin(), points.end(), [&](const EvalPoint& p) {
        return rising ? p.value >= c.target : p.value <= c.target;
      });
      if (first != points.end()) reaching.push_back(first->cost);
    }
    c.rows[r].reached = reaching.size();
    c.rows[r].reaching = mean_cost(reaching);
  }
  return c;
}

std::string change_text(double value, double baseline) {
  const double change = value / baseline - 1;
  if (!std::isfinite(change)) return "";
  char text[32];
  std::snprintf(text, sizeof text, "%+.1f %%", 100 * change);
  return text;
}

std::string comparison_text(const Comparison& c) {
  const auto or_dash = [](double value, std::string (*format)(double)) {
    return std::isfinite(value) ? format(value) : std::string("-");
  };
  const auto measure = [&](double value) { return std::isfinite(value) ? format_measure(c.metric, value) : "-"; };
  const CompareRow& base = c.rows[c.baseline];
  const std::string heading = c.split + " " + c.metric;
  std::vector<std::string> values;
  size_t name_width = 12, value_width = std::max<size_t>(17, heading.size());
  for (const CompareRow& row : c.rows) {
    values.push_back(measure(row.mean));
    if (row.runs.size() > 1) values.back() += " (" + measure(row.lowest) + ".." + measure(row.highest) + ")";
    name_width = std::max(name_width, row.name.size());
    value_width = std::max(value_width, values.back().size());
  }
  const int w = static_cast<int>(name_width), vw = static_cast<int>(value_width);
  char line[512];
  std::string out;
  std::snprintf(line, sizeof line, "%-*s %5s  %-*s %12s %9s %9s   %-28s\n", w, "run", "seeds", vw, heading.c_str(),
                "compute", "time", "memory", ("cost to reach " + measure(c.target)).c_str());
  out += line;
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const CompareRow& row = c.rows[i];
    std::string reach = "not reached";
    if (row.reached > 0) {
      reach = format_flops(row.reaching.flops);
      if (&row != &base)
        reach += " (" + change_text(row.reaching.flops, base.reaching.flops) + "), time " +
                 change_text(row.reaching.seconds, base.reaching.seconds);
      if (row.reached < row.runs.size())
        reach += ", " + std::to_string(row.reached) + " of " + std::to_string(row.runs.size()) + " runs";
    }
    if (&row == &base) reach += " (baseline)";
    std::snprintf(line, sizeof line, "%-*s %5zu  %-*s %12s %9s %9s   %s\n", w, row.name.c_str(), row.runs.size(), vw,
                  values[i].c_str(), or_dash(row.total.flops, format_flops).c_str(),
                  or_dash(row.total.seconds, format_duration).c_str(), or_dash(row.peak_memory, format_bytes).c_str(),
                  reach.c_str());
    out += line;
  }
  return out;
}

Json comparison_json(const Comparison& c, const std::vector<RunRecord>& runs) {
  const auto number = [](double v) { return std::isfinite(v) ? Json(v) : Json(); };
  const auto cost = [&](const RunCost& v) {
    return Json{{"steps", number(v.step)},
                {"tokens", number(v.tokens)},
                {"samples", number(v.samples)},
                {"flops", number(v.flops)},
                {"seconds", number(v.seconds)}};
  };
  Json rows = Json::array();
  for (const CompareRow& row : c.rows) {
    Json names = Json::array();
    for (const size_t i : row.runs) names.push_back(runs[i].name);
    rows.push_back({{"name", row.name},
                    {"runs", names},
                    {"final", number(row.mean)},
                    {"lowest", number(row.lowest)},
                    {"highest", number(row.highest)},
                    {"total", cost(row.total)},
                    {"peak_memory", number(row.peak_memory)},
                    {"reached", row.reached},
                    {"reaching", row.reached > 0 ? cost(row.reaching) : Json()}});
  }
  return {{"split", c.split},
          {"metric", c.metric},
          {"baseline", c.rows[c.baseline].name},
          {"target", number(c.target)},
          {"rows", rows}};
}

}  // namespace accrete
