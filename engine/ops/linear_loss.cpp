// The output layer of a language model and its loss as one op:  loss = cross_entropy(x w^T, targets).
//
// The logits are the largest tensor of a training step and nobody else wants them, so they live inside the op: their
// gradient is written over them, and their rows are padded where the vocabulary would leave them crooked. (A row of
// 50,257 halves begins at an odd address: no wide load, and GPU products fall back to slow kernels.)
#include "engine/ops/ops.h"
#include "engine/ops/targets.h"
#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"

namespace accrete::ops {
namespace {

// Elements from one row of logits to the next: whole 128-byte lines, unless rows are 16 bytes apart already.
int64_t padded_row(int64_t classes) { return classes % 8 == 0 ? classes : (classes + 63) / 64 * 64; }

// c (+)= op(a) op(b); c may be f32 while a and b are not.
void product(const Tensor& c, const Tensor& a, const Tensor& b, const kernels::GemmShape& s) {
  on(a, [&]<class T>(const auto& dev) {
    if (c.dtype() == a.dtype())
      kernels::gemm<T, T>(dev, c.ptr<T>(), a.ptr<T>(), b.ptr<T>(), static_cast<const float*>(nullptr), s);
    else
      kernels::gemm<T, float>(dev, c.ptr<float>(), a.ptr<T>(), b.ptr<T>(), static_cast<const float*>(nullptr), s);
  });
}

void check_layer(const char* where, const Tensor& x, const Tensor& w, const Tensor& targets) {
  check(w.rank() == 2 && x.rank() >= 1 && x.size(-1) == w.size(1) && x.dtype() == w.dtype(), where,
        "x and w do not fit; expected (.., C) and (V, C) of one type; got ", x.shape(), " ", name_of(x.dtype()),
        " and ", w.shape(), " ", name_of(w.dtype()));
  check_targets(where, targets, x.shape().rows(), w.size(0), x.device());
}

}  // namespace

Tensor linear_token_losses(const Tensor& x, const Tensor& w, const Tensor& targets) {
  const char* const where = "linear_token_losses";
  check_layer(where, x, w, targets);
  const int64_t N = x.shape().rows(), C = w.size(1), V = w.size(0), row = padded_row(V);
  Tensor losses = Tensor::empty(Shape{N}, DType::f32, x.device());
  const SegmentScope workspace(Segment::workspace);
  const Tensor logits = Tensor::empty(Shape{N, row}, x.dtype(), x.device());
  const Tensor lse = Tensor::empty(Shape{N}, DType::f32, x.device());
  product(logits, x, w, {.M = N, .N = V, .K = C, .trans_b = true, .ldc = row});
  on(x, [&]<class T>(const auto& dev) {
    kernels::cross_entropy_forward<T>(dev, losses.ptr<float>(), lse.ptr<float>(), logits.ptr<T>(),
                                      targets.ptr<int32_t>(), N, V, row, 0.0f);
  });
  const double elements = static_cast<double>(N * V), bytes = static_cast<double>(logits.bytes());
  return no_gradient(where, losses, {x, w},
                     Cost{2.0 * elements * static_cast<double>(C) + 3 * elements,
                          static_cast<double>(x.bytes() + w.bytes()) + 2 * bytes, 0, 0},
                     "it is a measurement; use linear_cross_entropy");
}

Tensor linear_cross_entropy(const Tensor& x, const Tensor& w, const Tensor& targets, float smoothing) {
  const char* const where = "linear_cross_entropy";
  check_layer(where, x, w, targets);
  check(smoothing >= 0.0f && smoothing < 1.0f, where, "smoothing out of range; expected 0 <= s < 1; got ", smoothing);
  const int64_t N = x.shape().rows(), C = w.size(1), V = w.size(0), row = padded_row(V);
  const Device device = x.device();
  Tensor logits = Tensor::empty(Shape{N, row}, x.dtype(), device);
  Tensor y = Tensor::empty(Shape{}, DType::f32, device);
  Tensor lse, counts;
  {
    const SegmentScope workspace(Segment::workspace);
    lse = Tensor::empty(Shape{N}, DType::f32, device);
    counts = Tensor::empty(Shape{2}, DType::f32, device);  // counted rows, and the inverse
    const Tensor losses = Tensor::empty(Shape{N}, DType::f32, device);
    product(logits, x, w, {.M = N, .N = V, .K = C, .trans_b = true, .ldc = row});
    on(x, [&]<class T>(const auto& dev) {
      kernels::count_targets(dev, counts.ptr<float>(), targets.ptr<int32_t>(), N);
      kernels::cross_entropy_forward<T>(dev, losses.ptr<float>(), lse.ptr<float>(), logits.ptr<T>(),
                                        targets.ptr<int32_t>(), N, V, row, smoothing);
      kernels::sum<float>(dev, y.ptr<float>(), losses.ptr<float>(), N);
      kernels::binary_forward<float>(dev, Binary::mul, y.ptr<float>(), y.ptr<float>(), counts.ptr<float>() + 1, 1);
    });
  }
  const double products = 2.0 * static_cast<double>(N) * static_cast<double>(V) * static_cast<double>(C);
  const double elements = static_cast<double>(N * V), bytes = static_cast<double>(logits.bytes());
  const double moved = static_cast<double>(x.bytes() + w.bytes()) + bytes;
  const double both = (requires_grad(x) ? 1.0 : 0.0) + (requires_grad(w) ? 1.0 : 0.0);
  const Cost cost{products + 3 * elements, moved + bytes, products * both + 3 * elements, moved * both + 2 * bytes};
  return record(
      where, y, {x, w}, Saved{x, w, logits, lse, targets, counts}, cost, [=](const BackwardContext& ctx) -> Grads {
        const Tensor &x = ctx.saved(0), &w = ctx.saved(1), &logits = ctx.saved(2);
        const Tensor d = logits.unique() ? logits : like(logits);
        const Tensor scale = Tensor::empty(Shape{1}, DType::f32, logits.device());
        on(logits, [&]<class T>(const auto& dev) {
          kernels::binary_forward<float>(dev, Binary::mul, scale.ptr<float>(), ctx.dy().template ptr<float>(),
                                         ctx.saved(5).template ptr<float>() + 1, 1);
          kernels::cross_entropy_backward<T>(dev, d.ptr<T>(), logits.ptr<T>(), ctx.saved(3).template ptr<float>(),
                                             ctx.saved(4).template ptr<int32_t>(), scale.ptr<float>(), N, V, row,
                                             smoothing);
        });
        Tensor dx, dw;
        if (ctx.needs(1)) {
          dw = ctx.param_grad(1);
          product(dw, d, x, {.M = V, .N = C, .K = N, .trans_a = true, .accumulate = true, .lda = row});
        }
        if (ctx.needs(0)) {
          dx = like(x);
          product(dx, d, w, {.M = N, .N = C, .K = V, .lda = row});
        }
        return {dx, dw};
      });
}

Tensor linear_cross_entropy_plain(const Tensor& x, const Tensor& w, const Tensor& targets, float smoothing) {
  return cross_entropy_plain(linear_plain(x, w, Tensor()), targets, smoothing);
}

}  // namespace accrete::ops
