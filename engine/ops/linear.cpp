// Matrix products.  y = x w^T + b:   dx = dy w,   dw = dy^T x,   db = sum of the rows of dy
#include "engine/ops/ops.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"

namespace accrete::ops {
namespace {

// c (+)= op(a) op(b) (+ bias); c may be f32 while a and b are bf16.
void product(const Tensor& c, const Tensor& a, const Tensor& b, const float* bias, const kernels::GemmShape& s) {
  on(a, [&]<class T>(const auto& dev) {
    if (c.dtype() == a.dtype())
      kernels::gemm<T, T>(dev, c.ptr<T>(), a.ptr<T>(), b.ptr<T>(), bias, s);
    else
      kernels::gemm<T, float>(dev, c.ptr<float>(), a.ptr<T>(), b.ptr<T>(), bias, s);
  });
}

Cost product_cost(double m, double n, double k, const Tensor& a, const Tensor& b, const Tensor& c, bool da, bool db) {
  const double flops = 2 * m * n * k;
  const double bytes = static_cast<double>(a.bytes() + b.bytes() + c.bytes());
  return Cost{flops, bytes, flops * ((da ? 1 : 0) + (db ? 1 : 0)), bytes * ((da ? 1 : 0) + (db ? 1 : 0))};
}

struct LinearSizes {
  int64_t rows, in, out;
};

LinearSizes check_linear(const char* where, const Tensor& x, const Tensor& w, const Tensor& b) {
  check(w.rank() == 2 && x.rank() >= 1 && x.size(-1) == w.size(1), where, "inner sizes differ: x is ", x.shape(),
        ", w is ", w.shape());
  check(x.dtype() == w.dtype(), where, "types differ: x is ", name_of(x.dtype()), ", w is ", name_of(w.dtype()));
  if (b.defined())
    check(b.count() == w.size(0) && b.dtype() == DType::f32, where, "bias does not fit; expected (", w.size(0),
          ") f32; got ", b.shape(), " ", name_of(b.dtype()));
  return {x.shape().rows(), w.size(1), w.size(0)};
}

Tensor linear_value(const Tensor& x, const Tensor& w, const Tensor& b, const LinearSizes& s) {
  Tensor y = Tensor::empty(x.shape().with_last(s.out), x.dtype(), x.device());
  product(y, x, w, b.defined() ? b.ptr<float>() : nullptr, {.M = s.rows, .N = s.out, .K = s.in, .trans_b = true});
  return y;
}

// Gradients of x, w, b from dy; saved tensors 0 and 1 are x and w.
Grads linear_grads(const BackwardContext& ctx, const Tensor& dy, const LinearSizes& s) {
  const Tensor& x = ctx.saved(0);
  const Tensor& w = ctx.saved(1);
  Tensor dx, dw, db;
  if (ctx.needs(1)) {
    dw = ctx.param_grad(1);
    product(dw, dy, x, nullptr, {.M = s.out, .N = s.in, .K = s.rows, .trans_a = true, .accumulate = true});
  }
  if (ctx.needs(2)) {
    db = ctx.param_grad(2);
    on(dy, [&]<class T>(const auto& dev) {
      kernels::column_sum<T>(dev, db.ptr<float>(), dy.ptr<T>(), s.rows, s.out, true);
    });
  }
  if (ctx.needs(0)) {
    dx = like(x);
    product(dx, dy, w, nullptr, {.M = s.rows, .N = s.in, .K = s.out});
  }
  return {dx, dw, db};
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a, bool trans_b) {
  check((a.rank() == 2 && b.rank() == 2) || (a.rank() == 3 && b.rank() == 3 && a.size(0) == b.size(0)), "matmul",
        "expected two matrices or two equal batches of matrices; got ", a.shape(), " and ", b.shape());
  check(a.dtype() == b.dtype(), "matmul", "types differ: ", name_of(a.dtype()), " and ", name_of(b.dtype()));
  const int64_t batch = a.rank() == 3 ? a.size(0) : 1;
  const int64_t M = trans_a ? a.size(-1) : a.size(-2), K = trans_a ? a.size(-2) : a.size(-1);
  const int64_t N = trans_b ? b.size(-2) : b.size(-1), Kb = trans_b ? b.size(-1) : b.size(-2);
  check(K == Kb, "matmul", "inner sizes differ: a is ", a.shape(), ", b is ", b.shape());
  Tensor y = Tensor::empty(a.rank() == 3 ? Shape{batch, M, N} : Shape{M, N}, a.dtype(), a.device());
  product(y, a, b, nullptr, {.M = M, .N = N, .K = K, .trans_a = trans_a, .trans_b = trans_b, .batch = batch});
  const double m = static_cast<double>(batch * M);
  return record(
      "matmul", y, {a, b}, Saved{a, b},
      product_cost(m, static_cast<double>(N), static_cast<double>(K), a, b, y, requires_grad(a), requires_grad(b)),
      [=](const BackwardContext& ctx) -> Grads {
        const Tensor& a = ctx.saved(0);
        const Tensor& b = ctx.saved(1);
        const Tensor& dy = ctx.dy();
        Tensor da, db;
        if (ctx.needs(0)) {
          da = like(a);
          if (trans_a)  // a^T: da = b dy^T
            product(da, b, dy, nullptr, {.M = K, .N = M, .K = N, .trans_a = trans_b, .trans_b = true, .batch = batch});
          else
            product(da, dy, b, nullptr, {.M = M, .N = K, .K = N, .trans_b = !trans_b, .batch = batch});
        }
        if (ctx.needs(1)) {
          db = like(b);
          if (trans_b)  // b^T: db = dy^T a
            product(db, dy, a, nullptr, {.M = N, .N = K, .K = M, .trans_a = true, .trans_b = trans_a, .batch = batch});
          else
            product(db, a, dy, nullptr, {.M = K, .N = N, .K = M, .trans_a = !trans_a, .batch = batch});
        }
        return {da, db};
      });
}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b) {
  const LinearSizes s = check_linear("linear", x, w, b);
  const Tensor y = linear_value(x, w, b, s);
  return record("linear", y, {x, w, b}, Saved{x, w},
                product_cost(static_cast<double>(s.rows), static_cast<double>(s.out), static_cast<double>(s.in), x, w,
                             y, requires_grad(x), requires_grad(w)),
                [s](const BackwardContext& ctx) -> Grads { return linear_grads(ctx, ctx.dy(), s); });
}

Tensor linear_plain(const Tensor& x, const Tensor& w, const Tensor& b) {
  const Tensor rows = reshape(x, Shape{x.shape().rows(), x.size(-1)});
  Tensor y = matmul(rows, w, false, true);
  if (b.defined()) y = bias_add(y, b);
  return reshape(y, x.shape().with_last(w.size(0)));
}

Tensor linear_gelu(const Tensor& x, const Tensor& w, const Tensor& b, Gelu form) {
  const LinearSizes s = check_linear("linear_gelu", x, w, b);
  const Unary f = form == Gelu::tanh ? Unary::gelu_tanh : Unary::gelu_erf;
  const Tensor u = linear_value(x, w, b, s);  // kept: the derivative of gelu needs it
  const bool keep = grad_enabled();
  const Tensor y = keep ? like(u) : u;
  on(u, [&]<class T>(const auto& dev) { kernels::unary_forward<T>(dev, f, y.ptr<T>(), u.ptr<T>(), u.count()); });
  Cost cost = product_cost(static_cast<double>(s.rows), static_cast<double>(s.out), static_cast<double>(s.in), x, w, y,
                           requires_grad(x), requires_grad(w));
  cost.bytes += 2.0 * static_cast<double>(y.bytes());
  cost.backward_bytes += 3.0 * static_cast<double>(y.bytes());
  return record("linear_gelu", y, {x, w, b}, keep ? Saved{x, w, u} : Saved{}, cost,
                [s, f](const BackwardContext& ctx) -> Grads {
                  const Tensor& u = ctx.saved(2);
                  Tensor du = like(u);
                  on(u, [&]<class T>(const auto& dev) {
                    kernels::unary_backward<T>(dev, f, du.ptr<T>(), u.ptr<T>(), ctx.dy().template ptr<T>(), u.count());
                  });
                  return linear_grads(ctx, du, s);
                });
}

Tensor linear_gelu_plain(const Tensor& x, const Tensor& w, const Tensor& b, Gelu form) {
  return gelu(linear_plain(x, w, b), form);
}

}  // namespace accrete::ops
