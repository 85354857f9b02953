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

void cast_to_bf16(const Gpu& ctx, bf16* y, const float* x, int64_t n) {
  map(ctx, n, Copy{}, Out<bf16>{y}, In<float>{x});
}

void cast_to_f32(const Gpu& ctx, float* y, const bf16* x, int64_t n) {
  map(ctx, n, Copy{}, Out<float>{y}, In<bf16>{x});
}

template <class T>
void accumulate(const Gpu& ctx, float* y, const T* x, float alpha, int64_t n) {
  map(ctx, n, AddScaled{alpha}, InOut<float>{y}, In<T>{x});
}

template void accumulate(const Gpu&, float*, const float*, float, int64_t);
template void accumulate(const Gpu&, float*, const bf16*, float, int64_t);

}  // namespace accrete::kernels
