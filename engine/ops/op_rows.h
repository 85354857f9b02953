// What the files of rows of the op table share (op_cases.cpp, op_cases_tokens.cpp, op_cases_images.cpp); nobody else
// includes this.
#pragma once

#include <string>
#include <vector>

#include "engine/ops/op_cases.h"

namespace accrete::ops {

// Inputs of a case.
inline OpInput act(Shape shape, double low = -1, double high = 1) {
  return {shape, low, high, OpInput::Kind::activation};
}
inline OpInput vec(int64_t n, double low = -1, double high = 1) { return {Shape{n}, low, high, OpInput::Kind::vector}; }
inline OpInput ids(Shape shape, double low, double high) { return {shape, low, high, OpInput::Kind::ids}; }
inline OpInput data(Shape shape, double low, double high) { return {shape, low, high, OpInput::Kind::data}; }
inline const OpInput kAbsent{Shape{}, 0, 0, OpInput::Kind::absent};

// Reasons. f32 keeps 24 bits (6e-8), bf16 keeps 8 (half a step is at most 2^-8 = 0.004 of the value), f16 keeps 11.
inline const std::string kExact = "one rounding of an f32 result; bf16 rounds the value once, a gradient at most twice";
inline const std::string kMath =
    "a few roundings of exp, tanh or erf; 1 - tanh^2 cancels, more so without fused multiply-adds; bf16 rounds twice";
inline const std::string kMove = "moves bits";
inline const std::string kSums =
    "f32 sums of up to a few hundred terms; bf16 rounds inputs of the gradient and the result";
inline const std::string kChain = "several sums and roundings in a row; bf16 also rounds what is kept between them";

inline const Shape kSpeedShape{1024, 768};

// The rows of ops.h: sections tokens, and what soft_loss.cpp holds; of images.h: section images.
void add_token_rows(std::vector<OpRow>& table);
// The rows of the other sections of images.h.
void add_image_rows(std::vector<OpRow>& table);

}  // namespace accrete::ops
