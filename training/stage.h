// Stage and Plan: a training run is a sequence of stages, and a plan says which stage comes next.
//
// A stage is data: train this model, on this data, for so long, starting from that store. A plan holds no tensors and
// makes its decisions from the RunState alone, so that a run that was killed continues by asking the plan for the same
// stage again.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/nn/model.h"
#include "training/recipe.h"

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
};

// Outcome of a finished stage.
struct StageResult {
  std::string name;
  double loss = 0;  // last evaluated loss
  int64_t steps = 0;
  double flops = 0, seconds = 0;

  template <class V>
  void fields(V& v) {
    v("name", name, "of the stage");
    v("loss", loss, "last evaluated loss");
    v("steps", steps, "optimizer steps");
    v("flops", flops, "spent by the stage");
    v("seconds", seconds, "spent by the stage");
  }
};

struct RunState {
  int stage = 0;           // index of the stage to run
  int64_t step = 0;        // optimizer steps of the whole run so far
  int64_t stage_step = 0;  // of the present stage
  Spent spent;
  std::vector<StageResult> results;  // of finished stages
};

struct Stage {
  std::string name;  // "train", "coarse", "module 3"
  Json model;        // config of the model trained
  DataConfig data;
  BatchConfig batch;
  OptimConfig optim;
  ScheduleConfig schedule;
  std::string duration;  // st, ep or tok
  // Fills the store before the first step; `previous` is the store of the stage before (null for the first).
  std::function<void(ParamStore& store, const ParamStore* previous)> initialise;
  // Which parameters train; null: all.
  std::function<bool(const ParamEntry&)> trainable;
};

class Plan {
 public:
  virtual ~Plan() = default;
  // The stage with index state.stage, or nothing when the run is complete. Must give the same stage for the same state.
  virtual std::optional<Stage> next(const RunState& state) = 0;
  // Number of stages when it is known before the run; 0 otherwise.
  virtual int stages() const { return 0; }
  // A few numbers that the plan decided on the way; kept in every checkpoint.
  virtual Json save() const { return Json::object(); }
  virtual void load(const Json&) {}
};

// The plan that recipe.plan names. Error for unknown names and settings.
std::unique_ptr<Plan> make_plan(const Recipe& recipe);

}  // namespace accrete
