// PNG, BMP and GIF (its first frame) by stb_image, behind two functions; stb_decode.cpp alone knows it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/image.h"
#include "data/image_decode.h"

namespace accrete {

// False when the program was built without stb_image; the functions below then throw MissingLibrary.
bool stb_supported();

// `format`: "png", "bmp" or "gif", as the first bytes told. Checks that the size can be true for so few bytes.
ImageHeader stb_header(std::span<const uint8_t> bytes, const std::string& format, const std::string& where);
// (height, width, 3); alpha is dropped, 16 bits become 8. The header must be that of stb_header: it also bounds the
// memory that decoding may take.
Image stb_decode(std::span<const uint8_t> bytes, const ImageHeader& header, const std::string& where);

}  // namespace accrete
