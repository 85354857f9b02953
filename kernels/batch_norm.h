// Batch normalisation: one mean and variance per channel over all N rows. Arithmetic and statistics are f32.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// mean[c] = mean of column c; rstd[c] = 1 / sqrt(variance + eps), the variance taken about the mean in a second pass.
// Moves running_mean[c] = (1 - momentum) running_mean[c] + momentum mean, and running_var the same with the unbiased
// variance. x: (N, C), N >= 2; all others: (C) f32
ACCRETE_KERNEL(batch_norm_statistics, float* mean, float* rstd, float* running_mean, float* running_var, const T* x,
               int64_t N, int64_t C, float momentum, float eps);
// mean = running_mean, rstd = 1 / sqrt(running_var + eps).   all: (C)
ACCRETE_KERNEL_F32(batch_norm_running, float* mean, float* rstd, const float* running_mean, const float* running_var,
                   int64_t C, float eps);
// y = (x - mean) rstd gamma + beta.   y, x: (N, C), may be the same; the others (C) f32
ACCRETE_KERNEL(batch_norm_forward, T* y, const T* x, const float* mean, const float* rstd, const float* gamma,
               const float* beta, int64_t N, int64_t C);
// With h = (x - mean) rstd:  dgamma += sum_n dy h,  dbeta += sum_n dy,
//   dx = gamma rstd (dy - mean_n(dy) - h mean_n(dy h))   where mean and rstd are those of x (of_batch), else gamma rstd
//   dy
// dx, dy, x: (N, C), dx may be dy; dx, dgamma, dbeta: null where not wanted; sums: (2, C) scratch
ACCRETE_KERNEL(batch_norm_backward, T* dx, float* dgamma, float* dbeta, float* sums, const T* dy, const T* x,
               const float* mean, const float* rstd, const float* gamma, int64_t N, int64_t C, bool of_batch);

}  // namespace accrete::kernels
