// Resampling of 8-bit pictures, bit for bit as Pillow does it (recipes spec 1.2): separable, horizontal first, 8 bits
// between the passes, 22-bit fixed-point weights, antialiased when shrinking. (From Pillow 13 on the vertical pass
// comes first where the height shrinks much more than the width; published accuracies are from before.)
#pragma once

#include <string>

#include "data/image.h"

namespace accrete {

enum class Filter : uint8_t { nearest, bilinear, bicubic, lanczos };
Filter filter_of(const std::string& name);  // by the names above; Error for others

// The box (x, y, w, h) of `in`, in pixels that need not be whole, as width x height.
Image resize_image(const Image& in, int64_t width, int64_t height, Filter filter, double x, double y, double w,
                   double h);
inline Image resize_image(const Image& in, int64_t width, int64_t height, Filter filter) {
  return resize_image(in, width, height, filter, 0, 0, static_cast<double>(in.width), static_cast<double>(in.height));
}

}  // namespace accrete
