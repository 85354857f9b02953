// Optimizer steps on the CPU: one pass over the flat range at memory speed, the rounded copy written on the way.
#include "kernels/optimizer.h"

#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

constexpr bf16* kNoCopy = nullptr;

// A step whose gradients are not finite does not happen.
bool skipped(const float* grad_scale) { return std::isnan(grad_scale[0]); }

// f<V>(i) returns the new p of elements i; both copies are stored here.
template <class T, class F>
void update(const Cpu& dev, float* p, T* copy, int64_t n, const F& f) {
  for_elements(dev, n, 2, [=](int64_t begin, int64_t end) {
    if (copy) {
      each(begin, end, [=]<class V>(int64_t i) {
        const V v = f.template operator()<V>(i);
        store(p + i, v);
        store(copy + i, v);
      });
    } else {
      each(begin, end, [=]<class V>(int64_t i) { store(p + i, f.template operator()<V>(i)); });
    }
  });
}

// What both Adam variants share: moments updated in place, and the direction mhat / (sqrt(vhat) + eps).
struct AdamDirection {
  float* m;
  float* v;
  const float* g;
  float scale, beta1, beta2, eps, correction1, correction2;

  AdamDirection(float* m_, float* v_, const float* g_, const float* grad_scale, const AdamWSettings& s)
      : m(m_), v(v_), g(g_), scale(grad_scale[0]), beta1(s.beta1), beta2(s.beta2), eps(s.eps) {
    correction1 = s.bias_correction ? bias_correction(s.beta1, s.step) : 1.0f;
    correction2 = s.bias_correction ? bias_correction(s.beta2, s.step) : 1.0f;
  }
  template <class V>
  V at(int64_t i) const {
    const V grad = load<V>(g + i) * scale;
    const V m_new = beta1 * load<V>(m + i) + (1.0f - beta1) * grad;
    const V v_new = beta2 * load<V>(v + i) + (1.0f - beta2) * grad * grad;
    store(m + i, m_new);
    store(v + i, v_new);
    return m_new * correction1 / (square_root(v_new * correction2) + eps);
  }
};

inline float sign(float x) { return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x); }
inline Vec sign(Vec x) { return x > 0.0f ? broadcast(1.0f) : (x < 0.0f ? broadcast(-1.0f) : x); }

// The ratio of two norms from their squares; 1 when either is 0 or when `adapt` is false.
float trust_ratio(const float* p_norm2, const float* u_norm2, float trust, bool adapt) {
  const bool both = p_norm2[0] > 0.0f && u_norm2[0] > 0.0f;
  return adapt && both ? trust * std::sqrt(p_norm2[0]) / std::sqrt(u_norm2[0]) : 1.0f;
}

}  // namespace

float bias_correction(float beta, int64_t step) {
  return static_cast<float>(1.0 / (1.0 - std::pow(double{beta}, static_cast<double>(step))));
}

namespace {

template <class T>
void adamw(const Cpu& dev, float* p, T* copy, int64_t n, const AdamDirection& direction, float lr, float decay,
           bool decay_first) {
  if (decay_first) {  // PyTorch's order; else the decay joins the update
    const float keep = 1.0f - lr * decay;
    update(dev, p, copy, n, [=]<class V>(int64_t i) { return load<V>(p + i) * keep - lr * direction.at<V>(i); });
  } else {
    update(dev, p, copy, n, [=]<class V>(int64_t i) {
      const V old = load<V>(p + i);
      return old - lr * (direction.at<V>(i) + decay * old);
    });
  }
}

}  // namespace

template <class T>
void adamw_step(const Cpu& dev, float* p, T* copy, float* m, float* v, const float* g, const float* grad_scale,
                int64_t n, const AdamWSettings& s) {
  if (skipped(grad_scale)) return;
  adamw(dev, p, copy, n, AdamDirection(m, v, g, grad_scale, s), s.lr, s.weight_decay, s.bias_correction);
}

template <class T>
void adamw_parts(const Cpu& dev, float* p, T* copy, float* m, float* v, const float* g, const float* grad_scale,
                 const StepChunk* chunks, int64_t n_chunks, const StepPart* parts, const AdamWSettings& s) {
  if (skipped(grad_scale)) return;
  for_blocks(dev, n_chunks, n_chunks * kStepChunk * 2, [=](int64_t k) {
    const StepChunk chunk = chunks[k];
    const StepPart part = parts[chunk.part];
    if (std::isnan(part.lr)) return;
    const int64_t at = chunk.begin;
    AdamDirection direction(m + at, v + at, g + at, grad_scale, s);
    direction.correction1 = part.correction1, direction.correction2 = part.correction2;
    adamw(Cpu{1}, p + at, copy ? copy + at : nullptr, chunk.end - at, direction, part.lr, part.weight_decay,
          s.bias_correction);
  });
}

void count_steps(const Cpu&, StepPart* parts, int32_t* steps, const StepRate* rates, const float* grad_scale, int64_t n,
                 const AdamWSettings& s) {
  for (int64_t k = 0; k < n; ++k) {
    const StepRate r = rates[k];
    if (!std::isnan(r.lr) && !skipped(grad_scale)) ++steps[k];
    const bool corrected = s.bias_correction && steps[k] > 0;
    parts[k] = {r.lr, r.weight_decay, corrected ? bias_correction(s.beta1, steps[k]) : 1.0f,
                corrected ? bias_correction(s.beta2, steps[k]) : 1.0f};
  }
}

void lamb_direction(const Cpu& dev, float* u, float* m, float* v, const float* p, const float* g,
                    const float* grad_scale, int64_t n, const AdamWSettings& s) {
  if (skipped(grad_scale)) return;
  const AdamDirection direction(m, v, g, grad_scale, s);
  const float decay = s.weight_decay;
  update(dev, u, kNoCopy, n, [=]<class V>(int64_t i) { return direction.at<V>(i) + decay * load<V>(p + i); });
}

template <class T>
void lamb_apply(const Cpu& dev, float* p, T* copy, const float* u, const float* p_norm2, const float* u_norm2,
                const float* grad_scale, float lr, bool adapt, int64_t n) {
  if (skipped(grad_scale)) return;
  const float step = lr * trust_ratio(p_norm2, u_norm2, 1.0f, adapt);
  update(dev, p, copy, n, [=]<class V>(int64_t i) { return load<V>(p + i) - step * load<V>(u + i); });
}

template <class T>
void sgd_step(const Cpu& dev, float* p, T* copy, float* buf, const float* g, const float* grad_scale, int64_t n,
              float lr, float momentum, float weight_decay, bool nesterov) {
  if (skipped(grad_scale)) return;
  const float scale = grad_scale[0];
  update(dev, p, copy, n, [=]<class V>(int64_t i) {
    const V old = load<V>(p + i);
    const V grad = load<V>(g + i) * scale + weight_decay * old;
    const V b = momentum * load<V>(buf + i) + grad;
    store(buf + i, b);
    return old - lr * (nesterov ? grad + momentum * b : b);
  });
}

void lars_direction(const Cpu& dev, float* u, const float* p, const float* g, const float* grad_scale, int64_t n,
                    float weight_decay) {
  if (skipped(grad_scale)) return;
  const float scale = grad_scale[0];
  update(dev, u, kNoCopy, n,
         [=]<class V>(int64_t i) { return load<V>(g + i) * scale + weight_decay * load<V>(p + i); });
}

template <class T>
void lars_apply(const Cpu& dev, float* p, T* copy, float* buf, const float* u, const float* p_norm2,
                const float* u_norm2, const float* grad_scale, float lr, float momentum, float trust, bool adapt,
                int64_t n) {
  if (skipped(grad_scale)) return;
  const float q = trust_ratio(p_norm2, u_norm2, trust, adapt);
  update(dev, p, copy, n, [=]<class V>(int64_t i) {
    const V b = momentum * load<V>(buf + i) + q * load<V>(u + i);
    store(buf + i, b);
    return load<V>(p + i) - lr * b;
  });
}

template <class T>
void lion_step(const Cpu& dev, float* p, T* copy, float* m, const float* g, const float* grad_scale, int64_t n,
               float lr, float beta1, float beta2, float weight_decay) {
  if (skipped(grad_scale)) return;
  const float scale = grad_scale[0];
  update(dev, p, copy, n, [=]<class V>(int64_t i) {
    const V old = load<V>(p + i);
    const V grad = load<V>(g + i) * scale;
    const V m_old = load<V>(m + i);
    store(m + i, beta2 * m_old + (1.0f - beta2) * grad);
    return old - lr * (sign(beta1 * m_old + (1.0f - beta1) * grad) + weight_decay * old);
  });
}

void muon_momentum(const Cpu& dev, float* u, float* buf, const float* g, const float* grad_scale, int64_t n,
                   float momentum, bool nesterov) {
  if (skipped(grad_scale)) return;
  const float scale = grad_scale[0];
  update(dev, u, kNoCopy, n, [=]<class V>(int64_t i) {
    const V grad = load<V>(g + i) * scale;
    const V b = momentum * load<V>(buf + i) + grad;
    store(buf + i, b);
    return nesterov ? grad + momentum * b : b;
  });
}

void scale_by_inverse_norm(const Cpu& dev, float* y, const float* x, const float* norm2, float eps, int64_t n) {
  const float factor = 1.0f / (std::sqrt(norm2[0]) + eps);
  update(dev, y, kNoCopy, n, [=]<class V>(int64_t i) { return factor * load<V>(x + i); });
}

template <class T>
void decayed_axpy(const Cpu& dev, float* p, T* copy, const float* u, const float* grad_scale, float lr, float scale,
                  float weight_decay, int64_t n) {
  if (skipped(grad_scale)) return;
  const float keep = 1.0f - lr * weight_decay, step = lr * scale;
  update(dev, p, copy, n, [=]<class V>(int64_t i) { return load<V>(p + i) * keep - step * load<V>(u + i); });
}

void ema_update(const Cpu& dev, float* e, const float* p, const float* grad_scale, float decay, int64_t n) {
  if (skipped(grad_scale)) return;
  update(dev, e, kNoCopy, n,
         [=]<class V>(int64_t i) { return decay * load<V>(e + i) + (1.0f - decay) * load<V>(p + i); });
}

void clip_factor(const Cpu&, float* out, const float* norm2, float max_norm) {
  const float factor = max_norm / (std::sqrt(norm2[0]) + 1e-6f);
  out[0] = !(norm2[0] < INFINITY) ? NAN : max_norm > 0.0f && factor < 1.0f ? factor : 1.0f;
}

#define ACCRETE_INSTANTIATE(T)                                                                                      \
  template void adamw_step(const Cpu&, float*, T*, float*, float*, const float*, const float*, int64_t,             \
                           const AdamWSettings&);                                                                   \
  template void adamw_parts(const Cpu&, float*, T*, float*, float*, const float*, const float*, const StepChunk*,   \
                            int64_t, const StepPart*, const AdamWSettings&);                                        \
  template void lamb_apply(const Cpu&, float*, T*, const float*, const float*, const float*, const float*, float,   \
                           bool, int64_t);                                                                          \
  template void sgd_step(const Cpu&, float*, T*, float*, const float*, const float*, int64_t, float, float, float,  \
                         bool);                                                                                     \
  template void lars_apply(const Cpu&, float*, T*, float*, const float*, const float*, const float*, const float*,  \
                           float, float, float, bool, int64_t);                                                     \
  template void lion_step(const Cpu&, float*, T*, float*, const float*, const float*, int64_t, float, float, float, \
                          float);                                                                                   \
  template void decayed_axpy(const Cpu&, float*, T*, const float*, const float*, float, float, float, int64_t);
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
