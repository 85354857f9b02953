// Encoded pictures to pixels. The content decides the format, never the name. JPEG through libjpeg-turbo; PNG, BMP and
// GIF (first frame) through stb_image; binary PNM. Every size is checked before memory is taken.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/image.h"
#include "engine/core/error.h"

namespace accrete {

// The Error for a format whose library this build lacks: no fault of the picture, so nobody may leave it out for that.
class MissingLibrary : public Error {
 public:
  using Error::Error;
};

inline constexpr int64_t kMaxImagePixels = int64_t{1} << 28;  // larger pictures are refused

struct ImageHeader {
  std::string format;  // "jpeg", "png", "bmp", "gif", ...
  int64_t width = 0, height = 0;
};
// `where` opens every Error: the name of the picture.
ImageHeader read_image_header(std::span<const uint8_t> bytes, const std::string& where);

// The whole picture with 3 channels (grey becomes RGB, CMYK is converted, alpha is dropped) or 1 (luma). EXIF
// orientation is not applied, as torchvision's folders do not.
Image decode_image(std::span<const uint8_t> bytes, int64_t channels, const std::string& where);

// A region of the picture, reduced while it is decoded: for JPEG by the largest factor of the DCT (1, 2, 4, 8) after
// which the region still has at least min_w x min_h pixels; other formats are decoded whole. The result reaches a
// little further than the region, so that a bicubic resampling of its box to min_w x min_h sees the same surroundings
// as in the whole picture. Without a reduction the pixels that it sees are those of decode_image.
struct DecodedRegion {
  Image image;
  // region's box inside `image`, in its pixels (not whole numbers after a reduction)
  double x = 0, y = 0, w = 0, h = 0;
};
DecodedRegion decode_region(std::span<const uint8_t> bytes, int64_t channels, const Region& region, int64_t min_w,
                            int64_t min_h, const std::string& where);

}  // namespace accrete
