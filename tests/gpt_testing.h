// Helpers for tests of GPT models.
#pragma once

#include "models/gpt_hf.h"
#include "tests/model_testing.h"

namespace accrete {

// expected.safetensors of a golden folder, and its batch.
struct Golden : GoldenFile {
  using GoldenFile::GoldenFile;
  // ids as inputs; targets shifted by one, as the library does inside the model: the last position has none.
  Batch batch(Device device) const {
    const auto ids = ints("ids");
    const auto T = static_cast<size_t>(shape("ids")[1]);
    std::vector<int32_t> targets(ids.size(), -1);
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      if ((i + 1) % T != 0) targets[i] = ids[i + 1];
    Batch b;
    b.inputs = Tensor::from(ids, shape("ids"), device);
    b.targets = Tensor::from(targets, shape("ids"), device);
    return b;
  }
};

}  // namespace accrete
