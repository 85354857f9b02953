// How a forward pass is to be run: what changes from step to step, handed down through the layers.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/random.h"

namespace accrete {

// A set of residual blocks, by group ("blocks") and index.
struct BlockSet {
  std::map<std::string, std::vector<bool>, std::less<>> groups;

  void insert(const std::string& group, int index) {
    auto& g = groups[group];
    if (g.size() <= static_cast<size_t>(index)) g.resize(static_cast<size_t>(index) + 1);
    g[static_cast<size_t>(index)] = true;
  }
  bool contains(std::string_view group, int index) const {
    const auto g = groups.find(group);
    return g != groups.end() && index >= 0 && static_cast<size_t>(index) < g->second.size() &&
           g->second[static_cast<size_t>(index)];
  }
};

struct Context {
  bool training = false;                // dropout is active
  bool plain = false;                   // fused ops are replaced by their compositions (--plain)
  bool recompute = false;               // blocks keep only their input and run again in backward
  uint64_t seed = 0;                    // of the run
  uint64_t step = 0;                    // optimizer step: with the sample index, the address of all random numbers
  const uint64_t* live_step = nullptr;  // device memory that holds `step` for recorded launches (RandomKey::live_step)
  const BlockSet* skip = nullptr;       // blocks that are left out: their input goes on unchanged
  float norm_momentum = -1;             // of the running statistics of batch norms; negative: the layer's own
  int64_t first_sample = 0;             // index of the first sample of this batch within the optimizer step

  bool skips(std::string_view group, int block) const { return skip && skip->contains(group, block); }
  // Address of a layer's random numbers; the element index is counted from the first sample of the step.
  RandomKey key(std::string_view path) const {
    RandomKey k = random_key(seed, path, step);
    k.live_step = live_step;
    return k;
  }
};

}  // namespace accrete
