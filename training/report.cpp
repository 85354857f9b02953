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

const std::string kDash = "\u2013";
std::string or_dash(double value, std::string (*format)(double)) {
  return std::isfinite(value) ? format(value) : kDash;
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
    std::string note;
    if (best->cost.step < points.back().cost.step)
      note = "best " + format_measure(name, best->value) + " at step " + format_count(best->cost.step);
    if (const auto averaged = evaluations(run, split, std::string("ema_") + name); !averaged.empty())
      note +=
          (note.empty() ? "" : "; ") + std::string("averaged weights ") + format_measure(name, averaged.back().value);
    const bool top1 = std::string_view(name) == "top1";
    cards += card(split + " " + (top1 ? "top-1" : name), format_measure(name, points.back().value), note);
  }
  const RunCost total = total_cost(run);
  if (std::isfinite(total.step)) cards += card("steps", format_count(total.step));
  if (std::isfinite(total.tokens) && total.tokens != total.samples)
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
  static const std::set<std::string> kinds = {"growth", "search", "choice", "assemble", "basis", "projection"};
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
  const auto measure = [&](double value) { return std::isfinite(value) ? format_measure(c.metric, value) : kDash; };
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
    totals += "<tr>" + name + cell(std::to_string(row.runs.size())) + cell(measure(row.mean)) +
              cell(measure(row.lowest)) + cell(measure(row.highest)) + costs(row.total, base.total) +
              cell(or_dash(row.peak_memory, format_bytes)) + "</tr>";
    if (!known) continue;
    reach += "<tr>" + name;
    if (row.reached > 0)
      reach += cell(std::to_string(row.reached) + " of " + std::to_string(row.runs.size())) +
               costs(row.reaching, base.reaching) + "</tr>";
    else
      reach += "<td class=\"n bad\" colspan=\"6\">not reached: ends with " + measure(row.mean) + "</td></tr>";
  }
  std::string out;
  if (known)
    out += section("Cost to reach the final " + quality + " of " + base.name + " (" + measure(c.target) + ")",
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
  body += "<script type=\"application/json\" id=\"data\">" + html_json(report_curves(runs)) + "</script>\n";
  return html_page(title, body, kReportStyle, kReportScript);
}

void write_report(const std::filesystem::path& path, const std::vector<RunRecord>& runs,
                  const ReportSettings& options) {
  write_text(path, report_html(runs, options));
}

}  // namespace accrete
