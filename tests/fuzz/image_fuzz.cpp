// Any bytes as a picture: refused with an Error, or decoded to the size of its header, whole and in part.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "data/image_decode.h"
#include "data/image_resize.h"
#include "engine/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace accrete;
  // The first bytes say which region is asked for; the format's own first bytes stay at the begin of the rest.
  if (size < 4) return 0;
  const uint8_t *ask = data, channels = data[0] % 2 ? 1 : 3;
  const std::span<const uint8_t> bytes(data + 4, size - 4);
  ImageHeader header;
  try {
    header = read_image_header(bytes, "fuzz");
  } catch (const Error&) {
    return 0;
  }
  if (header.width < 1 || header.height < 1 || header.width > kMaxImagePixels / header.height) std::abort();
  if (header.width * header.height > 1 << 20) return 0;  // allowed, but slow
  try {
    const Image image = decode_image(bytes, channels, "fuzz");
    if (image.width != header.width || image.height != header.height || image.channels != channels) std::abort();
    resize_image(image, 7, 5, Filter::bicubic);
  } catch (const Error&) {
  }
  const int64_t w = header.width, h = header.height;
  Region region{.x = ask[1] * w / 256, .y = ask[2] * h / 256};
  region.w = std::max<int64_t>(1, (w - region.x) * (ask[3] % 16 + 1) / 16);
  region.h = std::max<int64_t>(1, (h - region.y) * (ask[3] / 16 + 1) / 16);
  try {
    const DecodedRegion part = decode_region(bytes, channels, region, 6, 6, "fuzz");
    if (part.x < 0 || part.y < 0 || part.x + part.w > static_cast<double>(part.image.width) ||
        part.y + part.h > static_cast<double>(part.image.height))
      std::abort();
    resize_image(part.image, 6, 6, Filter::bicubic, part.x, part.y, part.w, part.h);
  } catch (const Error&) {
  }
  return 0;
}
