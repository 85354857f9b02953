#include "data/stb_decode.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <memory>

#include "data/jpeg.h"
#include "engine/core/error.h"
#ifdef ACCRETE_WITH_STB
#if defined(__GNUC__) && !defined(__clang__)
// A reader from memory does not fill the fields of a reader by callbacks, and does not use them.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_FAILURE_USERMSG
#include <stb/stb_image.h>
#endif

namespace accrete {

#ifdef ACCRETE_WITH_STB
namespace {

uint32_t number(std::span<const uint8_t> bytes, size_t at, int size, bool big_endian) {
  uint32_t value = 0;
  for (int i = 0; i < size && at + static_cast<size_t>(i) < bytes.size(); ++i) {
    const uint32_t digit = bytes[at + static_cast<size_t>(i)];
    value = big_endian ? value << 8 | digit : value | digit << (8 * i);
  }
  return value;
}

// Bits of a pixel as stored; a picture that is not packed needs at least that much of a file. The header chunk of a PNG
// stands at a fixed place: 16 width, 20 height, 24 depth, 25 colour type.
int64_t png_bits(std::span<const uint8_t> bytes) {
  const int64_t depth = number(bytes, 24, 1, true), colours[] = {1, 1, 3, 1, 2, 1, 4};
  return std::max<int64_t>(1, depth * colours[std::min<uint32_t>(6, number(bytes, 25, 1, true))]);
}
int64_t bmp_bits(std::span<const uint8_t> bytes) {
  const bool old = number(bytes, 14, 4, false) == 12;
  return std::max<int64_t>(1, number(bytes, old ? 24 : 28, 2, false));
}

void check_length(const ImageHeader& h, int64_t bits, int64_t packing, int64_t bytes, const std::string& where) {
  const int64_t needed = (h.width * bits + 7) / 8 * h.height / packing;
  check(needed <= bytes, where, "the ", h.format, " file is cut short: ", h.width, "x", h.height,
        " pixels need at least ", needed, " bytes; got ", bytes);
}

}  // namespace

bool stb_supported() { return true; }

ImageHeader stb_header(std::span<const uint8_t> bytes, const std::string& format, const std::string& where) {
  check(bytes.size() <= INT_MAX, where, "the ", format, " file is larger than 2 GB");
  const int size = static_cast<int>(bytes.size());
  // A code of GIF's 12 bits stands for at most 4096 pixels; the others are checked closer below.
  constexpr int64_t kMostPixelsPerByte = 8192;
  if (format == "png" && size >= 24)
    check_image_size(number(bytes, 16, 4, true), number(bytes, 20, 4, true), size, kMostPixelsPerByte, where);
  int width = 0, height = 0, channels = 0;
  check(stbi_info_from_memory(bytes.data(), size, &width, &height, &channels) == 1, where, "damaged or unsupported ",
        format, ": ", stbi_failure_reason());
  const ImageHeader header{format, width, height};
  check_image_size(width, height, size, kMostPixelsPerByte, where);
  if (format == "png") {
    check_length(header, png_bits(bytes), 1032, size, where);  // deflate cannot pack closer
  } else if (format == "bmp") {
    check_length(header, bmp_bits(bytes), 1, size, where);
  }
  return header;
}

Image stb_decode(std::span<const uint8_t> bytes, const ImageHeader& header, const std::string& where) {
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 3),
      stbi_image_free);
  check(pixels != nullptr, where, "damaged or unsupported ", header.format, ": ", stbi_failure_reason());
  check(width == header.width && height == header.height, where, "the ", header.format, " file changes its size");
  Image out(width, height, 3);
  std::memcpy(out.pixels.data(), pixels.get(), out.pixels.size());
  return out;
}

#else

namespace {
constexpr const char* kMissing =
    " is not supported: this program was built without stb_image; install it (Debian, Ubuntu: libstb-dev) and build "
    "again";
}  // namespace

bool stb_supported() { return false; }
ImageHeader stb_header(std::span<const uint8_t>, const std::string& format, const std::string& where) {
  fail(where, format, kMissing);
}
Image stb_decode(std::span<const uint8_t>, const ImageHeader& header, const std::string& where) {
  fail(where, header.format, kMissing);
}

#endif

}  // namespace accrete
