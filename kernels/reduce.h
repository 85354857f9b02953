// Reductions. All results are f32, all are deterministic: the order of additions depends on the sizes only, never on
// the number of threads.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y[c] (+)= sum_r x[r, c].   y: (cols) f32; x: (rows, cols). accumulate adds to what y holds.
ACCRETE_KERNEL(column_sum, float* y, const T* x, int64_t rows, int64_t cols, bool accumulate);
// y[r] = sum_c x[r, c].   y: (rows) f32; x: (rows, cols)
ACCRETE_KERNEL(row_sum, float* y, const T* x, int64_t rows, int64_t cols);
// y[c] (+)= sum_r a[r, c] * b[r, c]: gradient of column_scale.   y: (cols) f32; a, b: (rows, cols)
ACCRETE_KERNEL(column_dot, float* y, const T* a, const T* b, int64_t rows, int64_t cols, bool accumulate);
// out[0] = sum_i x[i].   x: (n)
ACCRETE_KERNEL(sum, float* out, const T* x, int64_t n);
// out[0] = sum_i x[i]^2.   x: (n)
ACCRETE_KERNEL(sum_of_squares, float* out, const T* x, int64_t n);
// out[0] = sum_i a[i] * b[i].   a, b: (n)
ACCRETE_KERNEL_F32(dot, float* out, const float* a, const float* b, int64_t n);
// out[0] = number of NaN or infinite elements, as f32 (exact up to 2^24, saturating there).   x: (n)
ACCRETE_KERNEL(count_nonfinite, float* out, const T* x, int64_t n);

}  // namespace accrete::kernels
