// Reductions; results are f32.
#include "kernels/reduce.h"

#include "engine/ops/ops.h"
#include "kernels/cast.h"
#include "kernels/elementwise.h"

namespace accrete::ops {
namespace {

// Gradient of a full reduction: every element receives dy * factor.
Tensor spread(const Tensor& dy, float factor, const Shape& shape, DType dtype) {
  Tensor dx = Tensor::empty(shape, dtype, dy.device());
  on(dx, [&]<class T>(const auto& dev) { kernels::spread<T>(dev, dx.ptr<T>(), dy.ptr<float>(), factor, dx.count()); });
  return dx;
}

Tensor reduced(const char* name, const Tensor& x, float factor) {
  Tensor y = Tensor::empty(Shape{}, DType::f32, x.device());
  on(x, [&]<class T>(const auto& dev) { kernels::sum<T>(dev, y.ptr<float>(), x.ptr<T>(), x.count()); });
  if (factor != 1.0f)
    on_device(x.device(),
              [&](const auto& dev) { kernels::affine<float>(dev, y.ptr<float>(), y.ptr<float>(), factor, 0.0f, 1); });
  const double bytes = static_cast<double>(x.bytes());
  return record(name, y, {x}, {}, Cost{static_cast<double>(x.count()), bytes, 0, bytes},
                [factor, shape = x.shape(), dtype = x.dtype()](const BackwardContext& ctx) -> Grads {
                  return {spread(ctx.dy(), factor, shape, dtype)};
                });
}

}  // namespace

Tensor sum(const Tensor& x) { return reduced("sum", x, 1.0f); }

Tensor mean(const Tensor& x) {
  check(x.count() > 0, "mean", "of no elements; shape ", x.shape());
  return reduced("mean", x, 1.0f / static_cast<float>(x.count()));
}

Tensor sum_rows(const Tensor& x) {
  const int64_t rows = x.shape().rows(), cols = x.size(-1);
  Tensor y = Tensor::empty(Shape{cols}, DType::f32, x.device());
  on(x, [&]<class T>(const auto& dev) { kernels::column_sum<T>(dev, y.ptr<float>(), x.ptr<T>(), rows, cols, false); });
  const double bytes = static_cast<double>(x.bytes());
  return record("sum_rows", y, {x}, {}, Cost{static_cast<double>(x.count()), bytes, 0, bytes},
                [rows, cols, shape = x.shape(), dtype = x.dtype()](const BackwardContext& ctx) -> Grads {
                  Tensor dx = Tensor::zeros(shape, dtype, ctx.dy().device());
                  on(dx, [&]<class T>(const auto& dev) {
                    kernels::bias_add<T>(dev, dx.ptr<T>(), dx.ptr<T>(), ctx.dy().template ptr<float>(), rows, cols);
                  });
                  return {dx};
                });
}

}  // namespace accrete::ops
