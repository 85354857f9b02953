// Pictures for tests, computed the same way in tests/golden/make_augment.py.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "data/image_set.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"

namespace accrete {

// Smooth colours with noise from a linear congruence.
inline Image test_picture(int64_t width, int64_t height, int64_t channels) {
  Image image(width, height, channels);
  int64_t state = 12345;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < channels; ++c) {
        state = (state * 1103515245 + 12345) % (int64_t{1} << 31);
        image.row(y)[x * channels + c] =
            static_cast<uint8_t>(10 + (5 * x + 3 * y * (c + 1) + x * y / 4 + (state >> 16) % 40) % 231);
      }
  return image;
}

inline std::string hash_of(const void* data, size_t bytes) {
  Sha256 hash;
  hash.update(data, bytes);
  return hash.hex();
}

// 24 digits of the SHA-256 of the bytes, and their sum.
inline std::string kept(const Image& image) {
  int64_t sum = 0;
  for (const uint8_t v : image.pixels) sum += v;
  return hash_of(image.pixels.data(), image.pixels.size()).substr(0, 24) + " " + std::to_string(sum);
}

// n pictures in memory; picture i has the class i mod classes. `broken` pictures cannot be read.
class MemoryImages : public ImageSet {
 public:
  MemoryImages(int64_t n, int64_t classes, std::function<Image(int64_t)> make) : n_(n), make_(std::move(make)) {
    for (int64_t c = 0; c < classes; ++c) names_.push_back("class " + std::to_string(c));
  }
  int64_t size() const override { return n_; }
  int32_t label(int64_t i) const override { return static_cast<int32_t>(i % static_cast<int64_t>(names_.size())); }
  std::string name(int64_t i) const override { return "picture " + std::to_string(i); }
  StoredImage read(int64_t i) const override {
    if (std::count(broken.begin(), broken.end(), i)) fail(name(i), "is cut short");
    StoredImage stored;
    stored.pixels = make_(i);
    return stored;
  }
  const std::vector<std::string>& classes() const override { return names_; }
  int64_t channels() const override { return make_(0).channels; }

  std::vector<int64_t> broken;

 private:
  int64_t n_;
  std::function<Image(int64_t)> make_;
  std::vector<std::string> names_;
};

// Every pixel of picture i is the number i (below 256).
inline Image numbered_picture(int64_t i, int64_t side, int64_t channels = 3) {
  Image image(side, side, channels);
  std::fill(image.pixels.begin(), image.pixels.end(), static_cast<uint8_t>(i));
  return image;
}

}  // namespace accrete
