// Images and tables of positions of another size: every result is a weighted sum of samples near its place. Backward
// gathers: the gradient of a sample is the sum over the results that it went into, in their order.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// Bilinear, half-pixel centres, no antialiasing; samples beyond the border are those of the border. Sides
// are at most 16384.   x: (planes, H, W); y: (planes, h, w); no aliasing
ACCRETE_KERNEL(resize_bilinear, T* y, const T* x, int64_t planes, int64_t H, int64_t W, int64_t h, int64_t w);
// dx = the transposed map of dy.   dx: (planes, H, W); dy: (planes, h, w)
ACCRETE_KERNEL(resize_bilinear_backward, T* dx, const T* dy, int64_t planes, int64_t H, int64_t W, int64_t h,
               int64_t w);

// Rows 0 .. extra-1 are copied, the others are the cells of a grid, row by row, resampled by Keys' cubic kernel with a
// = -0.75: result i lies at (i + 0.5) * from / (to + offset) - 0.5.
struct TableGrid {
  int64_t extra = 0, from_h = 0, from_w = 0, to_h = 0, to_w = 0, channels = 0;
  double offset = 0.0;
};
// y: (extra + to_h * to_w, channels); x: (extra + from_h * from_w, channels); no aliasing
ACCRETE_KERNEL(resample_table, T* y, const T* x, TableGrid g);
// dx += the transposed map of dy.   dx: f32, like x; dy: like y
ACCRETE_KERNEL(resample_table_backward, float* dx, const T* dy, TableGrid g);

}  // namespace accrete::kernels
