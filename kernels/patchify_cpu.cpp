// Images to patches and back on the CPU: copies of runs of P elements.
#include "kernels/patchify.h"

#include <algorithm>

#include "kernels/parallel.h"

namespace accrete::kernels {

namespace {

// fn(offset in images, offset in patches) for every row of every patch.
template <class Fn>
void for_runs(const Cpu& dev, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P, const Fn& fn) {
  const int64_t down = H / P, across = W / P;
  for_ranges(dev, B * down, C * P * W, [=](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {  // a row of patches
      const int64_t b = strip / down, i = strip % down;
      for (int64_t c = 0; c < C; ++c)
        for (int64_t r = 0; r < P; ++r)
          for (int64_t j = 0; j < across; ++j)
            fn(((b * C + c) * H + i * P + r) * W + j * P, (((strip * across + j) * C + c) * P + r) * P);
    }
  });
}

}  // namespace

template <class T>
void patchify(const Cpu& dev, T* patches, const T* images, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P) {
  for_runs(dev, B, C, H, W, P,
           [=](int64_t image, int64_t patch) { std::copy(images + image, images + image + P, patches + patch); });
}

template <class T>
void unpatchify(const Cpu& dev, T* images, const T* patches, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P) {
  for_runs(dev, B, C, H, W, P,
           [=](int64_t image, int64_t patch) { std::copy(patches + patch, patches + patch + P, images + image); });
}

#define ACCRETE_INSTANTIATE(T)                                                                      \
  template void patchify<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t); \
  template void unpatchify<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
