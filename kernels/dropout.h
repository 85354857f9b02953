// Dropout and random numbers at an address (kernels/philox.h). Element i of a tensor that starts at `first` uses word
// (first + i) % 4 of block (first + i) / 4, so a batch that is cut in pieces draws the same mask.
#pragma once

#include "kernels/device.h"
#include "kernels/philox.h"

namespace accrete::kernels {

// y[i] = x[i] / (1 - p) when the word of element first + i is >= drop_threshold(p), else 0. The backward pass is the
// same call on dy.   y, x: (n), may alias; 0 <= p < 1
ACCRETE_KERNEL(dropout, T* y, const T* x, int64_t n, float p, RandomKey key, int64_t first);
// live_step[0] = step: for RandomKey::live_step.
ACCRETE_KERNEL_F32(set_live_step, uint64_t* live_step, uint64_t step);
// x[i] = uniform in [low, high).   x: (n)
ACCRETE_KERNEL(random_uniform, T* x, int64_t n, float low, float high, RandomKey key, int64_t first);
// x[i] = mean + stddev * normal, Box-Muller in double on the pair of words (2i, 2i+1).   x: (n)
ACCRETE_KERNEL(random_normal, T* x, int64_t n, float mean, float stddev, RandomKey key, int64_t first);

}  // namespace accrete::kernels
