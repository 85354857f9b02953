#include "models/image_model.h"

#include "engine/ops/images.h"

namespace accrete {

double hits(const std::vector<float>& logits, const std::vector<int32_t>& targets, int64_t classes, int64_t n) {
  double count = 0;
  for (size_t b = 0; b < targets.size(); ++b) {
    if (targets[b] < 0) continue;
    const float* row = logits.data() + b * static_cast<size_t>(classes);
    const float mine = row[targets[b]];
    int64_t ahead = 0;
    for (int64_t c = 0; c < classes; ++c) ahead += row[c] > mine || (row[c] == mine && c < targets[b]);
    count += ahead < n && mine == mine;
  }
  return count;
}

Tensor network_input(const Batch& batch, DType compute) {
  Tensor x = batch.inputs;
  if (batch.resolution > 0 && (x.size(2) != batch.resolution || x.size(3) != batch.resolution))
    x = ops::resize_images(x, batch.resolution, batch.resolution);
  return x.dtype() == compute ? x : ops::cast(x, compute);
}

EvalSums ImageModel::evaluate(const Batch& batch, const Context& ctx) {
  const NoGrad quiet;
  const Tensor z = logits(batch, ctx);
  const Tensor losses = ops::token_losses(z, batch.targets);
  EvalSums sums;
  for (const float l : losses.to_vector<float>()) sums.loss += l;
  const auto targets = batch.targets.to_vector<int32_t>();
  const auto values = z.to_vector<float>();
  for (const int32_t t : targets) sums.count += t >= 0;
  sums.top1 = hits(values, targets, classes(), 1);
  sums.top5 = hits(values, targets, classes(), 5);
  return sums;
}

void ImageModel::set_teacher(std::shared_ptr<const ImageModel> teacher, const DistillConfig& config) {
  check(learns_from_teacher(), "distill", "this model learns from no teacher; expected a ViT with distilled = true");
  check(teacher->classes() == classes(), "distill", "the teacher tells ", teacher->classes(),
        " classes apart; expected ", classes(), ", those of the data");
  check(teacher->channels() == channels() && teacher->image_size() == image_size(), "distill",
        "the teacher is made for pictures of ", teacher->image_size(), " x ", teacher->image_size(), " with ",
        teacher->channels(), " channels; expected ", image_size(), " x ", image_size(), " with ", channels());
  teacher_ = std::move(teacher);
  distill_ = config;
}

Tensor ImageModel::teacher_logits(const Batch& batch) const {
  const NoGrad quiet;
  const ModuleScope scope("teacher");
  return teacher_->logits(batch, Context{});
}

Tensor ImageModel::class_loss(const Tensor& logits, const Batch& batch, bool bce) {
  const auto soft = batch.extra.find("soft_targets");
  if (bce) {
    check(soft != batch.extra.end(), "model",
          "binary cross-entropy needs targets for every class; expected mixup or cutmix");
    Tensor hit;  // 1 where a target is above 0: the tanh of anything large
    {
      const NoGrad quiet;
      hit = ops::unary(ops::Unary::tanh, ops::scale(soft->second, 1e30f));
    }
    return ops::binary_cross_entropy(logits, hit);
  }
  return soft != batch.extra.end() ? ops::soft_cross_entropy(logits, soft->second)
                                   : ops::cross_entropy(logits, batch.targets);
}

// hard: cross-entropy with the teacher's class.   soft: tau^2 sum p_t (log p_t - log p_s), whose first term is
// constant.
Tensor ImageModel::distilled_loss(const Tensor& base, const Tensor& student, const Batch& batch) const {
  const Tensor taught = teacher_logits(batch);
  const auto alpha = static_cast<float>(distill_.alpha);
  Tensor loss;
  if (distill_.type == "hard") {
    loss = ops::cross_entropy(student, ops::argmax(taught));
  } else {
    const auto tau = static_cast<float>(distill_.tau);
    Tensor p, entropy;
    {
      const NoGrad quiet;
      const Tensor z = ops::scale(taught.dtype() == DType::f32 ? taught : ops::cast(taught, DType::f32), 1 / tau);
      p = ops::softmax(z);
      entropy = ops::soft_cross_entropy(z, p);
    }
    const float factor = tau * tau / (distill_.reduction == "deit" ? static_cast<float>(classes()) : 1.0f);
    loss = ops::scale(ops::sub(ops::soft_cross_entropy(ops::scale(student, 1 / tau), p), entropy), factor);
  }
  return ops::add(ops::scale(base, 1 - alpha), ops::scale(loss, alpha));
}

}  // namespace accrete
