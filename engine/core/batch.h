// What a data source hands to a model: a few named tensors. Models and data meet here and nowhere else.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "engine/core/tensor.h"

namespace accrete {

// Text: inputs and targets are (B, T) i32 token ids, a negative target is not counted.
struct Batch {
  Tensor inputs;
  Tensor targets;
  std::map<std::string, Tensor> extra;  // further tensors by name (soft targets, masks)
  int64_t samples = 0;                  // sequences or images
  int64_t tokens = 0;                   // tokens (counted targets for text; samples for images)
  int64_t first_sample = 0;  // index of the first sample in the optimizer step: address of its random numbers
};

}  // namespace accrete
