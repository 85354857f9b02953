// Pictures in memory, and where an encoded one comes from.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace accrete {

// Rows from top to bottom, pixels from left to right, channels together: (height, width, channels) u8.
struct Image {
  int64_t width = 0, height = 0, channels = 3;  // channels: 3 (RGB) or 1 (grey)
  std::vector<uint8_t> pixels;

  Image() = default;
  Image(int64_t w, int64_t h, int64_t c) : width(w), height(h), channels(c), pixels(static_cast<size_t>(w * h * c)) {}
  uint8_t* row(int64_t y) { return pixels.data() + y * width * channels; }
  const uint8_t* row(int64_t y) const { return pixels.data() + y * width * channels; }
};

// Brightness on 0..255, rounded as Pillow rounds it (ITU-R 601).
inline uint8_t luma(int r, int g, int b) {
  return static_cast<uint8_t>((r * 19595 + g * 38470 + b * 7471 + 32768) >> 16);
}

// A rectangle of a picture, in pixels.
struct Region {
  int64_t x = 0, y = 0, w = 0, h = 0;
  bool operator==(const Region&) const = default;
};

// A picture as its data set holds it: encoded (JPEG, PNG, ...) or as pixels.
struct StoredImage {
  std::span<const uint8_t> encoded;   // empty: `pixels` holds it
  std::shared_ptr<const void> owner;  // keeps `encoded` alive
  Image pixels;
};

}  // namespace accrete
