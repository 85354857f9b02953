#include "data/image_decode.h"

#include <algorithm>
#include <string_view>

#include "data/jpeg.h"
#include "data/stb_decode.h"
#include "engine/core/error.h"
#include "engine/core/json.h"

namespace accrete {
namespace {

struct Signature {
  size_t at;
  std::string_view bytes;
  const char* format;
};
constexpr Signature kReadable[] = {
    {0, "\xFF\xD8\xFF", "jpeg"},
    {0, "\x89PNG\r\n\x1A\n", "png"},
    {0, "BM", "bmp"},
    {0, "GIF8", "gif"},
    {0, "P5", "pnm"},
    {0, "P6", "pnm"},
};
// Known by name, so that the message can tell a foreign format from a damaged file.
using namespace std::string_view_literals;
constexpr Signature kForeign[] = {
    {8, "WEBP", "WebP"},          {0, "II*\0"sv, "TIFF"},
    {0, "MM\0*"sv, "TIFF"},       {4, "ftypavif", "AVIF"},
    {4, "ftypheic", "HEIC"},      {4, "ftypmif1", "HEIF"},
    {4, "jP  \r\n", "JPEG 2000"}, {0, "\xFF\x4F\xFF\x51", "JPEG 2000"},
    {0, "\xFF\x0A", "JPEG XL"},   {4, "JXL ", "JPEG XL"},
    {0, "8BPS", "Photoshop"},     {0, "\x1F\x8B", "gzip"},
};

bool fits(std::span<const uint8_t> bytes, const Signature& signature) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return text.size() >= signature.at && text.substr(signature.at).starts_with(signature.bytes);
}

std::string format_of(std::span<const uint8_t> bytes, const std::string& where) {
  for (const Signature& signature : kReadable)
    if (fits(bytes, signature)) return signature.format;
  constexpr const char* kExpected = "; expected JPEG, PNG, BMP, GIF or binary PNM";
  for (const Signature& signature : kForeign)
    if (fits(bytes, signature)) fail(where, signature.format, " is not supported", kExpected);
  check(!bytes.empty(), where, "the file is empty", kExpected);
  const std::string_view begin(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 16));
  fail(where, "not a picture: it begins with \"", printable(begin), "\"", kExpected);
}

void check_channels(int64_t channels, const std::string& where) {
  check(channels == 1 || channels == 3, where, "pictures are decoded to 1 or 3 channels; got ", channels);
}

Image to_channels(Image image, int64_t channels) {
  if (channels == image.channels) return image;
  Image out(image.width, image.height, 1);
  const uint8_t* p = image.pixels.data();
  for (uint8_t& grey : out.pixels) {
    grey = luma(p[0], p[1], p[2]);
    p += 3;
  }
  return out;
}

// Binary PNM: "P5" (grey) or "P6" (RGB), width, height, largest value, one white space, then the values, of two bytes
// when the largest is above 255.
struct Pnm {
  int64_t width = 0, height = 0, channels = 3, largest = 0, wide = 0;
  std::span<const uint8_t> values;
};

Pnm read_pnm(std::span<const uint8_t> bytes, const std::string& where) {
  Pnm pnm;
  pnm.channels = bytes[1] == '5' ? 1 : 3;
  size_t at = 2;
  const auto space = [&] {
    return at < bytes.size() && (bytes[at] == ' ' || (bytes[at] >= '\t' && bytes[at] <= '\r'));
  };
  for (int64_t* field : {&pnm.width, &pnm.height, &pnm.largest}) {
    while (space() || (at < bytes.size() && bytes[at] == '#'))
      if (bytes[at++] == '#')
        while (at < bytes.size() && bytes[at] != '\n') ++at;
    for (; at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9' && *field <= kMaxImagePixels; ++at)
      *field = *field * 10 + (bytes[at] - '0');
  }
  check(space() && pnm.largest >= 1 && pnm.largest <= 65535, where,
        "damaged pnm: expected width, height and largest value (1..65535) in its header");
  pnm.values = bytes.subspan(at + 1);
  pnm.wide = pnm.largest > 255 ? 2 : 1;
  check_image_size(pnm.width, pnm.height, static_cast<int64_t>(bytes.size()), 1, where);
  const int64_t needed = pnm.width * pnm.height * pnm.channels * pnm.wide;
  check(static_cast<size_t>(needed) <= pnm.values.size(), where, "the pnm file is cut short: expected ", needed,
        " bytes of pixels; got ", pnm.values.size());
  return pnm;
}

Image decode_pnm(const Pnm& pnm) {
  Image out(pnm.width, pnm.height, 3);
  size_t at = 0;
  for (uint8_t* to = out.pixels.data(); to != out.pixels.data() + out.pixels.size(); to += 3)
    for (int64_t c = 0; c < pnm.channels; ++c) {
      int64_t value = pnm.values[at++];
      if (pnm.wide == 2) value = value * 256 + pnm.values[at++];
      to[c] = static_cast<uint8_t>((std::min(value, pnm.largest) * 255 + pnm.largest / 2) / pnm.largest);
      if (pnm.channels == 1) to[1] = to[2] = to[0];
    }
  return out;
}

ImageHeader header_of(std::span<const uint8_t> bytes, const std::string& format, const std::string& where) {
  if (format == "jpeg") return jpeg_header(bytes, where);
  if (format != "pnm") return stb_header(bytes, format, where);
  const Pnm pnm = read_pnm(bytes, where);
  return {format, pnm.width, pnm.height};
}

// Of any format but JPEG.
Image decode_other(std::span<const uint8_t> bytes, const std::string& format, int64_t channels,
                   const std::string& where) {
  Image image =
      format == "pnm" ? decode_pnm(read_pnm(bytes, where)) : stb_decode(bytes, stb_header(bytes, format, where), where);
  return to_channels(std::move(image), channels);
}

}  // namespace

void check_image_size(int64_t width, int64_t height, int64_t bytes, int64_t most_per_byte, const std::string& where) {
  check(width >= 1 && height >= 1 && width <= kMaxImagePixels / height, where, "the size is ", width, "x", height,
        " pixels; expected 1 to ", kMaxImagePixels, " pixels in all");
  check(width * height / most_per_byte <= bytes, where, bytes, " bytes cannot hold the ", width, "x", height,
        " pixels that the header promises");
}

void check_region(const Region& r, int64_t width, int64_t height, const std::string& where) {
  check(r.x >= 0 && r.y >= 0 && r.w >= 1 && r.h >= 1 && r.x < width && r.y < height && r.w <= width - r.x &&
            r.h <= height - r.y,
        where, "the region ", r.x, ",", r.y, " of ", r.w, "x", r.h, " does not lie in the picture of ", width, "x",
        height);
}

ImageHeader read_image_header(std::span<const uint8_t> bytes, const std::string& where) {
  return header_of(bytes, format_of(bytes, where), where);
}

Image decode_image(std::span<const uint8_t> bytes, int64_t channels, const std::string& where) {
  check_channels(channels, where);
  const std::string format = format_of(bytes, where);
  if (format == "jpeg") return jpeg_decode(bytes, channels, where);
  return decode_other(bytes, format, channels, where);
}

DecodedRegion decode_region(std::span<const uint8_t> bytes, int64_t channels, const Region& region, int64_t min_w,
                            int64_t min_h, const std::string& where) {
  check_channels(channels, where);
  check(min_w >= 1 && min_h >= 1, where, "a region is decoded to at least 1x1 pixels; got ", min_w, "x", min_h);
  const std::string format = format_of(bytes, where);
  if (format == "jpeg") return jpeg_decode_region(bytes, channels, region, min_w, min_h, where);
  const ImageHeader header = header_of(bytes, format, where);
  check_region(region, header.width, header.height, where);
  return {.image = decode_other(bytes, format, channels, where),
          .x = static_cast<double>(region.x),
          .y = static_cast<double>(region.y),
          .w = static_cast<double>(region.w),
          .h = static_cast<double>(region.h)};
}

}  // namespace accrete
