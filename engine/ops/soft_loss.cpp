// Losses with a target for every class, and argmax.
//   soft_cross_entropy: loss = mean over rows of (sum t) lse - sum t x;   d = (softmax(x) sum t - t) / N
//   binary_cross_entropy: loss = mean of max(z, 0) - z t + log(1 + exp(-|z|));   d = (sigmoid(z) - t) / count
#include "kernels/soft_loss.h"

#include "engine/ops/ops.h"
#include "kernels/reduce.h"

namespace accrete::ops {
namespace {

void check_soft_targets(const char* where, const Tensor& logits, const Tensor& targets) {
  check(logits.rank() >= 1 && targets.shape() == logits.shape() && targets.dtype() == DType::f32 &&
            targets.device() == logits.device(),
        where, "targets do not fit the logits; expected ", logits.shape(), " f32 on ", logits.device(), "; got ",
        targets.shape(), " ", name_of(targets.dtype()), " on ", targets.device());
  check(!requires_grad(targets), where, "targets want a gradient, and there is none for them; detach them");
}

// factor * sum of x
Tensor scaled_sum(const Tensor& x, float factor) {
  Tensor y = Tensor::empty(Shape{}, DType::f32, x.device());
  on_device(x.device(), [&](const auto& dev) {
    kernels::sum<float>(dev, y.ptr<float>(), x.ptr<float>(), x.count());
    kernels::affine<float>(dev, y.ptr<float>(), y.ptr<float>(), factor, 0.0f, 1);
  });
  return y;
}

float inverse(int64_t n) { return n > 0 ? 1.0f / static_cast<float>(n) : 0.0f; }

Tensor row_numbers(const Tensor& logits) {
  const SegmentScope workspace(Segment::workspace);
  return Tensor::empty(Shape{logits.shape().rows()}, DType::f32, logits.device());
}

Cost soft_cost(const Tensor& logits, const Tensor& targets) {
  const double n = static_cast<double>(logits.count()), x = static_cast<double>(logits.bytes());
  const double t = static_cast<double>(targets.bytes());
  return Cost{5 * n, x + t, 4 * n, 2 * x + t};
}

}  // namespace

Tensor soft_cross_entropy(const Tensor& logits, const Tensor& targets) {
  check_soft_targets("soft_cross_entropy", logits, targets);
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  const Tensor loss = row_numbers(logits), lse = row_numbers(logits), total = row_numbers(logits);
  on(logits, [&]<class T>(const auto& dev) {
    kernels::soft_cross_entropy_forward<T>(dev, loss.ptr<float>(), lse.ptr<float>(), total.ptr<float>(),
                                           logits.ptr<T>(), targets.ptr<float>(), N, V);
  });
  return record("soft_cross_entropy", scaled_sum(loss, inverse(N)), {logits}, Saved{logits, targets, lse, total},
                soft_cost(logits, targets), [N, V](const BackwardContext& ctx) -> Grads {
                  const Tensor& logits = ctx.saved(0);
                  Tensor d = logits.unique() ? logits : like(logits);
                  on(logits, [&]<class T>(const auto& dev) {
                    kernels::soft_cross_entropy_backward<T>(
                        dev, d.ptr<T>(), logits.ptr<T>(), ctx.saved(1).template ptr<float>(),
                        ctx.saved(2).template ptr<float>(), ctx.saved(3).template ptr<float>(),
                        ctx.dy().template ptr<float>(), inverse(N), N, V);
                  });
                  return {d};
                });
}

// log-sum-exp and the sum of the targets as products with ones. Without subtracting the maximum: a definition for
// moderate logits.
Tensor soft_cross_entropy_plain(const Tensor& logits, const Tensor& targets) {
  check_soft_targets("soft_cross_entropy", logits, targets);
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  const Tensor x = cast(reshape(logits, Shape{N, V}), DType::f32), t = targets.view(Shape{N, V});
  const Tensor ones = Tensor::from(std::vector<float>(static_cast<size_t>(V), 1.0f), Shape{V, 1}, logits.device());
  const Tensor lse = unary(Unary::log, matmul(unary(Unary::exp, x), ones));
  return scale(sub(sum(mul(lse, matmul(t, ones))), sum(mul(x, t))), inverse(N));
}

Tensor binary_cross_entropy(const Tensor& logits, const Tensor& targets) {
  check_soft_targets("binary_cross_entropy", logits, targets);
  const int64_t N = logits.shape().rows(), V = logits.size(-1), n = logits.count();
  const Tensor loss = row_numbers(logits);
  on(logits, [&]<class T>(const auto& dev) {
    kernels::binary_cross_entropy_forward<T>(dev, loss.ptr<float>(), logits.ptr<T>(), targets.ptr<float>(), N, V);
  });
  return record("binary_cross_entropy", scaled_sum(loss, inverse(n)), {logits}, Saved{logits, targets},
                soft_cost(logits, targets), [n](const BackwardContext& ctx) -> Grads {
                  const Tensor& logits = ctx.saved(0);
                  Tensor d = logits.unique() ? logits : like(logits);
                  on(logits, [&]<class T>(const auto& dev) {
                    kernels::binary_cross_entropy_backward<T>(dev, d.ptr<T>(), logits.ptr<T>(),
                                                              ctx.saved(1).template ptr<float>(),
                                                              ctx.dy().template ptr<float>(), inverse(n), n);
                  });
                  return {d};
                });
}

Tensor argmax(const Tensor& x) {
  check(x.rank() >= 1 && x.size(-1) > 0, "argmax", "of no elements; shape ", x.shape());
  std::vector<int64_t> sizes = x.shape().vector();
  sizes.pop_back();
  Tensor y = Tensor::empty(Shape(sizes), DType::i32, x.device());
  on(x,
     [&]<class T>(const auto& dev) { kernels::argmax<T>(dev, y.ptr<int32_t>(), x.ptr<T>(), y.count(), x.size(-1)); });
  return no_gradient("argmax", y, {x}, Cost{static_cast<double>(x.count()), static_cast<double>(x.bytes()), 0, 0},
                     "an index is no number to be differentiated; use cross_entropy");
}

}  // namespace accrete::ops
