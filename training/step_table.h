// AdamW over a whole store in one launch: which pieces of the flat buffers are stepped with which rate, decay and bias
// corrections. A launch for each run of alike parameters would be eight to a transformer's block, most of them too
// small to fill a GPU.
#pragma once

#include <memory>
#include <vector>

#include "engine/core/transfer.h"
#include "engine/nn/params.h"
#include "engine/ops/update.h"

namespace accrete {

class StepTable {
 public:
  // Consecutive trainable parameters with equal decay and rate, of one block or of none.
  struct Part {
    int entry = 0;  // its first
    int64_t begin = 0, end = 0;
    bool decay = false;
    float lr_scale = 1;
  };
  // `lr_scales`: of each entry.
  StepTable(const ParamStore& store, const std::vector<float>& lr_scales);

  const std::vector<Part>& parts() const { return parts_; }
  // Numbers for the kernel, one row per part; brought to the device without waiting for it.
  struct Rates {
    float lr = 0, weight_decay = 0, correction1 = 1, correction2 = 1;
    bool left_out = false;
  };
  // Queues one step. rates: of each part. p, m, v, g, copy: the flat buffers.
  void step(const std::vector<Rates>& rates, const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& v,
            const Tensor& g, const Tensor& grad_scale, const update::AdamWSettings& settings);

 private:
  std::vector<Part> parts_;
  Tensor chunks_;  // (n, 3) i64
  Tensor rates_;   // (parts, 4) f32, on the host
  BatchFeed feed_;
};

}  // namespace accrete
