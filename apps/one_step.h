// One optimizer step outside the training loop: what `inspect` looks into and `bench` times.
#pragma once

#include <memory>

#include "apps/family.h"
#include "engine/autograd/tape.h"

namespace accrete {

struct StepSeconds {
  double forward = 0, backward = 0, optimizer = 0;
  double total() const { return forward + backward + optimizer; }
};

class OneStep {
 public:
  // The model of the stage with fresh weights, and its optimizer. On the dry device nothing is computed, but shapes,
  // costs and the memory account are those of a real step.
  OneStep(const Recipe& recipe, const Stage& stage, const ModelFactory& make_model, Device device);

  // Forward, backward and update on one batch. The tape is the caller's, who decides what it records.
  StepSeconds run(const Batch& host, Tape::Options options, const std::function<void(const Tape&)>& look = nullptr);

  Model& model() { return *model_; }
  double loss() const { return loss_; }    // of the last step
  double flops() const { return flops_; }  // of the last step
  double bytes() const { return bytes_; }  // memory traffic that the ops of the last step declare

 private:
  const Recipe& recipe_;
  const Stage& stage_;
  Device device_;
  BatchFeed feed_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t steps_ = 0;
  double loss_ = 0, flops_ = 0, bytes_ = 0;
};

// The first stage of the recipe's plan.
Stage first_stage(const Recipe& recipe);

// `rows` sequences: from the training split where data.path is given, random ids otherwise.
Batch step_batch(const Recipe& recipe, const Stage& stage, const Family& family, int64_t rows);

}  // namespace accrete
