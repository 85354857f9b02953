#include "engine/nn/image_layers.h"

#include <cmath>

namespace accrete::nn {

Conv::Conv(Scope s, int64_t in, Axis in_axis, int64_t out, Axis out_axis, const ops::ConvOptions& o, bool with_bias)
    : options(o) {
  const int64_t fan_in = o.kernel * o.kernel * in;
  const Init init = Init::uniform(1.0f / std::sqrt(static_cast<float>(fan_in)));
  in_axis.parts *= static_cast<int>(o.kernel * o.kernel);  // the channels once for every place of the kernel
  in_axis.input = true;
  weight = s.param("weight", Shape{out, fan_in}, {out_axis, in_axis}, init, true);
  if (with_bias) bias = s.param("bias", Shape{out}, {out_axis}, init, false);
}

Tensor Conv::operator()(const Tensor& x) const { return ops::conv2d(x, weight(), bias(), options); }

BatchNorm::BatchNorm(Scope s, int64_t channels) {
  const Shape shape{channels};
  weight = s.param("weight", shape, {kNone}, Init::ones(), false);
  bias = s.param("bias", shape, {kNone}, Init::zeros(), false);
  running_mean = s.buffer("running_mean", shape, {kNone}, Init::zeros());
  running_var = s.buffer("running_var", shape, {kNone}, Init::ones());
}

BatchNorm BatchNorm::before_head(Scope s, int64_t channels, float eps) {
  BatchNorm norm;
  const Marks head{.head = true};
  norm.running_mean = s.buffer("running_mean", Shape{channels}, {kNone}, Init::zeros(), head);
  norm.running_var = s.buffer("running_var", Shape{channels}, {kNone}, Init::ones(), head);
  norm.eps = eps;
  return norm;
}

Tensor BatchNorm::operator()(const Tensor& x, const Context& ctx) const {
  ops::BatchNormOptions options;
  options.eps = eps;
  options.training = ctx.training && (!weight.present() || requires_grad(weight()));
  if (ctx.norm_momentum >= 0) options.momentum = ctx.norm_momentum;
  return ops::batch_norm(x, weight(), bias(), running_mean(), running_var(), options);
}

}  // namespace accrete::nn
