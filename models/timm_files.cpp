#include "models/timm_files.h"

#include <cmath>

namespace accrete {

int64_t FoundShapes::size(std::string_view name, size_t rank, size_t axis) const {
  const auto it = found_.find(name);
  check(it != found_.end(), where_, "no tensor \"", name, "\"; expected ", expected_);
  check(it->second.shape.size() == rank, where_, "\"", name, "\" has ", it->second.shape.size(), " axes; expected ",
        rank);
  return it->second.shape[axis];
}

int64_t FoundShapes::blocks(const std::string& group) const {
  int64_t n = 0;
  while (has(group + "." + std::to_string(n) + ".norm1.weight")) ++n;
  return n;
}

double timm_mlp_ratio(int64_t hidden, int64_t width) {
  double ratio = static_cast<double>(hidden) / static_cast<double>(width);
  while (static_cast<int64_t>(static_cast<double>(width) * ratio) < hidden) ratio = std::nextafter(ratio, 1e9);
  return ratio;
}

}  // namespace accrete
