// Layers on grids of features, channels-last: (B, H, W, C).
#pragma once

#include "engine/nn/layers.h"
#include "engine/ops/images.h"

namespace accrete::nn {

// A convolution whose weight is a matrix (out, kernel * kernel * in), columns in the order (row, column, channel).
// Initial values are uniform in +-1 / sqrt(kernel * kernel * in), those of the bias too (PyTorch's default).
struct Conv {
  Param weight, bias;
  ops::ConvOptions options;

  Conv() = default;
  Conv(Scope s, int64_t in, Axis in_axis, int64_t out, Axis out_axis, const ops::ConvOptions& options,
       bool with_bias = true);
  Tensor operator()(const Tensor& x) const;  // (B, H, W, in) -> (B, H', W', out)
};

// In training a batch norm uses and moves the statistics of the batch, unless its weight is frozen: a part of a model
// that must stay as it is keeps its running statistics too and computes with them.
struct BatchNorm {
  Param weight, bias, running_mean, running_var;
  float eps = 1e-5f;

  BatchNorm() = default;
  BatchNorm(Scope s, int64_t channels);
  // In front of an output layer, which trains: no weight and bias, the batch's statistics in every training step.
  static BatchNorm before_head(Scope s, int64_t channels, float eps);
  Tensor operator()(const Tensor& x, const Context& ctx) const;  // (.., C)
};

}  // namespace accrete::nn
