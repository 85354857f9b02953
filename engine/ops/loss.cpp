// Softmax cross-entropy.   loss = lse - (1-s) x[t] - s/V sum x;   d = softmax(x) - (1-s) [v = t] - s/V, over the
// counted rows
#include "kernels/cross_entropy.h"

#include "engine/ops/ops.h"
#include "kernels/reduce.h"

namespace accrete::ops {
namespace {

// Number of rows with a target; checks the targets.
int64_t check_targets(const char* where, const Tensor& logits, const Tensor& targets) {
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  check(targets.dtype() == DType::i32 && targets.count() == N, where, "targets do not fit logits ", logits.shape(),
        "; got ", targets.shape(), " ", name_of(targets.dtype()));
  if (!targets.data()) return N;  // dry: there are no values
  int64_t counted = 0;
  const int32_t* t = targets.ptr<int32_t>();
  for (int64_t n = 0; n < N; ++n) {
    check(t[n] < V, where, "target beyond the classes; expected below ", V, "; got ", t[n], " in row ", n);
    counted += t[n] >= 0;
  }
  return counted;
}

struct RowLosses {
  Tensor loss, lse;
};

RowLosses row_losses(const Tensor& logits, const Tensor& targets, float smoothing) {
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  const SegmentScope workspace(Segment::workspace);
  RowLosses r{Tensor::empty(Shape{N}, DType::f32, logits.device()),
              Tensor::empty(Shape{N}, DType::f32, logits.device())};
  on(logits, [&]<class T>(const auto& dev) {
    kernels::cross_entropy_forward<T>(dev, r.loss.ptr<float>(), r.lse.ptr<float>(), logits.ptr<T>(),
                                      targets.ptr<int32_t>(), N, V, V, smoothing);
  });
  return r;
}

Cost loss_cost(const Tensor& logits) {
  const double n = static_cast<double>(logits.count()), bytes = static_cast<double>(logits.bytes());
  return Cost{3 * n, bytes, 3 * n, 2 * bytes};
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, float smoothing) {
  const int64_t counted = check_targets("cross_entropy", logits, targets);
  check(smoothing >= 0.0f && smoothing < 1.0f, "cross_entropy", "smoothing out of range; expected 0 <= s < 1; got ",
        smoothing);
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  const RowLosses rows = row_losses(logits, targets, smoothing);
  const float factor = counted > 0 ? 1.0f / static_cast<float>(counted) : 0.0f;
  Tensor y = Tensor::empty(Shape{}, DType::f32, logits.device());
  on_device(logits.device(), [&](const auto& dev) {
    kernels::sum<float>(dev, y.ptr<float>(), rows.loss.ptr<float>(), N);
    kernels::affine<float>(dev, y.ptr<float>(), y.ptr<float>(), factor, 0.0f, 1);
  });
  return record("cross_entropy", y, {logits}, Saved{logits, rows.lse, targets}, loss_cost(logits),
                [=](const BackwardContext& ctx) -> Grads {
                  const Tensor& logits = ctx.saved(0);
                  Tensor d = logits.unique() ? logits : like(logits);
                  Tensor scale = Tensor::empty(Shape{1}, DType::f32, logits.device());
                  on(logits, [&]<class T>(const auto& dev) {
                    kernels::affine<float>(dev, scale.ptr<float>(), ctx.dy().template ptr<float>(), factor, 0.0f, 1);
                    kernels::cross_entropy_backward<T>(
                        dev, d.ptr<T>(), logits.ptr<T>(), ctx.saved(1).template ptr<float>(),
                        ctx.saved(2).template ptr<int32_t>(), scale.ptr<float>(), N, V, V, smoothing);
                  });
                  return {d};
                });
}

// log-sum-exp as a product with ones; the chosen logits as an elementwise product with the (smoothed) one-hot targets.
// Without subtracting the maximum: a definition for moderate logits.
Tensor cross_entropy_plain(const Tensor& logits, const Tensor& targets, float smoothing) {
  const int64_t counted = check_targets("cross_entropy", logits, targets);
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  const float factor = counted > 0 ? 1.0f / static_cast<float>(counted) : 0.0f;
  std::vector<float> want(static_cast<size_t>(N * V), 0.0f), keep(static_cast<size_t>(N), 0.0f);
  for (int64_t n = 0; n < N; ++n) {
    const int32_t t = targets.ptr<int32_t>()[n];
    if (t < 0) continue;
    keep[static_cast<size_t>(n)] = factor;
    for (int64_t v = 0; v < V; ++v) want[static_cast<size_t>(n * V + v)] = factor * smoothing / static_cast<float>(V);
    want[static_cast<size_t>(n * V + t)] += factor * (1.0f - smoothing);
  }
  const Tensor x = cast(reshape(logits, Shape{N, V}), DType::f32);
  const Tensor ones = Tensor::from(std::vector<float>(static_cast<size_t>(V), 1.0f), Shape{V, 1}, logits.device());
  const Tensor lse = unary(Unary::log, matmul(unary(Unary::exp, x), ones));
  return sub(sum(mul(lse, Tensor::from(keep, Shape{N, 1}, logits.device()))),
             sum(mul(x, Tensor::from(want, Shape{N, V}, logits.device()))));
}

Tensor token_losses(const Tensor& logits, const Tensor& targets) {
  check_targets("token_losses", logits, targets);
  const RowLosses rows = row_losses(logits, targets, 0.0f);
  return no_gradient("token_losses", rows.loss, {logits}, loss_cost(logits), "it is a measurement; use cross_entropy");
}

}  // namespace accrete::ops
