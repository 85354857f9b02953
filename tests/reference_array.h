// Arrays in double precision and what all references share.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "engine/ops/op_cases.h"

namespace accrete::reference {

struct Array {
  Shape shape;
  std::vector<double> v;
  bool present = true;

  Array() = default;
  explicit Array(Shape s) : shape(s), v(static_cast<size_t>(s.count()), 0.0) {}
  int64_t rows() const { return shape.rows(); }
  int64_t cols() const { return shape[-1]; }
  double& operator[](int64_t i) { return v[static_cast<size_t>(i)]; }
  double operator[](int64_t i) const { return v[static_cast<size_t>(i)]; }
};
using Arrays = std::vector<Array>;
using Settings = ops::OpSettings;

inline bool kept(const Settings& s, int64_t index) {
  const auto i = static_cast<uint64_t>(index);
  return random_words(s.key, i / 4).v[i % 4] >= drop_threshold(s.dropout);
}

}  // namespace accrete::reference
