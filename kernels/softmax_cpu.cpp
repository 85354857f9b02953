// Softmax over the last axis on the CPU.
#include "kernels/softmax.h"

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

template <class T>
void softmax_forward(const Cpu& dev, T* y, const T* x, int64_t N, int64_t C, int64_t causal_rows) {
  for_ranges(dev, N, 4 * C, [=](int64_t begin, int64_t end) {
    thread_local Scratch<float> memory;
    float* e = memory.get(C);  // the exponentials in f32, so that bf16 results are rounded once
    for (int64_t n = begin; n < end; ++n) {
      const T* row = x + n * C;
      T* out = y + n * C;
      const int64_t visible = causal_rows > 0 ? std::clamp<int64_t>(n % causal_rows + (C - causal_rows) + 1, 0, C) : C;
      const float top = max_over(visible, [=]<class V>(int64_t c) { return load<V>(row + c); });
      const float total = sum_over(visible, [=]<class V>(int64_t c) {
        const V v = exp(load<V>(row + c) - top);
        store(e + c, v);
        return v;
      });
      const float scale = 1.0f / total;
      each(0, visible, [=]<class V>(int64_t c) { store(out + c, load<V>(e + c) * scale); });
      std::fill(out + visible, out + C, from_float<T>(0.0f));
    }
  });
}

template <class T>
void softmax_backward(const Cpu& dev, T* dx, const T* y, const T* dy, int64_t N, int64_t C) {
  for_ranges(dev, N, 2 * C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T *p = y + n * C, *g = dy + n * C;
      T* out = dx + n * C;
      const float inner = sum_over(C, [=]<class V>(int64_t c) { return load<V>(p + c) * load<V>(g + c); });
      each(0, C, [=]<class V>(int64_t c) { store(out + c, load<V>(p + c) * (load<V>(g + c) - inner)); });
    }
  });
}

template void softmax_forward<float>(const Cpu&, float*, const float*, int64_t, int64_t, int64_t);
template void softmax_forward<bf16>(const Cpu&, bf16*, const bf16*, int64_t, int64_t, int64_t);
template void softmax_forward<f16>(const Cpu&, f16*, const f16*, int64_t, int64_t, int64_t);
template void softmax_backward<float>(const Cpu&, float*, const float*, const float*, int64_t, int64_t);
template void softmax_backward<bf16>(const Cpu&, bf16*, const bf16*, const bf16*, int64_t, int64_t);
template void softmax_backward<f16>(const Cpu&, f16*, const f16*, const f16*, int64_t, int64_t);

}  // namespace accrete::kernels
