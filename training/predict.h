// --dry-run: what a plan will do and what it will cost, without training. Every stage's model runs one step on the dry
// device (shapes, costs and the memory account, no arithmetic), so the prediction is the tape's own count.
#pragma once

#include <string>
#include <vector>

#include "training/loop.h"

namespace accrete {

struct StagePrediction {
  std::string name, note;
  int64_t steps = 0, params = 0, trainable = 0;
  double flops = 0;  // of the whole stage, without evaluation
  double tokens = 0;
  int64_t peak_memory = 0;   // bytes: parameters, gradients, optimizer, activations, workspace
  std::string memory_table;  // by segment
};

// Stages of the plan, in order. Plans that decide on measured results are followed along their default path.
std::vector<StagePrediction> predict(const LoopSettings& settings, const Plan& plan);

// One optimizer step of a stage, or of one variant of an elastic stage, by a run on the dry device.
struct StepCost {
  double flops = 0, forward_flops = 0;
  double score_flops = 0;  // of a forward pass of one micro-batch
  double tokens = 0;
  int64_t peak = 0, params = 0, trainable = 0;
  bool has_statistics = false;  // running ones of batch norms
  std::string memory_table;
};
StepCost step_cost(const LoopSettings& settings, const Stage& stage, const Variant* variant = nullptr);

// Bytes of settings.device that a step of the stage leaves to Stage::device_bytes; 0 where nothing is left.
int64_t spare_memory(const LoopSettings& settings, const Stage& stage);

// Largest micro-batch (a divisor of stage.batch.size, at least 1) whose step fits into `bytes`; 0 when none does.
int64_t largest_micro_batch(const LoopSettings& settings, const Stage& stage, int64_t bytes);

}  // namespace accrete
