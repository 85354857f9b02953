// Outlook attention on the CPU: tasks are rows of cells (they gather) and rows of windows (the gradient of the logits),
// so that no two threads write to one place. Rows of 9 numbers do not fill vectors: many are taken at once, one per
// lane.
#include "kernels/outlook.h"

#include <algorithm>
#include <cstring>

#include "kernels/micro_kernel.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

constexpr int kPlaces = 9, kSquare = kPlaces * kPlaces;
constexpr int kVectors = (kPlaces + kLanes - 1) / kLanes;
constexpr int kPadded = kVectors * kLanes;

// Up to kLanes rows of 9 numbers, a row per lane: z[q] lane n = row(n)[q], other lanes 0. Through whole vectors,
// because compilers make gathers of strided scalar loads, which are slow. Nothing is read from `end` on.
template <class T, class Row>
void load_rows(Vec (&z)[kPlaces], int64_t rows, const T* end, const Row& row) {
  for (int c = 0; c < kPadded; c += kLanes) {
    Vec square[kLanes];
    for (int64_t n = 0; n < kLanes; ++n) {
      if (n >= rows) {
        square[n] = Vec{};
        continue;
      }
      const T* from = row(n);
      square[n] = from + kPadded <= end ? load<Vec>(from + c) : load_part(from + c, std::min(kLanes, kPlaces - c));
    }
    transpose_square(square);
    for (int i = 0; i < kLanes && c + i < kPlaces; ++i) z[c + i] = square[i];
  }
}

// y[n * 9 + q] = z[q] lane n for the first `rows` lanes.
template <class T>
void store_rows(T* y, int64_t rows, const Vec (&z)[kPlaces]) {
  T part[kLanes][kPadded];
  for (int c = 0; c < kPadded; c += kLanes) {
    Vec square[kLanes];
    for (int i = 0; i < kLanes; ++i) square[i] = c + i < kPlaces ? z[c + i] : Vec{};
    transpose_square(square);
    for (int n = 0; n < kLanes; ++n) store(part[n] + c, square[n]);
  }
  for (int64_t n = 0; n < rows; ++n) std::memcpy(static_cast<void*>(y + n * kPlaces), part[n], kPlaces * sizeof(T));
}

// z = softmax of scale * z, lane by lane.
void softmax_lanes(Vec (&z)[kPlaces], float scale) {
  Vec top = z[0] * scale, total{};
  for (Vec& v : z) {
    v *= scale;
    top = max(v, top);
  }
  for (Vec& v : z) {
    v = exp(v - top);
    total += v;
  }
  const Vec factor = 1.0f / total;
  for (Vec& v : z) v *= factor;
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

// sum[d] += sum of w[k] in[place k][d] over the places on the grid; weights are `stride` apart.
template <bool kAll, int stride, class T>
void add_places(float* sum, const float* w, const T* in, const Places& places, int64_t D) {
  each(0, D, [&]<class V>(int64_t d) {
    V v = load<V>(sum + d);
    const int count = kAll ? kPlaces : places.count;
    for (int n = 0; n < count; ++n) v += w[(kAll ? n : places.place[n]) * stride] * load<V>(in + places.offset[n] + d);
    store(sum + d, v);
  });
}

// out of one row of cells = sum over the windows of a cell of sum_k w[k] in[place k], for each head. The cell is place
// `mine` of the window; w[k] = a[mine, k] made of `logits`, or for kTransposed a[k, mine] from `turned`.
template <bool kTransposed, class T>
void gather_row(T* out, const T* in, const T* logits, const float* turned, const OutlookShape& s, int64_t row) {
  thread_local Scratch<float> memory;
  constexpr int kStride = kTransposed ? 1 : kLanes;
  const int64_t C = s.channels(), D = s.head_dim, image = row / s.height, y = row % s.height;
  float* total = memory.get(C);
  const T* grid = in + image * s.height * s.width * C;
  const T* end = logits + s.batch * s.windows_h() * s.windows_w() * s.heads * kSquare;
  for (int64_t x = 0; x < s.width; ++x) {
    each(0, C, [=]<class V>(int64_t c) { store(total + c, V{}); });
    for (int64_t i = y / 2; i <= std::min((y + 1) / 2, s.windows_h() - 1); ++i)
      for (int64_t j = x / 2; j <= std::min((x + 1) / 2, s.windows_w() - 1); ++j) {
        const Places places(s, i, j);
        const int64_t mine = (y - 2 * i + 1) * 3 + x - 2 * j + 1;
        const int64_t at = ((image * s.windows_h() + i) * s.windows_w() + j) * s.heads;
        const auto add = [&](int64_t h, const float* w) {
          if (places.count == kPlaces)
            add_places<true, kStride>(total + h * D, w, grid + h * D, places, D);
          else
            add_places<false, kStride>(total + h * D, w, grid + h * D, places, D);
        };
        if constexpr (kTransposed) {
          for (int64_t h = 0; h < s.heads; ++h) add(h, turned + (at + h) * kSquare + mine * kPlaces);
        } else {
          for (int64_t first = 0; first < s.heads; first += kLanes) {  // a head per lane
            const int64_t heads = std::min<int64_t>(kLanes, s.heads - first);
            const T* rows = logits + (at + first) * kSquare + mine * kPlaces;
            Vec z[kPlaces];
            load_rows(z, heads, end, [=](int64_t n) { return rows + n * kSquare; });
            softmax_lanes(z, s.scale);
            float w[kPlaces * kLanes];
            for (int q = 0; q < kPlaces; ++q) store(w + q * kLanes, z[q]);
            for (int64_t n = 0; n < heads; ++n) add(first + n, w + n);
          }
        }
      }
    T* to = out + (row * s.width + x) * C;
    each(0, C, [=]<class V>(int64_t c) { store(to + c, load<V>(total + c)); });
  }
}

// dlogits and `turned` of one row of windows. Rows r of the 9 x 9 matrices are lanes: da, (q, r), is a product in
// registers of v and the transposed d_o.
template <class T>
void window_row(T* dlogits, float* turned, const T* dy, const T* v, const T* logits, const OutlookShape& s,
                int64_t row) {
  thread_local Scratch<float> memory;
  const int64_t C = s.channels(), D = s.head_dim, image = row / s.windows_h(), i = row % s.windows_h();
  float* values = memory.get((kPlaces + kPadded) * D);  // (9, D)
  float* d_o = values + kPlaces * D;                    // (D, kPadded)
  const int64_t base = image * s.height * s.width * C;
  const T* end = logits + s.batch * s.windows_h() * s.windows_w() * s.heads * kSquare;
  std::fill(values, d_o + kPadded * D, 0.0f);
  for (int64_t j = 0; j < s.windows_w(); ++j) {
    const Places places(s, i, j);
    for (int64_t h = 0; h < s.heads; ++h) {
      if (places.count < kPlaces) std::fill(values, d_o + kPadded * D, 0.0f);
      for (int n = 0; n < places.count; ++n) {
        const int64_t at = base + places.offset[n] + h * D;
        float* to = values + places.place[n] * D;
        each(0, D, [=]<class V>(int64_t d) { store(to + d, load<V>(v + at + d)); });
        for (int64_t d = 0; d < D; ++d) d_o[d * kPadded + places.place[n]] = to_float(dy[at + d]);
      }
      float da[kPlaces * kPadded];
      for (int q = 0; q < kPlaces; q += 3)
        tile_product<3, kVectors>(D, values + q * D, D, 1, d_o, kPadded, da + q * kPadded, kPadded, false);
      const int64_t at = ((row * s.windows_w() + j) * s.heads + h) * kSquare;
      float a[kPlaces * kPadded];
      for (int first = 0; first < kPlaces; first += kLanes) {
        const int rows = std::min(kLanes, kPlaces - first);
        const T* from = logits + at + first * kPlaces;
        Vec z[kPlaces], inner{};
        load_rows(z, rows, end, [=](int64_t n) { return from + n * kPlaces; });
        softmax_lanes(z, s.scale);
        for (int q = 0; q < kPlaces; ++q) {
          store(a + q * kPadded + first, z[q]);
          inner += z[q] * load<Vec>(da + q * kPadded + first);
        }
        for (int q = 0; q < kPlaces; ++q) z[q] *= s.scale * (load<Vec>(da + q * kPadded + first) - inner);
        store_rows(dlogits + at + first * kPlaces, rows, z);
      }
      for (int q = 0; q < kPlaces; ++q) std::copy_n(a + q * kPadded, kPlaces, turned + at + q * kPlaces);
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
void outlook_backward(const Cpu& dev, T* dv, T* dlogits, float* turned, const T* dy, const T* v, const T* logits,
                      const OutlookShape& s) {
  if (s.width * s.channels() <= 0) return;
  for_ranges(dev, s.batch * s.windows_h(), 64 * s.width * s.channels(), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) window_row(dlogits, turned, dy, v, logits, s, row);
  });
  for_ranges(dev, s.batch * s.height, 32 * s.width * s.channels(), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) gather_row<true, T>(dv, dy, logits, turned, s, row);
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
