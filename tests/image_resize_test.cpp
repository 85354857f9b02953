// Resampling: equal to Pillow's to the last bit on 320 made cases, and to a plain double-precision resampling within
// the roundings of the 8 bits between its passes.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "data/image_resize.h"
#include "engine/core/error.h"
#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "tests/image_testing.h"

using namespace accrete;

namespace {

// The generator of make_resize_golden.py.
Image noise(int64_t width, int64_t height, int64_t channels, uint32_t seed) {
  Image image(width, height, channels);
  for (uint8_t& p : image.pixels) {
    seed = seed * 1664525u + 1013904223u;
    p = static_cast<uint8_t>(seed >> 24);
  }
  return image;
}

// One output of a bicubic resampling along one axis, from the definition.
double bicubic_at(const std::vector<double>& in, double centre, double stretch) {
  double sum = 0, total = 0;
  for (size_t j = 0; j < in.size(); ++j) {
    const double x = std::abs((static_cast<double>(j) + 0.5 - centre) / stretch);
    const double w = x < 1 ? 1.5 * x * x * x - 2.5 * x * x + 1 : x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
    sum += w * in[j], total += w;
  }
  return sum / total;
}

}  // namespace

TEST_CASE("every result is Pillow's to the last bit") {
  const auto golden = parse_json(read_text(ACCRETE_SOURCE_DIR "/tests/golden/resize.json"), "golden");
  int checked = 0;
  for (const auto& c : golden["cases"]) {
    CAPTURE(c.dump());
    const Image in = noise(c[0], c[1], c[2], c[3]);
    const Image out = resize_image(in, c[4], c[5], filter_of(c[6]), c[7], c[8], c[9], c[10]);
    int64_t sum = 0;
    for (const uint8_t p : out.pixels) sum += p;
    CHECK(out.width == c[4]);
    CHECK(out.height == c[5]);
    CHECK(sum == c[12]);
    CHECK(crc32c({reinterpret_cast<const char*>(out.pixels.data()), out.pixels.size()}) == c[11]);
    ++checked;
  }
  CHECK(checked == 320);
}

TEST_CASE("bicubic along one axis follows its formula") {
  const Image in = noise(60, 1, 1, 9);
  const std::vector<double> values(in.pixels.begin(), in.pixels.end());
  for (const int64_t width : {7, 31, 59, 61, 200}) {
    const Image out = resize_image(in, width, 1, Filter::bicubic);
    const double scale = 60.0 / static_cast<double>(width);
    for (int64_t i = 0; i < width; ++i) {
      const double exact = bicubic_at(values, (static_cast<double>(i) + 0.5) * scale, std::max(scale, 1.0));
      // Half a step for rounding to 8 bits, and the weights' 22 bits.
      CHECK(std::abs(std::clamp(exact, 0.0, 255.0) - out.pixels[static_cast<size_t>(i)]) < 0.501);
    }
  }
}

TEST_CASE("what a resampling keeps: size one, constant pictures, mirror symmetry") {
  const Image flat = [] {
    Image image(19, 23, 3);
    std::fill(image.pixels.begin(), image.pixels.end(), uint8_t{201});
    return image;
  }();
  for (const Filter filter : {Filter::nearest, Filter::bilinear, Filter::bicubic, Filter::lanczos})
    for (const auto& [w, h] : {std::pair<int64_t, int64_t>{1, 1}, {19, 23}, {5, 40}, {64, 3}}) {
      const Image out = resize_image(flat, w, h, filter, 0.5, 1.25, 17.5, 20);
      for (const uint8_t p : out.pixels) REQUIRE(p == 201);
    }
  const Image in = noise(40, 30, 3, 3);
  CHECK(resize_image(in, 40, 30, Filter::bicubic).pixels == in.pixels);
  Image mirrored = in;
  for (int64_t y = 0; y < 30; ++y)
    for (int64_t x = 0; x < 40; ++x)
      for (int64_t c = 0; c < 3; ++c) mirrored.row(y)[x * 3 + c] = in.row(y)[(39 - x) * 3 + c];
  const Image a = resize_image(in, 23, 17, Filter::bicubic), b = resize_image(mirrored, 23, 17, Filter::bicubic);
  for (int64_t y = 0; y < 17; ++y)
    for (int64_t x = 0; x < 23; ++x)
      for (int64_t c = 0; c < 3; ++c)  // weights are rounded on one side only, so a step of 1 may differ
        REQUIRE(std::abs(a.row(y)[x * 3 + c] - b.row(y)[(22 - x) * 3 + c]) <= 1);
}

TEST_CASE("wrong sizes, boxes and filters are told") {
  const Image in(10, 10, 3);
  const auto message = [&](int64_t w, int64_t h, double x, double y, double bw, double bh) {
    return refusal([&] { resize_image(in, w, h, Filter::bicubic, x, y, bw, bh); });
  };
  CHECK(message(0, 5, 0, 0, 10, 10) == "[image] cannot resize to 0x5; expected sides of 1..1048576");
  CHECK(message(5, 5, 0, 0, 10.5, 10).find("does not lie in the picture of 10x10") != std::string::npos);
  CHECK(message(5, 5, -0.5, 0, 5, 5).find("does not lie in") != std::string::npos);
  CHECK(message(5, 5, 3, 3, 0, 5).find("does not lie in") != std::string::npos);
  CHECK(message(5, 5, 3, std::nan(""), 5, 5).find("does not lie in") != std::string::npos);
  CHECK(refusal([] { filter_of("cubic"); }) ==
        "[image] unknown filter \"cubic\"; expected nearest, bilinear, bicubic or lanczos");
  CHECK(refusal([] { resize_image(Image(), 4, 4, Filter::bicubic); }).find("cannot resize a picture of 0x0") !=
        std::string::npos);
}
