// Ops that only move data.
#include "engine/ops/ops.h"
#include "kernels/permute.h"

namespace accrete::ops {
namespace {

Cost move_cost(const Tensor& y) {
  const double bytes = 2.0 * static_cast<double>(y.bytes());
  return Cost{0, bytes, 0, bytes};
}

Tensor transposed(const Tensor& x) {
  std::vector<int64_t> sizes = x.shape().vector();
  const size_t r = sizes.size();
  const int64_t rows = sizes[r - 2], cols = sizes[r - 1];
  std::swap(sizes[r - 2], sizes[r - 1]);
  Tensor y = Tensor::empty(Shape(sizes), x.dtype(), x.device());
  const int64_t batch = rows * cols > 0 ? x.count() / (rows * cols) : 0;
  on(x, [&]<class T>(const auto& dev) { kernels::transpose<T>(dev, y.ptr<T>(), x.ptr<T>(), batch, rows, cols); });
  return y;
}

Tensor middle_swapped(const Tensor& x) {
  const Shape& s = x.shape();
  Tensor y = Tensor::empty(Shape{s[0], s[2], s[1], s[3]}, x.dtype(), x.device());
  on(x,
     [&]<class T>(const auto& dev) { kernels::swap_middle<T>(dev, y.ptr<T>(), x.ptr<T>(), s[0], s[1], s[2], s[3]); });
  return y;
}

}  // namespace

Tensor reshape(const Tensor& x, Shape shape) {
  const Tensor y = x.view(shape);
  return record("reshape", y, {x}, {}, Cost{},
                [from = x.shape()](const BackwardContext& ctx) -> Grads { return {ctx.dy().view(from)}; });
}

Tensor transpose(const Tensor& x) {
  check(x.rank() >= 2, "transpose", "needs at least two axes; got ", x.shape());
  const Tensor y = transposed(x);
  return record("transpose", y, {x}, {}, move_cost(y),
                [](const BackwardContext& ctx) -> Grads { return {transposed(ctx.dy())}; });
}

Tensor swap_middle(const Tensor& x) {
  check(x.rank() == 4, "swap_middle", "needs four axes; got ", x.shape());
  const Tensor y = middle_swapped(x);
  return record("swap_middle", y, {x}, {}, move_cost(y),
                [](const BackwardContext& ctx) -> Grads { return {middle_swapped(ctx.dy())}; });
}

Tensor slice_last(const Tensor& x, int64_t begin, int64_t end) {
  const int64_t cols = x.size(-1), rows = x.shape().rows();
  check(0 <= begin && begin <= end && end <= cols, "slice_last", "columns [", begin, ", ", end, ") do not fit ",
        x.shape());
  Tensor y = Tensor::empty(x.shape().with_last(end - begin), x.dtype(), x.device());
  on(x, [&]<class T>(const auto& dev) {
    kernels::copy_rows<T>(dev, y.ptr<T>(), end - begin, x.ptr<T>() + begin, cols, rows, end - begin);
  });
  return record("slice_last", y, {x}, {}, move_cost(y), [=, shape = x.shape()](const BackwardContext& ctx) -> Grads {
    const Tensor& dy = ctx.dy();
    Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device());
    on(dy, [&]<class T>(const auto& dev) {
      kernels::copy_rows<T>(dev, dx.ptr<T>() + begin, cols, dy.ptr<T>(), end - begin, rows, end - begin);
    });
    return {dx};
  });
}

Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end) {
  const Tensor y = x.rows(begin, end).clone();
  return record("slice_rows", y, {x}, {}, move_cost(y),
                [begin, end, shape = x.shape()](const BackwardContext& ctx) -> Grads {
                  const Tensor& dy = ctx.dy();
                  const Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device());
                  dx.rows(begin, end).copy_from(dy);
                  return {dx};
                });
}

}  // namespace accrete::ops
