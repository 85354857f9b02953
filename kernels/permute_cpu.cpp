// Data movement on the CPU.
#include "kernels/permute.h"

#include <cstring>

#include "kernels/parallel.h"

namespace accrete::kernels {

template <class T>
void transpose(const Cpu& dev, T* y, const T* x, int64_t batch, int64_t rows, int64_t cols) {
  constexpr int64_t kTile = 32;
  const int64_t strips = (cols + kTile - 1) / kTile;
  for_blocks(dev, batch * strips, 2 * batch * rows * cols, [=](int64_t task) {
    const int64_t b = task / strips, c0 = task % strips * kTile, c1 = std::min(cols, c0 + kTile);
    const T* from = x + b * rows * cols;
    T* to = y + b * rows * cols;
    for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
      const int64_t r1 = std::min(rows, r0 + kTile);
      // Through a small buffer: reading a column of x directly would hit one cache set when cols is a power of two.
      T tile[kTile][kTile + 1];
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = c0; c < c1; ++c) tile[c - c0][r - r0] = from[r * cols + c];
      for (int64_t c = c0; c < c1; ++c) std::copy(tile[c - c0], tile[c - c0] + (r1 - r0), to + c * rows + r0);
    }
  });
}

template <class T>
void swap_middle(const Cpu& dev, T* y, const T* x, int64_t A, int64_t B, int64_t C, int64_t D) {
  for_ranges(dev, A * C, B * D, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t a = row / C, c = row % C;
      const T* from = x + (a * B * C + c) * D;
      T* to = y + row * B * D;
      if (D == 1) {
        for (int64_t b = 0; b < B; ++b) to[b] = from[b * C];
      } else {
        for (int64_t b = 0; b < B; ++b) std::memcpy(to + b * D, from + b * C * D, static_cast<size_t>(D) * sizeof(T));
      }
    }
  });
}

template <class T>
void copy_rows(const Cpu& dev, T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t cols) {
  if (cols <= 0) return;
  for_ranges(dev, rows, cols, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      std::memcpy(y + r * y_stride, x + r * x_stride, static_cast<size_t>(cols) * sizeof(T));
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                \
  template void transpose<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t);            \
  template void swap_middle<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t); \
  template void copy_rows<T>(const Cpu&, T*, int64_t, const T*, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
