// Small ops on grids of features on the CPU. Tasks are rows of cells.
#include "kernels/grid.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

template <class T>
void average_pool2_forward(const Cpu& dev, T* y, const T* x, int64_t batch, int64_t H, int64_t W, int64_t C) {
  const int64_t h = (H + 1) / 2, w = (W + 1) / 2;
  for_ranges(dev, batch * h, W * C * 2, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t j = 0; j < w; ++j) {
        const int64_t i = n % h;
        const T* a = x + ((n / h * H + 2 * i) * W + 2 * j) * C;
        const int64_t down = 2 * i + 1 < H ? W * C : 0, right = 2 * j + 1 < W ? C : 0;  // 0: a cell that is missing
        T* out = y + (n * w + j) * C;
        // A missing cell is replaced by its neighbour, which leaves the mean of those that exist.
        each(0, C, [=]<class V>(int64_t c) {
          const V top = load<V>(a + c) + load<V>(a + right + c);
          const V bottom = load<V>(a + down + c) + load<V>(a + down + right + c);
          store(out + c, (top + bottom) * 0.25f);
        });
      }
  });
}

template <class T>
void average_pool2_backward(const Cpu& dev, T* dx, const T* dy, int64_t batch, int64_t H, int64_t W, int64_t C) {
  const int64_t h = (H + 1) / 2, w = (W + 1) / 2;
  for_ranges(dev, batch * H, W * C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t q = 0; q < W; ++q) {
        const int64_t r = n % H, cells = ((r | 1) < H ? 2 : 1) * ((q | 1) < W ? 2 : 1);
        const float factor = 1.0f / static_cast<float>(cells);
        const T* from = dy + ((n / H * h + r / 2) * w + q / 2) * C;
        T* out = dx + (n * W + q) * C;
        each(0, C, [=]<class V>(int64_t c) { store(out + c, load<V>(from + c) * factor); });
      }
  });
}

template <class T>
void mix_tokens(const Cpu& dev, T* y, const T* x, const int32_t* box, int64_t unit, int64_t batch, int64_t H, int64_t W,
                int64_t C) {
  const int64_t top = unit * box[0], bottom = unit * box[1];
  const int64_t left = std::clamp<int64_t>(unit * box[2], 0, W), right = std::clamp<int64_t>(unit * box[3], left, W);
  for_ranges(dev, batch * H, W * C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t r = n % H, partner = (batch - 1 - n / H) * H + r;
      const T *mine = x + n * W * C, *other = x + partner * W * C;
      T* out = y + n * W * C;
      std::copy(mine, mine + W * C, out);
      if (r >= top && r < bottom) std::copy(other + left * C, other + right * C, out + left * C);
    }
  });
}

template <class T>
void max_tokens(const Cpu& dev, T* y, const T* x, int64_t batch, int64_t tokens, int64_t C) {
  for_ranges(dev, batch, tokens * C, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const T* from = x + b * tokens * C;
      each(0, C, [=, out = y + b * C]<class V>(int64_t c) {
        V top = load<V>(from + c);
        for (int64_t t = 1; t < tokens; ++t) top = max(load<V>(from + t * C + c), top);
        store(out + c, top);
      });
    }
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                        \
  template void average_pool2_forward<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);               \
  template void average_pool2_backward<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);              \
  template void mix_tokens<T>(const Cpu&, T*, const T*, const int32_t*, int64_t, int64_t, int64_t, int64_t, int64_t); \
  template void max_tokens<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
