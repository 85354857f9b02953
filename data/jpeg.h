// JPEG by libjpeg-turbo, behind four functions; jpeg.cpp alone knows the library. Decoded pixels are those of its
// accurate integer transform with smooth chroma, which is what Pillow and torchvision show.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/image.h"
#include "data/image_decode.h"

namespace accrete {

// False when the program was built without libjpeg-turbo; the functions below then throw MissingLibrary.
bool jpeg_supported();

// A progressive JPEG, of which libjpeg holds every coefficient, is refused above 2^26 pixels.
ImageHeader jpeg_header(std::span<const uint8_t> bytes, const std::string& where);
Image jpeg_decode(std::span<const uint8_t> bytes, int64_t channels, const std::string& where);
DecodedRegion jpeg_decode_region(std::span<const uint8_t> bytes, int64_t channels, const Region& region, int64_t min_w,
                                 int64_t min_h, const std::string& where);

// 3 channels: YCbCr with chroma at half the resolution (4:2:0); 1: grey. quality: 1..100.
std::vector<uint8_t> jpeg_encode(const Image& image, int quality);

// Shared by all decoders. The header promises at most kMaxImagePixels, and no more than `most_per_byte` for each of the
// `bytes` bytes of the file. That bounds what a file can ask for by its length; it does not make it little: 256 KiB of
// a JPEG may still stand for 2^28 pixels, 0.8 GB.
void check_image_size(int64_t width, int64_t height, int64_t bytes, int64_t most_per_byte, const std::string& where);
// The region is not empty and lies in the picture:
void check_region(const Region& region, int64_t width, int64_t height, const std::string& where);

}  // namespace accrete
