// Data movement: transposes, row gathers, strided copies.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y[b, c, r] = x[b, r, c].   x: (batch, rows, cols); y: (batch, cols, rows); no aliasing
ACCRETE_KERNEL(transpose, T* y, const T* x, int64_t batch, int64_t rows, int64_t cols);
// y[a, c, b, d] = x[a, b, c, d]: swaps the two middle axes.   x: (A, B, C, D); no aliasing
ACCRETE_KERNEL(swap_middle, T* y, const T* x, int64_t A, int64_t B, int64_t C, int64_t D);
// Copies `rows` rows of `cols` elements between two strided places: y[r*y_stride + c] = x[r*x_stride + c]; no aliasing.
ACCRETE_KERNEL(copy_rows, T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t cols);

}  // namespace accrete::kernels
