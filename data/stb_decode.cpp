#include "data/stb_decode.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "data/jpeg.h"
#include "engine/core/error.h"
#ifdef ACCRETE_WITH_STB

namespace {

// Packed data does not say how long it is unpacked, and stb_image unpacks all of it: a PNG of some kilobytes could fill
// the memory. So its blocks come from an allowance, which stb_decode sets from the checked header.
struct Allowance {
  size_t left = 0;
  bool exceeded = false;
};
thread_local Allowance allowance;

constexpr size_t kFront = 16;  // bytes in front of a block, for its size; what follows is aligned as malloc aligns

void* stb_resize(void* block, size_t size) {
  char* front = block ? static_cast<char*>(block) - kFront : nullptr;
  size_t old = 0;
  if (front) std::memcpy(&old, front, sizeof old);
  if (size > old && size - old > allowance.left) {
    allowance.exceeded = true;
    return nullptr;
  }
  front = static_cast<char*>(std::realloc(front, kFront + size));
  if (!front) return nullptr;  // the old block stays
  allowance.left = allowance.left + old - size;
  std::memcpy(front, &size, sizeof size);
  return front + kFront;
}

void stb_free(void* block) {
  if (!block) return;
  char* front = static_cast<char*>(block) - kFront;
  size_t size = 0;
  std::memcpy(&size, front, sizeof size);
  allowance.left += size;
  std::free(front);
}

}  // namespace

#define STBI_MALLOC(size) stb_resize(nullptr, size)
#define STBI_REALLOC_SIZED(block, old_size, size) stb_resize(block, size)
#define STBI_FREE(block) stb_free(block)
#if defined(__GNUC__) && !defined(__clang__)
// A reader from memory does not fill the fields of a reader by callbacks, and does not use them.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#ifdef __clang__
// An empty first data chunk of a PNG is copied, zero bytes of it, to a buffer not yet allocated: nothing is written,
// and the sanitizers' complaint about the null pointer is all that comes of it.
#pragma clang attribute push(__attribute__((no_sanitize("nonnull-attribute"))), apply_to = function)
#endif
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_FAILURE_USERMSG
#include <stb/stb_image.h>
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif

namespace accrete {

#ifdef ACCRETE_WITH_STB
namespace {

constexpr size_t kScratch = size_t{1} << 20;  // for tables, whatever the picture

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

// Why the last call failed.
std::string reason() {
  if (allowance.exceeded) return "it asks for more memory than its header tells";
  const char* text = stbi_failure_reason();
  return text ? text : "out of memory";
}

// What decoding may take. Pixels exist at most three times at once (unpacked, in their places, converted or one pass of
// interlaced rows), of which unpacked interlaced rows may have grown to twice their size: together less than 4 times
// RGBA. The packed bytes are copied into a buffer that doubles.
size_t memory_for(std::span<const uint8_t> bytes, const ImageHeader& h) {
  const int64_t wide = h.format == "png" && number(bytes, 24, 1, true) == 16 ? 2 : 1;
  return static_cast<size_t>(h.width * h.height * 4 * wide) * 4 + 2 * bytes.size() + kScratch;
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
  allowance = {kScratch, false};
  if (stbi_info_from_memory(bytes.data(), size, &width, &height, &channels) != 1)
    fail(where, "damaged or unsupported ", format, ": ", reason());
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
  allowance = {memory_for(bytes, header), false};
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 3),
      stbi_image_free);
  if (!pixels) fail(where, "damaged or unsupported ", header.format, ": ", reason());
  check(width == header.width && height == header.height, where, "the ", header.format, " file changes its size");
  Image out(width, height, 3);
  std::memcpy(out.pixels.data(), pixels.get(), out.pixels.size());
  return out;
}

#else

namespace {
[[noreturn]] void missing(const std::string& where, const std::string& format) {
  throw MissingLibrary("[" + where + "] " + format +
                       " is not supported: this program was built without stb_image; install it (Debian, Ubuntu: "
                       "libstb-dev) and build again");
}
}  // namespace

bool stb_supported() { return false; }
ImageHeader stb_header(std::span<const uint8_t>, const std::string& format, const std::string& where) {
  missing(where, format);
}
Image stb_decode(std::span<const uint8_t>, const ImageHeader& header, const std::string& where) {
  missing(where, header.format);
}

#endif

}  // namespace accrete
