// Elementwise ops. Values and derivatives of the unary functions stand in kernels/unary.h.
#include "engine/ops/ops.h"
#include "kernels/cast.h"
#include "kernels/dropout.h"
#include "kernels/reduce.h"

namespace accrete::ops {
namespace {

constexpr const char* kUnaryNames[] = {"neg",  "exp",     "log",  "sqrt", "square",    "reciprocal",
                                       "tanh", "sigmoid", "relu", "silu", "gelu_tanh", "gelu_erf"};
constexpr const char* kBinaryNames[] = {"add", "sub", "mul", "div"};

Cost elementwise_cost(const Tensor& y, int reads, int backward_passes) {
  const double n = static_cast<double>(y.count());
  const double bytes = static_cast<double>(y.bytes());
  return Cost{n, bytes * (reads + 1), n * backward_passes, bytes * 3 * backward_passes};
}

void check_same(const char* where, const Tensor& a, const Tensor& b) {
  check(a.shape() == b.shape(), where, "shapes differ: ", a.shape(), " and ", b.shape());
  check(a.dtype() == b.dtype(), where, "types differ: ", name_of(a.dtype()), " and ", name_of(b.dtype()));
}

Tensor multiply(const Tensor& a, const Tensor& b) {
  Tensor y = like(a);
  on(a, [&]<class T>(const auto& dev) {
    kernels::binary_forward<T>(dev, Binary::mul, y.ptr<T>(), a.ptr<T>(), b.ptr<T>(), a.count());
  });
  return y;
}

Tensor scaled(const Tensor& x, float alpha, float beta) {
  Tensor y = like(x);
  on(x, [&]<class T>(const auto& dev) { kernels::affine<T>(dev, y.ptr<T>(), x.ptr<T>(), alpha, beta, x.count()); });
  return y;
}

}  // namespace

Tensor unary(Unary f, const Tensor& x) {
  Tensor y = like(x);
  on(x, [&]<class T>(const auto& dev) { kernels::unary_forward<T>(dev, f, y.ptr<T>(), x.ptr<T>(), x.count()); });
  return record(kUnaryNames[static_cast<int>(f)], y, {x}, Saved{x}, elementwise_cost(y, 1, 1),
                [f](const BackwardContext& ctx) -> Grads {
                  const Tensor& x = ctx.saved(0);
                  Tensor dx = like(x);
                  on(x, [&]<class T>(const auto& dev) {
                    kernels::unary_backward<T>(dev, f, dx.ptr<T>(), x.ptr<T>(), ctx.dy().ptr<T>(), x.count());
                  });
                  return {dx};
                });
}

// d(a + b) = da + db;  d(a - b) = da - db;  d(ab) = b da + a db;  d(a / b) = da / b - (a / b) db / b
Tensor binary(Binary op, const Tensor& a, const Tensor& b) {
  const char* name = kBinaryNames[static_cast<int>(op)];
  check_same(name, a, b);
  Tensor y = like(a);
  on(a, [&]<class T>(const auto& dev) {
    kernels::binary_forward<T>(dev, op, y.ptr<T>(), a.ptr<T>(), b.ptr<T>(), a.count());
  });
  const bool linear = op == Binary::add || op == Binary::sub;
  return record(name, y, {a, b}, linear ? Saved{} : Saved{a, b}, elementwise_cost(y, 2, linear ? 0 : 2),
                [op](const BackwardContext& ctx) -> Grads {
                  const Tensor& dy = ctx.dy();
                  switch (op) {
                    case Binary::add:
                      return {dy, dy};
                    case Binary::sub:
                      return {dy, ctx.needs(1) ? scaled(dy, -1.0f, 0.0f) : Tensor()};
                    case Binary::mul:
                      return {ctx.needs(0) ? multiply(dy, ctx.saved(1)) : Tensor(),
                              ctx.needs(1) ? multiply(dy, ctx.saved(0)) : Tensor()};
                    case Binary::div:
                      break;
                  }
                  const Tensor& a = ctx.saved(0);
                  const Tensor& b = ctx.saved(1);
                  Tensor da = like(a), db;
                  on(a, [&]<class T>(const auto& dev) {
                    kernels::binary_forward<T>(dev, Binary::div, da.ptr<T>(), dy.ptr<T>(), b.ptr<T>(), a.count());
                  });
                  if (ctx.needs(1)) {
                    db = multiply(da, a);
                    on(a, [&]<class T>(const auto& dev) {
                      kernels::binary_forward<T>(dev, Binary::div, db.ptr<T>(), db.ptr<T>(), b.ptr<T>(), a.count());
                    });
                    db = scaled(db, -1.0f, 0.0f);
                  }
                  return {da, db};
                });
}

Tensor affine(const Tensor& x, float alpha, float beta) {
  Tensor y = scaled(x, alpha, beta);
  return record("affine", y, {x}, {}, elementwise_cost(y, 1, 1),
                [alpha](const BackwardContext& ctx) -> Grads { return {scaled(ctx.dy(), alpha, 0.0f)}; });
}

Tensor bias_add(const Tensor& x, const Tensor& bias) {
  const int64_t cols = x.size(-1), rows = x.shape().rows();
  check(bias.count() == cols && bias.dtype() == DType::f32, "bias_add", "bias does not fit; expected (", cols,
        ") f32; got ", bias.shape(), " ", name_of(bias.dtype()));
  Tensor y = like(x);
  on(x, [&]<class T>(const auto& dev) {
    kernels::bias_add<T>(dev, y.ptr<T>(), x.ptr<T>(), bias.ptr<float>(), rows, cols);
  });
  return record("bias_add", y, {x, bias}, {}, elementwise_cost(y, 1, 1),
                [rows, cols](const BackwardContext& ctx) -> Grads {
                  const Tensor& dy = ctx.dy();
                  Tensor db;
                  if (ctx.needs(1)) {
                    db = ctx.param_grad(1);
                    on(dy, [&]<class T>(const auto& dev) {
                      kernels::column_sum<T>(dev, db.ptr<float>(), dy.ptr<T>(), rows, cols, true);
                    });
                  }
                  return {dy, db};
                });
}

Tensor column_scale(const Tensor& x, const Tensor& scale) {
  const int64_t cols = x.size(-1), rows = x.shape().rows();
  check(scale.count() == cols && scale.dtype() == DType::f32, "column_scale", "scale does not fit; expected (", cols,
        ") f32; got ", scale.shape(), " ", name_of(scale.dtype()));
  Tensor y = like(x);
  on(x, [&]<class T>(const auto& dev) {
    kernels::column_scale<T>(dev, y.ptr<T>(), x.ptr<T>(), scale.ptr<float>(), rows, cols);
  });
  return record("column_scale", y, {x, scale}, Saved{x, scale}, elementwise_cost(y, 1, 2),
                [rows, cols](const BackwardContext& ctx) -> Grads {
                  const Tensor& x = ctx.saved(0);
                  const Tensor& dy = ctx.dy();
                  Tensor dx, ds;
                  if (ctx.needs(0)) dx = like(x);
                  if (ctx.needs(1)) ds = ctx.param_grad(1);
                  on(x, [&]<class T>(const auto& dev) {
                    if (dx.defined())
                      kernels::column_scale<T>(dev, dx.ptr<T>(), dy.ptr<T>(), ctx.saved(1).template ptr<float>(), rows,
                                               cols);
                    if (ds.defined())
                      kernels::column_dot<T>(dev, ds.ptr<float>(), dy.ptr<T>(), x.ptr<T>(), rows, cols, true);
                  });
                  return {dx, ds};
                });
}

namespace {

Tensor converted(const Tensor& x, DType dtype) {
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  on(dtype == DType::f32 ? x : y, [&]<class T>(const auto& dev) {
    if constexpr (!std::is_same_v<T, float>) {
      if (dtype == DType::f32)
        kernels::cast_to_f32(dev, y.ptr<float>(), x.ptr<T>(), x.count());
      else
        kernels::cast_from_f32(dev, y.ptr<T>(), x.ptr<float>(), x.count());
    }
  });
  return y;
}

}  // namespace

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const DType narrow = x.dtype() == DType::f32 ? dtype : x.dtype(), wide = x.dtype() == DType::f32 ? x.dtype() : dtype;
  check((narrow == DType::bf16 || narrow == DType::f16) && wide == DType::f32, "cast",
        "expected f32 to bf16 or f16, or back; got ", name_of(x.dtype()), " to ", name_of(dtype));
  Tensor y = converted(x, dtype);
  const double bytes = static_cast<double>(x.bytes() + y.bytes());
  return record("cast", y, {x}, {}, Cost{0, bytes, 0, bytes},
                [from = x.dtype()](const BackwardContext& ctx) -> Grads { return {converted(ctx.dy(), from)}; });
}

Tensor dropout(const Tensor& x, float p, const RandomKey& key, int64_t first) {
  check(p >= 0.0f && p < 1.0f, "dropout", "probability out of range; expected 0 <= p < 1; got ", p);
  if (p == 0.0f) return x;
  const auto run = [p, key, first](const Tensor& in) {
    Tensor out = like(in);
    on(in, [&]<class T>(const auto& dev) {
      kernels::dropout<T>(dev, out.ptr<T>(), in.ptr<T>(), in.count(), p, key, first);
    });
    return out;
  };
  const Tensor y = run(x);
  // The mask is not stored: its random numbers have addresses, so backward draws them again.
  return record("dropout", y, {x}, {}, elementwise_cost(y, 1, 1),
                [run](const BackwardContext& ctx) -> Grads { return {run(ctx.dy())}; });
}

}  // namespace accrete::ops
