// The curves of a report as the page's script wants them (report_page.cpp).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string_view>

#include "training/metrics.h"
#include "training/report.h"

namespace accrete {
namespace {

constexpr size_t kMaxPoints = 1200;  // more than the pixels of a chart

struct Axis {
  const char *key, *label;
};
constexpr Axis kAxes[] = {
    {"step", "steps"}, {"tokens", "tokens"}, {"samples", "samples"}, {"flops", "FLOPs"}, {"seconds", "time"}};

// Charts with a known meaning, in the order of the page. Other numbers of step and eval events follow under their own
// names.
struct Known {
  const char *key, *title, *unit;
};
constexpr Known kCharts[] = {{"loss", "Loss", ""},
                             {"perplexity", "Perplexity", ""},
                             {"top1", "Top-1 accuracy", ""},
                             {"top5", "Top-5 accuracy", ""},
                             {"lr", "Learning rate", ""},
                             {"grad_norm", "Gradient norm", ""},
                             {"rate", "Rate per second", "count"},
                             {"memory", "Memory", "bytes"},
                             {"data_wait", "Waiting for data", "seconds"},
                             {"ema_loss", "Loss, averaged weights", ""},
                             {"ema_perplexity", "Perplexity, averaged weights", ""},
                             {"ema_top1", "Top-1 accuracy, averaged weights", ""},
                             {"ema_top5", "Top-5 accuracy, averaged weights", ""}};

// Keys that are no curve: what stands on the axes, the cost of evaluations, and what only a test asks for.
bool is_axis(const std::string& key) {
  return key == "eval_flops" || key == "allocations" ||
         std::ranges::any_of(kAxes, [&](const Axis& axis) { return key == axis.key; });
}

// Whether samples are made of several tokens, as texts are; pictures count as one, and an axis of them would say
// nothing that samples do not.
bool have_tokens(const std::vector<RunRecord>& runs) {
  return std::ranges::any_of(runs, [](const RunRecord& run) {
    const RunCost total = total_cost(run);
    return std::isfinite(total.tokens) && total.tokens != total.samples;
  });
}

// Six significant digits: what a curve can show, in a third of the bytes.
Json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return std::strtod(text, nullptr);
}

// The numeric columns of some events. Curves of more than kMaxPoints are thinned: each point is the mean of an equal
// number of events, standing at the costs of the last of them. A part with no finite value is a gap.
Json columns_of(const std::vector<const Json*>& events, const std::vector<RunCost>& costs) {
  std::vector<std::string> keys;
  for (const Json* event : events)
    for (const auto& [key, value] : event->items()) {
      const bool numeric = value.is_number() || value == "nan" || value == "inf" || value == "-inf";
      const bool skip = key == "stage" || key == "event" || is_axis(key) || std::ranges::find(keys, key) != keys.end();
      if (numeric && !skip) keys.push_back(key);
    }
  const size_t part = (events.size() + kMaxPoints - 1) / kMaxPoints;
  Json columns = Json::object();
  const std::pair<const char*, double RunCost::*> axes[] = {{"step", &RunCost::step},
                                                            {"tokens", &RunCost::tokens},
                                                            {"samples", &RunCost::samples},
                                                            {"flops", &RunCost::flops},
                                                            {"seconds", &RunCost::seconds}};
  for (const auto& [name, member] : axes) {
    Json list = Json::array();
    bool known = false;
    for (size_t first = 0; first < events.size(); first += part) {
      const double value = costs[std::min(first + part, events.size()) - 1].*member;
      known = known || std::isfinite(value);
      // Steps stay whole numbers, exactly.
      list.push_back(std::isfinite(value) && member == &RunCost::step ? Json(value) : rounded(value));
    }
    if (known) columns[name] = std::move(list);
  }
  for (const auto& key : keys) {
    Json list = Json::array();
    for (size_t first = 0; first < events.size(); first += part) {
      double sum = 0;
      int count = 0;
      for (size_t i = first; i < std::min(first + part, events.size()); ++i) {
        const double value = metric(*events[i], key);
        if (std::isfinite(value)) sum += value, ++count;
      }
      list.push_back(count ? rounded(sum / count) : Json());
    }
    columns[key] = std::move(list);
  }
  return columns;
}

// "train" and one table for each evaluated split, as the script wants them.
void add_tables(Json& tables, const RunRecord& run, size_t number) {
  std::vector<std::string> names = {"train"};
  std::map<std::string, std::pair<std::vector<const Json*>, std::vector<RunCost>>> found;
  for (const auto& split : eval_splits(run)) names.push_back(split);
  RunCost spent{NAN, NAN, NAN, NAN, NAN};
  for (const auto& event : run.events) {
    const RunCost now = cost_of(event);
    for (double RunCost::*part :
         {&RunCost::step, &RunCost::tokens, &RunCost::samples, &RunCost::flops, &RunCost::seconds})
      if (std::isfinite(now.*part)) spent.*part = now.*part;
    const bool step = event["event"] == "step";
    if (!step && event["event"] != "eval") continue;
    auto& [events, costs] = found[step ? "train" : event_text(event, "split", "eval")];
    events.push_back(&event);
    costs.push_back(spent);
  }
  for (const auto& name : names)
    if (const auto& [events, costs] = found[name]; !events.empty())
      tables.push_back(
          {{"run", number}, {"name", name}, {"dots", name != "train"}, {"columns", columns_of(events, costs)}});
}

}  // namespace

Json report_curves(const std::vector<RunRecord>& runs) {
  Json data = {{"axes", Json::array()}, {"runs", Json::array()}, {"tables", Json::array()}, {"charts", Json::array()}};
  std::set<std::string> present;
  std::vector<std::string> others;
  for (size_t i = 0; i < runs.size(); ++i) {
    Json stages = Json::array();
    for (const auto& event : runs[i].events) {
      if (event["event"] != "stage_start") continue;
      const RunCost cost = cost_of(event);
      stages.push_back({{"name", event_text(event, "name", "stage")},
                        {"step", rounded(cost.step)},
                        {"tokens", rounded(cost.tokens)},
                        {"samples", rounded(cost.samples)},
                        {"flops", rounded(cost.flops)},
                        {"seconds", rounded(cost.seconds)}});
    }
    data["runs"].push_back({{"name", runs[i].name}, {"stages", stages}});
    add_tables(data["tables"], runs[i], i);
  }
  for (const auto& table : data["tables"])
    for (const auto& [key, column] : table["columns"].items())
      if (present.insert(key).second && !is_axis(key)) others.push_back(key);
  for (const auto& [key, label] : kAxes)
    if (present.contains(key) && (std::string_view(key) != "tokens" || have_tokens(runs)))
      data["axes"].push_back({{"key", key}, {"label", label}});
  // One run is followed by its steps; runs of different models are compared by what they cost.
  const bool several = runs.size() > 1 && present.contains("flops");
  data["axis"] = several ? Json("flops") : data["axes"].empty() ? Json() : data["axes"][0]["key"];
  const auto add_chart = [&](const std::string& key, const std::string& title, const std::string& unit) {
    data["charts"].push_back({{"key", key},
                              {"title", title},
                              {"unit", unit},
                              {"wide", data["charts"].empty()},
                              {"noisy", key != "lr" && key != "memory" && key != "data_wait"}});
  };
  for (const auto& [key, title, unit] : kCharts)
    if (std::erase(others, key)) add_chart(key, title, unit);
  for (const auto& key : others) add_chart(key, key, "");
  return data;
}

}  // namespace accrete
