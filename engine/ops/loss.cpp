// Softmax cross-entropy.   loss = lse - (1-s) x[t] - s/V sum x;   d = softmax(x) - (1-s) [v = t] - s/V, over the
// counted rows
#include "kernels/cross_entropy.h"

#include <algorithm>

#include "engine/ops/ops.h"
#include "engine/ops/targets.h"
#include "kernels/reduce.h"

namespace accrete::ops {

void check_targets(const char* where, const Tensor& targets, int64_t rows, int64_t classes, Device device) {
  const bool reachable = targets.device() == device || device == kDry;
  check(targets.dtype() == DType::i32 && targets.count() == rows && reachable, where,
        "targets do not fit the logits; expected ", rows, " i32 on ", device, "; got ", targets.shape(), " ",
        name_of(targets.dtype()), " on ", targets.device());
  if (!targets.data() || !targets.device().host()) return;
  const int32_t* t = targets.ptr<int32_t>();
  for (int64_t n = 0; n < rows; ++n)
    check(t[n] < classes, where, "target beyond the classes; expected below ", classes, "; got ", t[n], " in row ", n);
}

namespace {

void check_targets(const char* where, const Tensor& logits, const Tensor& targets) {
  ops::check_targets(where, targets, logits.shape().rows(), logits.size(-1), logits.device());
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
  check_targets("cross_entropy", logits, targets);
  check(smoothing >= 0.0f && smoothing < 1.0f, "cross_entropy", "smoothing out of range; expected 0 <= s < 1; got ",
        smoothing);
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  const RowLosses rows = row_losses(logits, targets, smoothing);
  Tensor y = Tensor::empty(Shape{}, DType::f32, logits.device());
  const Tensor counts = Tensor::empty(Shape{2}, DType::f32, logits.device());  // counted rows, and the inverse
  on_device(logits.device(), [&](const auto& dev) {
    kernels::count_targets(dev, counts.ptr<float>(), targets.ptr<int32_t>(), N);
    kernels::sum<float>(dev, y.ptr<float>(), rows.loss.ptr<float>(), N);
    kernels::binary_forward<float>(dev, Binary::mul, y.ptr<float>(), y.ptr<float>(), counts.ptr<float>() + 1, 1);
  });
  return record("cross_entropy", y, {logits}, Saved{logits, rows.lse, targets, counts}, loss_cost(logits),
                [=](const BackwardContext& ctx) -> Grads {
                  const Tensor& logits = ctx.saved(0);
                  Tensor d = logits.unique() ? logits : like(logits);
                  Tensor scale = Tensor::empty(Shape{1}, DType::f32, logits.device());
                  on(logits, [&]<class T>(const auto& dev) {
                    kernels::binary_forward<float>(dev, Binary::mul, scale.ptr<float>(), ctx.dy().template ptr<float>(),
                                                   ctx.saved(3).template ptr<float>() + 1, 1);
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
  check_targets("cross_entropy", logits, targets);
  const int64_t N = logits.shape().rows(), V = logits.size(-1);
  const std::vector<int32_t> target = targets.to_vector<int32_t>();
  const auto counted = std::count_if(target.begin(), target.end(), [](int32_t t) { return t >= 0; });
  const float factor = counted > 0 ? 1.0f / static_cast<float>(counted) : 0.0f;
  std::vector<float> want(static_cast<size_t>(N * V), 0.0f), keep(static_cast<size_t>(N), 0.0f);
  for (int64_t n = 0; n < N; ++n) {
    const int32_t t = target[static_cast<size_t>(n)];
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
