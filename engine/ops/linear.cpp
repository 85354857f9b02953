// Matrix products.  y = x w^T + b:   dx = dy w,   dw = dy^T x,   db = sum of the rows of dy
//
// What can ride on a product does (kernels::Epilogue): the bias, gelu while its argument is kept for backward, gelu' on
// the product that makes the gradient of its result, db on the product that makes dw.
#include "engine/ops/ops.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"

namespace accrete::ops {
namespace {

// What rides on a product, in tensors. Undefined: without.
struct Riders {
  Tensor bias;
  kernels::Then then = kernels::Then::nothing;
  Gelu form = Gelu::tanh;
  Tensor aux;            // like c
  Tensor bias_gradient;  // f32, added to
};

// c (+)= op(a) op(b), with riders; c may be f32 while a and b are bf16 or f16.
void product(const Tensor& c, const Tensor& a, const Tensor& b, const kernels::GemmShape& s, const Riders& r = {}) {
  on(a, [&]<class T>(const auto& dev) {
    const auto run = [&]<class Out>(Out* out) {
      kernels::Epilogue<Out> e{.then = r.then, .erf = r.form == Gelu::erf};
      if (r.bias.defined()) e.bias = r.bias.ptr<float>();
      if (r.aux.defined()) e.aux = r.aux.ptr<Out>();
      if (r.bias_gradient.defined()) e.bias_gradient = r.bias_gradient.ptr<float>();
      kernels::gemm<T, Out>(dev, out, a.ptr<T>(), b.ptr<T>(), e, s);
    };
    if (c.dtype() == a.dtype())
      run(c.ptr<T>());
    else
      run(c.ptr<float>());
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
  product(y, x, w, {.M = s.rows, .N = s.out, .K = s.in, .trans_b = true}, {.bias = b});
  return y;
}

// y = gelu(u) with u = x w^T + b; u stays undefined where it is not kept.
Tensor linear_gelu_value(Tensor* u, const Tensor& x, const Tensor& w, const Tensor& b, Gelu form,
                         const LinearSizes& s) {
  Tensor y = Tensor::empty(x.shape().with_last(s.out), x.dtype(), x.device());
  if (u) *u = like(y);
  product(y, x, w, {.M = s.rows, .N = s.out, .K = s.in, .trans_b = true},
          {.bias = b, .then = kernels::Then::gelu, .form = form, .aux = u ? *u : Tensor()});
  return y;
}

// dw and db of the layer whose weight and bias are inputs `weight` and `weight` + 1; x is its input, dy the gradient of
// its result.
void weight_grads(const BackwardContext& ctx, Grads& grads, size_t weight, const Tensor& dy, const Tensor& x,
                  const LinearSizes& s) {
  Tensor& dw = grads[weight];
  Tensor& db = grads[weight + 1];
  if (ctx.needs(weight + 1)) db = ctx.param_grad(weight + 1);
  if (ctx.needs(weight)) {
    dw = ctx.param_grad(weight);
    product(dw, dy, x, {.M = s.out, .N = s.in, .K = s.rows, .trans_a = true, .accumulate = true},
            {.bias_gradient = db});
  } else if (db.defined()) {
    on(dy, [&]<class T>(const auto& dev) {
      kernels::column_sum<T>(dev, db.ptr<float>(), dy.ptr<T>(), s.rows, s.out, true);
    });
  }
}

// Gradients of x, w, b (inputs 0, 1, 2) from dy.
Grads linear_grads(const BackwardContext& ctx, const Tensor& x, const Tensor& w, const Tensor& dy,
                   const LinearSizes& s) {
  Grads grads(3);
  weight_grads(ctx, grads, 1, dy, x, s);
  if (ctx.needs(0)) {
    grads[0] = like(x);
    product(grads[0], dy, w, {.M = s.rows, .N = s.in, .K = s.out});
  }
  return grads;
}

Cost linear_cost(const LinearSizes& s, const Tensor& x, const Tensor& w, const Tensor& y, bool dx, bool dw) {
  return product_cost(static_cast<double>(s.rows), static_cast<double>(s.out), static_cast<double>(s.in), x, w, y, dx,
                      dw);
}

// gelu writes its result and reads its argument; backward reads two and writes one.
void add_gelu_bytes(Cost& cost, const Tensor& y) {
  cost.bytes += 2.0 * static_cast<double>(y.bytes());
  cost.backward_bytes += 3.0 * static_cast<double>(y.bytes());
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
  product(y, a, b, {.M = M, .N = N, .K = K, .trans_a = trans_a, .trans_b = trans_b, .batch = batch});
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
            product(da, b, dy, {.M = K, .N = M, .K = N, .trans_a = trans_b, .trans_b = true, .batch = batch});
          else
            product(da, dy, b, {.M = M, .N = K, .K = N, .trans_b = !trans_b, .batch = batch});
        }
        if (ctx.needs(1)) {
          db = like(b);
          if (trans_b)  // b^T: db = dy^T a
            product(db, dy, a, {.M = N, .N = K, .K = M, .trans_a = true, .trans_b = trans_a, .batch = batch});
          else
            product(db, a, dy, {.M = K, .N = N, .K = M, .trans_a = !trans_a, .batch = batch});
        }
        return {da, db};
      });
}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b) {
  const LinearSizes s = check_linear("linear", x, w, b);
  const Tensor y = linear_value(x, w, b, s);
  return record(
      "linear", y, {x, w, b}, Saved{x, w}, linear_cost(s, x, w, y, requires_grad(x), requires_grad(w)),
      [s](const BackwardContext& ctx) -> Grads { return linear_grads(ctx, ctx.saved(0), ctx.saved(1), ctx.dy(), s); });
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
  const bool keep = grad_enabled();
  Tensor u;  // kept: the derivative of gelu needs it
  const Tensor y = linear_gelu_value(keep ? &u : nullptr, x, w, b, form, s);
  Cost cost = linear_cost(s, x, w, y, requires_grad(x), requires_grad(w));
  add_gelu_bytes(cost, y);
  return record("linear_gelu", y, {x, w, b}, keep ? Saved{x, w, u} : Saved{}, cost,
                [s, f](const BackwardContext& ctx) -> Grads {
                  const Tensor& u = ctx.saved(2);
                  Tensor du = like(u);
                  on(u, [&]<class T>(const auto& dev) {
                    kernels::unary_backward<T>(dev, f, du.ptr<T>(), u.ptr<T>(), ctx.dy().template ptr<T>(), u.count());
                  });
                  return linear_grads(ctx, ctx.saved(0), ctx.saved(1), du, s);
                });
}

Tensor linear_gelu_plain(const Tensor& x, const Tensor& w, const Tensor& b, Gelu form) {
  return gelu(linear_plain(x, w, b), form);
}

// With u = x w1^T + b1, h = gelu(u), y = h w2^T + b2:
//   du = (dy w2) * gelu'(u)   in one product: this is why the two layers are one op
//   dw2 = dy^T h, db2 = sum of the rows of dy;   dx, dw1, db1 from du as in linear
Tensor mlp(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, Gelu form) {
  const LinearSizes s1 = check_linear("mlp", x, w1, b1);
  const bool keep = grad_enabled();
  Tensor u;
  const Tensor h = linear_gelu_value(keep ? &u : nullptr, x, w1, b1, form, s1);
  const LinearSizes s2 = check_linear("mlp", h, w2, b2);
  const Tensor y = linear_value(h, w2, b2, s2);
  const bool du_wanted = requires_grad(x) || requires_grad(w1) || requires_grad(b1);
  Cost cost = linear_cost(s1, x, w1, h, requires_grad(x), requires_grad(w1));
  const Cost second = linear_cost(s2, h, w2, y, du_wanted, requires_grad(w2));
  cost.flops += second.flops, cost.bytes += second.bytes;
  cost.backward_flops += second.backward_flops, cost.backward_bytes += second.backward_bytes;
  add_gelu_bytes(cost, h);
  return record("mlp", y, {x, w1, b1, w2, b2}, keep ? Saved{x, w1, u, h, w2} : Saved{}, cost,
                [s1, s2, form](const BackwardContext& ctx) -> Grads {
                  const Tensor &x = ctx.saved(0), &w1 = ctx.saved(1), &u = ctx.saved(2), &h = ctx.saved(3),
                               &w2 = ctx.saved(4), &dy = ctx.dy();
                  Grads grads(5);
                  weight_grads(ctx, grads, 3, dy, h, s2);
                  if (!ctx.needs(0) && !ctx.needs(1) && !ctx.needs(2)) return grads;
                  const Tensor du = like(u);
                  product(du, dy, w2, {.M = s2.rows, .N = s2.in, .K = s2.out},
                          {.then = kernels::Then::gelu_gradient, .form = form, .aux = u});
                  const Grads first = linear_grads(ctx, x, w1, du, s1);
                  for (size_t i = 0; i < 3; ++i) grads[i] = first[i];
                  return grads;
                });
}

Tensor mlp_plain(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, Gelu form) {
  return linear_plain(linear_gelu_plain(x, w1, b1, form), w2, b2);
}

}  // namespace accrete::ops
