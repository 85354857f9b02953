#include "training/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "engine/core/error.h"
#include "engine/core/file.h"
#include "training/comparison.h"
#include "training/html.h"
#include "training/metrics.h"
#include "training/progress.h"

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
                             {"data_wait", "Waiting for data", "seconds"}};

// Keys that are no curve: what stands on the axes, the cost of evaluations, and what only a test asks for.
bool is_axis(const std::string& key) {
  return key == "eval_flops" || key == "allocations" ||
         std::ranges::any_of(kAxes, [&](const Axis& axis) { return key == axis.key; });
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

Json page_data(const std::vector<RunRecord>& runs) {
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
    if (present.contains(key)) data["axes"].push_back({{"key", key}, {"label", label}});
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

// ---- the parts of the page ------------------------------------------------------------------------------------------

std::string cell(const std::string& text, bool number = true) {
  return std::string(number ? "<td class=\"n\">" : "<td>") + html_escape(text) + "</td>";
}

std::string heads(std::initializer_list<const char*> names, size_t texts) {
  std::string row = "<tr>";
  size_t i = 0;
  for (const char* name : names) row += std::string(i++ < texts ? "<th>" : "<th class=\"n\">") + name + "</th>";
  return row + "</tr>";
}

std::string or_dash(double value, std::string (*format)(double)) {
  return std::isfinite(value) ? format(value) : "\u2013";
}

std::string table(const std::string& rows) { return "<div class=\"card scroll\"><table>" + rows + "</table></div>\n"; }

const Json* last_event(const RunRecord& run, const char* kind) {
  for (auto event = run.events.rbegin(); event != run.events.rend(); ++event)
    if ((*event)["event"] == kind) return &*event;
  return nullptr;
}

// The largest finite value of a key over all events; NaN when there is none.
double largest(const RunRecord& run, const std::string& key) {
  double best = NAN;
  for (const auto& event : run.events)
    if (const double value = metric(event, key); std::isfinite(value))
      best = std::isnan(best) ? value : std::max(best, value);
  return best;
}

// A number with its unit in smaller letters, under a label.
std::string card(const std::string& label, const std::string& value, const std::string& note = "") {
  const size_t space = std::min(value.find(' '), value.size());
  const std::string unit = space < value.size() ? "<small>" + html_escape(value.substr(space)) + "</small>" : "";
  return "<div class=\"card\"><div class=\"label\">" + html_escape(label) + "</div><div class=\"value\">" +
         html_escape(value.substr(0, space)) + unit + "</div><div class=\"note\">" + html_escape(note) + "</div></div>";
}

// The numbers that a reader looks for first.
std::string headline(const RunRecord& run) {
  std::string cards;
  const std::string split = main_split(run);
  for (const char* name : {"perplexity", "top1", "loss"}) {
    const auto points = evaluations(run, split, name);
    if (points.empty()) continue;
    const bool rising = higher_is_better(name);
    const auto better = [&](const EvalPoint& a, const EvalPoint& b) {
      return rising ? a.value > b.value : a.value < b.value;
    };
    const auto best = std::ranges::min_element(points, better);
    const std::string note = best->cost.step < points.back().cost.step
                                 ? "best " + format_loss(best->value) + " at step " + format_count(best->cost.step)
                                 : "";
    cards += card(split + " " + name, format_loss(points.back().value), note);
  }
  const RunCost total = total_cost(run);
  if (std::isfinite(total.step)) cards += card("steps", format_count(total.step));
  if (std::isfinite(total.tokens) && total.tokens > 0)
    cards += card("tokens", format_count(total.tokens));
  else if (std::isfinite(total.samples))
    cards += card("samples", format_count(total.samples));
  if (std::isfinite(total.flops)) cards += card("compute", format_flops(total.flops));
  if (std::isfinite(total.seconds)) {
    const double rate = total.flops / total.seconds;
    cards +=
        card("time", format_duration(total.seconds), std::isfinite(rate) ? format_flops(rate) + "/s on average" : "");
  }
  const double parameters = largest(run, "params");
  if (std::isfinite(parameters)) cards += card("parameters", format_count(parameters));
  const double memory = std::fmax(largest(run, "peak_memory"), largest(run, "memory"));
  if (std::isfinite(memory)) cards += card("peak memory", format_bytes(memory));
  return cards.empty() ? "" : "<div class=\"cards\">" + cards + "</div>\n";
}

// Things a reader must not miss: values that are no numbers, and a run that did not end.
std::string notices(const RunRecord& run) {
  size_t bad = 0;
  double first_bad = NAN;
  for (const auto& event : run.events)
    if (event["event"] == "step" && event.contains("loss") && !std::isfinite(metric(event, "loss")) && bad++ == 0)
      first_bad = metric(event, "step");
  std::string out;
  if (bad > 0)
    out += "<div class=\"card notice\">" + html_escape(run.name) + ": the loss is not a finite number in " +
           std::to_string(bad) + (bad == 1 ? " step" : " steps") + ", first at step " +
           html_escape(format_count(first_bad)) + "; the curve has gaps there.</div>\n";
  if (run.events.empty())
    out += "<div class=\"card notice\">" + html_escape(run.name) + ": nothing has been recorded yet.</div>\n";
  else if (!last_event(run, "run_end"))
    out += "<div class=\"card notice\">" + html_escape(run.name) +
           ": this run has not ended; the page shows what it recorded so far.</div>\n";
  return out;
}

std::string stage_table(const RunRecord& run) {
  std::string rows;
  const RunCost total = total_cost(run);
  for (size_t i = 0; i < run.events.size(); ++i) {
    const Json& start = run.events[i];
    if (start["event"] != "stage_start") continue;
    const Json* end = nullptr;
    double loss = NAN;
    for (size_t k = i + 1; k < run.events.size() && !end; ++k) {
      if (run.events[k]["event"] == "stage_start") break;
      if (run.events[k]["event"] == "step") loss = metric(run.events[k], "loss");
      if (run.events[k]["event"] == "stage_end") end = &run.events[k];
    }
    const RunCost a = cost_of(start), b = end ? cost_of(*end) : total;
    const double share = (b.flops - a.flops) / total.flops;
    char bar[96] = "";
    if (std::isfinite(share))
      std::snprintf(bar, sizeof bar, "<div class=\"bar\"><i style=\"width:%.1f%%\"></i></div>",
                    100 * std::clamp(share, 0.0, 1.0));
    const double tokens = b.tokens - a.tokens, samples = b.samples - a.samples;
    rows += "<tr>" + cell(event_text(start, "name", "stage"), false) +
            cell(or_dash(metric(start, "params"), format_count)) +
            cell(or_dash(metric(start, "trainable"), format_count)) + cell(or_dash(b.step - a.step, format_count)) +
            cell(or_dash(tokens > 0 ? tokens : samples, format_count)) +
            cell(or_dash(b.flops - a.flops, format_flops)) + "<td>" + bar + "</td>" +
            cell(or_dash(b.seconds - a.seconds, format_duration)) +
            cell(or_dash(end ? metric(*end, "peak_memory") : NAN, format_bytes)) + cell(or_dash(loss, format_loss)) +
            "</tr>";
  }
  if (rows.empty()) return "";
  return table(heads({"stage", "parameters", "trainable", "steps", "tokens or samples", "compute", "", "time",
                      "peak memory", "last loss"},
                     1) +
               rows);
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

// What a trainer decided and why: everything but the event's name and step, as short text.
std::string decisions(const RunRecord& run) {
  static const std::set<std::string> kinds = {"growth", "search", "choice", "assemble", "basis"};
  std::string rows;
  for (const auto& event : run.events) {
    const std::string kind = event["event"].get<std::string>();
    if (!kinds.contains(kind)) continue;
    std::string text;
    for (const auto& [key, value] : event.items()) {
      if (key == "event" || key == "step") continue;
      std::string shown;
      if (value.is_number())
        shown = short_number(value.get<double>());
      else if (value.is_string())
        shown = value.get<std::string>();
      else
        shown = value.dump(-1, ' ', false, Json::error_handler_t::replace);
      text += (text.empty() ? "" : "; ") + key + " " + shown;
    }
    rows +=
        "<tr>" + cell(kind, false) + cell(or_dash(metric(event, "step"), format_count)) + cell(text, false) + "</tr>";
  }
  return rows.empty() ? "" : table(heads({"event", "step", ""}, 1) + rows);
}

std::string samples(const RunRecord& run) {
  constexpr size_t kMostSamples = 6;  // the newest
  std::vector<std::string> cards;
  for (const auto& event : run.events) {
    if (event["event"] != "sample" || !event.contains("text") || !event["text"].is_string()) continue;
    cards.push_back("<div class=\"card sample\"><p class=\"soft\">after " +
                    html_escape(or_dash(metric(event, "step"), format_count)) +
                    " steps</p><pre><span class=\"prompt\">" + html_escape(event_text(event, "prompt", "")) +
                    "</span>" + html_escape(event["text"].get<std::string>()) + "</pre></div>\n");
  }
  std::string out;
  for (size_t i = 0; i < std::min(kMostSamples, cards.size()); ++i) out += cards[cards.size() - 1 - i];
  return out;
}

std::string section(const std::string& title, const std::string& content) {
  return content.empty() ? "" : "<h2>" + html_escape(title) + "</h2>\n" + content;
}

std::string configuration(const RunRecord& run, const std::string& title) {
  if (run.config.empty()) return "";
  return "<details><summary>" + html_escape(title) + "</summary><div class=\"card\"><pre>" +
         html_escape(run.config.dump(2, ' ', false, Json::error_handler_t::replace)) + "</pre></div></details>\n";
}

// "-31 %" in green when less was spent than by the baseline.
std::string saving(double value, double baseline) {
  const std::string text = change_text(value, baseline);
  const double change = value / baseline - 1;
  const char* mark = change < -0.0005 ? " good" : change > 0.0005 ? " bad" : " soft";
  return text.empty() ? "<td class=\"n\"></td>" : std::string("<td class=\"n") + mark + "\">" + text + "</td>";
}

std::string comparison(const std::vector<RunRecord>& runs, const ReportSettings& options) {
  const Comparison c = compare_runs(runs, options.baseline, options.metric);
  const CompareRow& base = c.rows[c.baseline];
  const bool known = std::isfinite(c.target);
  const std::string quality = (c.split.empty() ? "" : c.split + " ") + c.metric;
  std::string totals =
      heads({"run", "seeds", "final", "lowest", "highest", "steps", "compute", "", "time", "", "peak memory"}, 1);
  std::string reach = heads({"run", "runs that reach it", "steps", "compute", "", "time", ""}, 1);
  for (const CompareRow& row : c.rows) {
    std::string name = "<td>";
    for (const size_t i : row.runs)
      name += "<span class=\"swatch\" style=\"background:var(--c" + std::to_string(i % 8) + ")\"></span> ";
    name += html_escape(row.name) + (&row == &base ? " <span class=\"soft\">baseline</span></td>" : "</td>");
    const auto costs = [&](const RunCost& cost, const RunCost& against) {
      const bool self = &row == &base;
      return cell(or_dash(cost.step, format_count)) + cell(or_dash(cost.flops, format_flops)) +
             (self ? cell("") : saving(cost.flops, against.flops)) + cell(or_dash(cost.seconds, format_duration)) +
             (self ? cell("") : saving(cost.seconds, against.seconds));
    };
    totals += "<tr>" + name + cell(std::to_string(row.runs.size())) + cell(or_dash(row.mean, format_loss)) +
              cell(or_dash(row.lowest, format_loss)) + cell(or_dash(row.highest, format_loss)) +
              costs(row.total, base.total) + cell(or_dash(row.peak_memory, format_bytes)) + "</tr>";
    if (!known) continue;
    reach += "<tr>" + name;
    if (row.reached > 0)
      reach += cell(std::to_string(row.reached) + " of " + std::to_string(row.runs.size())) +
               costs(row.reaching, base.reaching) + "</tr>";
    else
      reach +=
          "<td class=\"n bad\" colspan=\"6\">not reached: ends with " + or_dash(row.mean, format_loss) + "</td></tr>";
  }
  std::string out;
  if (known)
    out += section("Cost to reach the final " + quality + " of " + base.name + " (" + format_loss(c.target) + ")",
                   table(reach) +
                       "<p class=\"soft\">First evaluation that is as good, by the model that the run ends with; "
                       "everything a method spends is counted, small models and searches too. Means over the runs "
                       "that reach it; percentages compare with the baseline.</p>\n");
  return out + section("Totals", table(totals));
}

std::string config_differences(const std::vector<RunRecord>& runs, size_t baseline) {
  std::string rows;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i == baseline) continue;
    for (const auto& [key, before, after] : differences(runs[baseline].config, runs[i].config))
      rows += "<tr>" + cell(runs[i].name, false) + "<td><code>" + html_escape(key) + "</code></td>" +
              cell(before, false) + cell(after, false) + "</tr>";
  }
  return rows.empty() ? "" : table(heads({"run", "setting", "baseline", "this run"}, 4) + rows);
}

// The command line and the machine, as far as config.json tells them.
std::string subtitle(const RunRecord& run) {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() || part.empty() ? "" : " \u00b7 ") + part; };
  if (const auto command = run.config.find("command"); command != run.config.end() && command->is_array()) {
    std::string line;
    for (const auto& word : *command) {
      const std::string plain = word.is_string() ? word.get<std::string>() : word.dump();
      line += line.empty() ? std::filesystem::path(plain).filename().string() : " " + plain;
    }
    add(line);
  }
  add(event_text(run.config, "device", ""));
  if (const double threads = metric(run.config, "threads"); std::isfinite(threads))
    add(format_count(threads) + (threads == 1 ? " thread" : " threads"));
  if (const std::string version = event_text(run.config, "accrete", ""); !version.empty()) add("accrete " + version);
  return text.empty() ? "" : "<p class=\"soft\">" + html_escape(text) + "</p>\n";
}

}  // namespace

std::string report_html(const std::vector<RunRecord>& runs, const ReportSettings& options) {
  check(!runs.empty(), "report", "there is no run to report");
  const bool single = runs.size() == 1;
  const std::string title = !options.title.empty() ? options.title
                            : single               ? runs[0].name
                                                   : "Comparison of " + std::to_string(runs.size()) + " runs";
  std::string body = "<h1>" + html_escape(title) + "</h1>\n";
  if (single) body += subtitle(runs[0]);
  for (const auto& run : runs) body += notices(run);
  if (single) body += headline(runs[0]);
  if (!single) body += comparison(runs, options);
  body +=
      "<div id=\"controls\"></div>\n<div id=\"charts\"></div>\n<noscript><p>The curves need JavaScript; the tables "
      "below do not.</p></noscript>\n";
  for (const auto& run : runs) body += section(single ? "Stages" : "Stages of " + run.name, stage_table(run));
  for (const auto& run : runs)
    body += section(single ? "What the plan decided" : "What " + run.name + " decided", decisions(run));
  for (const auto& run : runs)
    body += section(single ? "Generated text" : "Text generated by " + run.name, samples(run));
  if (!single) body += section("Settings that differ from the baseline", config_differences(runs, options.baseline));
  for (const auto& run : runs) body += configuration(run, single ? "Configuration" : "Configuration of " + run.name);
  body += "<script type=\"application/json\" id=\"data\">" + html_json(page_data(runs)) + "</script>\n";
  return html_page(title, body, kReportStyle, kReportScript);
}

void write_report(const std::filesystem::path& path, const std::vector<RunRecord>& runs,
                  const ReportSettings& options) {
  write_text(path, report_html(runs, options));
}

}  // namespace accrete
