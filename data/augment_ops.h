// Operations on 8-bit pictures, bit for bit as Pillow does them (recipes spec 1.5). Pictures are RGB or grey; one with
// a single channel is treated as Pillow's mode L. Check: tests/golden/make_augment.py.
#pragma once

#include <array>
#include <cstdint>

#include "data/image.h"
#include "data/image_resize.h"

namespace accrete::pixels {

// ---- every value by itself, in place --------------------------------------------------------------------------------
void invert(Image& image);                   // 255 - x
void solarize(Image& image, int threshold);  // x >= threshold: 255 - x
void solarize_add(Image& image, int add);    // x < 128: min(255, x + add)
void posterize(Image& image, int bits);      // keeps the top bits; 8 and more: as it is; 0: black
void autocontrast(Image& image);             // each channel's lowest and highest value become 0 and 255
void equalize(Image& image);                 // each channel's histogram made flat

// ---- blends with a degenerate picture: degenerate + factor (x - degenerate), in place
// -----------------------------------
void adjust_color(Image& image, double factor);       // with the grey picture
void adjust_contrast(Image& image, double factor);    // with the mean grey
void adjust_brightness(Image& image, double factor);  // with black
void adjust_sharpness(Image& image, double factor);   // with the smoothed picture

void to_grey(Image& image);  // (19595 R + 38470 G + 7471 B) / 2^16 in all channels
// Gaussian of standard deviation `radius` by three box blurs in each direction (Gwosdek et al., "Theoretical
// foundations of Gaussian convolution by extended box filtering", 2011).
void gaussian_blur(Image& image, double radius);

// ---- geometry -------------------------------------------------------------------------------------------------------
void flip_horizontal(Image& image);
// Output pixel (x, y) is the input at (m0 (x + 1/2) + m1 (y + 1/2) + m2, m3 (x + 1/2) + m4 (y + 1/2) + m5), bilinear or
// bicubic (a = -1), without antialiasing; places outside the picture have the colour `fill`.
using Affine = std::array<double, 6>;
using Colour = std::array<uint8_t, 3>;
Image transform(const Image& in, const Affine& m, Filter filter, const Colour& fill);
// Counter-clockwise about the centre; the size stays.
Image rotate(const Image& in, double degrees, Filter filter, const Colour& fill);
// Cuts w x h pixels from (x, y), which may lie outside: those pixels are 0, or mirror the picture at its border
// (without repeating the border itself; only as far as the picture is wide).
Image crop(const Image& in, int64_t x, int64_t y, int64_t w, int64_t h, bool mirror = false);

}  // namespace accrete::pixels
