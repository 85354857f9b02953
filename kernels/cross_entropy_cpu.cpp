// Softmax cross-entropy on the CPU: one pass for the maximum (and the sum, where smoothing needs it), one for the sum
// of exponentials; a row of GPT-2's vocabulary stays in the second-level cache between them.
#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

void count_targets(const Cpu&, float* counts, const int32_t* targets, int64_t N) {
  const auto counted = static_cast<float>(std::count_if(targets, targets + N, [](int32_t t) { return t >= 0; }));
  counts[0] = counted;
  counts[1] = counted > 0 ? 1.0f / counted : 0.0f;
}

template <class T>
void cross_entropy_forward(const Cpu& dev, float* loss, float* lse, const T* logits, const int32_t* targets, int64_t N,
                           int64_t V, int64_t stride, float smoothing) {
  for_ranges(dev, N, 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* x = logits + n * stride;
      const float top = max_over(V, [=]<class W>(int64_t v) { return load<W>(x + v); });
      const float total = sum_over(V, [=]<class W>(int64_t v) { return exp(load<W>(x + v) - top); });
      const float log_sum = top + std::log(total);
      lse[n] = log_sum;
      if (targets[n] < 0) {
        loss[n] = 0.0f;
        continue;
      }
      if (targets[n] >= V) {
        loss[n] = NAN;
        continue;
      }
      float value = log_sum - (1.0f - smoothing) * to_float(x[targets[n]]);
      if (smoothing != 0.0f) {
        const float all = sum_over(V, [=]<class W>(int64_t v) { return load<W>(x + v); });
        value -= smoothing / static_cast<float>(V) * all;
      }
      loss[n] = value;
    }
  });
}

template <class T>
void cross_entropy_backward(const Cpu& dev, T* dlogits, const T* logits, const float* lse, const int32_t* targets,
                            const float* scale, int64_t N, int64_t V, int64_t stride, float smoothing) {
  const float factor = scale[0];
  const float off = smoothing / static_cast<float>(V);
  for_ranges(dev, N, 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* x = logits + n * stride;
      T* dx = dlogits + n * stride;
      const int64_t target = targets[n];
      if (target < 0) {
        std::fill(dx, dx + stride, from_float<T>(0.0f));
        continue;
      }
      if (target >= V) {
        std::fill(dx, dx + stride, from_float<T>(NAN));
        continue;
      }
      const float log_sum = lse[n];
      // Computed before the row is overwritten: dlogits may be logits.
      const float at_target = (exp(to_float(x[target]) - log_sum) - off - (1.0f - smoothing)) * factor;
      each(0, V, [=]<class W>(int64_t v) { store(dx + v, (exp(load<W>(x + v) - log_sum) - off) * factor); });
      dx[target] = from_float<T>(at_target);
      std::fill(dx + V, dx + stride, from_float<T>(0.0f));
    }
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                   \
  template void cross_entropy_forward<T>(const Cpu&, float*, float*, const T*, const int32_t*, int64_t, int64_t, \
                                         int64_t, float);                                                        \
  template void cross_entropy_backward<T>(const Cpu&, T*, const T*, const float*, const int32_t*, const float*,  \
                                          int64_t, int64_t, int64_t, float);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
