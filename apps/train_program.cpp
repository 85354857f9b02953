#include "apps/train_program.h"

#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>

#include "apps/program.h"
#include "apps/run_page.h"
#include "engine/core/file.h"
#include "kernels/gemm.h"
#include "training/checkpoint.h"
#include "training/predict.h"
#include "training/recorders.h"
#include "training/snapshot.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

struct Options {
  std::string recipe, out, device = "auto", until, memory_limit, only;
  std::vector<std::string> overrides;
  std::optional<int64_t> seed;
  int threads = 1;
  double hours = 0;
  bool eager = false, sync = false;
  bool resume = false, print_config = false, dry_run = false;
  ReportOptions report;
};

// "2G", "512M", "1073741824"
int64_t parse_bytes(const std::string& text) {
  size_t used = 0;
  double value = 0;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  const std::string unit = text.substr(used);
  const double factor = unit.empty() || unit == "B" ? 1
                        : unit == "K"               ? 1 << 10
                        : unit == "M"               ? 1 << 20
                        : unit == "G"               ? 1 << 30
                                                    : 0;
  check(used > 0 && factor > 0 && value > 0 && value < 1e15, "options",
        "--memory-limit is not a size; expected like 512M or 2G; got \"", text, "\"");
  return static_cast<int64_t>(value * factor);
}

Recipe read_recipe(const Options& o, const Family& family) {
  const fs::path earlier = fs::path(o.out) / "config.json";
  check(!o.recipe.empty() || (o.resume && fs::exists(earlier)), "options",
        "--recipe is missing; expected --recipe FILE, or --resume with a run folder in --out");
  Recipe recipe = load_recipe(o.recipe.empty() ? earlier : fs::path(o.recipe), o.overrides, o.seed, family);
  check(!recipe.data.path.empty(), "recipe", "\"data.path\" is missing; expected ",
        family.task == Task::classes ? "a folder of pictures or shards, e.g. data.path=imagenette"
                                     : "a folder made by `prepare text`, e.g. data.path=wikitext");
  if (!o.only.empty()) recipe.plan["only"] = o.only;
  return recipe;
}

void print_prediction(const LoopSettings& settings, const Plan& plan, const Options& o, Task task) {
  const char* unit = task == Task::classes ? " pictures" : " tokens";
  const auto stages = predict(settings, plan);
  double flops = 0, tokens = 0;
  Json list = Json::array();
  for (const StagePrediction& p : stages) {
    flops += p.flops;
    tokens += p.tokens;
    list.push_back(Json{{"name", p.name},
                        {"steps", p.steps},
                        {"params", p.params},
                        {"trainable", p.trainable},
                        {"tokens", p.tokens},
                        {"flops", p.flops},
                        {"peak_memory", p.peak_memory}});
  }
  if (o.report.json) {
    std::cout << Json{{"stages", list}, {"flops", flops}, {"tokens", tokens}}.dump(2) << "\n";
    return;
  }
  const double ceiling = measured_ceiling(compute_type(settings.recipe.precision), settings.device);
  for (size_t i = 0; i < stages.size(); ++i) {
    const StagePrediction& p = stages[i];
    std::cout << "stage " << i + 1 << "/" << stages.size() << " \"" << p.name << "\": " << p.note << "\n  parameters "
              << p.params << " (trained " << p.trainable << "), " << p.steps << " steps, " << format_count(p.tokens)
              << unit << "\n  " << format_flops(p.flops) << " ("
              << format_flops(p.flops / static_cast<double>(std::max<int64_t>(1, p.steps))) << " a step), peak memory "
              << human_bytes(p.peak_memory) << "\n"
              << p.memory_table << "\n";
  }
  if (!settings.recipe.target.empty())
    std::cout << "target: " << settings.recipe.target
              << (settings.recipe.status.empty() ? "" : " (" + settings.recipe.status + ")") << "\n";
  std::cout << "total: " << format_flops(flops) << ", " << format_count(tokens) << unit
            << "; at half of this machine's measured " << format_flops(ceiling)
            << "/s: " << format_duration(2 * flops / ceiling) << ", without evaluation\n";
}

// Refuses to continue a run under another recipe; says what differs.
void check_same_recipe(const fs::path& config, const Recipe& recipe) {
  const Json before = read_json(config);
  check(before.contains("recipe"), "resume", config.string(), " is not a run's configuration: it lacks \"recipe\"");
  // The number of loader threads changes nothing and may differ.
  Recipe was;  // settings that came later had their defaults
  from_json(was, before.at("recipe"), "", config.string());
  Json a = to_json(was), b = to_json(recipe);
  if (a.contains("data") && a["data"].is_object()) a["data"]["loader_threads"] = b["data"]["loader_threads"];
  std::ostringstream list;
  for (const Difference& d : differences(a, b))
    list << (list.tellp() > 0 ? ", " : "") << d.key << ": " << d.before << " -> " << d.after;
  check(list.str().empty(), "resume", "the recipe has changed since this run began (", list.str(),
        "); hint: use the old settings, or another --out for a new run");
}

Json run_config(const Recipe& recipe, Device device, const Options& o, int argc, char** argv) {
  Json j;
  j["accrete"] = "0.1.0";
  j["device"] = describe(device);
  j["threads"] = o.threads;
  j["gemm"] = kernels::gemm_backend();
  j["command"] = std::vector<std::string>(argv, argv + argc);
  j["recipe"] = to_json(recipe);
  return j;
}

// What would fit, when memory ran out.
std::string memory_advice(const LoopSettings& settings, const Plan& plan) {
  const auto stage = plan.next({});
  if (!stage) return "";
  const int64_t micro = largest_micro_batch(settings, *stage, memory_limit(settings.device));
  if (micro == 0)
    return "; hint: not even batch.micro=1 fits; try recompute=true, smaller samples (data.length, data.resolution) or "
           "a smaller model";
  return "; hint: batch.micro=" + std::to_string(micro) + " would fit";
}

void train(const Family& family, const Options& o, int argc, char** argv) {
  set_threads(o.threads);
  LoopSettings settings;
  settings.device = parse_device(o.device);
  settings.record_launches = !o.eager;
  set_sync_each(o.sync);
  if (!o.memory_limit.empty()) set_memory_limit(parse_bytes(o.memory_limit));
  settings.recipe = read_recipe(o, family);
  settings.make_model = family.make_model;
  settings.make_source = family.make_source;
  settings.initial_weights = family.initial_weights ? family.initial_weights(settings.recipe) : nullptr;
  settings.hours = o.hours;
  if (!o.until.empty()) {
    const size_t eq = o.until.find('=');
    const std::string key = o.until.substr(0, eq);
    const bool classes = family.task == Task::classes;
    check(eq != std::string::npos && key == (classes         ? "top1"
                                             : key == "loss" ? "loss"
                                                             : "perplexity"),
          "options", "--until needs ", classes ? "top1=SHARE, like top1=0.93" : "loss=VALUE or perplexity=VALUE",
          "; got \"", o.until, "\"");
    char* end = nullptr;
    const double value = std::strtod(o.until.c_str() + eq + 1, &end);
    check(
        end && *end == 0 && end != o.until.c_str() + eq + 1 && (key == "loss" || value > 0) && (!classes || value < 1),
        "options", "--until needs a number after \"=\"; got \"", o.until, "\"");
    settings.has_until = true;
    settings.until_score = classes ? 1 - value : key == "loss" ? value : std::log(value);
  }
  if (o.print_config) {
    std::cout << to_json(settings.recipe).dump(2) << "\n";
    return;
  }
  const auto plan = make_plan(settings.recipe);
  if (o.dry_run) {
    print_prediction(settings, *plan, o, family.task);
    return;
  }

  check(!o.out.empty(), "options", "--out is missing; expected the folder of the run");
  const fs::path run = o.out;
  settings.run = run;
  std::vector<fs::path> checkpoints = list_checkpoints(run);
  const bool started = fs::exists(run / "config.json");
  if (o.resume) {
    check(started, "resume", run.string(), " holds no run; expected config.json; leave --resume out to begin one");
    check_same_recipe(run / "config.json", settings.recipe);
  } else {
    check(!started && checkpoints.empty(), "train", run.string(),
          " already holds a run; use --resume to continue it, or another --out");
  }
  // Impossible stages are refused here, before anything is written.
  std::vector<double> stage_flops;
  for (const StagePrediction& p : predict(settings, *make_plan(settings.recipe))) stage_flops.push_back(p.flops);
  settings.make_source(settings.recipe.data, settings.recipe.eval.split, 0, Purpose::judge);
  if (settings.initial_weights && !started) {
    const auto model = settings.make_model(settings.recipe.model, DType::f32, kDry);
    restore(model->params(), settings.initial_weights(settings.recipe.model));
  }
  std::error_code error;
  fs::create_directories(run, error);
  check(!error, "train", "cannot make the run folder ", run.string(), ": ", error.message());
  if (!started)
    write_text(run / "config.json", run_config(settings.recipe, settings.device, o, argc, argv).dump(2) + "\n");
  if (family.prepare_folder) family.prepare_folder(settings.recipe, run / "model");

  fs::path from;
  uint64_t keep = 0;
  int64_t step = 0;
  if (!checkpoints.empty()) {
    from = checkpoints.back();
    const Json state = read_checkpoint_state(from);
    check(state.contains("metrics_position") && state.contains("step") && state.contains("family"), "checkpoint",
          from.string(), ": state.json is not as this program writes it");
    check(state.at("family") == settings.recipe.family, "resume", from.string(), " belongs to a model of family ",
          state.at("family").dump());
    keep = state.at("metrics_position").get<uint64_t>();
    step = state.at("step").get<int64_t>();
  }
  MetricsRecorder metrics(run, keep, step);
  ProgressRecorder progress(run, o.report.quiet, std::move(stage_flops));
  Loop loop(settings, *plan, {&metrics, &progress});
  loop.metrics_position = [&metrics] { return metrics.position(); };
  Outcome outcome;
  try {
    outcome = loop.run(from);
  } catch (const OutOfMemory& e) {
    progress.finish();
    release_cache(settings.device);
    throw Error(e.what() + memory_advice(settings, *plan));
  } catch (...) {
    progress.finish();
    throw;
  }
  progress.finish();
  const LoopView& view = loop.view();
  write_run_page(run);
  // --hours leaves a model to use, like the end of a run; a signal wants to be obeyed quickly.
  if (outcome != Outcome::signal) {
    if (family.export_model) family.export_model(loop.model(), settings.recipe, run / "model");
    progress.print("model in " + (run / "model").string() + ", report in " + (run / "report.html").string());
  }
  if (outcome == Outcome::signal || outcome == Outcome::hours) {
    progress.print(std::string(outcome == Outcome::signal ? "stopped by a signal" : "stopped after --hours") +
                   " at step " + std::to_string(view.state.step) + "; saved; continue with --resume");
  }
  if (o.report.json) {
    const Spent& s = view.state.spent;
    Json result{{"reason", view.reason}, {"step", view.state.step}};
    add_measures(result, view.eval);
    result.update(Json{{"tokens", s.tokens}, {"flops", s.flops}, {"seconds", s.seconds}, {"checksum", view.checksum}});
    std::cout << result.dump(2) << "\n";
  }
}

}  // namespace

int run_train_program(int argc, char** argv, const Family& family) {
  Options o;
  CLI::App app("Trains a model from a recipe.", family.name);
  app.add_option("--recipe", o.recipe, "Recipe file (JSON); with --resume the run's own recipe is the default");
  app.add_option("overrides", o.overrides, "Settings that replace those of the recipe: key.path=value ...");
  app.add_option("--out", o.out, "Folder of the run");
  app.add_flag("--resume", o.resume, "Continue the run in --out from its newest checkpoint (default: off)");
  app.add_flag("--print-config", o.print_config, "Print the resolved recipe and exit (default: off)");
  app.add_flag("--dry-run", o.dry_run, "Print stages, parameters, FLOPs and memory, without training (default: off)");
  app.add_option("--hours", o.hours, "Save and leave after so many hours; 0: no limit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option(
      "--until", o.until,
      "End the training at an evaluated quality: loss=3.5 or perplexity=33 for texts, top1=0.93 for pictures "
      "(default: train to the end)");
  app.add_option("--only", o.only,
                 "Train only this part of the plan, sets plan.only: with incubation meta, or the number of a module");
  app.add_option("--seed", o.seed, "Seed of the run (default: of the recipe)")->check(CLI::NonNegativeNumber);
  add_device_option(app, o.device);
  app.add_flag("--eager", o.eager,
               "On a GPU: start every kernel of a step anew instead of replaying recorded steps (default: off)");
  app.add_flag("--sync", o.sync, "On a GPU: wait for every kernel, so that an error names its kernel (default: off)");
  app.add_option("--memory-limit", o.memory_limit, "Memory the engine may take, e.g. 4G (default: what is available)");
  add_threads_option(app, o.threads);
  add_report_options(app, o.report);
  app.footer([] {
    Recipe defaults;
    return "Settings of a recipe (key, default, meaning):\n" + describe(defaults);
  });
  return run_program(app, argc, argv, [&] { train(family, o, argc, argv); });
}

}  // namespace accrete
