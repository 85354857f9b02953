#include "training/gradient_norm.h"

#include "engine/ops/update.h"

namespace accrete {

GradientNorm::GradientNorm(Device device) {
  const SegmentScope segment(Segment::optimizer);
  squared_ = Tensor::zeros(Shape{1}, DType::f32, device);
  factor_ = Tensor::from(std::vector<float>{1.0f}, Shape{1}, device);
  bad_ = Tensor::zeros(Shape{1}, DType::f32, device);
}

void GradientNorm::measure(const Tensor& grads, double clip, double scale, bool keep_bad) {
  if (keep_bad) update::affine(bad_, factor_, 0.0f, 0.0f);  // 0, or NaN
  update::sum_of_squares(squared_, grads);
  update::clip_factor(factor_, squared_, static_cast<float>(clip * scale));
  if (keep_bad) update::add(factor_, bad_);
  if (scale != 1) update::affine(factor_, factor_, static_cast<float>(1 / scale), 0.0f);
}

}  // namespace accrete
