// The ends of residual branches: stochastic depth, LayerScale and the sum (kernels/residual_branch.h). The sum fused
// with the norm that reads it stands in norm.cpp.
#include "engine/ops/residual.h"

namespace accrete::ops {
namespace {

// A batch as rows: a sample has `per_sample` of them.
struct Rows {
  int64_t rows, per_sample, cols;
  explicit Rows(const Tensor& x)
      : rows(x.rank() == 1 ? x.count() : x.shape().rows()),
        per_sample(x.size(0) > 0 ? rows / x.size(0) : 0),
        cols(x.rank() == 1 ? 1 : x.size(-1)) {}
};

template <class T>
T* ptr_or_null(const Tensor& t) {
  return t.defined() ? t.ptr<T>() : nullptr;
}

void check_drop(const char* where, const Tensor& x, float p) {
  check(p >= 0.0f && p < 1.0f, where, "probability out of range; expected 0 <= p < 1; got ", p);
  check(x.rank() >= 1, where, "expected a batch, (B, ..); got ", x.shape());
}

// x + factor * scale * branch; x may be undefined.
Tensor joined(const Tensor& x, const Tensor& branch, const Join& join) {
  const Rows r(branch);
  const kernels::BranchEnd end = branch_end(join, branch);
  Tensor y = like(branch);
  on(y, [&]<class T>(const auto& dev) {
    kernels::residual_branch_forward<T>(dev, y.ptr<T>(), ptr_or_null<T>(x), branch.ptr<T>(), end.gamma, end.drop,
                                        r.rows, r.per_sample, r.cols);
  });
  return y;
}

}  // namespace

void check_join(const char* where, const Tensor& x, const Tensor& branch, const Join& join) {
  check_drop(where, x, join.drop_path);
  check(x.shape() == branch.shape() && x.dtype() == branch.dtype(), where, "the branch does not fit; expected ",
        x.shape(), " ", name_of(x.dtype()), "; got ", branch.shape(), " ", name_of(branch.dtype()));
  if (join.scale.defined())
    check(join.scale.count() == x.size(-1) && x.rank() >= 2 && join.scale.dtype() == DType::f32, where,
          "gamma does not fit; expected (", x.size(-1), ") f32 for (B, .., C); got ", join.scale.shape(), " ",
          name_of(join.scale.dtype()), " for ", x.shape());
}

kernels::BranchEnd branch_end(const Join& join, const Tensor& x) {
  return {ptr_or_null<float>(join.scale),
          {join.drop_path, join.key, join.first_sample},
          std::max<int64_t>(1, Rows(x).per_sample)};
}

void residual_branch_backward(const Tensor& dbranch, const Tensor& dscale, const Tensor& dy, const Tensor& branch,
                              const Join& join) {
  const Rows r(dy);
  const kernels::BranchEnd end = branch_end(join, dy);
  on(dy, [&]<class T>(const auto& dev) {
    kernels::residual_branch_backward<T>(dev, ptr_or_null<T>(dbranch), ptr_or_null<float>(dscale), dy.ptr<T>(),
                                         ptr_or_null<T>(branch), end.gamma, end.drop, r.rows, r.per_sample, r.cols);
  });
}

Tensor drop_path(const Tensor& x, float p, const RandomKey& key, int64_t first_sample) {
  check_drop("drop_path", x, p);
  if (p == 0.0f) return x;
  const Join join{{}, p, key, first_sample};
  const Tensor y = joined(Tensor(), x, join);
  const double n = static_cast<double>(x.count()), bytes = 2.0 * static_cast<double>(x.bytes());
  // What was dropped is not stored: its random numbers have addresses, so backward draws them again.
  return record("drop_path", y, {x}, {}, Cost{n, bytes, n, bytes},
                [join](const BackwardContext& ctx) -> Grads { return {joined(Tensor(), ctx.dy(), join)}; });
}

// dx = dy
Tensor residual_branch(const Tensor& x, const Tensor& branch, const Join& join) {
  const char* where = "residual_branch";
  check_join(where, x, branch, join);
  const Tensor y = joined(x, branch, join);
  const double n = static_cast<double>(x.count()), bytes = static_cast<double>(x.bytes());
  if (join.plain())  // a sum
    return record(where, y, {x, branch}, {}, Cost{n, 3 * bytes, 0, 0}, [](const BackwardContext& ctx) -> Grads {
      return {ctx.dy(), ctx.dy()};
    });
  const bool scaled = join.scale.defined();
  return record(where, y, {x, branch, join.scale}, scaled ? Saved{branch, join.scale} : Saved{},
                Cost{3 * n, 3 * bytes, scaled ? 4 * n : n, (scaled ? 3 : 2) * bytes},
                [scaled, join = without_scale(join)](const BackwardContext& ctx) -> Grads {
                  Tensor dbranch, dscale;
                  if (ctx.needs(1)) dbranch = like(ctx.dy());
                  if (scaled && ctx.needs(2)) dscale = ctx.param_grad(2);
                  Join mine = join;
                  if (scaled) mine.scale = ctx.saved(1);
                  residual_branch_backward(dbranch, dscale, ctx.dy(), scaled ? ctx.saved(0) : Tensor(), mine);
                  return {ctx.dy(), dbranch, dscale};
                });
}

Tensor residual_branch_plain(const Tensor& x, const Tensor& branch, const Join& join) {
  const Tensor scaled = join.scale.defined() ? column_scale(branch, join.scale) : branch;
  return add(x, drop_path(scaled, join.drop_path, join.key, join.first_sample));
}

}  // namespace accrete::ops
