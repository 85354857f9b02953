// Softmax over the last axis (N rows, C columns), f32 inside, the maximum subtracted first.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y = softmax(x); with causal_rows > 0, row r belongs to query r % causal_rows and columns > query + (C - causal_rows)
// are masked (probability 0).   y, x: (N, C), may alias
ACCRETE_KERNEL(softmax_forward, T* y, const T* x, int64_t N, int64_t C, int64_t causal_rows);
// dx = y * (dy - sum_c(y * dy)).   dx, y, dy: (N, C); dx may alias dy
ACCRETE_KERNEL(softmax_backward, T* dx, const T* y, const T* dy, int64_t N, int64_t C);

}  // namespace accrete::kernels
