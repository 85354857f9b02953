// Layer normalisation over the last axis, biased variance:  y = (x - mean) * rstd * gamma + beta, rstd = 1/sqrt(var +
// eps). N rows, C channels. x, y, dx, dy are T (float or bf16); gamma, beta, mean, rstd and the parameter gradients are
// f32.
#pragma once

#include "kernels/device.h"
#include "kernels/residual_branch.h"

namespace accrete::kernels {

// y: (N, C); mean, rstd: (N), both written for the backward pass; x: (N, C); gamma, beta: (C), beta may be null
ACCRETE_KERNEL(layernorm_forward, T* y, float* mean, float* rstd, const T* x, const float* gamma, const float* beta,
               int64_t N, int64_t C, float eps);
// sum = residual + x, a residual branch that joins the stream as `end` says; y = layernorm(sum). `sum` may alias x or
// residual. A dropped branch is not read.   sum, y, x, residual: (N, C)
ACCRETE_KERNEL(residual_layernorm_forward, T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
               const float* gamma, const float* beta, int64_t N, int64_t C, float eps, const BranchEnd& end = {});
// dx = gradient of x (+ dx_add, the gradient that arrives over the residual path; may be null; may alias dx).
// dgamma, dbeta (C) are added to (either may be null).   With g = dy * gamma, h = (x - mean) * rstd:
//   dx = rstd * (g - mean_c(g) - h * mean_c(g * h)).   Deterministic.
// dbranch, where not null, is the gradient of the branch that went into x: factor * end.gamma * dx. It aliases nothing.
ACCRETE_KERNEL(layernorm_backward, T* dx, float* dgamma, float* dbeta, const T* dx_add, const T* dy, const T* x,
               const float* gamma, const float* mean, const float* rstd, int64_t N, int64_t C, T* dbranch = nullptr,
               const BranchEnd& end = {});

}  // namespace accrete::kernels
