// Resampling on the CPU. Images: down the columns first, in whole vectors, then along the row.
#include "kernels/resample.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "kernels/resample_taps.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

int32_t narrow(int64_t i) { return static_cast<int32_t>(i); }
LinearTaps linear(int64_t i, int64_t from, int64_t to) { return {narrow(i), narrow(from), narrow(to)}; }

// y[c] += weight * x[c]
template <class T>
void add_scaled(float* y, const T* x, float weight, int64_t n) {
  each(0, n, [=]<class V>(int64_t c) { store(y + c, load<V>(y + c) + weight * load<V>(x + c)); });
}

}  // namespace

template <class T>
void resize_bilinear(const Cpu& dev, T* y, const T* x, int64_t planes, int64_t H, int64_t W, int64_t h, int64_t w) {
  for_ranges(dev, planes * h, W + 4 * w, [=](int64_t begin, int64_t end) {
    thread_local Scratch<float> memory;
    float* row = memory.get(W);
    for (int64_t r = begin; r < end; ++r) {
      const LinearTaps down = linear(r % h, H, h);
      const T *above = x + (r / h * H + down.low) * W, *below = x + (r / h * H + down.high) * W;
      const float upper = down.upper;
      each(0, W, [=]<class V>(int64_t v) {
        store(row + v, load<V>(above + v) * (1.0f - upper) + load<V>(below + v) * upper);
      });
      for (int64_t j = 0; j < w; ++j) {
        const LinearTaps along = linear(j, W, w);
        y[r * w + j] = from_float<T>(row[along.low] * (1.0f - along.upper) + row[along.high] * along.upper);
      }
    }
  });
}

template <class T>
void resize_bilinear_backward(const Cpu& dev, T* dx, const T* dy, int64_t planes, int64_t H, int64_t W, int64_t h,
                              int64_t w) {
  for_ranges(dev, planes * H, 4 * w + W, [=](int64_t begin, int64_t end) {
    thread_local Scratch<float> memory;
    float *row = memory.get(w + W), *out = row + w;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t plane = r / H, u = r % H;
      std::fill(row, row + w + W, 0.0f);
      const TapRange down = LinearTaps::reached_by(narrow(u), narrow(H), narrow(h));
      for (int64_t i = down.begin; i < down.end; ++i)
        if (const float factor = linear(i, H, h).of(narrow(u)); factor != 0.0f)
          add_scaled(row, dy + (plane * h + i) * w, factor, w);
      for (int64_t j = 0; j < w; ++j) {
        const LinearTaps along = linear(j, W, w);
        out[along.low] += row[j] * (1.0f - along.upper);
        out[along.high] += row[j] * along.upper;
      }
      each(0, W, [=]<class V>(int64_t v) { store(dx + r * W + v, load<V>(out + v)); });
    }
  });
}

template <class T>
void resample_table(const Cpu& dev, T* y, const T* x, TableGrid g) {
  const int64_t C = g.channels;
  std::copy(x, x + g.extra * C, y);
  for_ranges(dev, g.to_h * g.to_w, 16 * C, [=](int64_t begin, int64_t end) {
    for (int64_t cell = begin; cell < end; ++cell) {
      const CubicTaps down(cell / g.to_w, g.from_h, static_cast<double>(g.to_h) + g.offset);
      const CubicTaps along(cell % g.to_w, g.from_w, static_cast<double>(g.to_w) + g.offset);
      const T* from[16];
      float weight[16];
      for (int k = 0; k < 16; ++k) {
        from[k] = x + (g.extra + down.sample(k / 4) * g.from_w + along.sample(k % 4)) * C;
        weight[k] = down.weight[k / 4] * along.weight[k % 4];
      }
      T* out = y + (g.extra + cell) * C;
      each(0, C, [&]<class V>(int64_t c) {
        V total{};
        for (int k = 0; k < 16; ++k) total += weight[k] * load<V>(from[k] + c);
        store(out + c, total);
      });
    }
  });
}

template <class T>
void resample_table_backward(const Cpu& dev, float* dx, const T* dy, TableGrid g) {
  const int64_t C = g.channels;
  const double to_h = static_cast<double>(g.to_h) + g.offset, to_w = static_cast<double>(g.to_w) + g.offset;
  add_scaled(dx, dy, 1.0f, g.extra * C);
  for_ranges(dev, g.from_h * g.from_w, 32 * C, [=](int64_t begin, int64_t end) {
    for (int64_t cell = begin; cell < end; ++cell) {
      const int64_t u = cell / g.from_w, v = cell % g.from_w;
      const TapRange down = CubicTaps::reached_by(u, g.from_h, to_h, g.to_h);
      const TapRange along = CubicTaps::reached_by(v, g.from_w, to_w, g.to_w);
      for (int64_t i = down.begin; i < down.end; ++i) {
        const float factor = CubicTaps(i, g.from_h, to_h).of(u);
        for (int64_t j = along.begin; factor != 0.0f && j < along.end; ++j)
          if (const float weight = factor * CubicTaps(j, g.from_w, to_w).of(v); weight != 0.0f)
            add_scaled(dx + (g.extra + cell) * C, dy + (g.extra + i * g.to_w + j) * C, weight, C);
      }
    }
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                      \
  template void resize_bilinear<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t);          \
  template void resize_bilinear_backward<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t); \
  template void resample_table<T>(const Cpu&, T*, const T*, TableGrid);                                             \
  template void resample_table_backward<T>(const Cpu&, float*, const T*, TableGrid);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
