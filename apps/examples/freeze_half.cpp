// freeze_half: a training method of one's own, written as a Plan and compared with the baseline at equal data.
//
// The idea: lower layers settle early. So train the whole GPT for the first half of the run; then freeze everything
// below the upper half of the blocks, so that backward stops in the middle and a step costs less. What is lost?
// Both runs have the same two stages, learning rates, batches and initial weights; only the freezing differs.
#include "apps/experiment.h"
#include "apps/gpt_family.h"
#include "training/comparison.h"
#include "training/method.h"
#include "training/recorders.h"
#include "training/report.h"

using namespace accrete;

namespace {

class TwoHalves : public Plan {
 public:
  TwoHalves(const Recipe& recipe, int64_t steps, bool freeze) : recipe_(recipe), steps_(steps), freeze_(freeze) {}

  // A plan answers one question: which stage comes next?
  std::optional<Stage> next(Results done) const override {
    if (done.size() == 2) return std::nullopt;
    Stage stage = stage_of(recipe_, done.empty() ? "first half" : "second half");
    stage.duration = std::to_string(steps_ / 2) + "st";
    if (done.empty()) {
      stage.schedule.name = "constant";
      return stage;
    }
    stage.schedule.warmup = "0st";
    stage.initialise = continue_weights;
    const int64_t depth = recipe_.model.at("depth").get<int64_t>();
    if (freeze_)
      stage.trainable = [depth](const ParamEntry& e) {
        return e.block >= depth / 2 || e.name.rfind("norm", 0) == 0;  // the last norm belongs to no block
      };
    return stage;
  }

 private:
  Recipe recipe_;
  int64_t steps_;
  bool freeze_;
};

RunRecord train(const Plan& plan, const std::string& name, const LoopSettings& common, const Experiment& e) {
  LoopSettings settings = common;
  settings.run = e.out / name;
  check(!std::filesystem::exists(settings.run), "freeze_half", settings.run.string(), " exists; choose another --out");
  std::filesystem::create_directories(settings.run);
  MetricsRecorder metrics(settings.run, 0, 0);  // metrics.jsonl and TensorBoard
  ProgressRecorder progress(settings.run, e.report.quiet);
  Loop(settings, plan, {&metrics, &progress}).run({});
  progress.finish();
  return load_run(settings.run);
}

}  // namespace

int main(int argc, char** argv) {
  Experiment e("freeze_half",
               "Freezes the lower half of a GPT half-way through training; compares with plain training.");
  std::string data;
  int64_t steps = 400;
  std::vector<std::string> overrides;
  e.options.add_option("--data", data, "Folder made by prepare")->required();
  e.options.add_option("--steps", steps, "Optimizer steps of each run")->check(CLI::Range(2, 10000000));
  e.options.add_option("overrides", overrides, "Recipe settings: key.path=value ...");
  return e.run(argc, argv, [&] {
    check(!e.out.empty(), "options", "--out is missing; expected a folder for the two runs");
    Recipe recipe;
    from_json(recipe, Json{{"model", {{"embed_dim", 128}, {"depth", 4}, {"num_heads", 4}}},
                           {"data", {{"path", data}, {"length", 128}}},
                           {"batch", {{"size", 16}}},
                           {"optim", {{"lr", 2e-3}}},
                           {"schedule", {{"warmup", "0.1run"}}},
                           {"precision", "f32"},
                           {"eval", {{"every", "0.2run"}, {"batches", 20}}}});
    for (const std::string& assignment : overrides) apply_override(recipe, assignment);
    recipe.seed = static_cast<int64_t>(e.seed);
    const Family family = gpt_family();
    family.resolve_model(recipe);
    LoopSettings settings;
    settings.recipe = recipe;
    settings.device = e.device;
    settings.make_model = family.make_model;
    settings.make_source = family.make_source;
    TwoHalves plain(recipe, steps, false), frozen(recipe, steps, true);
    const std::vector<RunRecord> runs = {train(plain, "plain", settings, e), train(frozen, "frozen", settings, e)};
    write_report(e.out / "report.html", runs);
    Json result;
    for (const CompareRow& row : compare_runs(runs, 0, "loss").rows)
      result[row.name] = {{"loss", row.mean}, {"flops", row.total.flops}, {"seconds", row.total.seconds}};
    e.result(result);
  });
}
