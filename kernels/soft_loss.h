// Losses whose targets are numbers, one for every class: N rows of V classes. Targets are f32.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// loss[n] = sum_v t (lse - x),   lse[n] = log sum_v exp x,   total[n] = sum_v t.   loss, lse, total: (N) f32; logits:
// (N, V); targets: (N, V) f32. A class whose target is 0 counts nothing, even where its logit is -infinity.
ACCRETE_KERNEL(soft_cross_entropy_forward, float* loss, float* lse, float* total, const T* logits, const float* targets,
               int64_t N, int64_t V);
// dlogits = (exp(x - lse) total - t) * factor * dloss[0].   dlogits: (N, V), may alias logits; dloss: one f32 in device
// memory
ACCRETE_KERNEL(soft_cross_entropy_backward, T* dlogits, const T* logits, const float* targets, const float* lse,
               const float* total, const float* dloss, float factor, int64_t N, int64_t V);

// loss[n] = sum_v max(z, 0) - z t + log(1 + exp(-|z|)) = sum_v -(t log sigmoid(z) + (1 - t) log(1 - sigmoid(z))).
// loss: (N) f32; logits: (N, V); targets: (N, V) f32
ACCRETE_KERNEL(binary_cross_entropy_forward, float* loss, const T* logits, const float* targets, int64_t N, int64_t V);
// dlogits = (sigmoid(z) - t) * factor * dloss[0].   dlogits: (n), may alias logits; targets: (n) f32; dloss: one f32 in
// device memory
ACCRETE_KERNEL(binary_cross_entropy_backward, T* dlogits, const T* logits, const float* targets, const float* dloss,
               float factor, int64_t n);

// y[n] = index of the largest of x[n, 0 .. V-1], the first of equals; NaN is passed over, and nothing but NaN gives 0.
// y: (N) i32; x: (N, V)
ACCRETE_KERNEL(argmax, int32_t* y, const T* x, int64_t N, int64_t V);

}  // namespace accrete::kernels
