// Elementwise kernels: one table of {name, value, derivative} for the unary functions (math in unary.h), a few binary
// ones. T is float or bf16; arithmetic is f32. All pointers may alias element for element unless said otherwise.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// Meaning and derivative of each stand in kernels/unary.h.
enum class Unary { neg, exp, log, sqrt, square, reciprocal, tanh, sigmoid, relu, silu, gelu_tanh, gelu_erf };
enum class Binary { add, sub, mul, div };

// y[i] = f(x[i]).   y, x: (n)
ACCRETE_KERNEL(unary_forward, Unary f, T* y, const T* x, int64_t n);
// dx[i] = f'(x[i]) * dy[i].   dx, x, dy: (n)
ACCRETE_KERNEL(unary_backward, Unary f, T* dx, const T* x, const T* dy, int64_t n);
// y[i] = a[i] op b[i].   y, a, b: (n)
ACCRETE_KERNEL(binary_forward, Binary op, T* y, const T* a, const T* b, int64_t n);
// y[i] = alpha * x[i] + beta.   y, x: (n)
ACCRETE_KERNEL(affine, T* y, const T* x, float alpha, float beta, int64_t n);
// y[r, c] = x[r, c] + bias[c].   y, x: (rows, cols); bias: (cols) f32
ACCRETE_KERNEL(bias_add, T* y, const T* x, const float* bias, int64_t rows, int64_t cols);
// y[r, c] = x[r, c] * scale[c].   y, x: (rows, cols); scale: (cols) f32
ACCRETE_KERNEL(column_scale, T* y, const T* x, const float* scale, int64_t rows, int64_t cols);
// x[i] = value.   x: (n)
ACCRETE_KERNEL(fill, T* x, float value, int64_t n);
// x[i] = factor * value[0].   x: (n); value: one f32 in device memory
ACCRETE_KERNEL(spread, T* x, const float* value, float factor, int64_t n);

}  // namespace accrete::kernels
