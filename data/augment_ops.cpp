// Compiled without contraction of a * b + c (data/CMakeLists.txt): Pillow rounds products and sums separately.
#include "data/augment_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/core/error.h"

namespace accrete::pixels {

namespace {

using Table = std::array<uint8_t, 256>;
using Histogram = std::array<int64_t, 256>;

template <class Fn>
Table table_of(const Fn& fn) {
  Table table;
  for (int i = 0; i < 256; ++i) table[static_cast<size_t>(i)] = static_cast<uint8_t>(std::clamp(fn(i), 0, 255));
  return table;
}

void map_values(Image& image, const Table& table) {
  for (uint8_t& v : image.pixels) v = table[v];
}

// One table for each channel.
void map_values(Image& image, const std::array<Table, 3>& tables) {
  if (image.channels == 1) return map_values(image, tables[0]);
  for (size_t i = 0; i + 2 < image.pixels.size(); i += 3)
    for (size_t c = 0; c < 3; ++c) image.pixels[i + c] = tables[c][image.pixels[i + c]];
}

std::array<Histogram, 3> histograms(const Image& image) {
  std::array<Histogram, 3> h{};
  const auto channels = static_cast<size_t>(image.channels);
  for (size_t i = 0; i + channels <= image.pixels.size(); i += channels)
    for (size_t c = 0; c < channels; ++c) ++h[c][image.pixels[i + c]];
  return h;
}

uint8_t grey_of(const uint8_t* rgb) { return luma(rgb[0], rgb[1], rgb[2]); }

// Pillow's blend in f32, cut off (not rounded) at the end; outside [0, 1] it also clips.
uint8_t blended(int degenerate, int value, float factor) {
  const float v = static_cast<float>(degenerate) + factor * static_cast<float>(value - degenerate);
  return static_cast<uint8_t>(static_cast<int>(std::min(255.0f, std::max(0.0f, v))));
}

void blend_with_constant(Image& image, int constant, double factor) {
  const auto f = static_cast<float>(factor);
  map_values(image, table_of([&](int i) { return static_cast<int>(blended(constant, i, f)); }));
}

}  // namespace

void invert(Image& image) {
  for (uint8_t& v : image.pixels) v = static_cast<uint8_t>(255 - v);
}

void solarize(Image& image, int threshold) {
  map_values(image, table_of([&](int i) { return i < threshold ? i : 255 - i; }));
}

void solarize_add(Image& image, int add) {
  map_values(image, table_of([&](int i) { return i < 128 ? i + add : i; }));
}

void posterize(Image& image, int bits) {
  if (bits >= 8) return;
  const int mask = 0xff00 >> std::max(bits, 0) & 0xff;
  for (uint8_t& v : image.pixels) v = static_cast<uint8_t>(v & mask);
}

void autocontrast(Image& image) {
  const auto h = histograms(image);
  std::array<Table, 3> tables;
  for (size_t c = 0; c < 3; ++c) {
    int low = 0, high = 255;
    while (low < 255 && h[c][static_cast<size_t>(low)] == 0) ++low;
    while (high > 0 && h[c][static_cast<size_t>(high)] == 0) --high;
    const double scale = high > low ? 255.0 / (high - low) : 1.0, offset = high > low ? -low * scale : 0.0;
    tables[c] = table_of([&](int i) { return static_cast<int>(i * scale + offset); });
  }
  map_values(image, tables);
}

void equalize(Image& image) {
  const auto h = histograms(image);
  std::array<Table, 3> tables;
  for (size_t c = 0; c < 3; ++c) {
    int64_t total = 0, last = 0;
    for (const int64_t n : h[c]) total += n, last = n > 0 ? n : last;
    // One occupied level has total == last, so that the step is 0 as well.
    const int64_t step = (total - last) / 255;
    int64_t below = step / 2;
    for (size_t i = 0; i < 256; ++i) {
      tables[c][i] = static_cast<uint8_t>(step == 0 ? static_cast<int64_t>(i) : std::min<int64_t>(255, below / step));
      below += h[c][i];
    }
  }
  map_values(image, tables);
}

void adjust_color(Image& image, double factor) {
  if (image.channels == 1 || factor == 1.0) return;
  const auto f = static_cast<float>(factor);
  for (size_t i = 0; i + 2 < image.pixels.size(); i += 3) {
    uint8_t* p = image.pixels.data() + i;
    const int grey = grey_of(p);
    for (int c = 0; c < 3; ++c) p[c] = blended(grey, p[c], f);
  }
}

void adjust_contrast(Image& image, double factor) {
  uint64_t sum = 0;
  const auto channels = static_cast<size_t>(image.channels);
  const size_t count = image.pixels.size() / channels;
  if (count == 0) return;
  for (size_t i = 0; i < count; ++i) sum += channels == 3 ? grey_of(image.pixels.data() + 3 * i) : image.pixels[i];
  blend_with_constant(image, static_cast<int>(static_cast<double>(sum) / static_cast<double>(count) + 0.5), factor);
}

void adjust_brightness(Image& image, double factor) { blend_with_constant(image, 0, factor); }

void adjust_sharpness(Image& image, double factor) {
  if (factor == 1.0 || image.width < 3 || image.height < 3) return;  // the border is its own degenerate
  const auto f = static_cast<float>(factor);
  const int64_t n = image.width * image.channels, c = image.channels;
  const std::vector<uint8_t> original = image.pixels;
  for (int64_t y = 1; y + 1 < image.height; ++y) {
    const uint8_t *row = original.data() + y * n, *up = row - n, *down = row + n;
    uint8_t* out = image.row(y);
    for (int64_t i = c; i < n - c; ++i) {
      const int around = up[i - c] + up[i] + up[i + c] + row[i - c] + row[i + c] + down[i - c] + down[i] + down[i + c];
      out[i] = blended((around + 5 * row[i] + 6) / 13, row[i], f);  // (s + 6) / 13 rounds s / 13 to nearest
    }
  }
}

void to_grey(Image& image) {
  if (image.channels == 1) return;
  for (size_t i = 0; i + 2 < image.pixels.size(); i += 3) {
    uint8_t* p = image.pixels.data() + i;
    p[0] = p[1] = p[2] = grey_of(p);
  }
}

namespace {

// Weights of one box of radius r + a (0 <= a < 1) in units of 2^-24: `whole` for the 2 r + 1 values in the middle,
// `edge` for the two beyond.
struct Box {
  int64_t radius;
  uint32_t whole, edge;
};

Box box_of(double sigma) {
  constexpr int kPasses = 3;
  const auto s = static_cast<float>(sigma);
  const float variance = s * s / kPasses;
  const auto length = static_cast<float>(std::sqrt(12.0 * static_cast<double>(variance) + 1.0));
  const auto l = static_cast<float>(std::floor((static_cast<double>(length) - 1.0) / 2.0));
  float a = (2 * l + 1) * (l * (l + 1) - 3 * variance);
  a /= 6 * (variance - (l + 1) * (l + 1));
  const float radius = l + a;
  Box box;
  box.radius = static_cast<int64_t>(radius);
  box.whole = static_cast<uint32_t>(16777216.0f / (radius * 2 + 1));
  box.edge = (16777216u - static_cast<uint32_t>(2 * box.radius + 1) * box.whole) / 2;
  return box;
}

// out[i] = box around line[i] at distance `step`, for i in [0, n); line has (radius + 1) * step values on either side.
void blur_line(const uint8_t* line, uint8_t* out, int64_t n, int64_t step, const Box& box) {
  const int64_t r = box.radius, far = (r + 1) * step;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t sum = 0;
    for (int64_t k = -r; k <= r; ++k) sum += line[i + k * step];
    out[i] = static_cast<uint8_t>((sum * box.whole + (line[i - far] + line[i + far]) * box.edge + (1u << 23)) >> 24);
  }
}

}  // namespace

void gaussian_blur(Image& image, double radius) {
  if (radius <= 0 || image.pixels.empty()) return;
  const Box box = box_of(radius);
  const int64_t c = image.channels, n = image.width * c, border = box.radius + 1;
  std::vector<uint8_t> line(static_cast<size_t>(n + 2 * border * c));
  for (int64_t y = 0; y < image.height; ++y)
    for (int pass = 0; pass < 3; ++pass) {
      uint8_t *row = image.row(y), *middle = line.data() + border * c;
      std::memcpy(middle, row, static_cast<size_t>(n));
      for (int64_t k = 0; k < border * c; ++k)
        line[static_cast<size_t>(k)] = row[k % c], middle[n + k] = row[n - c + k % c];
      blur_line(middle, row, n, c, box);
    }
  // Down the columns: all columns of the picture are blurred together, row by row.
  std::vector<uint8_t> tall(static_cast<size_t>((image.height + 2 * border) * n));
  for (int pass = 0; pass < 3; ++pass) {
    for (int64_t y = -border; y < image.height + border; ++y)
      std::memcpy(tall.data() + (y + border) * n, image.row(std::clamp<int64_t>(y, 0, image.height - 1)),
                  static_cast<size_t>(n));
    for (int64_t y = 0; y < image.height; ++y) blur_line(tall.data() + (y + border) * n, image.row(y), n, n, box);
  }
}

}  // namespace accrete::pixels
