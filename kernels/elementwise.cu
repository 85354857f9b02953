// Elementwise kernels: rows of the unary table, binary operations, and operations with one value per column. All are
// bandwidth-bound: every element is read once and written once.
#include "kernels/elementwise.h"

#include "kernels/map.h"
#include "kernels/unary.h"

namespace accrete::kernels {

namespace {

template <Unary F>
struct UnaryValue {
  __device__ void operator()(int64_t, float& y, float x) const { y = unary_value<F>(x); }
};
template <Unary F>
struct UnaryGradient {
  __device__ void operator()(int64_t, float& dx, float x, float dy) const { dx = unary_derivative<F>(x) * dy; }
};
template <Binary Op>
struct BinaryValue {
  __device__ void operator()(int64_t, float& y, float a, float b) const {
    if constexpr (Op == Binary::add) y = a + b;
    if constexpr (Op == Binary::sub) y = a - b;
    if constexpr (Op == Binary::mul) y = a * b;
    if constexpr (Op == Binary::div) y = a / b;
  }
};
struct Affine {
  float alpha, beta;
  __device__ void operator()(int64_t, float& y, float x) const { y = alpha * x + beta; }
};
struct Constant {
  float value;
  __device__ void operator()(int64_t, float& y) const { y = value; }
};

struct Scalar {
  const float* value;
  float factor;
  __device__ void operator()(int64_t, float& y) const { y = factor * *value; }
};

// y[r, c] = x[r, c] + v[c], or * v[c].   y, x: (rows, cols); v: (cols) f32
// Block of 32 x 8 threads: a thread keeps v of its W columns in registers and walks down the rows.
template <class T, bool kMultiply, bool kWide>
__global__ void column_kernel(T* y, const T* x, const float* v, int64_t rows, int64_t cols) {
  constexpr int W = kLaneWidth<T>;
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * kWarpSize + threadIdx.x) * W;
  if (c >= cols) return;
  float column[W], value[W];
  load_row<W, false>(column, v, c, cols);
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.y;
  for (int64_t r = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; r < rows; r += step) {
    load_row<W, kWide>(value, x + r * cols, c, cols);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) value[j] = kMultiply ? value[j] * column[j] : value[j] + column[j];
    store_row<W, kWide>(y + r * cols, c, cols, value);
  }
}

template <class T, bool kMultiply>
void column_op(const Gpu& ctx, T* y, const T* x, const float* v, int64_t rows, int64_t cols) {
  if (rows <= 0 || cols <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const uint32_t across = blocks_covering(cols, W * kWarpSize);
  const dim3 grid{across, blocks_for(rows, kBlockWarps, 1 + 4096 / across)};
  const dim3 block{kWarpSize, kBlockWarps};
  if (wide_rows(y, W, cols) && wide_rows(x, W, cols)) {
    ACCRETE_LAUNCH(column_kernel<T, kMultiply, true>, grid, block, 0, ctx, y, x, v, rows, cols);
  } else {
    ACCRETE_LAUNCH(column_kernel<T, kMultiply, false>, grid, block, 0, ctx, y, x, v, rows, cols);
  }
}

}  // namespace

template <class T>
void unary_forward(const Gpu& ctx, Unary f, T* y, const T* x, int64_t n) {
  with_unary(f, [&]<Unary F>() { map(ctx, n, UnaryValue<F>{}, Out<T>{y}, In<T>{x}); });
}

template <class T>
void unary_backward(const Gpu& ctx, Unary f, T* dx, const T* x, const T* dy, int64_t n) {
  with_unary(f, [&]<Unary F>() { map(ctx, n, UnaryGradient<F>{}, Out<T>{dx}, In<T>{x}, In<T>{dy}); });
}

template <class T>
void binary_forward(const Gpu& ctx, Binary op, T* y, const T* a, const T* b, int64_t n) {
  const auto run = [&](auto fn) { map(ctx, n, fn, Out<T>{y}, In<T>{a}, In<T>{b}); };
  if (op == Binary::add) run(BinaryValue<Binary::add>{});
  if (op == Binary::sub) run(BinaryValue<Binary::sub>{});
  if (op == Binary::mul) run(BinaryValue<Binary::mul>{});
  if (op == Binary::div) run(BinaryValue<Binary::div>{});
}

template <class T>
void affine(const Gpu& ctx, T* y, const T* x, float alpha, float beta, int64_t n) {
  map(ctx, n, Affine{alpha, beta}, Out<T>{y}, In<T>{x});
}

template <class T>
void bias_add(const Gpu& ctx, T* y, const T* x, const float* bias, int64_t rows, int64_t cols) {
  column_op<T, false>(ctx, y, x, bias, rows, cols);
}

template <class T>
void column_scale(const Gpu& ctx, T* y, const T* x, const float* scale, int64_t rows, int64_t cols) {
  column_op<T, true>(ctx, y, x, scale, rows, cols);
}

template <class T>
void fill(const Gpu& ctx, T* x, float value, int64_t n) {
  map(ctx, n, Constant{value}, Out<T>{x});
}

template <class T>
void spread(const Gpu& ctx, T* x, const float* value, float factor, int64_t n) {
  map(ctx, n, Scalar{value, factor}, Out<T>{x});
}

#define ACCRETE_INSTANTIATE(T)                                                          \
  template void unary_forward(const Gpu&, Unary, T*, const T*, int64_t);                \
  template void unary_backward(const Gpu&, Unary, T*, const T*, const T*, int64_t);     \
  template void binary_forward(const Gpu&, Binary, T*, const T*, const T*, int64_t);    \
  template void affine(const Gpu&, T*, const T*, float, float, int64_t);                \
  template void bias_add(const Gpu&, T*, const T*, const float*, int64_t, int64_t);     \
  template void column_scale(const Gpu&, T*, const T*, const float*, int64_t, int64_t); \
  template void fill(const Gpu&, T*, float, int64_t);                                   \
  template void spread(const Gpu&, T*, const float*, float, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
