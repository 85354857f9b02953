// Helpers for tests of operations: inputs without randomness, comparisons, refusals.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/tensor.h"

namespace accrete {

// sin(step * i + start)
inline std::vector<float> waves(int64_t n, double step, double start) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(std::sin(step * static_cast<double>(i) + start));
  return v;
}

inline Tensor waves(const Shape& shape, double step, double start, Device device) {
  return Tensor::from(waves(shape.count(), step, start), shape, device);
}

// Every element within an absolute tolerance.
inline void expect_values(const Tensor& got, const std::vector<double>& want, double tolerance) {
  const std::vector<float> v = got.to_vector<float>();
  REQUIRE(v.size() == want.size());
  for (size_t i = 0; i < v.size(); ++i)
    CHECK_MESSAGE(std::abs(static_cast<double>(v[i]) - want[i]) <= tolerance,
                  "element " << i << " on " << name_of(got.device()) << ": got " << v[i] << ", expected " << want[i]);
}

// The message of the Error that fn throws; "" when it throws none.
template <class Fn>
std::string error_of(Fn&& fn) {
  try {
    fn();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// One sentence with all these parts.
inline void check_sentence(const std::string& message, const std::vector<std::string>& parts) {
  CHECK_FALSE(message.empty());
  CHECK(message.find('\n') == std::string::npos);
  for (const auto& part : parts) CHECK_MESSAGE(message.find(part) != std::string::npos, message << " lacks " << part);
}

}  // namespace accrete
