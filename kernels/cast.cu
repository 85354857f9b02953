// Conversion between stored number types. Bandwidth-bound.
#include "kernels/cast.h"

#include "kernels/map.h"

namespace accrete::kernels {

namespace {

struct Copy {
  __device__ void operator()(int64_t, float& y, float x) const { y = x; }
};
struct AddScaled {
  float alpha;
  __device__ void operator()(int64_t, float& y, float x) const { y += alpha * x; }
};

}  // namespace

template <class T>
void cast_from_f32(const Gpu& ctx, T* y, const float* x, int64_t n) {
  map(ctx, n, Copy{}, Out<T>{y}, In<float>{x});
}

template <class T>
void cast_to_f32(const Gpu& ctx, float* y, const T* x, int64_t n) {
  map(ctx, n, Copy{}, Out<float>{y}, In<T>{x});
}

template <class T>
void accumulate(const Gpu& ctx, float* y, const T* x, float alpha, int64_t n) {
  map(ctx, n, AddScaled{alpha}, InOut<float>{y}, In<T>{x});
}

template void accumulate(const Gpu&, float*, const float*, float, int64_t);
#define ACCRETE_INSTANTIATE(T)                                        \
  template void cast_from_f32(const Gpu&, T*, const float*, int64_t); \
  template void cast_to_f32(const Gpu&, float*, const T*, int64_t);   \
  template void accumulate(const Gpu&, float*, const T*, float, int64_t);
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
