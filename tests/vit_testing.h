// Helpers for tests of vision transformers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/registry.h"
#include "models/vit_names.h"
#include "tests/model_testing.h"

namespace accrete {

inline bool is_hf(const std::string& golden_name) { return golden_name.find("hf") != std::string::npos; }

inline std::unique_ptr<Vit> load_golden_vit(const std::string& name, DType compute = DType::f32, Device device = kCpu) {
  auto model = load_model(golden(name), compute, device);
  REQUIRE(model->family() == "vit");
  return std::unique_ptr<Vit>(static_cast<Vit*>(model.release()));
}

// A small model for tests that read no file.
inline VitConfig small_vit() {
  VitConfig c;
  c.image_size = 8, c.patch = 2, c.classes = 5;
  c.embed_dim = 24, c.depth = 3, c.num_heads = 3;
  return c;
}

// Values without meaning, the same for the same seed: uniform in (-1, 1).
inline std::vector<float> noise(int64_t n, uint64_t seed) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>(random_below(random_key(seed, "noise"), i, 2000001)) / 1e6f - 1.0f;
  return v;
}

inline Batch image_batch(const VitConfig& c, int64_t samples, uint64_t seed = 1, Device device = kCpu) {
  Batch b;
  const Shape shape{samples, c.channels, c.image_size, c.image_size};
  b.inputs = Tensor::from(noise(shape.count(), seed), shape, device);
  std::vector<int32_t> targets(static_cast<size_t>(samples));
  for (size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<int32_t>(i % static_cast<size_t>(c.classes));
  b.targets = Tensor::from(targets, Shape{samples}, device);
  b.samples = b.tokens = samples;
  return b;
}

}  // namespace accrete
