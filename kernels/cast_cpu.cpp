// Conversions between stored number types on the CPU.
#include "kernels/cast.h"

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

void cast_to_bf16(const Cpu& dev, bf16* y, const float* x, int64_t n) {
  for_elements(dev, n, 1, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) { store(y + i, load<V>(x + i)); });
  });
}

void cast_to_f32(const Cpu& dev, float* y, const bf16* x, int64_t n) {
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

template void accumulate<float>(const Cpu&, float*, const float*, float, int64_t);
template void accumulate<bf16>(const Cpu&, float*, const bf16*, float, int64_t);

}  // namespace accrete::kernels
