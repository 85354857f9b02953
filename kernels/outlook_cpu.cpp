// Outlook attention on the CPU: tasks are rows of cells (they gather) and rows of windows (the gradient of the logits),
// so that no two threads write to one place. The rows of 9 numbers are padded to whole vectors.
#include "kernels/outlook.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/micro_kernel.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

constexpr int kPlaces = 9, kSquare = kPlaces * kPlaces;
constexpr int kVectors = (kPlaces + kLanes - 1) / kLanes;
constexpr int kPadded = kVectors * kLanes;

// p[q] = e^p[q]; what is behind place 8 is any finite number.
void exp_places(float* p) {
  for (int q = 0; q < kPadded; q += kLanes) store(p + q, exp(load<Vec>(p + q)));
}

// p[q] = softmax of scale * row[q] for the first 9 of kPadded; gives the log-sum-exp.
template <class T>
float softmax_row(float* p, const T* row, float scale) {
  float top = -std::numeric_limits<float>::infinity(), total = 0.0f;
  for (int q = 0; q < kPlaces; ++q) {
    p[q] = scale * to_float(row[q]);
    top = max(p[q], top);
  }
  for (int q = 0; q < kPlaces; ++q) p[q] -= top;
  std::fill(p + kPlaces, p + kPadded, 0.0f);
  exp_places(p);
  for (int q = 0; q < kPlaces; ++q) total += p[q];
  const float factor = 1.0f / total;
  for (int q = 0; q < kPadded; q += kLanes) store(p + q, load<Vec>(p + q) * factor);
  return top + std::log(total);
}

// The places of window (i, j) that lie on the grid, with the offset of their cells in an image.
struct Places {
  int count = 0;
  int place[kPlaces];
  int64_t offset[kPlaces];
  Places(const OutlookShape& s, int64_t i, int64_t j) {
    for (int k = 0; k < kPlaces; ++k) {
      const int64_t r = 2 * i - 1 + k / 3, q = 2 * j - 1 + k % 3;
      if (r < 0 || r >= s.height || q < 0 || q >= s.width) continue;
      place[count] = k;
      offset[count++] = (r * s.width + q) * s.channels();
    }
  }
};

// out of one row of cells = sum over the windows of a cell of sum_k w[k] in[place k]. The cell is place `mine` of the
// window; w[k] = a[mine, k], or a[k, mine] for kTransposed (then lse is given).
template <bool kTransposed, class T>
void gather_row(T* out, const T* in, const T* logits, const float* lse, const OutlookShape& s, int64_t row) {
  thread_local Scratch<float> memory;
  const int64_t C = s.channels(), D = s.head_dim, image = row / s.height, y = row % s.height;
  float* total = memory.get(C);
  const T* grid = in + image * s.height * s.width * C;
  for (int64_t x = 0; x < s.width; ++x) {
    std::fill(total, total + C, 0.0f);
    for (int64_t i = y / 2; i <= std::min((y + 1) / 2, s.windows_h() - 1); ++i)
      for (int64_t j = x / 2; j <= std::min((x + 1) / 2, s.windows_w() - 1); ++j) {
        const Places places(s, i, j);
        const int64_t mine = (y - 2 * i + 1) * 3 + x - 2 * j + 1;
        for (int64_t h = 0; h < s.heads; ++h) {
          const int64_t at = ((image * s.windows_h() + i) * s.windows_w() + j) * s.heads + h;
          const T* window = logits + at * kSquare;
          float w[kPadded] = {};
          if constexpr (kTransposed) {
            for (int k = 0; k < kPlaces; ++k)
              w[k] = s.scale * to_float(window[k * kPlaces + mine]) - lse[at * kPlaces + k];
            exp_places(w);
          } else {
            softmax_row(w, window + mine * kPlaces, s.scale);
          }
          float* sum = total + h * D;
          const T* head = grid + h * D;
          each(0, D, [&]<class V>(int64_t d) {
            V v = load<V>(sum + d);
            for (int n = 0; n < places.count; ++n) v += w[places.place[n]] * load<V>(head + places.offset[n] + d);
            store(sum + d, v);
          });
        }
      }
    T* to = out + (row * s.width + x) * C;
    each(0, C, [=]<class V>(int64_t c) { store(to + c, load<V>(total + c)); });
  }
}

// dlogits and lse of one row of windows. da = d_o v^T is a product in registers: v stands transposed, places side by
// side.
template <class T>
void window_row(T* dlogits, float* lse, const T* dy, const T* v, const T* logits, const OutlookShape& s, int64_t row) {
  thread_local Scratch<float> memory;
  const int64_t C = s.channels(), D = s.head_dim, image = row / s.windows_h(), i = row % s.windows_h();
  float* d_o = memory.get((kPlaces + kPadded) * D);  // (9, D)
  float* values = d_o + kPlaces * D;                 // (D, kPadded)
  const int64_t base = image * s.height * s.width * C;
  for (int64_t j = 0; j < s.windows_w(); ++j) {
    const Places places(s, i, j);
    for (int64_t h = 0; h < s.heads; ++h) {
      std::fill(d_o, values + kPadded * D, 0.0f);
      for (int n = 0; n < places.count; ++n) {
        const int64_t at = base + places.offset[n] + h * D;
        float* g = d_o + places.place[n] * D;
        each(0, D, [=]<class V>(int64_t d) { store(g + d, load<V>(dy + at + d)); });
        for (int64_t d = 0; d < D; ++d) values[d * kPadded + places.place[n]] = to_float(v[at + d]);
      }
      float da[kPlaces * kPadded];
      for (int r = 0; r < kPlaces; r += 3)
        tile_product<3, kVectors>(D, d_o + r * D, D, 1, values, kPadded, da + r * kPadded, kPadded, false);
      const int64_t at = (row * s.windows_w() + j) * s.heads + h;
      for (int r = 0; r < kPlaces; ++r) {
        float p[kPadded], inner = 0.0f;
        const float* g = da + r * kPadded;
        lse[at * kPlaces + r] = softmax_row(p, logits + at * kSquare + r * kPlaces, s.scale);
        for (int q = 0; q < kPlaces; ++q) inner += p[q] * g[q];
        T* out = dlogits + at * kSquare + r * kPlaces;
        for (int q = 0; q < kPlaces; ++q) out[q] = from_float<T>(s.scale * p[q] * (g[q] - inner));
      }
    }
  }
}

}  // namespace

template <class T>
void outlook_forward(const Cpu& dev, T* y, const T* v, const T* logits, const OutlookShape& s) {
  if (s.width * s.channels() <= 0) return;
  for_ranges(dev, s.batch * s.height, 32 * s.width * s.channels(), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) gather_row<false, T>(y, v, logits, nullptr, s, row);
  });
}

template <class T>
void outlook_backward(const Cpu& dev, T* dv, T* dlogits, float* lse, const T* dy, const T* v, const T* logits,
                      const OutlookShape& s) {
  if (s.width * s.channels() <= 0) return;
  for_ranges(dev, s.batch * s.windows_h(), 64 * s.width * s.channels(), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) window_row(dlogits, lse, dy, v, logits, s, row);
  });
  for_ranges(dev, s.batch * s.height, 32 * s.width * s.channels(), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) gather_row<true, T>(dv, dy, logits, lse, s, row);
  });
}

#define ACCRETE_INSTANTIATE(T)                                                               \
  template void outlook_forward<T>(const Cpu&, T*, const T*, const T*, const OutlookShape&); \
  template void outlook_backward<T>(const Cpu&, T*, T*, float*, const T*, const T*, const T*, const OutlookShape&);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
