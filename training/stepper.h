// What turns gradients into new weights. The loop knows only this; training/optimizer.h steps the weights themselves,
// training/subspace.h the coefficients of a weighted average.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "engine/core/json.h"
#include "engine/nn/context.h"
#include "engine/nn/params.h"

namespace accrete {

class Stepper {
 public:
  virtual ~Stepper() = default;
  // Queues the computation of the gradients' global L2 norm, which the next step uses for clipping. Where it is not
  // finite, that step changes nothing.
  // `scale`: what the loss was multiplied by before backward; keep_bad: see GradientNorm.
  virtual void measure_gradients(double scale = 1, bool keep_bad = false) = 0;
  // Its square, times scale^2: one f32 in device memory.
  virtual const Tensor& norm2() const = 0;
  // Both, and waits for the result.
  float gradient_norm() {
    measure_gradients();
    return std::sqrt(norm2().item());
  }
  // One step with learning rate `lr`, after measure_gradients(). Parameters of the blocks in `skip` took no part in the
  // step and stay as they are, moments too.
  void step(double lr, const BlockSet& skip) {
    prepare(lr, skip);
    apply();
  }
  void step(double lr) { step(lr, BlockSet{}); }
  // Its two halves: what the host counts and sends, which may come before measure_gradients(), and the arithmetic.
  virtual void prepare(double lr, const BlockSet& skip) = 0;
  virtual void apply() = 0;
  // Whether apply() launches the same kernels with the same arguments in every step, so that it can be recorded.
  virtual bool recurs() const { return false; }

  // What a checkpoint keeps. Flat f32 state with the store's offsets, by name ("m", "v", "ema", ...):
  virtual const std::map<std::string, Tensor>& state() const = 0;
  // and plain numbers, by name: counts of steps, coefficients. Set before the first step of a resumed run.
  virtual std::map<std::string, std::vector<double>> numbers() const = 0;
  virtual void set_numbers(const std::map<std::string, std::vector<double>>& numbers) = 0;

  // What is worth knowing at the end of the stage, as an event of metrics.jsonl; null: nothing.
  virtual Json findings() const { return {}; }
};

}  // namespace accrete
