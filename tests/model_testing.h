// Helpers for tests of models and their files: the golden folders, comparisons, weight files that tests bend.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/nn/model.h"
#include "models/weights.h"
#include "tests/op_testing.h"
#include "tests/program_testing.h"

namespace accrete {

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(ACCRETE_SOURCE_DIR) / "tests" / "golden" / name;
}

// Largest difference, relative to the largest expected value.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  REQUIRE(got.size() == want.size());
  double gap = 0, top = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    gap = std::max(gap, std::abs(static_cast<double>(got[i]) - want[i]));
    top = std::max(top, std::abs(static_cast<double>(want[i])));
  }
  return top > 0 ? gap / top : gap;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// All parameter values, one after the other.
inline std::vector<float> all_values(const Model& model) {
  std::vector<float> all;
  for (size_t i = 0; i < model.params().entries().size(); ++i) {
    const auto v = model.params().value(static_cast<int>(i)).to_vector<float>();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

// expected.safetensors of a golden folder.
struct GoldenFile {
  Safetensors file;
  explicit GoldenFile(const std::string& name) : file(Safetensors::open(golden(name) / "expected.safetensors")) {}
  std::vector<float> floats(const std::string& name, bool transposed = false) const {
    REQUIRE_MESSAGE(file.find(name) != nullptr, name);
    return values_of(*file.find(name), transposed);
  }
  std::vector<int32_t> ints(const std::string& name) const {
    const SafetensorsEntry* e = file.find(name);
    REQUIRE(e != nullptr);
    REQUIRE(e->dtype == "I32");
    std::vector<int32_t> v(e->bytes / 4);
    std::memcpy(v.data(), e->data, e->bytes);
    return v;
  }
  Shape shape(const std::string& name) const {
    REQUIRE_MESSAGE(file.find(name) != nullptr, name);
    return Shape(file.find(name)->shape);
  }
  Tensor tensor(const std::string& name, Device device) const {
    return Tensor::from(floats(name), shape(name), device);
  }
};

// A weight file as a map that tests bend: name -> shape and values.
struct Stored {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using Weights = std::map<std::string, Stored>;

inline Weights read_weights(const std::filesystem::path& path) {
  Weights w;
  const Safetensors file = Safetensors::open(path);
  for (const auto& e : file.entries()) w[e.name] = {e.shape, values_of(e)};
  return w;
}

inline void write_weights(const std::filesystem::path& path, const Weights& weights) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, t] : weights)
    entries.push_back({name, "F32", t.shape, reinterpret_cast<const std::byte*>(t.values.data()), 0});
  save_safetensors(path, entries);
}

}  // namespace accrete
