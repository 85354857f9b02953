// Optimizer steps over flat ranges. Bandwidth-bound: every array is read once and written once; scalars that live in
// device memory (clipping factor, norms) are read by every thread. AdamW moves 30 bytes a parameter (reads p, m, v, g;
// writes p, m, v and the 2-byte copy): 3.7 GB for GPT-2 124M.
//
// Each rule is a functor for map(); its begin() reads the scalars, once per thread, and ends the kernel before it
// touches anything else when the gradients were not finite.
#include "kernels/optimizer.h"

#include <cmath>

#include "kernels/map.h"

namespace accrete::kernels {

namespace {

struct GradScale {
  const float* p;
  float value = 0.0f;
  __device__ bool read() {  // false: NaN, there is no step
    value = p[0];
    return value == value;
  }
};

// Both Adam variants: new moments, and the direction mhat / (sqrt(vhat) + eps).
struct AdamDirection {
  float beta1, beta2, eps, correction1, correction2;
  GradScale grad_scale;

  AdamDirection(const AdamWSettings& s, const float* scale)
      : beta1(s.beta1), beta2(s.beta2), eps(s.eps), correction1(1.0f), correction2(1.0f), grad_scale{scale} {
    if (!s.bias_correction) return;
    correction1 = bias_correction(s.beta1, s.step);
    correction2 = bias_correction(s.beta2, s.step);
  }
  __device__ float operator()(float& m, float& v, float g) const {
    g *= grad_scale.value;
    m = beta1 * m + (1.0f - beta1) * g;
    v = beta2 * v + (1.0f - beta2) * g * g;
    return m * correction1 / (sqrtf(v * correction2) + eps);
  }
};

struct AdamW {
  AdamDirection direction;
  float lr, weight_decay;
  bool decay_first;  // PyTorch's order; else the decay joins the update
  __device__ bool begin() { return direction.grad_scale.read(); }
  __device__ void operator()(int64_t, float& p, float& copy, float& m, float& v, float g) const {
    const float u = direction(m, v, g);
    p = decay_first ? p * (1.0f - lr * weight_decay) - lr * u : p - lr * (u + weight_decay * p);
    copy = p;
  }
};

template <class T, int W, int U>
__global__ void adamw_parts_kernel(const StepChunk* chunks, const StepPart* parts, AdamW fn, float* p, T* copy,
                                   float* m, float* v, const float* g) {
  const StepChunk chunk = chunks[blockIdx.x];
  const StepPart part = parts[chunk.part];
  if (part.lr != part.lr || !fn.begin()) return;
  fn.lr = part.lr;
  fn.weight_decay = part.weight_decay;
  fn.direction.correction1 = part.correction1;
  fn.direction.correction2 = part.correction2;
  const int64_t at = chunk.begin;
  map_block<W, U>(0, 1, chunk.end - at, fn, InOut<float>{p + at}, Out<T>{copy ? copy + at : nullptr},
                  InOut<float>{m + at}, InOut<float>{v + at}, In<float>{g + at});
}

__device__ float correction_at(float beta, int step) {
  return static_cast<float>(1.0 / (1.0 - pow(static_cast<double>(beta), static_cast<double>(step))));
}

__global__ void count_steps_kernel(StepPart* parts, int32_t* steps, const StepRate* rates, const float* grad_scale,
                                   int64_t n, float beta1, float beta2, bool bias_correction) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x;
  if (k >= n) return;
  const StepRate r = rates[k];
  const float scale = grad_scale[0];
  int step = steps[k];
  if (r.lr == r.lr && scale == scale) steps[k] = ++step;
  const bool corrected = bias_correction && step > 0;
  parts[k] = StepPart{r.lr, r.weight_decay, corrected ? correction_at(beta1, step) : 1.0f,
                      corrected ? correction_at(beta2, step) : 1.0f};
}

struct LambDirection {
  AdamDirection direction;
  float weight_decay;
  __device__ bool begin() { return direction.grad_scale.read(); }
  __device__ void operator()(int64_t, float& u, float& m, float& v, float p, float g) const {
    u = direction(m, v, g) + weight_decay * p;
  }
};

// The ratio of two norms from their squares; 1 when either is 0 or when `adapt` is false.
struct TrustRatio {
  const float *p_norm2, *u_norm2;
  bool adapt;
  float trust;
  __device__ float read() const {
    const float p2 = p_norm2[0], u2 = u_norm2[0];
    return adapt && p2 > 0.0f && u2 > 0.0f ? trust * sqrtf(p2) / sqrtf(u2) : 1.0f;
  }
};

struct LambApply {
  TrustRatio ratio;
  GradScale grad_scale;
  float lr;
  float step = 0.0f;
  __device__ bool begin() {
    step = lr * ratio.read();
    return grad_scale.read();
  }
  __device__ void operator()(int64_t, float& p, float& copy, float u) const {
    p -= step * u;
    copy = p;
  }
};

struct Sgd {
  GradScale grad_scale;
  float lr, momentum, weight_decay;
  bool nesterov;
  __device__ bool begin() { return grad_scale.read(); }
  __device__ void operator()(int64_t, float& p, float& copy, float& buf, float g) const {
    g = g * grad_scale.value + weight_decay * p;
    buf = momentum * buf + g;
    p -= lr * (nesterov ? g + momentum * buf : buf);
    copy = p;
  }
};

struct LarsDirection {
  GradScale grad_scale;
  float weight_decay;
  __device__ bool begin() { return grad_scale.read(); }
  __device__ void operator()(int64_t, float& u, float p, float g) const { u = g * grad_scale.value + weight_decay * p; }
};

struct LarsApply {
  TrustRatio ratio;
  GradScale grad_scale;
  float lr, momentum;
  float q = 0.0f;
  __device__ bool begin() {
    q = ratio.read();
    return grad_scale.read();
  }
  __device__ void operator()(int64_t, float& p, float& copy, float& buf, float u) const {
    buf = momentum * buf + q * u;
    p -= lr * buf;
    copy = p;
  }
};

struct Lion {
  GradScale grad_scale;
  float lr, beta1, beta2, weight_decay;
  __device__ bool begin() { return grad_scale.read(); }
  __device__ void operator()(int64_t, float& p, float& copy, float& m, float g) const {
    g *= grad_scale.value;
    const float c = beta1 * m + (1.0f - beta1) * g;
    const float sign = c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : c;  // 0 and NaN stay what they are
    m = beta2 * m + (1.0f - beta2) * g;
    p -= lr * (sign + weight_decay * p);
    copy = p;
  }
};

struct MuonMomentum {
  GradScale grad_scale;
  float momentum;
  bool nesterov;
  __device__ bool begin() { return grad_scale.read(); }
  __device__ void operator()(int64_t, float& u, float& buf, float g) const {
    g *= grad_scale.value;
    buf = momentum * buf + g;
    u = nesterov ? g + momentum * buf : buf;
  }
};

struct InverseNorm {
  const float* norm2;
  float eps;
  float factor = 0.0f;
  __device__ bool begin() {
    factor = 1.0f / (sqrtf(norm2[0]) + eps);
    return true;
  }
  __device__ void operator()(int64_t, float& y, float x) const { y = factor * x; }
};

struct DecayedAxpy {
  GradScale grad_scale;
  float keep, step;
  __device__ bool begin() { return grad_scale.read(); }
  __device__ void operator()(int64_t, float& p, float& copy, float u) const {
    p = p * keep - step * u;
    copy = p;
  }
};

struct Ema {
  GradScale grad_scale;
  float decay;
  __device__ bool begin() { return grad_scale.read(); }
  __device__ void operator()(int64_t, float& e, float p) const { e = decay * e + (1.0f - decay) * p; }
};

struct ClipFactor {
  float max_norm;
  __device__ void operator()(int64_t, float& out, float norm2) const {
    const float factor = max_norm / (sqrtf(norm2) + 1e-6f);
    out = !(norm2 < INFINITY) ? NAN : max_norm > 0.0f && factor < 1.0f ? factor : 1.0f;
  }
};

}  // namespace

template <class T>
void adamw_step(const Gpu& ctx, float* p, T* copy, float* m, float* v, const float* g, const float* grad_scale,
                int64_t n, const AdamWSettings& s) {
  map(ctx, n, AdamW{AdamDirection(s, grad_scale), s.lr, s.weight_decay, s.bias_correction}, InOut<float>{p},
      Out<T>{copy}, InOut<float>{m}, InOut<float>{v}, In<float>{g});
}

template <class T>
void adamw_parts(const Gpu& ctx, float* p, T* copy, float* m, float* v, const float* g, const float* grad_scale,
                 const StepChunk* chunks, int64_t n_chunks, const StepPart* parts, const AdamWSettings& s) {
  if (n_chunks <= 0) return;
  const AdamW fn{AdamDirection(s, grad_scale), 0.0f, 0.0f, s.bias_correction};
  ACCRETE_LAUNCH((adamw_parts_kernel<T, 4, 2>), dim3{static_cast<uint32_t>(n_chunks)}, dim3{kBlockSize}, 0, ctx, chunks,
                 parts, fn, p, copy, m, v, g);
}

void count_steps(const Gpu& ctx, StepPart* parts, int32_t* steps, const StepRate* rates, const float* grad_scale,
                 int64_t n, const AdamWSettings& s) {
  if (n <= 0) return;
  const auto blocks = static_cast<uint32_t>((n + kBlockSize - 1) / kBlockSize);
  ACCRETE_LAUNCH(count_steps_kernel, dim3{blocks}, dim3{kBlockSize}, 0, ctx, parts, steps, rates, grad_scale, n,
                 s.beta1, s.beta2, s.bias_correction);
}

void lamb_direction(const Gpu& ctx, float* u, float* m, float* v, const float* p, const float* g,
                    const float* grad_scale, int64_t n, const AdamWSettings& s) {
  map(ctx, n, LambDirection{AdamDirection(s, grad_scale), s.weight_decay}, Out<float>{u}, InOut<float>{m},
      InOut<float>{v}, In<float>{p}, In<float>{g});
}

template <class T>
void lamb_apply(const Gpu& ctx, float* p, T* copy, const float* u, const float* p_norm2, const float* u_norm2,
                const float* grad_scale, float lr, bool adapt, int64_t n) {
  map(ctx, n, LambApply{{p_norm2, u_norm2, adapt, 1.0f}, {grad_scale}, lr}, InOut<float>{p}, Out<T>{copy},
      In<float>{u});
}

template <class T>
void sgd_step(const Gpu& ctx, float* p, T* copy, float* buf, const float* g, const float* grad_scale, int64_t n,
              float lr, float momentum, float weight_decay, bool nesterov) {
  map(ctx, n, Sgd{{grad_scale}, lr, momentum, weight_decay, nesterov}, InOut<float>{p}, Out<T>{copy}, InOut<float>{buf},
      In<float>{g});
}

void lars_direction(const Gpu& ctx, float* u, const float* p, const float* g, const float* grad_scale, int64_t n,
                    float weight_decay) {
  map(ctx, n, LarsDirection{{grad_scale}, weight_decay}, Out<float>{u}, In<float>{p}, In<float>{g});
}

template <class T>
void lars_apply(const Gpu& ctx, float* p, T* copy, float* buf, const float* u, const float* p_norm2,
                const float* u_norm2, const float* grad_scale, float lr, float momentum, float trust, bool adapt,
                int64_t n) {
  map(ctx, n, LarsApply{{p_norm2, u_norm2, adapt, trust}, {grad_scale}, lr, momentum}, InOut<float>{p}, Out<T>{copy},
      InOut<float>{buf}, In<float>{u});
}

template <class T>
void lion_step(const Gpu& ctx, float* p, T* copy, float* m, const float* g, const float* grad_scale, int64_t n,
               float lr, float beta1, float beta2, float weight_decay) {
  map(ctx, n, Lion{{grad_scale}, lr, beta1, beta2, weight_decay}, InOut<float>{p}, Out<T>{copy}, InOut<float>{m},
      In<float>{g});
}

void muon_momentum(const Gpu& ctx, float* u, float* buf, const float* g, const float* grad_scale, int64_t n,
                   float momentum, bool nesterov) {
  map(ctx, n, MuonMomentum{{grad_scale}, momentum, nesterov}, Out<float>{u}, InOut<float>{buf}, In<float>{g});
}

void scale_by_inverse_norm(const Gpu& ctx, float* y, const float* x, const float* norm2, float eps, int64_t n) {
  map(ctx, n, InverseNorm{norm2, eps}, Out<float>{y}, In<float>{x});
}

template <class T>
void decayed_axpy(const Gpu& ctx, float* p, T* copy, const float* u, const float* grad_scale, float lr, float scale,
                  float weight_decay, int64_t n) {
  map(ctx, n, DecayedAxpy{{grad_scale}, 1.0f - lr * weight_decay, lr * scale}, InOut<float>{p}, Out<T>{copy},
      In<float>{u});
}

void ema_update(const Gpu& ctx, float* e, const float* p, const float* grad_scale, float decay, int64_t n) {
  map(ctx, n, Ema{{grad_scale}, decay}, InOut<float>{e}, In<float>{p});
}

void clip_factor(const Gpu& ctx, float* out, const float* norm2, float max_norm) {
  map(ctx, 1, ClipFactor{max_norm}, Out<float>{out}, In<float>{norm2});
}

#define ACCRETE_INSTANTIATE(T)                                                                                      \
  template void adamw_step(const Gpu&, float*, T*, float*, float*, const float*, const float*, int64_t,             \
                           const AdamWSettings&);                                                                   \
  template void adamw_parts(const Gpu&, float*, T*, float*, float*, const float*, const float*, const StepChunk*,   \
                            int64_t, const StepPart*, const AdamWSettings&);                                        \
  template void lamb_apply(const Gpu&, float*, T*, const float*, const float*, const float*, const float*, float,   \
                           bool, int64_t);                                                                          \
  template void sgd_step(const Gpu&, float*, T*, float*, const float*, const float*, int64_t, float, float, float,  \
                         bool);                                                                                     \
  template void lars_apply(const Gpu&, float*, T*, float*, const float*, const float*, const float*, const float*,  \
                           float, float, float, bool, int64_t);                                                     \
  template void lion_step(const Gpu&, float*, T*, float*, const float*, const float*, int64_t, float, float, float, \
                          float);                                                                                   \
  template void decayed_axpy(const Gpu&, float*, T*, const float*, const float*, float, float, float, int64_t);
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
