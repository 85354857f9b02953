// Forward and backward of micro-batches. On a queued device the launches of each kind of micro-batch are recorded at
// its second turn and replayed from then on (engine/core/capture.h); the first turn runs launch by launch, so that
// memory and plans of products are there. On the CPU every turn runs.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <string>

#include "engine/core/capture.h"
#include "training/stage.h"

namespace accrete {

class BatchRunner {
 public:
  // record = false: launch by launch on every device.
  BatchRunner(Device device, bool record) : device_(device), record_(record && device.queued()) {}

  // Micro-batches of one kind differ in nothing that is an argument of a launch: not in their shapes, the blocks that
  // take part, or the index of their first sample within the step (the address of their random numbers).
  struct Kind {
    size_t variant = 0;
    int64_t rows = 0, first_sample = 0;
    auto operator<=>(const Kind&) const = default;
  };

  // Adds the gradients of weight * loss to the leaves and copies the loss to `loss`. weight, loss: one f32 on the
  // device; weight keeps its place from turn to turn. On a queued device ctx.live_step names the step. Returns the
  // FLOPs counted.
  double run(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight, const Tensor& loss,
             const Kind& kind);

  int64_t replays() const { return replays_; }
  // Why launches are not recorded although they should be; empty where nothing stands in the way.
  const std::string& obstacle() const { return obstacle_; }

 private:
  struct Recording {
    Batch inputs;  // at the addresses that the launches know
    Tensor loss;   // likewise
    double flops = 0;
    std::unique_ptr<Capture> capture;
  };
  double run_once(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight,
                  const Tensor& loss) const;

  Device device_;
  bool record_;
  MemoryPool pool_;
  std::map<Kind, Recording> kinds_;
  int64_t replays_ = 0;
  std::string obstacle_;
};

}  // namespace accrete
