// AdamW over a whole store in one launch: which pieces of the flat buffers are stepped with which rate, decay and bias
// corrections, and how many steps each has taken: counted on the device, where a step that f16 skips is known in time.
// A launch for each run of alike parameters would be eight to a transformer's block, most of them too
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
  // Brings the numbers of the next step, one row per part (lr NaN: left out), to the place on the device where it looks
  // for them, without waiting for it.
  void send(const std::vector<kernels::StepRate>& rates);
  // Queues one step: the same launches every time. p, m, v, g, copy: the flat buffers.
  void step(const Tensor& p, const Tensor& copy, const Tensor& m, const Tensor& v, const Tensor& g,
            const Tensor& grad_scale, const update::AdamWSettings& settings) const {
    update::count_steps(table_, steps_, rates_, grad_scale, settings);
    update::adamw_parts(p, copy, m, v, g, grad_scale, chunks_, table_, settings);
  }
  // Steps taken, of each part. Waits for the device.
  std::vector<int32_t> steps() const { return steps_.to_vector<int32_t>(); }
  void set_steps(const std::vector<int32_t>& steps) {
    steps_.copy_from(Tensor::from(steps, steps_.shape(), steps_.device()));
  }

 private:
  std::vector<Part> parts_;
  Tensor chunks_;  // (n, 3) i64
  Tensor steps_;   // (parts) i32
  Tensor table_;   // (parts, 4) f32, of the present step
  Tensor rates_;   // (parts, 2) f32
  Tensor host_;    // the same on the host
  BatchFeed feed_;
};

}  // namespace accrete
