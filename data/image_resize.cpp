// The arithmetic is Pillow's to the bit: weights in double, without fused multiply-adds (CMakeLists.txt turns them off
// for this file), then integers. What is ours is the order of the work: both passes run over vectors.
#include "data/image_resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "engine/core/error.h"

namespace accrete {
namespace {

constexpr int kBits = 22;  // of the fraction of a weight: 8 bits of a pixel and a factor of 4 still fit 32 bits
constexpr int64_t kLargestSide = int64_t{1} << 20;

// 16 sums side by side; GCC and clang split them into what the processor has. Bytes become 32 bits and back in plain
// loops over long rows: those are vectorised well, conversions of single vectors are not (GCC 12).
constexpr int64_t kLanes = 16;
typedef int32_t Sums __attribute__((vector_size(4 * kLanes)));

double bilinear(double x) {
  x = std::abs(x);
  return x < 1 ? 1 - x : 0;
}

// Keys' cubic with a = -1/2.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}
double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

struct Kernel {
  double (*weight)(double);
  double reach;  // the weight is 0 beyond
};
Kernel kernel_of(Filter filter) {
  if (filter == Filter::bilinear) return {bilinear, 1};
  return filter == Filter::bicubic ? Kernel{bicubic, 2} : Kernel{lanczos, 3};
}

// Which inputs make output i, and with what weights: [first(i), first(i) + count(i)), weight(i)[0 ..).
struct Taps {
  int64_t most;  // row length of the weights
  std::vector<int32_t> first, count, weights;
  const int32_t* weight(int64_t i) const { return weights.data() + i * most; }
};

// Outputs 0 .. out-1 stand for [begin, end) of an axis with `in` pixels.
Taps make_taps(int64_t in, float begin, float end, int64_t out, const Kernel& kernel) {
  const double scale = static_cast<double>(end - begin) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0), support = kernel.reach * stretch, shrink = 1.0 / stretch;
  Taps taps;
  taps.most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  taps.first.resize(static_cast<size_t>(out));
  taps.count.resize(static_cast<size_t>(out));
  taps.weights.resize(static_cast<size_t>(out * taps.most));
  std::vector<double> exact(static_cast<size_t>(taps.most));
  for (int64_t i = 0; i < out; ++i) {
    const double centre = begin + (static_cast<double>(i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
    const int64_t count = std::min(in, static_cast<int64_t>(centre + support + 0.5)) - first;
    double sum = 0;
    for (int64_t j = 0; j < count; ++j) {
      exact[j] = kernel.weight((static_cast<double>(j + first) - centre + 0.5) * shrink);
      sum += exact[j];
    }
    for (int64_t j = 0; j < count; ++j) {
      const double share = (sum != 0 ? exact[j] / sum : exact[j]) * (1 << kBits);
      taps.weights[i * taps.most + j] = static_cast<int32_t>(share < 0 ? share - 0.5 : share + 0.5);
    }
    taps.first[i] = static_cast<int32_t>(first);
    taps.count[i] = static_cast<int32_t>(count);
  }
  return taps;
}

void widen(const uint8_t* __restrict from, int64_t n, int32_t* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
// Sums of weighted values -> the values.
void round_off(const int32_t* __restrict from, int64_t n, uint8_t* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<uint8_t>(std::clamp(from[i] >> kBits, 0, 255));
}

// Rows [begin, end) of in (in.height, in.width, C) -> (end - begin, out.width, C). C = 3: four rows at a time, a pixel
// being R G B and one value of no meaning; C = 1: sixteen rows. So the 16 values that one tap reads lie together.
template <int C>
void resize_rows(const Image& in, int64_t begin, int64_t end, const Taps& taps, Image& out) {
  constexpr int64_t kRows = C == 3 ? 4 : 16, kStep = kLanes / kRows;
  const int64_t left = taps.first.front(), right = taps.first.back() + taps.count.back();
  std::vector<uint8_t> bytes(static_cast<size_t>(std::max(right - left, out.width) * kLanes));
  std::vector<int32_t> values(static_cast<size_t>((right - left) * kLanes)),
      results(static_cast<size_t>(out.width * kLanes));
  for (int64_t top = begin; top < end; top += kRows) {
    const int64_t rows = std::min(kRows, end - top);
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* from = in.row(top + r) + left * C;
      uint8_t* to = bytes.data() + r * kStep;
      // Four bytes at once where the row goes on; the last one is the value of no meaning.
      for (int64_t x = left; x + 1 < right; ++x, from += C, to += kLanes) std::memcpy(to, from, kStep);
      std::memcpy(to, from, C);
    }
    widen(bytes.data(), (right - left) * kLanes, values.data());
    for (int64_t x = 0; x < out.width; ++x) {
      const int32_t* weight = taps.weight(x);
      const int32_t* from = values.data() + (taps.first[x] - left) * kLanes;
      Sums sums = Sums{} + (1 << (kBits - 1));
      for (int32_t j = 0; j < taps.count[x]; ++j) {
        Sums pixel;
        std::memcpy(&pixel, from + j * kLanes, sizeof pixel);
        sums += pixel * weight[j];
      }
      std::memcpy(results.data() + x * kLanes, &sums, sizeof sums);
    }
    round_off(results.data(), out.width * kLanes, bytes.data());
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* from = bytes.data() + r * kStep;
      uint8_t* to = out.row(top - begin + r);
      for (int64_t x = 0; x + 1 < out.width; ++x, from += kLanes, to += C) std::memcpy(to, from, kStep);
      std::memcpy(to, from, C);  // before, the next pixel overwrites what is too much
    }
  }
}

// sums += the weighted rows of N taps, one row being `length` values behind the other.
template <int N>
void add_rows(const uint8_t* __restrict row, int64_t length, const int32_t* __restrict weight,
              int32_t* __restrict sums) {
  for (int64_t x = 0; x < length; ++x) {
    int32_t sum = sums[x];
    for (int64_t j = 0; j < N; ++j) sum += row[j * length + x] * weight[j];
    sums[x] = sum;
  }
}

// Rows of `in` -> rows of `out`, the same width; the taps count rows of the whole picture, of which `in` starts at
// `begin`.
void resize_columns(const Image& in, int64_t begin, const Taps& taps, Image& out) {
  const int64_t length = in.width * in.channels;
  std::vector<int32_t> sums(static_cast<size_t>(length));
  for (int64_t y = 0; y < out.height; ++y) {
    const int32_t* weight = taps.weight(y);
    const uint8_t* row = in.row(taps.first[y] - begin);
    std::fill(sums.begin(), sums.end(), 1 << (kBits - 1));
    int32_t j = 0;
    for (; j + 4 <= taps.count[y]; j += 4) add_rows<4>(row + j * length, length, weight + j, sums.data());
    for (; j < taps.count[y]; ++j) add_rows<1>(row + j * length, length, weight + j, sums.data());
    round_off(sums.data(), length, out.row(y));
  }
}

// Pillow steps through the box by adding, so positions carry its rounding.
std::vector<int64_t> nearest_positions(int64_t in, float begin, float end, int64_t out) {
  const double scale = (static_cast<double>(end) - static_cast<double>(begin)) / static_cast<double>(out);
  std::vector<int64_t> at(static_cast<size_t>(out));
  double place = begin + scale * 0.5;
  for (int64_t& a : at) {
    a = std::clamp<int64_t>(static_cast<int64_t>(place), 0, in - 1);
    place += scale;
  }
  return at;
}

Image resize_nearest(const Image& in, int64_t width, int64_t height, float x0, float y0, float x1, float y1) {
  const std::vector<int64_t> columns = nearest_positions(in.width, x0, x1, width);
  const std::vector<int64_t> rows = nearest_positions(in.height, y0, y1, height);
  Image out(width, height, in.channels);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      std::memcpy(out.row(y) + x * in.channels, in.row(rows[y]) + columns[x] * in.channels,
                  static_cast<size_t>(in.channels));
  return out;
}

}  // namespace

Filter filter_of(const std::string& name) {
  if (name == "nearest") return Filter::nearest;
  if (name == "bilinear") return Filter::bilinear;
  if (name == "bicubic") return Filter::bicubic;
  if (name == "lanczos") return Filter::lanczos;
  fail("image", "unknown filter \"", name, "\"; expected nearest, bilinear, bicubic or lanczos");
}

Image resize_image(const Image& in, int64_t width, int64_t height, Filter filter, double x, double y, double w,
                   double h) {
  check(width >= 1 && height >= 1 && width <= kLargestSide && height <= kLargestSide, "image", "cannot resize to ",
        width, "x", height, "; expected sides of 1..", kLargestSide);
  check(in.channels == 1 || in.channels == 3, "image", "expected 1 or 3 channels; got ", in.channels);
  check(in.width >= 1 && in.height >= 1 && in.width <= kLargestSide && in.height <= kLargestSide, "image",
        "cannot resize a picture of ", in.width, "x", in.height);
  // Pillow keeps the box in floats.
  const float x0 = static_cast<float>(x), y0 = static_cast<float>(y);
  const float x1 = static_cast<float>(x + w), y1 = static_cast<float>(y + h);
  const float in_w = static_cast<float>(in.width), in_h = static_cast<float>(in.height);
  check(x0 >= 0 && y0 >= 0 && x1 <= in_w && y1 <= in_h && x0 < x1 && y0 < y1, "image", "the box ", x, ",", y, " of ", w,
        "x", h, " does not lie in the picture of ", in.width, "x", in.height);
  const bool across = width != in.width || x0 != 0 || x1 != in_w;
  const bool down = height != in.height || y0 != 0 || y1 != in_h;
  if (!across && !down) return in;
  if (filter == Filter::nearest) return resize_nearest(in, width, height, x0, y0, x1, y1);

  const Kernel kernel = kernel_of(filter);
  Image wide;  // after the horizontal pass: only the rows that the vertical pass looks at
  const Image* rows = &in;
  int64_t begin = 0;
  Taps vertical;
  if (down) vertical = make_taps(in.height, y0, y1, height, kernel);
  if (across) {
    const Taps taps = make_taps(in.width, x0, x1, width, kernel);
    begin = down ? vertical.first.front() : 0;
    const int64_t end = down ? vertical.first.back() + vertical.count.back() : in.height;
    wide = Image(width, end - begin, in.channels);
    in.channels == 3 ? resize_rows<3>(in, begin, end, taps, wide) : resize_rows<1>(in, begin, end, taps, wide);
    rows = &wide;
  }
  if (!down) return wide;
  Image out(width, height, in.channels);
  resize_columns(*rows, begin, vertical, out);
  return out;
}

}  // namespace accrete
