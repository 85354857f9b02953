// What the files of timm's families of models have in common.
#pragma once

#include <string>
#include <string_view>

#include "models/weights.h"

namespace accrete {

// Sizes that the shapes of a file's tensors tell, where no config.json does. `expected` ends the message about a file
// that lacks a tensor: "a VOLO".
class FoundShapes {
 public:
  FoundShapes(const FoundTensors& found, const std::string& where, const char* expected)
      : found_(found), where_(where), expected_(expected) {}

  bool has(std::string_view name) const { return found_.contains(name); }
  // Error when there is no such tensor, or one with another number of axes.
  int64_t size(std::string_view name, size_t rank, size_t axis) const;
  // Blocks GROUP.0 .. GROUP.n-1, found one after the other.
  int64_t blocks(const std::string& group) const;

 private:
  const FoundTensors& found_;
  const std::string& where_;
  const char* expected_;
};

// timm's MLPs are int(width * ratio) wide: the ratio that gives `hidden` in double precision.
double timm_mlp_ratio(int64_t hidden, int64_t width);

}  // namespace accrete
