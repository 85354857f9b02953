// Sequences of tokens, and the end of a residual branch.
#include "kernels/tokens.h"

#include "engine/ops/ops.h"

namespace accrete::ops {
namespace {

void check_tokens(const char* where, const Tensor& x) {
  check(x.rank() == 3, where, "expected tokens as (B, T, C); got ", x.shape());
}

Cost copy_cost(const Tensor& moved) {
  const double bytes = 2.0 * static_cast<double>(moved.bytes());
  return Cost{0, bytes, 0, bytes};
}

// y[b, y_begin + t] = x[b, x_begin + t] for t < count; with `zero_rest` the other tokens of y become 0.
void copy(const Tensor& y, int64_t y_begin, const Tensor& x, int64_t x_begin, int64_t count, bool zero_rest = false) {
  on(y, [&]<class T>(const auto& dev) {
    kernels::copy_tokens<T>(dev, y.ptr<T>(), y.size(1), y_begin, x.ptr<T>(), x.size(1), x_begin, count, y.size(0),
                            y.size(2), zero_rest);
  });
}

Tensor sliced(const Tensor& x, int64_t begin, int64_t end) {
  Tensor y = Tensor::empty(Shape{x.size(0), end - begin, x.size(2)}, x.dtype(), x.device());
  copy(y, 0, x, begin, end - begin);
  return y;
}

// Rows of a table that goes into a sequence, checked.
int64_t rows_of(const char* what, const Tensor& table, const Tensor& x) {
  if (!table.defined()) return 0;
  check(table.rank() == 2 && table.size(1) == x.size(2) && table.dtype() == x.dtype(), "sequence", what,
        " does not fit the tokens; expected (.., ", x.size(2), ") ", name_of(x.dtype()), "; got ", table.shape(), " ",
        name_of(table.dtype()));
  return table.size(0);
}

template <class T>
const T* ptr_or_null(const Tensor& t) {
  return t.defined() ? t.ptr<T>() : nullptr;
}

}  // namespace

// d(cls), d(extra), d(positions): their rows of dy, summed over the batch.
Tensor sequence(const Tensor& x, const Tensor& cls, const Tensor& extra, const Tensor& positions) {
  check_tokens("sequence", x);
  kernels::SequenceShape s{.batch = x.size(0), .tokens = x.size(1), .channels = x.size(2)};
  s.cls = rows_of("the class token", cls, x);
  check(s.cls <= 1, "sequence", "more than one class token; expected (1, ", s.channels, "); got ", cls.shape());
  s.extra = rows_of("the table of extra tokens", extra, x);
  const int64_t placed = rows_of("the table of positions", positions, x);
  check(!positions.defined() || placed == s.length() || placed == s.tokens, "sequence", "the table of positions has ",
        placed, " rows; expected ", s.length(), " (special tokens in front) or ", s.tokens, " (without them)");
  s.unplaced = s.length() - placed;
  Tensor y = Tensor::empty(Shape{s.batch, s.length(), s.channels}, x.dtype(), x.device());
  on(y, [&]<class T>(const auto& dev) {
    kernels::sequence_forward<T>(dev, y.ptr<T>(), x.ptr<T>(), ptr_or_null<T>(cls), ptr_or_null<T>(extra),
                                 ptr_or_null<T>(positions), s);
  });
  const double added = static_cast<double>(positions.defined() ? y.count() : 0);
  const double bytes = static_cast<double>(x.bytes() + y.bytes());
  return record("sequence", y, {x, cls, extra, positions}, {}, Cost{added, bytes, added, bytes},
                [s](const BackwardContext& ctx) -> Grads {
                  const Tensor& dy = ctx.dy();
                  Grads d(4);
                  if (ctx.needs(0)) d[0] = Tensor::empty(Shape{s.batch, s.tokens, s.channels}, dy.dtype(), dy.device());
                  for (size_t i = 1; i < 4; ++i)
                    if (ctx.needs(i)) d[i] = ctx.param_grad(i);
                  const auto table = [&](size_t i) { return d[i].defined() ? d[i].ptr<float>() : nullptr; };
                  on(dy, [&]<class T>(const auto& dev) {
                    kernels::sequence_backward<T>(dev, d[0].defined() ? d[0].ptr<T>() : nullptr, table(1), table(2),
                                                  table(3), dy.ptr<T>(), s);
                  });
                  return d;
                });
}

Tensor slice_tokens(const Tensor& x, int64_t begin, int64_t end) {
  check_tokens("slice_tokens", x);
  check(0 <= begin && begin <= end && end <= x.size(1), "slice_tokens", "tokens [", begin, ", ", end, ") do not fit ",
        x.shape());
  const Tensor y = sliced(x, begin, end);
  return record("slice_tokens", y, {x}, {}, copy_cost(y), [=, shape = x.shape()](const BackwardContext& ctx) -> Grads {
    const Tensor dx = Tensor::empty(shape, ctx.dy().dtype(), ctx.dy().device());
    copy(dx, begin, ctx.dy(), 0, end - begin, true);
    return {dx};
  });
}

Tensor concat_tokens(const Tensor& a, const Tensor& b) {
  check_tokens("concat_tokens", a);
  check_tokens("concat_tokens", b);
  check(a.size(0) == b.size(0) && a.size(2) == b.size(2) && a.dtype() == b.dtype(), "concat_tokens",
        "batch, channels or types differ: ", a.shape(), " ", name_of(a.dtype()), " and ", b.shape(), " ",
        name_of(b.dtype()));
  const int64_t S = a.size(1), T = b.size(1);
  const Tensor y = Tensor::empty(Shape{a.size(0), S + T, a.size(2)}, a.dtype(), a.device());
  copy(y, 0, a, 0, S);
  copy(y, S, b, 0, T);
  return record("concat_tokens", y, {a, b}, {}, copy_cost(y), [S, T](const BackwardContext& ctx) -> Grads {
    return {ctx.needs(0) ? sliced(ctx.dy(), 0, S) : Tensor(), ctx.needs(1) ? sliced(ctx.dy(), S, S + T) : Tensor()};
  });
}

Tensor mean_tokens(const Tensor& x, int64_t begin) {
  check_tokens("mean_tokens", x);
  const int64_t B = x.size(0), tokens = x.size(1), C = x.size(2);
  check(0 <= begin && begin < tokens, "mean_tokens", "of no tokens: from ", begin, " on in ", x.shape());
  Tensor y = Tensor::empty(Shape{B, C}, x.dtype(), x.device());
  on(x, [&]<class T>(const auto& dev) { kernels::mean_tokens<T>(dev, y.ptr<T>(), x.ptr<T>(), B, tokens, begin, C); });
  const double bytes = static_cast<double>(x.bytes() + y.bytes());
  return record("mean_tokens", y, {x}, {}, Cost{static_cast<double>(x.count()), bytes, 0, bytes},
                [=, shape = x.shape()](const BackwardContext& ctx) -> Grads {
                  const Tensor& dy = ctx.dy();
                  Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
                  on(dy, [&]<class T>(const auto& dev) {
                    kernels::mean_tokens_backward<T>(dev, dx.ptr<T>(), dy.ptr<T>(), B, tokens, begin, C);
                  });
                  return {dx};
                });
}

}  // namespace accrete::ops
