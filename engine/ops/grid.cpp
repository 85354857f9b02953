// Small ops on grids of features and on tokens.
#include "kernels/grid.h"

#include "engine/ops/images.h"

namespace accrete::ops {
namespace {

Tensor mixed(const Tensor& x, const Tensor& box, int64_t unit) {
  Tensor y = like(x);
  on(x, [&]<class T>(const auto& dev) {
    kernels::mix_tokens<T>(dev, y.ptr<T>(), x.ptr<T>(), box.ptr<int32_t>(), unit, x.size(0), x.size(1), x.size(2),
                           x.size(3));
  });
  return y;
}

}  // namespace

Tensor average_pool2(const Tensor& x) {
  check(x.rank() == 4, "average_pool2", "expected (B, H, W, C); got ", x.shape());
  const int64_t B = x.size(0), H = x.size(1), W = x.size(2), C = x.size(3);
  Tensor y = Tensor::empty(Shape{B, (H + 1) / 2, (W + 1) / 2, C}, x.dtype(), x.device());
  on(x, [&]<class T>(const auto& dev) { kernels::average_pool2_forward<T>(dev, y.ptr<T>(), x.ptr<T>(), B, H, W, C); });
  const double n = static_cast<double>(x.count()), bytes = static_cast<double>(x.bytes() + y.bytes());
  return record(
      "average_pool2", y, {x}, {}, Cost{n, bytes, n, bytes}, [shape = x.shape()](const BackwardContext& ctx) -> Grads {
        const Tensor& dy = ctx.dy();
        Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
        on(dy, [&]<class T>(const auto& dev) {
          kernels::average_pool2_backward<T>(dev, dx.ptr<T>(), dy.ptr<T>(), shape[0], shape[1], shape[2], shape[3]);
        });
        return {dx};
      });
}

Tensor mix_tokens(const Tensor& x, const Tensor& box, int64_t unit) {
  check(x.rank() == 4, "mix_tokens", "expected (B, H, W, C); got ", x.shape());
  check(box.count() == 4 && box.dtype() == DType::i32 && box.device() == x.device(), "mix_tokens",
        "the box must be (4) i32 on the device of x; got ", box.shape(), " ", name_of(box.dtype()), " on ",
        box.device());
  check(unit >= 1, "mix_tokens", "unit out of range; expected at least 1; got ", unit);
  const Tensor y = mixed(x, box, unit);
  const double bytes = 2.0 * static_cast<double>(x.bytes());
  return record("mix_tokens", y, {x}, Saved{box}, Cost{0, bytes, 0, bytes},
                [unit](const BackwardContext& ctx) -> Grads { return {mixed(ctx.dy(), ctx.saved(0), unit)}; });
}

Tensor max_tokens(const Tensor& x) {
  check(x.rank() == 3 && x.size(1) >= 1, "max_tokens", "expected (B, T, C) with at least one token; got ", x.shape());
  Tensor y = Tensor::empty(Shape{x.size(0), x.size(2)}, x.dtype(), x.device());
  on(x, [&]<class T>(const auto& dev) {
    kernels::max_tokens<T>(dev, y.ptr<T>(), x.ptr<T>(), x.size(0), x.size(1), x.size(2));
  });
  return no_gradient("max_tokens", y, {x},
                     Cost{static_cast<double>(x.count()), static_cast<double>(x.bytes() + y.bytes()), 0, 0},
                     "it is for evaluation; train on the outputs of the tokens themselves");
}

}  // namespace accrete::ops
