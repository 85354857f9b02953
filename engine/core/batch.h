// What a data source hands to a model: a few named tensors. Models and data meet here and nowhere else.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "engine/core/tensor.h"

namespace accrete {

// Text: inputs and targets are (B, T) i32 token ids, a negative target is not counted.
// Images: inputs are (B, C, S, S) f32, normalised; targets are (B) i32 classes, a negative one is not counted. In
// extra:
//   "soft_targets"   (B, classes) f32: what training aims at, after smoothing and mixing; without it the class alone
//   "token_targets"  (B, classes) or (B, tokens, classes) f32: what models with a head for every patch aim at there
//   "mix_box"        (4) i32: the box of ops::mix_tokens, in cells of the coarser grid
struct Batch {
  Tensor inputs;
  Tensor targets;
  std::map<std::string, Tensor> extra;  // further tensors by name
  int64_t resolution = 0;               // images: the model resizes them to this side; 0: they stay as they are
  int64_t samples = 0;                  // sequences or images
  int64_t tokens = 0;                   // tokens (counted targets for text; samples for images)
  int64_t first_sample = 0;  // index of the first sample in the optimizer step: address of its random numbers
};

}  // namespace accrete
