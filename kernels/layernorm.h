// Layer normalisation over the last axis, biased variance:  y = (x - mean) * rstd * gamma + beta, rstd = 1/sqrt(var +
// eps). N rows, C channels. x, y, dx, dy are T (float or bf16); gamma, beta, mean, rstd and the parameter gradients are
// f32.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y: (N, C); mean, rstd: (N), both written for the backward pass; x: (N, C); gamma, beta: (C), beta may be null
ACCRETE_KERNEL(layernorm_forward, T* y, float* mean, float* rstd, const T* x, const float* gamma, const float* beta,
               int64_t N, int64_t C, float eps);
// sum = x + residual; y = layernorm(sum). `sum` may alias x or residual.   sum, y, x, residual: (N, C)
ACCRETE_KERNEL(residual_layernorm_forward, T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
               const float* gamma, const float* beta, int64_t N, int64_t C, float eps);
// dx = gradient of x (+ dx_add, the gradient that arrives over the residual path; may be null; may alias dx).
// dgamma, dbeta (C) are added to (either may be null).   With g = dy * gamma, h = (x - mean) * rstd:
//   dx = rstd * (g - mean_c(g) - h * mean_c(g * h)).   Deterministic.
ACCRETE_KERNEL(layernorm_backward, T* dx, float* dgamma, float* dbeta, const T* dx_add, const T* dy, const T* x,
               const float* gamma, const float* mean, const float* rstd, int64_t N, int64_t C);

}  // namespace accrete::kernels
