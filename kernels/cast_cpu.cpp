// Conversions between stored number types on the CPU.
#include "kernels/cast.h"

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

template <class T>
void cast_from_f32(const Cpu& dev, T* y, const float* x, int64_t n) {
  for_elements(dev, n, 1, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) { store(y + i, load<V>(x + i)); });
  });
}

template <class T>
void cast_to_f32(const Cpu& dev, float* y, const T* x, int64_t n) {
  for_elements(dev, n, 1, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) { store(y + i, load<V>(x + i)); });
  });
}

template <class T>
void accumulate(const Cpu& dev, float* y, const T* x, float alpha, int64_t n) {
  for_elements(dev, n, 1, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) { store(y + i, load<V>(y + i) + alpha * load<V>(x + i)); });
  });
}

template void accumulate(const Cpu&, float*, const float*, float, int64_t);
#define ACCRETE_INSTANTIATE(T)                                        \
  template void cast_from_f32(const Cpu&, T*, const float*, int64_t); \
  template void cast_to_f32(const Cpu&, float*, const T*, int64_t);   \
  template void accumulate(const Cpu&, float*, const T*, float, int64_t);
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
