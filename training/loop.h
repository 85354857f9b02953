// The loop: runs the stages of a plan. It knows no method and no concrete model by name. The order of things: events.h.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "data/loader.h"
#include "data/source.h"
#include "engine/core/transfer.h"
#include "training/events.h"
#include "training/step_runner.h"

namespace accrete {

// Makes the source of a split. Splits of the data set, and "held_out": the part of "train" that data.holdout keeps out.
using SourceFactory = std::function<std::shared_ptr<const Source>(const DataConfig& data, const std::string& split,
                                                                  uint64_t seed, Purpose purpose)>;

struct LoopSettings {
  Recipe recipe;
  std::filesystem::path run;  // run folder
  Device device;
  ModelFactory make_model;
  SourceFactory make_source;
  // Weights of another model for one with this config (recipe.init); null: there are none to begin with.
  std::function<Snapshot(const Json& model)> initial_weights;
  double hours = 0;        // save and leave after so many hours of this process; 0: no limit
  double until_score = 0;  // stop when the evaluated score (EvalResult) is at most this
  bool has_until = false;
  bool measure_ceiling = true;
  bool record_launches = true;  // replay the launches of a step on devices that can
};

enum class Outcome : uint8_t { complete, until, signal, hours };

class Loop {
 public:
  Loop(LoopSettings settings, const Plan& plan, std::vector<Observer*> observers);

  // Continues from `checkpoint`, or begins when it is empty. Throws Error for bad input and non-finite losses;
  // checkpoints that are complete stay.
  Outcome run(const std::filesystem::path& checkpoint);

  Model& model() { return *model_; }  // of the last stage
  const LoopView& view() const { return view_; }
  // Position in metrics.jsonl, stored with every checkpoint.
  std::function<uint64_t()> metrics_position;

 private:
  using Time = std::chrono::steady_clock::time_point;
  // Of an elastic stage: each variant's data, rows and blocks left out.
  struct VariantData {
    std::shared_ptr<const Source> source, judge;  // what it trains on, what it is scored on
    BatchConfig batch;
    BlockSet skip;
  };
  DType compute() const { return compute_type(settings_.recipe.precision); }
  void emit(Event event);
  void charge_time();  // adds the time since the last call to what the run has spent

  void begin_stage(const Stage& stage, const std::filesystem::path& checkpoint);
  void open_data(const Stage& stage);
  void open_loader(const Stage& stage);
  void open_runner(const Stage& stage);
  StageStart start_of(const Stage& stage);
  void end_stage(const Stage& stage);
  Outcome run_stage(const Stage& stage);

  // loop_step.cpp
  Context context(const Stage& stage, bool training) const;
  void train_step(const Stage& stage);
  void settle();
  void evaluate(const Stage& stage);
  EvalResult evaluated(const Source& source, int64_t size, int64_t batches, double& flops,
                       const BlockSet* skip = nullptr);
  void estimate_statistics(const Stage& stage);
  int64_t variant_position(const Stage& stage, const VariantData& variant) const;
  void score_variants(const Stage& stage);
  struct QueuedStep;
  [[noreturn]] void explain_nonfinite(const Stage& stage, const QueuedStep& step);

  // loop_state.cpp
  Json checkpoint_state() const;
  void restore(const Json& state);
  void save();
  Snapshot load_stage(int index) const;

  LoopSettings settings_;
  const Plan& plan_;
  std::vector<Observer*> observers_;
  LoopView view_;
  std::unique_ptr<Model> model_;
  std::optional<Snapshot> previous_;  // end of the stage before
  std::unique_ptr<Stepper> stepper_;
  LossFn objective_;
  Json label_;  // of the stage; null: none
  std::shared_ptr<const Source> source_, eval_source_;
  std::vector<VariantData> variants_;  // of an elastic stage
  std::unique_ptr<Loader> loader_;     // null in elastic stages, whose batches change their shape
  Clock clock_;                        // of the whole that the stage is a part of
  Schedule schedule_;
  // A step that has been queued and whose numbers are not known yet. On a queued device they are read while the next
  // step runs; what comes after a step (evaluation, checkpoint) settles it first.
  struct QueuedStep {
    RunState state;  // after the step
    size_t variant = 0;
    int64_t first = 0;           // sample
    std::vector<double> shares;  // of the micro-batches
    double scale = 1;            // of the loss
    double lr = 0, flops = 0, data_wait = 0;
    int64_t tokens = 0;
    size_t readback = 0;
  };
  std::optional<QueuedStep> queued_;
  std::unique_ptr<StepRunner> runner_;
  std::unique_ptr<BatchFeed> feed_;
  std::vector<std::unique_ptr<Readback>> readbacks_;  // two take turns
  Tensor weight_;                                     // of a micro-batch's loss: one f32
  Tensor results_;                                    // norm2 of the step, losses of its micro-batches
  Tensor live_step_;                                  // queued devices: i64
  float weight_value_ = 0;
  std::optional<LossScale> loss_scale_;  // precision f16; of the whole run
  int64_t schedule_begin_ = 0;           // step of the schedule at which the stage begins
  double step_flops_ = 0;                // of the method's own arithmetic
  double best_score_ = 0;
  std::string best_;            // checkpoint folder with the best evaluated score
  bool evaluated_now_ = false;  // at the present step
  Spent stage_begin_;           // what had been spent when the stage began
  double waited_ = 0;           // for data, by this stage's loader so far
  Time mark_;
};

// FLOP/s of a large matrix product in this type: the ceiling that progress lines compare with. About 50 ms.
double measured_ceiling(DType dtype, Device device);

}  // namespace accrete
