#include "training/step_table.h"

#include <algorithm>

namespace accrete {

StepTable::StepTable(const ParamStore& store, const std::vector<float>& lr_scales) : feed_(store.device()) {
  const auto& entries = store.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const ParamEntry& e = entries[i];
    if (!e.trainable) continue;
    const int64_t end = i + 1 < entries.size() ? entries[i + 1].offset : store.flat_count();
    if (!parts_.empty()) {
      Part& last = parts_.back();
      const ParamEntry& before = entries[static_cast<size_t>(last.entry)];
      if (last.end == e.offset && last.decay == e.decay && last.lr_scale == lr_scales[i] && before.group == e.group &&
          before.block == e.block) {
        last.end = end;
        continue;
      }
    }
    parts_.push_back({static_cast<int>(i), e.offset, end, e.decay, lr_scales[i]});
  }
  std::vector<int64_t> chunks;
  for (size_t k = 0; k < parts_.size(); ++k)
    for (int64_t begin = parts_[k].begin; begin < parts_[k].end; begin += kernels::kStepChunk)
      chunks.insert(chunks.end(),
                    {begin, std::min(begin + kernels::kStepChunk, parts_[k].end), static_cast<int64_t>(k)});
  const auto count = static_cast<int64_t>(chunks.size() / 3);
  chunks_ = Tensor::from(chunks, Shape{count, 3}, store.device());
  // Not memory of the engine: a prediction on the dry device would not see it.
  const auto n = static_cast<int64_t>(parts_.size());
  const auto rows = std::make_shared<std::vector<float>>(parts_.size() * 2);
  host_ = Tensor::wrap(rows->data(), Shape{n, 2}, DType::f32, rows);
  steps_ = Tensor::zeros(Shape{n}, DType::i32, store.device());
  table_ = Tensor::zeros(Shape{n, 4}, DType::f32, store.device());
  rates_ = store.device().queued() ? Tensor::zeros(host_.shape(), DType::f32, store.device()) : host_;
}

void StepTable::send(const std::vector<kernels::StepRate>& rates) {
  float* row = host_.ptr<float>();
  for (const kernels::StepRate& r : rates) *row++ = r.lr, *row++ = r.weight_decay;
  if (!rates_.device().queued()) return;
  Batch host;
  host.inputs = host_;
  rates_.copy_from(feed_(host).inputs);
}

}  // namespace accrete
