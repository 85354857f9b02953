// Windows of a grid as rows of a matrix, and back, on the CPU. A row of a window lies in one piece in the grid and in
// the matrix: it is copied as one.
#include "kernels/unfold.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

template <class T>
void unfold(const Cpu& dev, T* cols, const T* x, int64_t first, int64_t rows, const UnfoldShape& s) {
  const int64_t C = s.channels, run = s.kernel * C;
  const int64_t sign = s.reversed ? -1 : 1;
  for_ranges(dev, rows, s.out_w * s.columns(), [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t row = first + n, top = s.stride * (row % s.out_h) + s.offset;
      const T* image = x + row / s.out_h * s.height * s.width * C;
      for (int64_t j = 0; j < s.out_w; ++j) {
        const int64_t left = s.stride * j + s.offset;
        const bool whole = !s.reversed && left >= 0 && left + s.kernel <= s.width;
        T* out = cols + (n * s.out_w + j) * s.columns();
        for (int64_t di = 0; di < s.kernel; ++di, out += run) {
          const int64_t r = top + sign * di;
          if (r < 0 || r >= s.height) {
            std::fill(out, out + run, T{});
            continue;
          }
          const T* line = image + r * s.width * C;
          if (whole) {
            std::copy(line + left * C, line + left * C + run, out);
            continue;
          }
          for (int64_t dj = 0; dj < s.kernel; ++dj) {
            const int64_t q = left + sign * dj;
            if (q < 0 || q >= s.width)
              std::fill(out + dj * C, out + (dj + 1) * C, T{});
            else
              std::copy(line + q * C, line + (q + 1) * C, out + dj * C);
          }
        }
      }
    }
  });
}

template <class T>
void fold(const Cpu& dev, T* x, const T* cols, int64_t images, const UnfoldShape& s) {
  const int64_t C = s.channels, overlap = (s.kernel + s.stride - 1) / s.stride;
  const auto first_of = [=](int64_t at) { return at < s.kernel ? 0 : (at - s.kernel) / s.stride + 1; };
  for_ranges(dev, images * s.height, s.width * C * overlap * overlap, [=](int64_t begin, int64_t end) {
    thread_local Scratch<float> memory;
    float* total = memory.get(C);
    for (int64_t n = begin; n < end; ++n) {
      const int64_t image = n / s.height, r = n % s.height - s.offset;
      for (int64_t column = 0; column < s.width; ++column) {
        const int64_t q = column - s.offset;
        std::fill(total, total + C, 0.0f);
        for (int64_t i = first_of(r); i < s.out_h && s.stride * i <= r; ++i)
          for (int64_t j = first_of(q); j < s.out_w && s.stride * j <= q; ++j) {
            const int64_t at = (r - s.stride * i) * s.kernel + q - s.stride * j;
            const T* from = cols + ((image * s.out_h + i) * s.out_w + j) * s.columns() + at * C;
            each(0, C, [=]<class V>(int64_t c) { store(total + c, load<V>(total + c) + load<V>(from + c)); });
          }
        T* out = x + (n * s.width + column) * C;
        each(0, C, [=]<class V>(int64_t c) { store(out + c, load<V>(total + c)); });
      }
    }
  });
}

#define ACCRETE_INSTANTIATE(T)                                                             \
  template void unfold<T>(const Cpu&, T*, const T*, int64_t, int64_t, const UnfoldShape&); \
  template void fold<T>(const Cpu&, T*, const T*, int64_t, const UnfoldShape&);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
