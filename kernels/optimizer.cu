// Optimizer steps over flat ranges. Bandwidth-bound: every array is read once and written once; scalars that live in
// device memory (clipping factor, norms) are read by every thread.
#include "kernels/optimizer.h"

#include <cmath>

#include "kernels/map.h"

namespace accrete::kernels {

namespace {

// Both Adam variants: new moments, and the direction mhat / (sqrt(vhat) + eps).
struct AdamDirection {
  float beta1, beta2, eps, correction1, correction2;
  const float* grad_scale;

  AdamDirection(const AdamWSettings& s, const float* scale)
      : beta1(s.beta1), beta2(s.beta2), eps(s.eps), correction1(1.0f), correction2(1.0f), grad_scale(scale) {
    if (!s.bias_correction) return;
    const double t = static_cast<double>(s.step);
    correction1 = static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(s.beta1), t)));
    correction2 = static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(s.beta2), t)));
  }
  __device__ float operator()(float& m, float& v, float g) const {
    g *= grad_scale[0];
    m = beta1 * m + (1.0f - beta1) * g;
    v = beta2 * v + (1.0f - beta2) * g * g;
    return m * correction1 / (sqrtf(v * correction2) + eps);
  }
};

struct AdamW {
  AdamDirection direction;
  float lr, weight_decay;
  bool decay_first;  // PyTorch's order; else the decay joins the update
  __device__ void operator()(int64_t, float& p, float& copy, float& m, float& v, float g) const {
    const float u = direction(m, v, g);
    p = decay_first ? p * (1.0f - lr * weight_decay) - lr * u : p - lr * (u + weight_decay * p);
    copy = p;
  }
};

struct LambDirection {
  AdamDirection direction;
  float weight_decay;
  __device__ void operator()(int64_t, float& u, float& m, float& v, float p, float g) const {
    u = direction(m, v, g) + weight_decay * p;
  }
};

struct LambApply {
  const float *p_norm2, *u_norm2;
  float lr;
  bool adapt;
  __device__ void operator()(int64_t, float& p, float& copy, float u) const {
    const float p2 = p_norm2[0], u2 = u_norm2[0];
    const float trust = adapt && p2 > 0.0f && u2 > 0.0f ? sqrtf(p2) / sqrtf(u2) : 1.0f;
    p -= lr * trust * u;
    copy = p;
  }
};

struct Sgd {
  const float* grad_scale;
  float lr, momentum, weight_decay;
  bool nesterov;
  __device__ void operator()(int64_t, float& p, float& copy, float& buf, float g) const {
    g = g * grad_scale[0] + weight_decay * p;
    buf = momentum * buf + g;
    p -= lr * (nesterov ? g + momentum * buf : buf);
    copy = p;
  }
};

struct Lion {
  const float* grad_scale;
  float lr, beta1, beta2, weight_decay;
  __device__ void operator()(int64_t, float& p, float& copy, float& m, float g) const {
    g *= grad_scale[0];
    const float c = beta1 * m + (1.0f - beta1) * g;
    const float sign = c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : c;  // 0 and NaN stay what they are
    m = beta2 * m + (1.0f - beta2) * g;
    p -= lr * (sign + weight_decay * p);
    copy = p;
  }
};

struct MuonMomentum {
  const float* grad_scale;
  float momentum;
  bool nesterov;
  __device__ void operator()(int64_t, float& u, float& buf, float g) const {
    g *= grad_scale[0];
    buf = momentum * buf + g;
    u = nesterov ? g + momentum * buf : buf;
  }
};

struct DecayedAxpy {
  float keep, step;
  __device__ void operator()(int64_t, float& p, float& copy, float u) const {
    p = p * keep - step * u;
    copy = p;
  }
};

struct Ema {
  float decay;
  __device__ void operator()(int64_t, float& e, float p) const { e = decay * e + (1.0f - decay) * p; }
};

struct ClipFactor {
  float max_norm;
  __device__ void operator()(int64_t, float& out, float norm2) const {
    const float factor = max_norm / (sqrtf(norm2) + 1e-6f);
    out = max_norm > 0.0f && !(factor >= 1.0f) ? factor : 1.0f;  // a NaN norm gives NaN
  }
};

}  // namespace

template <class T>
void adamw_step(const Gpu& ctx, float* p, T* copy, float* m, float* v, const float* g, const float* grad_scale,
                int64_t n, const AdamWSettings& s) {
  map(ctx, n, AdamW{AdamDirection(s, grad_scale), s.lr, s.weight_decay, s.bias_correction}, InOut<float>{p},
      Out<T>{copy}, InOut<float>{m}, InOut<float>{v}, In<float>{g});
}

void lamb_direction(const Gpu& ctx, float* u, float* m, float* v, const float* p, const float* g,
                    const float* grad_scale, int64_t n, const AdamWSettings& s) {
  map(ctx, n, LambDirection{AdamDirection(s, grad_scale), s.weight_decay}, Out<float>{u}, InOut<float>{m},
      InOut<float>{v}, In<float>{p}, In<float>{g});
}

template <class T>
void lamb_apply(const Gpu& ctx, float* p, T* copy, const float* u, const float* p_norm2, const float* u_norm2, float lr,
                bool adapt, int64_t n) {
  map(ctx, n, LambApply{p_norm2, u_norm2, lr, adapt}, InOut<float>{p}, Out<T>{copy}, In<float>{u});
}

template <class T>
void sgd_step(const Gpu& ctx, float* p, T* copy, float* buf, const float* g, const float* grad_scale, int64_t n,
              float lr, float momentum, float weight_decay, bool nesterov) {
  map(ctx, n, Sgd{grad_scale, lr, momentum, weight_decay, nesterov}, InOut<float>{p}, Out<T>{copy}, InOut<float>{buf},
      In<float>{g});
}

template <class T>
void lion_step(const Gpu& ctx, float* p, T* copy, float* m, const float* g, const float* grad_scale, int64_t n,
               float lr, float beta1, float beta2, float weight_decay) {
  map(ctx, n, Lion{grad_scale, lr, beta1, beta2, weight_decay}, InOut<float>{p}, Out<T>{copy}, InOut<float>{m},
      In<float>{g});
}

void muon_momentum(const Gpu& ctx, float* u, float* buf, const float* g, const float* grad_scale, int64_t n,
                   float momentum, bool nesterov) {
  map(ctx, n, MuonMomentum{grad_scale, momentum, nesterov}, Out<float>{u}, InOut<float>{buf}, In<float>{g});
}

template <class T>
void decayed_axpy(const Gpu& ctx, float* p, T* copy, const float* u, float lr, float scale, float weight_decay,
                  int64_t n) {
  map(ctx, n, DecayedAxpy{1.0f - lr * weight_decay, lr * scale}, InOut<float>{p}, Out<T>{copy}, In<float>{u});
}

void ema_update(const Gpu& ctx, float* e, const float* p, float decay, int64_t n) {
  map(ctx, n, Ema{decay}, InOut<float>{e}, In<float>{p});
}

void clip_factor(const Gpu& ctx, float* out, const float* norm2, float max_norm) {
  map(ctx, 1, ClipFactor{max_norm}, Out<float>{out}, In<float>{norm2});
}

#define ACCRETE_INSTANTIATE(T)                                                                                      \
  template void adamw_step(const Gpu&, float*, T*, float*, float*, const float*, const float*, int64_t,             \
                           const AdamWSettings&);                                                                   \
  template void lamb_apply(const Gpu&, float*, T*, const float*, const float*, const float*, float, bool, int64_t); \
  template void sgd_step(const Gpu&, float*, T*, float*, const float*, const float*, int64_t, float, float, float,  \
                         bool);                                                                                     \
  template void lion_step(const Gpu&, float*, T*, float*, const float*, const float*, int64_t, float, float, float, \
                          float);                                                                                   \
  template void decayed_axpy(const Gpu&, float*, T*, const float*, float, float, float, int64_t);
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
