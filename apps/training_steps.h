// Optimizer steps as the training loop runs them on a device whose work is queued (training/loop_step.cpp): the batch
// is copied while the device works on the one before, launches are recorded and replayed, and the numbers of a step
// are read while the next one runs. What `bench` times there.
#pragma once

#include <memory>

#include "apps/family.h"
#include "engine/core/transfer.h"
#include "training/step_runner.h"

namespace accrete {

class TrainingSteps {
 public:
  // The model of the stage with fresh weights, and its optimizer. record = false: launch by launch.
  TrainingSteps(const Recipe& recipe, const Stage& stage, const ModelFactory& make_model, Device device, bool record);

  // Queues forward, backward and update on a batch in host memory, then waits until the step before has run.
  void queue(const Batch& batch);
  // Waits until every queued step has run.
  void finish();

  Model& model() { return *model_; }
  int64_t steps() const { return steps_; }  // queued so far
  double loss() const { return loss_; }     // of the last step that has been waited for
  double flops() const { return flops_; }   // of a step
  const StepRunner& runner() const { return runner_; }

 private:
  void settle(int64_t step);

  const Recipe& recipe_;
  Device device_;
  double lr_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Optimizer> optimizer_;
  BatchFeed feed_;
  StepRunner runner_;
  std::vector<std::unique_ptr<Readback>> readbacks_;  // two take turns
  Tensor weight_, results_, live_step_;               // 1; norm2 and loss; number of the step
  int64_t steps_ = 0, settled_ = 0;
  double loss_ = 0, flops_ = 0;
};

}  // namespace accrete
