// Compiled without contraction of a * b + c (data/CMakeLists.txt): Pillow rounds products and sums separately.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "data/augment_ops.h"
#include "engine/core/error.h"

namespace accrete::pixels {

namespace {

// The cubic through a .. d with a = -1: b at t = 0, c at t = 1. Exact at t = 0, where it is b itself.
double cubic(double a, double b, double c, double d, double t) {
  const double p2 = -a + c, p3 = 2 * (a - b) + c - d, p4 = -a + b - c + d;
  return b + t * (p2 + t * (p3 + t * p4));
}

// The four neighbours of a place along one axis, inside the picture, and how far the place lies behind the second.
struct Taps {
  std::array<int64_t, 4> at;
  double t;
};
Taps taps_around(double place, int64_t size) {
  const double p = place - 0.5, low = std::floor(p);
  const auto first = static_cast<int64_t>(low) - 1;
  Taps taps;
  for (int64_t k = 0; k < 4; ++k) taps.at[static_cast<size_t>(k)] = std::clamp<int64_t>(first + k, 0, size - 1);
  taps.t = p - low;
  return taps;
}

template <int kChannels>
void bicubic(const Image& in, const Taps& x, const Taps& y, uint8_t* out) {
  double columns[4][kChannels];
  // Shears and shifts move along one axis only: a place on the middle of a row needs no other row.
  const int first = y.t == 0.0 ? 1 : 0, last = y.t == 0.0 ? 1 : 3;
  for (int k = first; k <= last; ++k) {
    const uint8_t* row = in.row(y.at[static_cast<size_t>(k)]);
    for (int c = 0; c < kChannels; ++c) {
      const auto at = [&](size_t i) { return static_cast<double>(row[x.at[i] * kChannels + c]); };
      columns[k][c] = x.t == 0.0 ? at(1) : cubic(at(0), at(1), at(2), at(3), x.t);
    }
  }
  for (int c = 0; c < kChannels; ++c) {
    const double v =
        first == last ? columns[1][c] : cubic(columns[0][c], columns[1][c], columns[2][c], columns[3][c], y.t);
    out[c] = static_cast<uint8_t>(std::clamp(v, 0.0, 255.0));
  }
}

template <int kChannels>
void bilinear(const Image& in, const Taps& x, const Taps& y, uint8_t* out) {
  const uint8_t *up = in.row(y.at[1]), *down = in.row(y.at[2]);
  for (int c = 0; c < kChannels; ++c) {
    const auto along = [&](const uint8_t* row) {
      const double a = row[x.at[1] * kChannels + c], b = row[x.at[2] * kChannels + c];
      return a + (b - a) * x.t;
    };
    const double a = along(up), b = along(down);
    out[c] = static_cast<uint8_t>(a + (b - a) * y.t);
  }
}

template <int kChannels>
Image transformed(const Image& in, const Affine& m, bool cubic_filter, const Colour& fill) {
  Image out(in.width, in.height, kChannels);
  const auto width = static_cast<double>(in.width), height = static_cast<double>(in.height);
  for (int64_t y = 0; y < out.height; ++y) {
    uint8_t* to = out.row(y);
    for (int64_t x = 0; x < out.width; ++x, to += kChannels) {
      const double xi = static_cast<double>(x) + 0.5, yi = static_cast<double>(y) + 0.5;
      const double px = m[0] * xi + m[1] * yi + m[2], py = m[3] * xi + m[4] * yi + m[5];
      if (!(px >= 0 && px < width && py >= 0 && py < height)) {
        std::copy_n(fill.begin(), kChannels, to);
        continue;
      }
      const Taps tx = taps_around(px, in.width), ty = taps_around(py, in.height);
      cubic_filter ? bicubic<kChannels>(in, tx, ty, to) : bilinear<kChannels>(in, tx, ty, to);
    }
  }
  return out;
}

// Rounded to 15 decimals, as Pillow writes its matrix.
double round15(double v) {
  char text[64];
  std::snprintf(text, sizeof text, "%.15f", v);
  return std::strtod(text, nullptr);
}

// The pixel that output (x, y) comes from, for turns that move whole pixels.
template <class From>
Image turned(const Image& in, const From& from) {
  Image out(in.width, in.height, in.channels);
  const auto bytes = static_cast<size_t>(in.channels);
  for (int64_t y = 0; y < out.height; ++y)
    for (int64_t x = 0; x < out.width; ++x) {
      const std::pair<int64_t, int64_t> p = from(x, y);
      std::memcpy(out.row(y) + x * in.channels, in.row(p.second) + p.first * in.channels, bytes);
    }
  return out;
}

}  // namespace

void flip_horizontal(Image& image) {
  const int64_t c = image.channels;
  for (int64_t y = 0; y < image.height; ++y) {
    uint8_t *left = image.row(y), *right = left + (image.width - 1) * c;
    for (; left < right; left += c, right -= c)
      for (int64_t k = 0; k < c; ++k) std::swap(left[k], right[k]);
  }
}

Image transform(const Image& in, const Affine& m, Filter filter, const Colour& fill) {
  check(filter == Filter::bilinear || filter == Filter::bicubic, "augment",
        "pictures are sheared, shifted and turned with the filter bilinear or bicubic");
  const bool cubic_filter = filter == Filter::bicubic;
  return in.channels == 3 ? transformed<3>(in, m, cubic_filter, fill) : transformed<1>(in, m, cubic_filter, fill);
}

Image rotate(const Image& in, double degrees, Filter filter, const Colour& fill) {
  const int64_t w = in.width, h = in.height;
  double angle = std::fmod(degrees, 360.0);
  if (angle < 0) angle += 360.0;
  if (angle == 0.0) return in;
  if (angle == 180.0) return turned(in, [&](int64_t x, int64_t y) { return std::pair(w - 1 - x, h - 1 - y); });
  if (angle == 90.0 && w == h) return turned(in, [&](int64_t x, int64_t y) { return std::pair(w - 1 - y, x); });
  if (angle == 270.0 && w == h) return turned(in, [&](int64_t x, int64_t y) { return std::pair(y, h - 1 - x); });
  const double radians = -(angle * (3.141592653589793 / 180.0));
  const double cx = static_cast<double>(w) / 2, cy = static_cast<double>(h) / 2;
  Affine m = {round15(std::cos(radians)),  round15(std::sin(radians)), 0,
              round15(-std::sin(radians)), round15(std::cos(radians)), 0};
  m[2] = m[0] * -cx + m[1] * -cy + 0.0 + cx;
  m[5] = m[3] * -cx + m[4] * -cy + 0.0 + cy;
  return transform(in, m, filter, fill);
}

Image crop(const Image& in, int64_t x, int64_t y, int64_t w, int64_t h, bool mirror) {
  Image out(w, h, in.channels);
  const int64_t c = in.channels;
  const auto reflected = [](int64_t i, int64_t n) {
    if (n == 1) return int64_t{0};
    const int64_t period = 2 * (n - 1), k = ((i % period) + period) % period;
    return k < n ? k : period - k;
  };
  for (int64_t row = 0; row < h; ++row) {
    int64_t from = y + row;
    if (mirror) from = reflected(from, in.height);
    if (from < 0 || from >= in.height) continue;  // stays 0
    const uint8_t* line = in.row(from);
    uint8_t* to = out.row(row);
    const int64_t begin = std::clamp<int64_t>(-x, 0, w), end = std::clamp<int64_t>(in.width - x, begin, w);
    if (end > begin) std::memcpy(to + begin * c, line + (x + begin) * c, static_cast<size_t>((end - begin) * c));
    if (!mirror) continue;
    for (int64_t i = 0; i < w; ++i)
      if (i < begin || i >= end) std::memcpy(to + i * c, line + reflected(x + i, in.width) * c, static_cast<size_t>(c));
  }
  return out;
}

}  // namespace accrete::pixels
