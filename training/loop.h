// The loop: runs the stages of a plan. It knows no method and no concrete model by name. The order of things: events.h.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include "data/loader.h"
#include "data/source.h"
#include "training/events.h"

namespace accrete {

// Makes the source of a split: train sources shuffle as data.sampling says, others keep the order of the data.
using SourceFactory =
    std::function<std::shared_ptr<const Source>(const DataConfig& data, const std::string& split, uint64_t seed)>;

struct LoopSettings {
  Recipe recipe;
  std::filesystem::path run;  // run folder
  Device device;
  ModelFactory make_model;
  SourceFactory make_source;
  double hours = 0;       // save and leave after so many hours of this process; 0: no limit
  double until_loss = 0;  // stop when the evaluated loss is at most this
  bool has_until = false;
  bool measure_ceiling = true;
};

enum class Outcome : uint8_t { complete, until, signal, hours };

class Loop {
 public:
  Loop(LoopSettings settings, Plan& plan, std::vector<Observer*> observers);

  // Continues from `checkpoint`, or begins when it is empty. Throws Error for bad input and non-finite losses;
  // checkpoints that are complete stay.
  Outcome run(const std::filesystem::path& checkpoint);

  Model& model() { return *model_; }  // of the last stage
  const LoopView& view() const { return view_; }
  // Position in metrics.jsonl, stored with every checkpoint.
  std::function<uint64_t()> metrics_position;

 private:
  void emit(Event event);
  void begin_stage(const Stage& stage, const ParamStore* previous, const std::filesystem::path& checkpoint);
  Outcome run_stage(const Stage& stage);
  void train_step(const Stage& stage);
  void evaluate(const Stage& stage);
  void save(const Stage& stage);
  void explain_nonfinite(const Stage& stage, double loss, double norm);
  double evaluate_split(const Stage& stage);
  Json checkpoint_state() const;
  void restore(const Json& state);

  LoopSettings settings_;
  Plan& plan_;
  std::vector<Observer*> observers_;
  LoopView view_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::shared_ptr<const Source> source_, eval_source_;
  std::unique_ptr<Loader> loader_;
  Schedule schedule_;
  double best_loss_ = 0;
  std::string best_;            // checkpoint folder with the best evaluated loss
  bool evaluated_now_ = false;  // at the present step
  double stage_begin_flops_ = 0, stage_begin_seconds_ = 0;
  double waited_ = 0;  // for data, by this stage's loader so far
  std::chrono::steady_clock::time_point mark_;
};

// FLOP/s of a large matrix product in this type: the ceiling that progress lines compare with. About 50 ms.
double measured_ceiling(DType dtype, Device device);

}  // namespace accrete
