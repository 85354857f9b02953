// Stage and Plan: a training run is a sequence of stages, and a plan says which stage comes next.
//
// A stage is data: train this model, on this data, for so long, starting from those weights. A plan holds no tensors
// and decides from the results of finished stages alone, so that a run that was killed continues by asking the plan for
// the same stage again.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/nn/model.h"
#include "training/recipe.h"
#include "training/snapshot.h"

namespace accrete {

// What a run has spent; everything a method does is charged here.
struct Spent {
  int64_t samples = 0, tokens = 0;
  double flops = 0, eval_flops = 0;
  double seconds = 0;  // while running, pauses excluded

  template <class V>
  void fields(V& v) {
    v("samples", samples, "training samples seen");
    v("tokens", tokens, "training tokens seen");
    v("flops", flops, "of training, everything included");
    v("eval_flops", eval_flops, "of evaluation");
    v("seconds", seconds, "since the start, pauses excluded");
  }
  Spent& operator+=(const Spent& b);
};
Spent operator-(const Spent& a, const Spent& b);

// Outcome of a finished stage: what later decisions of the plan are made of.
struct StageResult {
  int index = 0;  // of the stage in the run; names its weights for StageStart::earlier
  std::string name;
  Json model = Json::object();  // config
  double loss = 0;              // last evaluated loss
  int64_t steps = 0;
  Spent spent;                  // by this stage
  Json found = Json::object();  // what the stage measured for the plan (scores of variants)

  template <class V>
  void fields(V& v) {
    v("index", index, "of the stage");
    v("name", name, "of the stage");
    v("model", model, "configuration of its model");
    v("loss", loss, "last evaluated loss");
    v("steps", steps, "optimizer steps");
    v("spent", spent, "by the stage");
    v("found", found, "measurements for the plan");
  }
};
using Results = std::span<const StageResult>;

// What a stage may begin from, and what it needs to set up its own arithmetic.
struct StageStart {
  ParamStore& store;                                                 // of the stage's model; to be filled
  Model* network = nullptr;                                          // the stage's model itself
  Optimizer* optimizer = nullptr;                                    // null when the stage brings its own stepper
  const Snapshot* previous = nullptr;                                // end of the stage before; null for the first
  std::function<Snapshot(int stage)> earlier;                        // end of a stage that was kept (Stage::keep)
  std::function<Snapshot(const std::filesystem::path&)> external;    // weights of another run or checkpoint
  std::function<Snapshot(const Json& model)> fresh;                  // drawn from the run's seed
  std::function<Snapshot(const Json& model)> pretrained;             // of recipe.init.from, for this model
  std::function<std::unique_ptr<Model>(const Json& model)> model;    // for objectives that need a second network
  std::function<std::filesystem::path(int stage, int i)> collected;  // snapshot i of a stage with Stage::collect
  // Mean loss of the store's present weights on a split; its FLOPs are charged as training.
  std::function<double(const std::string& split, int64_t batches)> score;
  std::function<void(Json event)> note;  // writes {"event": "growth", ...} into metrics.jsonl
  // Bytes of the device that a step of the stage leaves to what the method keeps there; null: unknown.
  std::function<int64_t()> spare_memory;
  std::filesystem::path folder;  // for files that only this stage needs; made on demand
  uint64_t seed = 0;
  bool dry = false;  // only the cost is wanted: there are no weights, no earlier stages and no other runs to read
};

// One part of an elastic model at one size of data: what a search chooses between.
struct Variant {
  std::string name;
  int64_t extent = 0;         // of the samples (training/extent.h)
  std::vector<int64_t> skip;  // blocks left out, counted through all groups of the model
};

// An elastic stage trains one variant at every step, drawn uniformly from (seed, step), and scores all of them.
struct Elastic {
  std::vector<Variant> variants;
  int64_t score_batches = 0;  // fixed training batches of one scoring
  int64_t scorings = 1;       // equally spaced over the stage, the last at its end
  std::string score_average;  // running average whose weights are scored; empty: the weights themselves
};

// Passes over a split that Stage::initialise makes by StageStart::score: known beforehand, so that the cost is
// predicted.
struct Scoring {
  int64_t times = 0;
  std::string split;
  int64_t batches = 0;  // of each pass; 0: the whole split
};

// The variant that trains at an optimizer step.
size_t drawn_variant(const Elastic& elastic, uint64_t seed, uint64_t step);

// Snapshots of the weights on the way: RUN/snapshots/<stage>/<i>.safetensors.
struct Collect {
  int64_t count = 0;           // equally spaced, the last at the end of the stage
  double from = 0;             // share of the stage after which they begin
  bool include_start = false;  // one more, number 0, of the stage's first weights
  int64_t total() const { return count + include_start; }
  // Number of the snapshot that is due after `step` of `steps` steps; -1: none. Error when there are more snapshots
  // than steps to take them at.
  int64_t due(int64_t step, int64_t steps) const;
};

// The blocks with these numbers, counted through all groups of a model.
BlockSet block_set(const std::vector<ParamEntry>& entries, const std::vector<int64_t>& numbers);

using LossFn = std::function<Tensor(const Batch&, const Context&)>;

struct Stage {
  std::string name;  // "train", "level 2", "module 3"
  Json model;        // config of the model trained
  DataConfig data;
  std::string split = "train";
  BatchConfig batch;
  OptimConfig optim;
  ScheduleConfig schedule;
  // The stage runs through this part of its schedule: a method that cuts one training into stages leaves the learning
  // rate as it was.
  double schedule_from = 0, schedule_to = 1;
  std::string duration;  // st, ep or tok; 0st: the stage sets weights, evaluates and counts as one step
  // Length of the whole training that it is a part of: what shares in eval.every and checkpoint.every are of. Empty:
  // its own.
  std::string whole;
  // Random numbers (data order, dropout, sampling) begin anew from this seed; nothing: they go on in the run's stream.
  std::optional<int64_t> seed;
  int64_t base_seed = 1;                   // of the run: what methods derive seeds of their parts from
  std::map<std::string, double> averages;  // running averages of the weights, decay by name ("ema.grow")
  // More of them by their time constant, a duration: the decay is 1 - 1/steps.
  std::map<std::string, std::string> average_times;
  bool keep = false;            // later stages need the final weights
  bool evaluate_first = false;  // before the first step
  // Models with running statistics: training batches from which they are estimated anew at the end; 0: they stay.
  int64_t statistics_batches = 0;
  Spent charged;            // spent elsewhere for this stage
  std::vector<Json> notes;  // what the plan decided for this stage, and why: events of metrics.jsonl
  std::optional<Collect> collect;
  std::optional<Elastic> elastic;
  std::optional<Scoring> scoring;
  // Blocks [first, last) of the model that a method may grow; the others are fixed parts of a larger plan.
  int64_t first_block = 0, last_block = -1;  // -1: the depth of the model

  // Fills the store, and the running averages of the optimizer, before the first step (training/method.h has the
  // usual ones).
  std::function<void(StageStart&)> initialise;
  bool initialised_at_random = false;
  // Which parameters train; null: all.
  std::function<bool(const ParamEntry&)> trainable;
  // What is minimised; null: the model's loss. Made anew in every process.
  std::function<LossFn(StageStart&)> objective;
  // Kept as "label" with every checkpoint of the stage: what other runs must know of it to build on it. Made anew in
  // every process; null: none.
  std::function<Json(StageStart&)> label;
  // What steps; null: an Optimizer over the trainable parameters. Made anew in every process, after the weights.
  std::function<std::unique_ptr<Stepper>(StageStart&)> stepper;
  // FLOPs of the method's own arithmetic (a basis, a projection), at the start and at every step, from the number of
  // parameters; null: none.
  std::function<double(int64_t params)> start_flops, step_flops;
  // Bytes that the method keeps on a queued device as long as they fit beside a step; null: none.
  std::function<int64_t(int64_t params)> device_bytes;
};

// All running averages of a stage, decay by name.
std::map<std::string, double> average_decays(const Stage& stage, const Clock& clock);

class Plan {
 public:
  virtual ~Plan() = default;
  // The stage that follows those that are done, or nothing when the plan is complete. A pure function of the results.
  virtual std::optional<Stage> next(Results done) const = 0;
};

// The plan that recipe.plan names. Error for unknown names, unknown settings and impossible plans.
std::unique_ptr<Plan> make_plan(const Recipe& recipe);

// All stages of a plan in order, as far as they are known before the run: plans that decide on measured results are
// followed along the path they take without them.
std::vector<Stage> planned_stages(const Plan& plan);

}  // namespace accrete
