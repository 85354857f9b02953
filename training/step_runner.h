// What a training step launches: forward and backward of its micro-batches, and the update that follows. On a queued
// device each kind of micro-batch, and the update, is recorded at its second turn and replayed from then on
// (engine/core/capture.h): two calls for a step of any number of kernels. The first turn runs launch by launch, so that
// memory and plans of products are there. On the CPU every turn runs.
#pragma once

#include <compare>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "engine/core/capture.h"
#include "training/stage.h"

namespace accrete {

class StepRunner {
 public:
  // begin: what every step does before its first micro-batch. record = false: launch by launch on every device.
  StepRunner(Device device, bool record, std::function<void()> begin = {})
      : device_(device), record_(record && device.queued()), begin_(std::move(begin)) {}

  // Micro-batches of one kind differ in nothing that is an argument of a launch: not in their shapes, the blocks that
  // take part, or the index of their first sample within the step (the address of their random numbers).
  struct Kind {
    size_t variant = 0;
    int64_t rows = 0, first_sample = 0;
    auto operator<=>(const Kind&) const = default;
  };

  // Adds the gradients of weight * loss to the leaves and copies the loss to `loss`; before that, where first_sample is
  // 0, the step begins. weight, loss: one f32 on the device, for each kind at the same place in every turn. On a queued
  // device ctx.live_step names the step. Returns the FLOPs counted.
  double run(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight, const Tensor& loss,
             const Kind& kind);

  // Does `work`. Where it `recurs`, it launches the same kernels on the same memory in every turn, with arguments that
  // depend on `number` only: with another number than before it is recorded anew.
  void update(const std::function<void()>& work, bool recurs, double number);

  int64_t replays() const { return replays_; }
  // Why launches are not recorded although they should be; empty where nothing stands in the way.
  const std::string& obstacle() const { return obstacle_; }

 private:
  struct Recording {
    int64_t turns = 0;
    Batch inputs;  // at the addresses that the launches know
    double flops = 0, number = 0;
    std::unique_ptr<Capture> capture;
  };
  double run_once(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight,
                  const Tensor& loss, const Kind& kind) const;
  // One turn of recorded work. False: it cannot be recorded and nothing has run.
  bool turn(Recording& recording, const std::function<void()>& work);

  Device device_;
  bool record_;
  std::function<void()> begin_;
  MemoryPool pool_;
  std::map<Kind, Recording> kinds_;
  Recording update_;
  int64_t replays_ = 0;
  std::string obstacle_;
};

}  // namespace accrete
