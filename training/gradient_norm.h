// The global norm of the gradients and the factor that the step's kernels multiply them by, both in device memory.
#pragma once

#include "engine/core/tensor.h"

namespace accrete {

class GradientNorm {
 public:
  explicit GradientNorm(Device device);

  // Queues: squared() = |grads|^2, and factor() = min(1, clip / norm) / scale with norm = |grads| / scale (clip 0: no
  // clipping), NaN when the norm is not finite: no step then. `scale`: what the loss was multiplied by. On a queued
  // device the host learns of a bad step when the next one is on its way; keep_bad leaves the factor NaN from then on,
  // so that the weights stay what they were.
  void measure(const Tensor& grads, double clip, double scale, bool keep_bad);

  const Tensor& squared() const { return squared_; }  // (1) f32, of the gradients as they are: scaled
  const Tensor& factor() const { return factor_; }    // (1) f32

 private:
  Tensor squared_, factor_, bad_;
};

}  // namespace accrete
