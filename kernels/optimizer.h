// Optimizer steps over flat f32 ranges of length n. p: master values, g: gradients, multiplied by grad_scale[0] (one
// f32 in device memory, the clipping factor) while they are read. `copy`, where not null, receives p
// rounded to T, bf16 or f16.
// Formulas: shared notation of the optimizer literature, t = step number from 1.
//
// A step whose gradients are not finite does not happen: where grad_scale[0] is NaN, every kernel here that takes it
// leaves all its outputs as they are. clip_factor gives that NaN, so nobody has to look at the norm on the host.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

struct AdamWSettings {
  float lr = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0.0f;
  bool bias_correction = true;  // false: the original BERT Adam, decay then joins the update before it is scaled by lr
  int64_t step = 1;
};
// AdamW (Loshchilov & Hutter 2019), PyTorch's order:
//   p *= 1 - lr*wd;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p -= lr * (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) +
//   eps)
ACCRETE_KERNEL(adamw_step, float* p, T* copy, float* m, float* v, const float* g, const float* grad_scale, int64_t n,
               const AdamWSettings& s);
// The same over many parts of the flat buffers, each with numbers of its own, in one launch. A chunk is a piece of one
// part; a part whose lr is NaN stays as it is. lr, weight_decay and step of `s` are not looked at.
//   chunks: (n_chunks), at most kStepChunk elements each;   parts: in device memory like the chunks
inline constexpr int64_t kStepChunk = 8192;
struct StepChunk {
  int64_t begin, end, part;
};
struct StepPart {
  float lr, weight_decay, correction1, correction2;  // corrections: 1 / (1 - b^t), 1 without bias correction
};
ACCRETE_KERNEL(adamw_parts, float* p, T* copy, float* m, float* v, const float* g, const float* grad_scale,
               const StepChunk* chunks, int64_t n_chunks, const StepPart* parts, const AdamWSettings& s);
// Counts a step of every part and says what adamw_parts needs for it, in device memory throughout: a step that does not
// happen is not counted, and only the device knows of it in time.
//   t = ++steps[k];  parts[k] = {rates[k], 1 / (1 - b1^t), 1 / (1 - b2^t)}
// A part whose lr is NaN counts no step, nor does any where grad_scale[0] is NaN.   parts, rates, steps: (n)
struct StepRate {
  float lr, weight_decay;
};
ACCRETE_KERNEL_F32(count_steps, StepPart* parts, int32_t* steps, const StepRate* rates, const float* grad_scale,
                   int64_t n, const AdamWSettings& s);
// 1 / (1 - beta^step)
float bias_correction(float beta, int64_t step);
// First half of LAMB (You et al. 2020): updates m and v, writes u = mhat / (sqrt(vhat) + eps) + wd * p.   u: (n)
ACCRETE_KERNEL_F32(lamb_direction, float* u, float* m, float* v, const float* p, const float* g,
                   const float* grad_scale, int64_t n, const AdamWSettings& s);
// Second half: p -= lr * trust * u, trust = |p| / |u| from the two squared norms (device memory), 1 when either is 0 or
// when `adapt` is false. grad_scale: only whether it is NaN.
ACCRETE_KERNEL(lamb_apply, float* p, T* copy, const float* u, const float* p_norm2, const float* u_norm2,
               const float* grad_scale, float lr, bool adapt, int64_t n);
// SGD with momentum, PyTorch's order: g += wd*p;  buf = momentum*buf + g;  p -= lr * (nesterov ? g + momentum*buf :
// buf)
ACCRETE_KERNEL(sgd_step, float* p, T* copy, float* buf, const float* g, const float* grad_scale, int64_t n, float lr,
               float momentum, float weight_decay, bool nesterov);
// First half of LARS (You et al. 2017): u = g + wd * p.   u: (n)
ACCRETE_KERNEL_F32(lars_direction, float* u, const float* p, const float* g, const float* grad_scale, int64_t n,
                   float weight_decay);
// Second half: buf = momentum*buf + q u;  p -= lr * buf, with q = trust * |p| / |u| from the two squared norms (device
// memory), 1 when either is 0 or when `adapt` is false. grad_scale: only whether it is NaN.
ACCRETE_KERNEL(lars_apply, float* p, T* copy, float* buf, const float* u, const float* p_norm2, const float* u_norm2,
               const float* grad_scale, float lr, float momentum, float trust, bool adapt, int64_t n);
// Lion (Chen et al. 2023): u = sign(b1 m + (1-b1) g);  m = b2 m + (1-b2) g;  p -= lr * (u + wd p)
ACCRETE_KERNEL(lion_step, float* p, T* copy, float* m, const float* g, const float* grad_scale, int64_t n, float lr,
               float beta1, float beta2, float weight_decay);
// Momentum half of Muon (Jordan 2024): buf = momentum*buf + g;  u = nesterov ? g + momentum*buf : buf
ACCRETE_KERNEL_F32(muon_momentum, float* u, float* buf, const float* g, const float* grad_scale, int64_t n,
                   float momentum, bool nesterov);
// y = x / (sqrt(norm2[0]) + eps), norm2 in device memory: Muon's normalisation.   y, x: (n), y may be x
ACCRETE_KERNEL_F32(scale_by_inverse_norm, float* y, const float* x, const float* norm2, float eps, int64_t n);
// p = p * (1 - lr*wd) - lr * scale * u, and the rounded copy. grad_scale: only whether it is NaN.
ACCRETE_KERNEL(decayed_axpy, float* p, T* copy, const float* u, const float* grad_scale, float lr, float scale,
               float weight_decay, int64_t n);
// e = decay * e + (1 - decay) * p   (exponential moving average; also linear interpolation). grad_scale: only whether
// it is NaN.
ACCRETE_KERNEL_F32(ema_update, float* e, const float* p, const float* grad_scale, float decay, int64_t n);
// out[0] = min(1, max_norm / (sqrt(norm2[0]) + 1e-6)): PyTorch's clipping factor; 1 when max_norm <= 0; NaN when
// norm2[0] is infinite or NaN. One f32 each.
ACCRETE_KERNEL_F32(clip_factor, float* out, const float* norm2, float max_norm);

}  // namespace accrete::kernels
