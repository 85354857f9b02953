// Conversion between stored number types, and accumulation of one type into an f32 buffer.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y = x rounded to T, bf16 or f16 (nearest, ties to even).   y, x: (n)
ACCRETE_KERNEL(cast_from_f32, T* y, const float* x, int64_t n);
// y = x widened to f32.   y, x: (n)   T: bf16 or f16
ACCRETE_KERNEL(cast_to_f32, float* y, const T* x, int64_t n);
// y[i] += alpha * x[i].   y: (n) f32; x: (n) of T
ACCRETE_KERNEL(accumulate, float* y, const T* x, float alpha, int64_t n);

}  // namespace accrete::kernels
