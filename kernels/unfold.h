// Windows of a grid as rows of a matrix, and back: a convolution is then a product (im2col, col2im).
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// x: (images, height, width, channels). A square window of `kernel` x `kernel` cells stands at each of out_h x out_w
// places; its cell (di, dj) at place (i, j) is row stride * i + offset + di of x, or - di where `reversed`, and the
// like column. Cells outside of x are 0.
struct UnfoldShape {
  int64_t height = 0, width = 0, channels = 0;
  int64_t out_h = 0, out_w = 0;
  int64_t kernel = 1, stride = 1, offset = 0;
  bool reversed = false;
  int64_t columns() const { return kernel * kernel * channels; }
};

// The windows of `rows` rows of places, from row `first` on; row n is row n % out_h of image n / out_h.
// cols: (rows, out_w, kernel, kernel, channels); no aliasing
ACCRETE_KERNEL(unfold, T* cols, const T* x, int64_t first, int64_t rows, const UnfoldShape& s);
// x[cell] = sum over the windows that hold the cell, in the order of places, of what they hold for it; f32 sums,
// rounded once. Not for `reversed`. cols: (images, out_h, out_w, kernel, kernel, channels); no aliasing
ACCRETE_KERNEL(fold, T* x, const T* cols, int64_t images, const UnfoldShape& s);

}  // namespace accrete::kernels
