// RandAugment (Cubuk et al. 2019) in timm's form: a few operations drawn from a list, each applied with a probability
// at a magnitude that varies a little.
#pragma once

#include <string>
#include <vector>

#include "data/augment_ops.h"
#include "data/draws.h"

namespace accrete {

// What geometric operations need: the filter, and the colour of places outside the picture.
struct Surroundings {
  Filter filter = Filter::bicubic;
  Draws* filters = nullptr;  // where given, each operation draws bilinear or bicubic from it, in place of `filter`
  pixels::Colour fill = {124, 116, 104};
};

class RandAugment {
 public:
  // Of timm's names, those that end in "Increasing" have the plain name and `increasing` set.
  enum class Op {
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    desaturate,
    gaussian_blur,
  };

  // "rand" and any of these parts, joined by "-": m9 magnitude (10), n2 operations of a picture (2), p0.5 probability
  // of each (0.5), mstd0.5 deviation of the magnitude (0; above 100: uniform over [0, m]), mmax10 bound of the
  // magnitude (10), inc1 operations whose effect grows with the magnitude (off), tweights, t3a, t3aw: other lists of
  // operations. Error for anything else.
  explicit RandAugment(const std::string& text);

  double magnitude = 10, deviation = 0, largest = 10, probability = 0.5;
  int64_t count = 2;
  bool increasing = false;
  std::vector<Op> ops;
  std::vector<double> weights;  // empty: equal chances, with replacement; else without

  void operator()(Image& image, Draws& draws, const Surroundings& surroundings) const;
  // One operation at magnitude m (10 is full strength); draws its sign.
  void apply(Op op, double m, Image& image, Draws& draws, const Surroundings& surroundings) const;
};

}  // namespace accrete
