// Updates in place of flat f32 tensors: optimizer steps, averages, norms. Not differentiable, not recorded.
// All flat tensors of one call have the same count; scalars in device memory are (1) f32. `copy` (bf16 or f16) may be
// undefined. Formulas: kernels/optimizer.h. Where grad_scale is NaN (clip_factor of a norm that is not finite), the
// functions that take it change nothing.
#pragma once

#include "engine/core/tensor.h"
#include "kernels/optimizer.h"

namespace accrete::update {

// x[i] = value.   x: f32
void fill(const Tensor& x, float value);
// y = alpha * x + beta;  y += x.   f32, equal sizes; y may be x
void affine(const Tensor& y, const Tensor& x, float alpha, float beta);
void add(const Tensor& y, const Tensor& x);
// live_step[0] = step (kernels/philox.h).   live_step: (1) i64
void set_live_step(const Tensor& live_step, uint64_t step);

using kernels::AdamWSettings;

void sum_of_squares(const Tensor& out, const Tensor& x);
void dot(const Tensor& out, const Tensor& a, const Tensor& b);
// Number of NaN and infinite elements of a tensor of f32, bf16 or f16.
int64_t count_nonfinite(const Tensor& x);
void clip_factor(const Tensor& out, const Tensor& norm2, float max_norm);

void adamw(const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& v, const Tensor& g,
           const Tensor& grad_scale, const AdamWSettings& s);
// chunks: (n, 3) i64, kernels::StepChunk; parts: (parts, 4) f32, kernels::StepPart
void adamw_parts(const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& v, const Tensor& g,
                 const Tensor& grad_scale, const Tensor& chunks, const Tensor& parts, const AdamWSettings& s);
// parts: (n, 4) f32, kernels::StepPart; steps: (n) i32; rates: (n, 2) f32, kernels::StepRate
void count_steps(const Tensor& parts, const Tensor& steps, const Tensor& rates, const Tensor& grad_scale,
                 const AdamWSettings& s);
void lamb_direction(const Tensor& u, const Tensor& m, const Tensor& v, const Tensor& p, const Tensor& g,
                    const Tensor& grad_scale, const AdamWSettings& s);
void lamb_apply(const Tensor& p, const Tensor& copy, const Tensor& u, const Tensor& p_norm2, const Tensor& u_norm2,
                const Tensor& grad_scale, float lr, bool adapt);
void sgd(const Tensor& p, const Tensor& copy, const Tensor& momentum_buffer, const Tensor& g, const Tensor& grad_scale,
         float lr, float momentum, float weight_decay, bool nesterov);
void lars_direction(const Tensor& u, const Tensor& p, const Tensor& g, const Tensor& grad_scale, float weight_decay);
void lars_apply(const Tensor& p, const Tensor& copy, const Tensor& momentum_buffer, const Tensor& u,
                const Tensor& p_norm2, const Tensor& u_norm2, const Tensor& grad_scale, float lr, float momentum,
                float trust, bool adapt);
void lion(const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& g, const Tensor& grad_scale, float lr,
          float beta1, float beta2, float weight_decay);
void muon_momentum(const Tensor& u, const Tensor& buffer, const Tensor& g, const Tensor& grad_scale, float momentum,
                   bool nesterov);
// y = x / (sqrt(norm2) + eps); y may be x.
void scale_by_inverse_norm(const Tensor& y, const Tensor& x, const Tensor& norm2, float eps);
void decayed_axpy(const Tensor& p, const Tensor& copy, const Tensor& u, const Tensor& grad_scale, float lr, float scale,
                  float weight_decay);
// e = decay * e + (1 - decay) * p
void ema(const Tensor& e, const Tensor& p, const Tensor& grad_scale, float decay);

}  // namespace accrete::update
