// Small pictures for tests: made from a number, and written as the formats that data sets hold.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "data/image.h"
#include "data/jpeg.h"
#include "engine/core/error.h"
#include "tests/program_testing.h"

namespace accrete {

// Waves with a little noise, different for every `number`: something like a photograph for JPEG and resampling.
inline Image make_picture(int64_t width, int64_t height, int64_t channels, uint32_t number) {
  Image image(width, height, channels);
  uint32_t noise = number * 2654435761u + 1;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < channels; ++c) {
        noise = noise * 1664525u + 1013904223u;
        const double wave = std::sin(0.07 * static_cast<double>(x + number) + static_cast<double>(c)) +
                            std::cos(0.05 * static_cast<double>(y) - static_cast<double>(number));
        const double value = 128 + 50 * wave + static_cast<double>(noise >> 28);
        image.row(y)[x * channels + c] = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
      }
  return image;
}

inline std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

inline std::string make_pnm(const Image& image) {
  return (image.channels == 3 ? "P6 " : "P5 ") + std::to_string(image.width) + " " + std::to_string(image.height) +
         " 255\n" + std::string(image.pixels.begin(), image.pixels.end());
}

inline std::string make_jpeg(const Image& image, int quality = 90) {
  const std::vector<uint8_t> bytes = jpeg_encode(image, quality);
  return {bytes.begin(), bytes.end()};
}

inline std::string big_endian(uint32_t n) {
  return {static_cast<char>(n >> 24), static_cast<char>(n >> 16), static_cast<char>(n >> 8), static_cast<char>(n)};
}

// One chunk of a PNG; readers need not look at the checksum, and stb_image does not.
inline std::string png_chunk(const std::string& type, const std::string& data) {
  return big_endian(static_cast<uint32_t>(data.size())) + type + data + "CRC!";
}

// A PNG with stored (not packed) rows. colour_type: 0 grey, 2 RGB, 6 RGB and alpha, depth 8 or 16.
inline std::string make_png(uint32_t width, uint32_t height, int depth, int colour_type, const std::string& rows) {
  std::string packed = "\x78\x01";
  for (size_t at = 0; at < rows.size();) {
    const size_t n = std::min<size_t>(rows.size() - at, 65535);
    packed += static_cast<char>(at + n == rows.size());
    for (const size_t v : {n, ~n}) packed += {static_cast<char>(v), static_cast<char>(v >> 8)};
    packed += rows.substr(at, n);
    at += n;
  }
  packed += "ADLR";
  const std::string header = big_endian(width) + big_endian(height) + static_cast<char>(depth) +
                             static_cast<char>(colour_type) + std::string(3, '\0');
  return "\x89PNG\r\n\x1A\n" + png_chunk("IHDR", header) + png_chunk("IDAT", packed) + png_chunk("IEND", "");
}

inline void put_picture(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  put_file(path, bytes);
}

// "" when the call succeeds, else the message of its Error.
template <class F>
std::string refusal(F call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace accrete
