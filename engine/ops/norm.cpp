// Layer normalisation and softmax. Derivations stand in kernels/layernorm.h and kernels/softmax.h.
#include "engine/ops/residual.h"
#include "kernels/layernorm.h"
#include "kernels/softmax.h"

namespace accrete::ops {
namespace {

void check_norm(const char* where, const Tensor& x, const Tensor& gamma, const Tensor& beta) {
  check(x.rank() >= 1, where, "needs at least one axis");
  check(gamma.count() == x.size(-1) && gamma.dtype() == DType::f32, where, "gamma does not fit x ", x.shape(),
        "; expected (", x.size(-1), ") f32; got ", gamma.shape(), " ", name_of(gamma.dtype()));
  if (beta.defined())
    check(beta.count() == x.size(-1) && beta.dtype() == DType::f32, where, "beta does not fit x ", x.shape(), "; got ",
          beta.shape());
}

const float* pointer_or_null(const Tensor& t) { return t.defined() ? t.ptr<float>() : nullptr; }

struct Statistics {
  Tensor mean, rstd;
};

Statistics statistics_for(const Tensor& x) {
  const int64_t n = x.shape().rows();
  return {Tensor::empty(Shape{n}, DType::f32, x.device()), Tensor::empty(Shape{n}, DType::f32, x.device())};
}

Cost norm_cost(const Tensor& x, int passes) {
  const double n = static_cast<double>(x.count()), bytes = static_cast<double>(x.bytes());
  return Cost{8 * n, bytes * passes, 12 * n, bytes * (passes + 1)};
}

// Gradient of layernorm at `x` for dy, plus `add` (may be undefined); parameters at inputs gamma_at and gamma_at + 1.
// dbranch, where defined: the gradient of the branch that joined x as `join` says.
Tensor norm_backward(const BackwardContext& ctx, const Tensor& dy, const Tensor& add, const Tensor& x,
                     const Tensor& gamma, const Tensor& mean, const Tensor& rstd, size_t gamma_at, Tensor& dgamma,
                     Tensor& dbeta, const Tensor& dbranch = {}, const Join& join = {}) {
  if (ctx.needs(gamma_at)) dgamma = ctx.param_grad(gamma_at);
  if (ctx.needs(gamma_at + 1)) dbeta = ctx.param_grad(gamma_at + 1);
  Tensor dx = like(x);
  on(x, [&]<class T>(const auto& dev) {
    kernels::layernorm_backward<T>(dev, dx.ptr<T>(), dgamma.defined() ? dgamma.ptr<float>() : nullptr,
                                   dbeta.defined() ? dbeta.ptr<float>() : nullptr,
                                   add.defined() ? add.ptr<T>() : nullptr, dy.ptr<T>(), x.ptr<T>(), gamma.ptr<float>(),
                                   mean.ptr<float>(), rstd.ptr<float>(), x.shape().rows(), x.size(-1),
                                   dbranch.defined() ? dbranch.ptr<T>() : nullptr, branch_end(join, x));
  });
  return dx;
}

}  // namespace

Tensor layernorm(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) {
  check_norm("layernorm", x, gamma, beta);
  Tensor y = like(x);
  const auto [mean, rstd] = statistics_for(x);
  on(x, [&, &mean = mean, &rstd = rstd]<class T>(const auto& dev) {
    kernels::layernorm_forward<T>(dev, y.ptr<T>(), mean.template ptr<float>(), rstd.template ptr<float>(), x.ptr<T>(),
                                  gamma.ptr<float>(), pointer_or_null(beta), x.shape().rows(), x.size(-1), eps);
  });
  return record("layernorm", y, {x, gamma, beta}, Saved{x, gamma, mean, rstd}, norm_cost(x, 2),
                [](const BackwardContext& ctx) -> Grads {
                  // The gradient that already arrived over the residual path is added in the same pass.
                  const Tensor pending = ctx.take_pending(0);
                  Tensor dgamma, dbeta;
                  const Tensor dx = norm_backward(ctx, ctx.dy(), pending, ctx.saved(0), ctx.saved(1), ctx.saved(2),
                                                  ctx.saved(3), 1, dgamma, dbeta);
                  return {dx, dgamma, dbeta};
                });
}

// Row means are products with a constant matrix of 1/C, so that only simple ops appear.
Tensor layernorm_plain(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) {
  const int64_t n = x.shape().rows(), c = x.size(-1);
  Tensor average = Tensor::empty(Shape{c, c}, x.dtype(), x.device());
  on(average, [&]<class T>(const auto& dev) {
    kernels::fill<T>(dev, average.ptr<T>(), 1.0f / static_cast<float>(c), average.count());
  });
  const Tensor rows = reshape(x, Shape{n, c});
  const Tensor centred = sub(rows, matmul(rows, average));
  const Tensor variance = matmul(unary(Unary::square, centred), average);
  const Tensor rstd = unary(Unary::reciprocal, unary(Unary::sqrt, affine(variance, 1.0f, eps)));
  Tensor y = column_scale(mul(centred, rstd), gamma);
  if (beta.defined()) y = bias_add(y, beta);
  return reshape(y, x.shape());
}

ResidualNorm residual_layernorm(const Tensor& branch, const Tensor& residual, const Tensor& gamma, const Tensor& beta,
                                float eps, const Join& join) {
  const char* where = "residual_layernorm";
  check_norm(where, branch, gamma, beta);
  check_join(where, residual, branch, join);
  Tensor sum = like(branch), y = like(branch);
  const auto [mean, rstd] = statistics_for(branch);
  on(branch, [&, &mean = mean, &rstd = rstd]<class T>(const auto& dev) {
    kernels::residual_layernorm_forward<T>(dev, sum.ptr<T>(), y.ptr<T>(), mean.template ptr<float>(),
                                           rstd.template ptr<float>(), branch.ptr<T>(), residual.ptr<T>(),
                                           gamma.ptr<float>(), pointer_or_null(beta), branch.shape().rows(),
                                           branch.size(-1), eps, branch_end(join, branch));
  });
  const bool scaled = join.scale.defined();
  Cost cost = norm_cost(branch, 4);
  if (!join.plain()) cost.backward_bytes += static_cast<double>(branch.bytes()) * (scaled ? 3 : 1);
  auto out = record(where, {sum, y}, {branch, residual, gamma, beta, join.scale},
                    scaled ? Saved{sum, gamma, mean, rstd, branch, join.scale} : Saved{sum, gamma, mean, rstd}, cost,
                    [scaled, plain = join.plain(), join = without_scale(join)](const BackwardContext& ctx) -> Grads {
                      Join mine = join;
                      if (scaled) mine.scale = ctx.saved(5);
                      const bool normed = ctx.dy(1).defined();
                      Tensor d = ctx.dy(0), dbranch, dgamma, dbeta, dscale;
                      if (!plain && ctx.needs(0)) dbranch = like(ctx.saved(0));
                      if (normed)
                        d = norm_backward(ctx, ctx.dy(1), ctx.dy(0), ctx.saved(0), ctx.saved(1), ctx.saved(2),
                                          ctx.saved(3), 2, dgamma, dbeta, dbranch, mine);
                      if (scaled && ctx.needs(4)) dscale = ctx.param_grad(4);
                      if (dscale.defined() || (dbranch.defined() && !normed))
                        residual_branch_backward(normed ? Tensor() : dbranch, dscale, d,
                                                 scaled ? ctx.saved(4) : Tensor(), mine);
                      return {plain ? d : dbranch, d, dgamma, dbeta, dscale};
                    });
  return {out[0], out[1]};
}

ResidualNorm residual_layernorm_plain(const Tensor& branch, const Tensor& residual, const Tensor& gamma,
                                      const Tensor& beta, float eps, const Join& join) {
  const Tensor sum = join.plain() ? add(branch, residual) : residual_branch_plain(residual, branch, join);
  return {sum, layernorm_plain(sum, gamma, beta, eps)};
}

Tensor softmax(const Tensor& x, bool causal) {
  check(x.rank() >= (causal ? 2 : 1), "softmax", "too few axes: ", x.shape());
  Tensor y = like(x);
  const int64_t causal_rows = causal ? x.size(-2) : 0;
  on(x, [&]<class T>(const auto& dev) {
    kernels::softmax_forward<T>(dev, y.ptr<T>(), x.ptr<T>(), x.shape().rows(), x.size(-1), causal_rows);
  });
  const double n = static_cast<double>(x.count()), bytes = static_cast<double>(x.bytes());
  return record("softmax", y, {x}, Saved{y}, Cost{5 * n, 2 * bytes, 4 * n, 3 * bytes},
                [](const BackwardContext& ctx) -> Grads {
                  const Tensor& y = ctx.saved(0);
                  Tensor dx = like(y);
                  on(y, [&]<class T>(const auto& dev) {
                    kernels::softmax_backward<T>(dev, dx.ptr<T>(), y.ptr<T>(), ctx.dy().template ptr<T>(),
                                                 y.shape().rows(), y.size(-1));
                  });
                  return {dx};
                });
}

}  // namespace accrete::ops
