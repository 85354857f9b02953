// Batch normalisation. Derivation in kernels/batch_norm.cu.
#include "kernels/batch_norm.h"

#include "engine/ops/images.h"
#include "engine/ops/update.h"

namespace accrete::ops {
namespace {

void check_vector(const char* what, const Tensor& v, const Tensor& x) {
  check(v.defined() && v.count() == x.size(-1) && v.dtype() == DType::f32 && v.device() == x.device(), "batch_norm",
        what, " does not fit x ", x.shape(), "; expected (", x.size(-1), ") f32; got ",
        v.defined() ? v.shape() : Shape{}, " ", v.defined() ? name_of(v.dtype()) : "undefined");
}

Tensor filled(int64_t channels, float value, Device device) {
  const Tensor v = Tensor::empty(Shape{channels}, DType::f32, device);
  update::fill(v, value);
  return v;
}

}  // namespace

// The running statistics lie in the flat buffer of all weights and share its version. They move without a new one,
// which would say that the weights have changed; nothing keeps them: backward uses the mean and rstd made here.
Tensor batch_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options) {
  check(x.rank() >= 1, "batch_norm", "needs at least one axis");
  check(gamma.defined() == beta.defined(), "batch_norm", "expected gamma and beta, or neither");
  const Tensor scale = gamma.defined() ? gamma : filled(x.size(-1), 1.0f, x.device());
  const Tensor shift = beta.defined() ? beta : filled(x.size(-1), 0.0f, x.device());
  check_vector("gamma", scale, x);
  check_vector("beta", shift, x);
  check_vector("running_mean", running_mean, x);
  check_vector("running_var", running_var, x);
  const int64_t N = x.shape().rows(), C = x.size(-1);
  const bool of_batch = options.training;
  check(!of_batch || N >= 2, "batch_norm", "statistics of a batch need at least two rows; got ", x.shape());
  Tensor y = like(x);
  const Tensor mean = Tensor::empty(Shape{C}, DType::f32, x.device()), rstd = like(mean);
  on(x, [&]<class T>(const auto& dev) {
    float *m = mean.ptr<float>(), *r = rstd.ptr<float>();
    float *moving_mean = running_mean.ptr<float>(), *moving_var = running_var.ptr<float>();
    if (of_batch)
      kernels::batch_norm_statistics<T>(dev, m, r, moving_mean, moving_var, x.ptr<T>(), N, C, options.momentum,
                                        options.eps);
    else
      kernels::batch_norm_running(dev, m, r, moving_mean, moving_var, C, options.eps);
    kernels::batch_norm_forward<T>(dev, y.ptr<T>(), x.ptr<T>(), m, r, scale.ptr<float>(), shift.ptr<float>(), N, C);
  });
  const double n = static_cast<double>(x.count()), bytes = static_cast<double>(x.bytes());
  return record("batch_norm", y, {x, gamma, beta}, Saved{x, scale, mean, rstd},
                Cost{of_batch ? 8 * n : 4 * n, bytes * (of_batch ? 4 : 2), 12 * n, 5 * bytes},
                [N, C, of_batch](const BackwardContext& ctx) -> Grads {
                  const Tensor &x = ctx.saved(0), &gamma = ctx.saved(1), &mean = ctx.saved(2), &rstd = ctx.saved(3);
                  Tensor dx, dgamma, dbeta;
                  if (ctx.needs(0)) dx = like(x);
                  if (ctx.needs(1)) dgamma = ctx.param_grad(1);
                  if (ctx.needs(2)) dbeta = ctx.param_grad(2);
                  const SegmentScope workspace(Segment::workspace);
                  const Tensor sums = Tensor::empty(Shape{2, C}, DType::f32, x.device());
                  on(x, [&]<class T>(const auto& dev) {
                    kernels::batch_norm_backward<T>(
                        dev, dx.defined() ? dx.ptr<T>() : nullptr, dgamma.defined() ? dgamma.ptr<float>() : nullptr,
                        dbeta.defined() ? dbeta.ptr<float>() : nullptr, sums.ptr<float>(), ctx.dy().template ptr<T>(),
                        x.ptr<T>(), mean.ptr<float>(), rstd.ptr<float>(), gamma.ptr<float>(), N, C, of_batch);
                  });
                  return {dx, dgamma, dbeta};
                });
}

}  // namespace accrete::ops
