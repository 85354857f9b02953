// How a forward pass is to be run: what changes from step to step, handed down through the layers.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/core/random.h"

namespace accrete {

struct Context {
  bool training = false;     // dropout is active
  bool plain = false;        // fused ops are replaced by their compositions (--plain)
  bool recompute = false;    // blocks keep only their input and run again in backward
  uint64_t seed = 0;         // of the run
  uint64_t step = 0;         // optimizer step: with the sample index, the address of all random numbers
  int64_t first_sample = 0;  // index of the first sample of this batch within the optimizer step

  // Address of a layer's random numbers; the element index is counted from the first sample of the step.
  RandomKey key(std::string_view path) const { return random_key(seed, path, step); }
};

}  // namespace accrete
