// Token and position embedding.
#include "kernels/embedding.h"

#include "engine/ops/ops.h"

namespace accrete::ops {
namespace {

void check_embedding(const Tensor& ids, const Tensor& tokens, const Tensor& positions, int64_t first) {
  check(ids.rank() == 2 && ids.dtype() == DType::i32, "embedding", "ids must be (B, T) i32; got ", ids.shape(), " ",
        name_of(ids.dtype()));
  check(tokens.rank() == 2, "embedding", "token table must be (V, C); got ", tokens.shape());
  if (positions.defined()) {
    check(positions.rank() == 2 && positions.size(1) == tokens.size(1) && positions.dtype() == tokens.dtype(),
          "embedding", "position table does not fit the token table ", tokens.shape(), "; got ", positions.shape());
    check(first >= 0 && first + ids.size(1) <= positions.size(0), "embedding", "sequence of ", ids.size(1),
          " tokens from position ", first, " exceeds the ", positions.size(0), " positions of the model");
  }
  check(ids.device() == tokens.device() || tokens.device() == kDry, "embedding", "ids are on ", ids.device(),
        ", the table is on ", tokens.device());
  if (!ids.data() || !ids.device().host()) return;  // on a device an unknown id makes its row NaN
  const int32_t* id = ids.ptr<int32_t>();
  const int64_t n = ids.count(), V = tokens.size(0);
  for (int64_t i = 0; i < n; ++i)
    check(id[i] >= 0 && id[i] < V, "embedding", "token id beyond the vocabulary; expected 0 to ", V - 1, "; got ",
          id[i], " at row ", i / ids.size(1), ", position ", i % ids.size(1));
}

}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& tokens, const Tensor& positions, int64_t first_position) {
  check_embedding(ids, tokens, positions, first_position);
  const int64_t N = ids.count(), T = ids.size(1), V = tokens.size(0), C = tokens.size(1);
  Tensor y = Tensor::empty(Shape{ids.size(0), T, C}, tokens.dtype(), tokens.device());
  on(y, [&]<class E>(const auto& dev) {
    kernels::embedding_forward<E>(dev, y.ptr<E>(), tokens.ptr<E>(), positions.defined() ? positions.ptr<E>() : nullptr,
                                  ids.ptr<int32_t>(), N, T, first_position, C, V);
  });
  const double bytes = static_cast<double>(y.bytes());
  return record(
      "embedding", y, {tokens, positions}, Saved{ids}, Cost{static_cast<double>(y.count()), 3 * bytes, 0, 4 * bytes},
      [=](const BackwardContext& ctx) -> Grads {
        const Tensor& ids = ctx.saved(0);
        const Tensor& dy = ctx.dy();
        Tensor dtokens, dpositions;
        if (ctx.needs(0)) dtokens = ctx.param_grad(0);
        if (ctx.needs(1)) dpositions = ctx.param_grad(1);
        const SegmentScope workspace(Segment::workspace);
        Tensor scratch = Tensor::empty(Shape{kernels::embedding_scratch(N, V)}, DType::i32, dy.device());
        on(dy, [&]<class E>(const auto& dev) {
          kernels::embedding_backward<E>(dev, dtokens.defined() ? dtokens.ptr<float>() : nullptr,
                                         dpositions.defined() ? dpositions.ptr<float>() + first_position * C : nullptr,
                                         dy.ptr<E>(), ids.ptr<int32_t>(), scratch.ptr<int32_t>(), N, T, C, V);
        });
        return {dtokens, dpositions};
      });
}

// A product with one-hot rows.
Tensor embedding_plain(const Tensor& ids, const Tensor& tokens, const Tensor& positions, int64_t first_position) {
  check_embedding(ids, tokens, positions, first_position);
  const int64_t B = ids.size(0), T = ids.size(1), V = tokens.size(0), C = tokens.size(1);
  std::vector<float> one_hot(static_cast<size_t>(B * T * V), 0.0f);
  const std::vector<int32_t> id = ids.to_vector<int32_t>();
  for (size_t n = 0; n < id.size(); ++n) one_hot[n * static_cast<size_t>(V) + static_cast<size_t>(id[n])] = 1.0f;
  Tensor y = matmul(cast(Tensor::from(one_hot, Shape{B * T, V}, tokens.device()), tokens.dtype()), tokens);
  if (positions.defined()) {
    const int64_t P = positions.size(0);
    std::vector<float> place(static_cast<size_t>(B * T * P), 0.0f);
    for (int64_t n = 0; n < B * T; ++n) place[static_cast<size_t>(n * P + first_position + n % T)] = 1.0f;
    y = add(y, matmul(cast(Tensor::from(place, Shape{B * T, P}, tokens.device()), tokens.dtype()), positions));
  }
  return reshape(y, Shape{B, T, C});
}

}  // namespace accrete::ops
