// Small ops on grids of features, (batch, H, W, C), and on sequences of tokens.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y[b, i, j] = mean of the cells (2i .. 2i+1, 2j .. 2j+1) that exist.   x: (batch, H, W, C); y: (batch, ceil(H/2),
// ceil(W/2), C); no aliasing
ACCRETE_KERNEL(average_pool2_forward, T* y, const T* x, int64_t batch, int64_t H, int64_t W, int64_t C);
// dx[b, r, q] = dy[b, r/2, q/2] / number of cells of that mean.   shapes as above; no aliasing
ACCRETE_KERNEL(average_pool2_backward, T* dx, const T* dy, int64_t batch, int64_t H, int64_t W, int64_t C);
// y[b] = x[b], and x[batch-1-b] in the rows unit * box[0] .. unit * box[1] - 1 and columns unit * box[2] .. unit *
// box[3] - 1. box: (4) in device memory; x, y: (batch, H, W, C); no aliasing
ACCRETE_KERNEL(mix_tokens, T* y, const T* x, const int32_t* box, int64_t unit, int64_t batch, int64_t H, int64_t W,
               int64_t C);
// y[b, c] = largest of x[b, t, c] over t.   x: (batch, tokens, C), tokens >= 1; y: (batch, C); no aliasing
ACCRETE_KERNEL(max_tokens, T* y, const T* x, int64_t batch, int64_t tokens, int64_t C);

}  // namespace accrete::kernels
