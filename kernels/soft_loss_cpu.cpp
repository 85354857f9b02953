// Losses with a target for every class, on the CPU: a row stays in the first-level cache between its passes.
#include "kernels/soft_loss.h"

#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

// log(1 + e) for 0 <= e <= 1: twice the series of artanh s, s = e / (2 + e) <= 1/3. What is left out is below 1.5e-8 of
// the sum. Also exact where e is tiny.
template <class V>
V log_one_plus(V e) {
  const V s = e / (e + 2.0f), z = s * s;
  V q = z * (1.0f / 15.0f) + 1.0f / 13.0f;
  q = q * z + 1.0f / 11.0f;
  q = q * z + 1.0f / 9.0f;
  q = q * z + 1.0f / 7.0f;
  q = q * z + 0.2f;
  q = q * z + 1.0f / 3.0f;
  return 2.0f * (s + s * (z * q));
}

}  // namespace

template <class T>
void soft_cross_entropy_forward(const Cpu& dev, float* loss, float* lse, float* total, const T* logits,
                                const float* targets, int64_t N, int64_t V) {
  for_ranges(dev, N, 6 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* x = logits + n * V;
      const float* t = targets + n * V;
      const float top = max_over(V, [=]<class W>(int64_t v) { return load<W>(x + v); });
      const float sum = sum_over(V, [=]<class W>(int64_t v) { return exp(load<W>(x + v) - top); });
      total[n] = sum_over(V, [=]<class W>(int64_t v) { return load<W>(t + v); });
      lse[n] = top + std::log(sum);
      const float dot = sum_over(V, [=]<class W>(int64_t v) {
        const W want = load<W>(t + v);
        return want == 0.0f ? W{} : want * load<W>(x + v);
      });
      loss[n] = total[n] * lse[n] - dot;
    }
  });
}

template <class T>
void soft_cross_entropy_backward(const Cpu& dev, T* dlogits, const T* logits, const float* targets, const float* lse,
                                 const float* total, const float* dloss, float factor, int64_t N, int64_t V) {
  const float upstream = factor * dloss[0];
  for_ranges(dev, N, 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* x = logits + n * V;
      const float* t = targets + n * V;
      const float log_sum = lse[n], all = total[n];
      each(0, V, [=]<class W>(int64_t v) {
        store(dlogits + n * V + v, upstream * (exp(load<W>(x + v) - log_sum) * all - load<W>(t + v)));
      });
    }
  });
}

template <class T>
void binary_cross_entropy_forward(const Cpu& dev, float* loss, const T* logits, const float* targets, int64_t N,
                                  int64_t V) {
  for_ranges(dev, N, 6 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* x = logits + n * V;
      const float* t = targets + n * V;
      loss[n] = sum_over(V, [=]<class W>(int64_t v) {
        const W z = load<W>(x + v), size = max(z, -z);
        return max(z, W{}) - z * load<W>(t + v) + log_one_plus(W(exp(-size)));
      });
    }
  });
}

template <class T>
void binary_cross_entropy_backward(const Cpu& dev, T* dlogits, const T* logits, const float* targets,
                                   const float* dloss, float factor, int64_t n) {
  const float upstream = factor * dloss[0];
  for_elements(dev, n, 4, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class W>(int64_t i) {
      store(dlogits + i, upstream * (1.0f / (1.0f + exp(-load<W>(logits + i))) - load<W>(targets + i)));
    });
  });
}

template <class T>
void argmax(const Cpu& dev, int32_t* y, const T* x, int64_t N, int64_t V) {
  for_ranges(dev, N, 2 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* row = x + n * V;
      const float top = max_over(V, [=]<class W>(int64_t v) { return load<W>(row + v); });
      int64_t at = 0;
      while (at < V && to_float(row[at]) != top) ++at;
      y[n] = static_cast<int32_t>(at < V ? at : 0);
    }
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                     \
  template void soft_cross_entropy_forward<T>(const Cpu&, float*, float*, float*, const T*, const float*, int64_t, \
                                              int64_t);                                                            \
  template void soft_cross_entropy_backward<T>(const Cpu&, T*, const T*, const float*, const float*, const float*, \
                                               const float*, float, int64_t, int64_t);                             \
  template void binary_cross_entropy_forward<T>(const Cpu&, float*, const T*, const float*, int64_t, int64_t);     \
  template void binary_cross_entropy_backward<T>(const Cpu&, T*, const T*, const float*, const float*, float,      \
                                                 int64_t);                                                         \
  template void argmax<T>(const Cpu&, int32_t*, const T*, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
