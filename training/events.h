// The loop as a page of events. Everything that is not the arithmetic of a step (metrics, progress, curves, hooks of a
// method) is an observer of these nine.
//
//   run_start
//   for each stage the plan gives:                     training/stage.h
//     stage_start                                      model made, store filled, optimizer made
//     for each optimizer step of the stage:
//       for each micro-batch:
//         batch_ready                                  inputs are on the device
//         loss = model.loss(batch); backward(loss)     gradients land in the flat buffer
//       gradients_ready                                summed over the micro-batches
//       norm, NaN guard, clipping; optimizer.step(lr)
//       step_done                                      loss, norm, cost of the step are known
//       if due: eval                                   on the evaluation split
//       if due: checkpoint                             saved, complete
//     stage_end
//   run_end
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "training/stage.h"

namespace accrete {

enum class Event : uint8_t {
  run_start,
  stage_start,
  batch_ready,
  gradients_ready,
  step_done,
  eval,
  checkpoint,
  stage_end,
  run_end
};

// Averages of an evaluation.
struct EvalResult {
  Task task = Task::tokens;
  double loss = 0;
  double top1 = 0, top5 = 0;  // Task::classes: shares of the samples
  // What a better model has less of: the loss, or the share of wrong classes.
  double score() const { return task == Task::classes ? 1 - top1 : loss; }
};

struct RunState {
  int stage = 0;           // index of the present stage
  int64_t step = 0;        // optimizer steps of the whole run so far
  int64_t stage_step = 0;  // of the present stage
  Spent spent;
  std::vector<StageResult> results;  // of finished stages
  // Of an elastic stage, one number for each variant: sums of its scores and of the seconds of its steps.
  std::vector<double> scores, variant_seconds;
  std::vector<int64_t> variant_steps;
  std::vector<double> variant_flops;  // of one step; known again in every process
  int64_t scorings = 0;
};

// What an observer sees. Pointers are valid from stage_start to stage_end.
struct LoopView {
  const Recipe* recipe = nullptr;
  const Stage* stage = nullptr;
  Model* model = nullptr;
  Stepper* stepper = nullptr;
  const Batch* batch = nullptr;  // at batch_ready
  RunState state;
  int stages = 0;           // planned; 0: unknown
  int64_t stage_steps = 0;  // planned for this stage
  bool trains = true;       // false: the stage only sets weights
  std::vector<Json> notes;  // at stage_start and stage_end: what the plan decided and measured, as events
  double steps_per_epoch = 0;
  // of the last step
  double loss = 0, grad_norm = 0, lr = 0;
  double loss_scale = 0;  // precision f16; where grad_norm is not finite the step was skipped
  double step_seconds = 0, step_flops = 0;
  double data_wait = 0;          // seconds this step waited for data
  int64_t allocations = 0;       // calls of the engine to the system allocator since the process began
  double tokens_per_second = 0;  // pictures: samples
  double ceiling = 0;            // measured FLOP/s of matrix products on this machine; 0: not measured
  // of the last evaluation
  std::string split;
  EvalResult eval, eval_ema;
  bool has_ema = false;
  // Pictures that could not be read: among those evaluated; among those trained on, as far as this process has seen.
  int64_t eval_unreadable = 0, train_unreadable = 0;
  int64_t peak_memory = 0;  // bytes, of the stage so far
  bool resumed = false;     // this process continued a run
  std::string checksum;     // at run_end
  std::string reason;       // at run_end: "complete", "until", "signal", "hours"
};

// "loss 4.812  perplexity 122.9" or "loss 1.20  top-1 71.30 %  top-5 90.12 %"
std::string to_text(const EvalResult& result);
// The measures as fields of an event: loss, and perplexity or top1 and top5; `prefix` in front of each name.
void add_measures(Json& event, const EvalResult& result, const std::string& prefix = "");

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on(Event event, const LoopView& view) = 0;
};

}  // namespace accrete
