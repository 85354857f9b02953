// What models of pictures share: class logits, evaluation by them, and a teacher.
#pragma once

#include <memory>

#include "engine/nn/distill.h"
#include "engine/nn/model.h"
#include "engine/ops/ops.h"

namespace accrete {

class ImageModel : public Model {
 public:
  Task task() const override { return Task::classes; }
  virtual int64_t classes() const = 0;
  virtual int64_t channels() const = 0;
  virtual int64_t image_size() const = 0;  // side of the pictures that the model is made for

  // Class logits as an evaluation sees them, (B, classes). batch.inputs: (B, C, S, S) f32. ctx.training = false.
  virtual Tensor logits(const Batch& batch, const Context& ctx) const = 0;
  // Sums of cross-entropy, top-1 and top-5 hits over the samples whose target is not negative. Without gradients.
  EvalSums evaluate(const Batch& batch, const Context& ctx) override;

  // The teacher's logits become a target of loss(). Error when its classes or its pictures' size or channels differ, or
  // when this model has nothing that learns from a teacher (learns_from_teacher).
  void set_teacher(std::shared_ptr<const ImageModel> teacher, const DistillConfig& config);
  virtual bool learns_from_teacher() const { return false; }

 protected:
  const DistillConfig& distillation() const { return distill_; }
  bool has_teacher() const { return teacher_ != nullptr; }
  // (B, classes), without gradient, of exactly the pictures the student sees.
  Tensor teacher_logits(const Batch& batch) const;
  // The base loss of class logits: soft targets where the batch has them, else the classes. `bce`: binary cross-entropy
  // with every target above 0 counted as 1 (DeiT III).
  static Tensor class_loss(const Tensor& logits, const Batch& batch, bool bce);
  // (1 - alpha) base + alpha distillation of `student` logits from the teacher's (models spec 3.3).
  Tensor distilled_loss(const Tensor& base, const Tensor& student, const Batch& batch) const;

 private:
  std::shared_ptr<const ImageModel> teacher_;
  DistillConfig distill_;
};

// Hits among the n largest logits of each row; rows with a negative target do not count. Ties go to the lower index.
double hits(const std::vector<float>& logits, const std::vector<int32_t>& targets, int64_t classes, int64_t n);

// The pictures of a batch as the model computes with them: resized to batch.resolution where that is set, in the
// compute type.
Tensor network_input(const Batch& batch, DType compute);

}  // namespace accrete
