#include "engine/ops/update.h"

#include "kernels/dropout.h"
#include "kernels/elementwise.h"
#include "kernels/reduce.h"

namespace accrete::update {
namespace {

float* f(const Tensor& t) { return t.ptr<float>(); }

// Calls fn(context, pointer) with the copy's pointer in its type; a null pointer where there is no copy.
template <class Fn>
void with_copy(const Tensor& p, const Tensor& copy, Fn&& fn) {
  on_device(p.device(), [&](const auto& dev) {
    if (copy.defined() && copy.dtype() == DType::f16)
      fn(dev, copy.ptr<f16>());
    else
      fn(dev, copy.defined() ? copy.ptr<bf16>() : nullptr);
  });
}

}  // namespace

void fill(const Tensor& x, float value) {
  on_device(x.device(), [&](const auto& dev) { kernels::fill<float>(dev, f(x), value, x.count()); });
}

void affine(const Tensor& y, const Tensor& x, float alpha, float beta) {
  check(y.count() == x.count(), "affine", "sizes differ: ", y.count(), " and ", x.count());
  on_device(x.device(), [&](const auto& dev) { kernels::affine<float>(dev, f(y), f(x), alpha, beta, x.count()); });
}

void add(const Tensor& y, const Tensor& x) {
  check(y.count() == x.count(), "add", "sizes differ: ", y.count(), " and ", x.count());
  on_device(x.device(), [&](const auto& dev) {
    kernels::binary_forward<float>(dev, kernels::Binary::add, f(y), f(y), f(x), x.count());
  });
}

void set_live_step(const Tensor& live_step, uint64_t step) {
  on_device(live_step.device(), [&](const auto& dev) {
    kernels::set_live_step(dev, reinterpret_cast<uint64_t*>(live_step.ptr<int64_t>()), step);
  });
}

void sum_of_squares(const Tensor& out, const Tensor& x) {
  on_device(x.device(), [&](const auto& dev) { kernels::sum_of_squares<float>(dev, f(out), f(x), x.count()); });
}

void dot(const Tensor& out, const Tensor& a, const Tensor& b) {
  check(a.count() == b.count(), "dot", "sizes differ: ", a.count(), " and ", b.count());
  on_device(a.device(), [&](const auto& dev) { kernels::dot(dev, f(out), f(a), f(b), a.count()); });
}

int64_t count_nonfinite(const Tensor& x) {
  Tensor n = Tensor::zeros(Shape{1}, DType::f32, x.device());
  on(x, [&]<class T>(const auto& dev) { kernels::count_nonfinite<T>(dev, n.ptr<float>(), x.ptr<T>(), x.count()); });
  return static_cast<int64_t>(n.item());
}

void clip_factor(const Tensor& out, const Tensor& norm2, float max_norm) {
  on_device(out.device(), [&](const auto& dev) { kernels::clip_factor(dev, f(out), f(norm2), max_norm); });
}

void adamw(const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& v, const Tensor& g,
           const Tensor& grad_scale, const AdamWSettings& s) {
  with_copy(p, copy, [&](const auto& dev, auto* narrow) {
    kernels::adamw_step(dev, f(p), narrow, f(m), f(v), f(g), f(grad_scale), p.count(), s);
  });
}

void adamw_parts(const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& v, const Tensor& g,
                 const Tensor& grad_scale, const Tensor& chunks, const Tensor& parts, const AdamWSettings& s) {
  with_copy(p, copy, [&](const auto& dev, auto* narrow) {
    kernels::adamw_parts(dev, f(p), narrow, f(m), f(v), f(g), f(grad_scale),
                         reinterpret_cast<const kernels::StepChunk*>(chunks.ptr<int64_t>()), chunks.size(0),
                         reinterpret_cast<const kernels::StepPart*>(f(parts)), s);
  });
}

void count_steps(const Tensor& parts, const Tensor& steps, const Tensor& rates, const Tensor& grad_scale,
                 const AdamWSettings& s) {
  on_device(parts.device(), [&](const auto& dev) {
    kernels::count_steps(dev, reinterpret_cast<kernels::StepPart*>(f(parts)), steps.ptr<int32_t>(),
                         reinterpret_cast<const kernels::StepRate*>(f(rates)), f(grad_scale), steps.count(), s);
  });
}

void lamb_direction(const Tensor& u, const Tensor& m, const Tensor& v, const Tensor& p, const Tensor& g,
                    const Tensor& grad_scale, const AdamWSettings& s) {
  on_device(p.device(), [&](const auto& dev) {
    kernels::lamb_direction(dev, f(u), f(m), f(v), f(p), f(g), f(grad_scale), p.count(), s);
  });
}

void lamb_apply(const Tensor& p, const Tensor& copy, const Tensor& u, const Tensor& p_norm2, const Tensor& u_norm2,
                const Tensor& grad_scale, float lr, bool adapt) {
  with_copy(p, copy, [&](const auto& dev, auto* narrow) {
    kernels::lamb_apply(dev, f(p), narrow, f(u), f(p_norm2), f(u_norm2), f(grad_scale), lr, adapt, p.count());
  });
}

void sgd(const Tensor& p, const Tensor& copy, const Tensor& momentum_buffer, const Tensor& g, const Tensor& grad_scale,
         float lr, float momentum, float weight_decay, bool nesterov) {
  with_copy(p, copy, [&](const auto& dev, auto* narrow) {
    kernels::sgd_step(dev, f(p), narrow, f(momentum_buffer), f(g), f(grad_scale), p.count(), lr, momentum, weight_decay,
                      nesterov);
  });
}

void lars_direction(const Tensor& u, const Tensor& p, const Tensor& g, const Tensor& grad_scale, float weight_decay) {
  on_device(p.device(), [&](const auto& dev) {
    kernels::lars_direction(dev, f(u), f(p), f(g), f(grad_scale), p.count(), weight_decay);
  });
}

void lars_apply(const Tensor& p, const Tensor& copy, const Tensor& momentum_buffer, const Tensor& u,
                const Tensor& p_norm2, const Tensor& u_norm2, const Tensor& grad_scale, float lr, float momentum,
                float trust, bool adapt) {
  with_copy(p, copy, [&](const auto& dev, auto* narrow) {
    kernels::lars_apply(dev, f(p), narrow, f(momentum_buffer), f(u), f(p_norm2), f(u_norm2), f(grad_scale), lr,
                        momentum, trust, adapt, p.count());
  });
}

void lion(const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& g, const Tensor& grad_scale, float lr,
          float beta1, float beta2, float weight_decay) {
  with_copy(p, copy, [&](const auto& dev, auto* narrow) {
    kernels::lion_step(dev, f(p), narrow, f(m), f(g), f(grad_scale), p.count(), lr, beta1, beta2, weight_decay);
  });
}

void muon_momentum(const Tensor& u, const Tensor& buffer, const Tensor& g, const Tensor& grad_scale, float momentum,
                   bool nesterov) {
  on_device(u.device(), [&](const auto& dev) {
    kernels::muon_momentum(dev, f(u), f(buffer), f(g), f(grad_scale), u.count(), momentum, nesterov);
  });
}

void scale_by_inverse_norm(const Tensor& y, const Tensor& x, const Tensor& norm2, float eps) {
  on_device(x.device(),
            [&](const auto& dev) { kernels::scale_by_inverse_norm(dev, f(y), f(x), f(norm2), eps, x.count()); });
}

void decayed_axpy(const Tensor& p, const Tensor& copy, const Tensor& u, const Tensor& grad_scale, float lr, float scale,
                  float weight_decay) {
  with_copy(p, copy, [&](const auto& dev, auto* narrow) {
    kernels::decayed_axpy(dev, f(p), narrow, f(u), f(grad_scale), lr, scale, weight_decay, p.count());
  });
}

void ema(const Tensor& e, const Tensor& p, const Tensor& grad_scale, float decay) {
  on_device(p.device(),
            [&](const auto& dev) { kernels::ema_update(dev, f(e), f(p), f(grad_scale), decay, p.count()); });
}

}  // namespace accrete::update
