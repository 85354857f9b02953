// The report page: it must come out whole from any run, and no text of a run may become markup.
#include "training/report.h"
#include "training/comparison.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>

#include "engine/core/error.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "training/html.h"
#include "training/metrics.h"

namespace fs = std::filesystem;
using namespace accrete;

namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

bool has(const std::string& text, const std::string& part) { return count(text, part) > 0; }

// The JSON that the script of the page reads.
Json data_of(const std::string& page) {
  const std::string start = "<script type=\"application/json\" id=\"data\">";
  const size_t from = page.find(start) + start.size();
  return parse_json<Json>(page.substr(from, page.find("</script>", from) - from), "page");
}

void check_whole(const std::string& page) {
  CHECK(page.starts_with("<!doctype html>"));
  CHECK(page.ends_with("</body>\n</html>\n"));
  CHECK(count(page, "<script") == 2);
  CHECK(count(page, "</script>") == 2);
  for (const char* tag : {"table", "tr", "div", "pre", "details", "h2"}) {
    CAPTURE(tag);
    CHECK(count(page, std::string("<") + tag + ">") + count(page, std::string("<") + tag + " ") ==
          count(page, std::string("</") + tag + ">"));
  }
  CHECK(has(page, "default-src 'none'"));  // nothing is loaded from anywhere
  CHECK(!has(page, "src=\""));
  CHECK(!has(page, "href="));
  data_of(page);
}

Json step(int i, double loss) {
  return {{"event", "step"},  {"step", i},          {"tokens", 100 * i},
          {"flops", 1e9 * i}, {"seconds", 0.5 * i}, {"loss", loss}};
}
Json eval(int i, double loss) { return {{"event", "eval"}, {"step", i}, {"split", "valid"}, {"loss", loss}}; }

// A run whose validation loss falls by `slope` every ten steps, from 5.
RunRecord falling(const std::string& name, double slope, int steps) {
  RunRecord run{name, {{"optim", {{"lr", slope}}}}, {}};
  for (int i = 1; i <= steps; ++i) {
    run.events.push_back(step(i, 5 - slope * i / 10));
    if (i % 10 == 0) run.events.push_back(eval(i, 5 - slope * i / 10));
  }
  run.events.push_back({{"event", "run_end"}, {"step", steps}});
  return run;
}

}  // namespace

TEST_CASE("hostile text stays text") {
  const std::string attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<!--";
  RunRecord run{attack, {{attack, attack}, {"command", {attack, attack}}, {"device", attack}, {"threads", attack}}, {}};
  run.events = {{{"event", "stage_start"}, {"name", attack}, {"step", 0}},
                {{"event", "step"}, {"step", 1}, {"loss", 1.0}, {attack, 2.0}},
                {{"event", "eval"}, {"step", 1}, {"split", attack}, {"loss", 1.0}},
                {{"event", "eval"}, {"step", 1}, {"split", 7}, {"loss", "text"}},
                {{"event", "stage_start"}, {"name", 7}, {"step", "one"}},
                {{"event", "growth"}, {"step", 1}, {attack, attack}},
                {{"event", "sample"}, {"step", 1}, {"prompt", attack}, {"text", attack + "\x01\xff"}}};
  for (const auto& runs : {std::vector{run}, std::vector{run, run}}) {
    const std::string page = report_html(runs, {.title = attack});
    check_whole(page);
    CHECK(!has(page, "<img"));
    CHECK(!has(page, "<script>alert"));
    CHECK(has(page, "&lt;/script&gt;&lt;script&gt;alert(1)"));
  }
  CHECK(data_of(report_html({run}))["runs"][0]["name"] == attack);
}

TEST_CASE("escaping") {
  CHECK(html_escape("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#39;");
  CHECK(html_escape("\u00e9\u20ac\U0001F600\n\t") == "\u00e9\u20ac\U0001F600\n\t");
  // Invalid UTF-8, byte by byte: stray and cut sequences, too long forms, surrogates, beyond U+10FFFF.
  CHECK(html_escape("\x80x\xe2\x82") == "\ufffdx\ufffd\ufffd");
  CHECK(html_escape("\xc0\xaf") == "\ufffd\ufffd");
  CHECK(html_escape("\xe0\x80\x80") == "\ufffd\ufffd\ufffd");
  CHECK(html_escape("\xed\xa0\x80") == "\ufffd\ufffd\ufffd");
  CHECK(html_escape("\xf4\x90\x80\x80") == "\ufffd\ufffd\ufffd\ufffd");
  CHECK(html_escape(std::string_view("\0\x1b\x7f", 3)) == "\ufffd\ufffd\ufffd");
  CHECK(html_json({{"a", "</script>"}, {"b", std::nan("")}}) == "{\"a\":\"\\u003c/script>\",\"b\":null}");
}

TEST_CASE("runs with nothing, one point, and no numbers") {
  const std::string empty = report_html({RunRecord{"empty", Json::object(), {}}});
  check_whole(empty);
  CHECK(has(empty, "nothing has been recorded yet"));
  CHECK(data_of(empty)["charts"].empty());

  RunRecord run{"one", Json::object(), {step(1, 2.5)}};
  const std::string one = report_html({run});
  check_whole(one);
  CHECK(has(one, "this run has not ended"));
  const Json table = data_of(one)["tables"][0];
  CHECK(table["columns"]["loss"] == Json::array({2.5}));
  CHECK(table["columns"]["step"] == Json::array({1}));
  CHECK(!table["columns"].contains("samples"));

  run.events = {step(1, 2.5), parse_json<Json>(metrics_line(step(2, std::nan(""))), "test"),
                parse_json<Json>(metrics_line(step(3, HUGE_VAL)), "test"), step(4, 2.25)};
  run.events.push_back({{"event", "run_end"}});
  const std::string gaps = report_html({run});
  check_whole(gaps);
  CHECK(has(gaps, "the loss is not a finite number in 2 steps, first at step 2"));
  CHECK(!has(gaps, "has not ended"));
  CHECK(data_of(gaps)["tables"][0]["columns"]["loss"] == Json::array({2.5, nullptr, nullptr, 2.25}));

  CHECK_THROWS_WITH(report_html({}), "[report] there is no run to report");
}

TEST_CASE("long curves are thinned to their means") {
  RunRecord run{"long", Json::object(), {}};
  for (int i = 1; i <= 12'000; ++i) run.events.push_back(step(i, i % 2 ? 1.0 : 3.0));
  const Json columns = data_of(report_html({run}))["tables"][0]["columns"];
  CHECK(columns["loss"].size() == 1200);
  CHECK(columns["loss"][7] == 2.0);
  CHECK(columns["step"].front() == 10);
  CHECK(columns["step"].back() == 12'000);
  CHECK(columns["flops"].back() == 1.2e13);
}

TEST_CASE("evaluations carry what had been spent by then") {
  const RunRecord run = falling("a", 0.5, 40);
  const auto points = evaluations(run, "valid", "loss");
  REQUIRE(points.size() == 4);
  CHECK(points[1].value == 4);
  CHECK(points[1].cost.step == 20);
  CHECK(points[1].cost.flops == 2e10);  // of step 20: the evaluation itself does not say
  CHECK(points[1].cost.seconds == 10);
  CHECK(std::isnan(points[1].cost.samples));
  CHECK(main_split(run) == "valid");
  CHECK(eval_splits(run) == std::vector<std::string>{"valid"});
  CHECK(evaluations(run, "test", "loss").empty());
  CHECK(total_cost(run).flops == 4e10);
  CHECK(higher_is_better("top1"));
  CHECK(!higher_is_better("perplexity"));
}

TEST_CASE("cost to reach the baseline's final quality") {
  // The baseline ends at 3 after 40 steps. Twice as fast: there at step 20. Slower: never.
  const std::vector<RunRecord> runs = {falling("base", 0.5, 40), falling("fast", 1, 40), falling("slow", 0.25, 40)};
  const auto rows = compare_runs(runs, 0, "loss").rows;
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].mean == 3);
  CHECK(rows[0].reaching.step == 40);
  CHECK(rows[1].reaching.flops == 2e10);
  CHECK(rows[1].mean == 1);
  CHECK(rows[2].reached == 0);
  const std::string page = report_html(runs);
  check_whole(page);
  CHECK(has(page, "Comparison of 3 runs"));
  CHECK(has(page, "Cost to reach the final valid loss of base (3.000)"));
  CHECK(has(page, "-50.0 %"));
  CHECK(has(page, "not reached"));
  CHECK(has(page, "<code>optim.lr</code>"));
  check_whole(report_html(runs, {.metric = "absent"}));
  CHECK_THROWS_AS(report_html(runs, {.baseline = 3}), Error);
}

TEST_CASE("runs that differ only in their seed are one row") {
  std::vector<RunRecord> runs = {falling("base-s1", 0.5, 40), falling("base-s2", 0.5, 44), falling("vcycle-s1", 1, 40),
                                 falling("vcycle-s2", 0.25, 40)};
  for (size_t i = 0; i < runs.size(); ++i)
    runs[i].config["recipe"] = {{"seed", i}, {"plan", {{"name", i < 2 ? "plain" : "vcycle"}}}};
  const Comparison c = compare_runs(runs, 1, "loss");
  REQUIRE(c.rows.size() == 2);
  CHECK(c.baseline == 0);
  CHECK(c.rows[0].name == "base");
  CHECK(c.rows[1].name == "vcycle");
  CHECK(c.rows[0].runs == std::vector<size_t>{0, 1});
  CHECK(c.target == doctest::Approx((c.rows[0].lowest + c.rows[0].highest) / 2));
  CHECK(c.rows[1].reached == 1);  // the slow one never gets there
  CHECK(comparison_text(c).find("1 of 2 runs") != std::string::npos);
  CHECK(comparison_json(c, runs)["rows"][1]["runs"] == Json({"vcycle-s1", "vcycle-s2"}));
  check_whole(report_html(runs));
}

TEST_CASE("a small model of an earlier stage does not count as having reached the baseline") {
  std::vector<RunRecord> runs = {falling("base", 0.5, 40), falling("grown", 1, 40)};
  // The second run trains a small model up to step 30, which is as good as the baseline at step 20.
  std::vector<Json> events = {{{"event", "stage_start"}, {"step", 0}, {"model", {{"depth", 2}}}}};
  bool large = false;
  for (const Json& event : runs[1].events) {
    if (!large && event.value("step", 0) > 30) {
      large = true;
      events.push_back({{"event", "stage_start"}, {"step", 30}, {"model", {{"depth", 4}}}});
    }
    if (event["event"] != "stage_start") events.push_back(event);
  }
  runs[1].events = events;
  const Comparison c = compare_runs(runs, 0, "loss");
  CHECK(c.rows[1].reached == 1);
  CHECK(c.rows[1].reaching.step > 30);
}

TEST_CASE("a run folder is read and its report written") {
  const fs::path folder = fs::temp_directory_path() / ("accrete-report-" + std::to_string(::getpid()));
  fs::create_directories(folder / "my-run");
  {
    MetricsWriter writer(folder / "my-run" / "metrics.jsonl");
    for (const auto& event : falling("x", 0.5, 20).events) writer.write(event);
  }
  CHECK(load_run(folder / "my-run/").name == "my-run");
  write_text(folder / "my-run" / "config.json", "{\"model\":{\"depth\":2}}");
  const RunRecord run = load_run(folder / "my-run");
  CHECK(run.events.size() == 23);
  CHECK(run.config["model"]["depth"] == 2);
  write_report(folder / "my-run" / "report.html", {run});
  check_whole(read_text(folder / "my-run" / "report.html"));
  CHECK_THROWS_WITH(load_run(folder / "absent"), doctest::Contains("is not a run folder"));
  CHECK_THROWS_WITH(load_run(folder), doctest::Contains("metrics.jsonl"));
  fs::remove_all(folder);
}
