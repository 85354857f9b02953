#include "apps/training_steps.h"

#include <cmath>

#include "engine/ops/update.h"

namespace accrete {

TrainingSteps::TrainingSteps(const Recipe& recipe, const Stage& stage, const ModelFactory& make_model, Device device,
                             bool record)
    : recipe_(recipe), device_(device), lr_(stage.optim.lr), feed_(device), runner_(device, record, [this] {
        model_->params().zero_grads();
      }) {
  set_tf32(recipe.precision == "tf32");
  model_ = make_model(stage.model, compute_type(recipe.precision), device);
  model_->params().initialise(static_cast<uint64_t>(recipe.seed));
  optimizer_ = std::make_unique<Optimizer>(stage.optim, model_->params());
  for (int i = 0; i < 2; ++i) readbacks_.push_back(std::make_unique<Readback>(device, 2));
  const SegmentScope segment(Segment::workspace);
  results_ = Tensor::zeros(Shape{2}, DType::f32, device);
  weight_ = Tensor::from(std::vector<float>{1.0f}, Shape{1}, device);
  if (device.queued()) live_step_ = Tensor::zeros(Shape{1}, DType::i64, device);
}

void TrainingSteps::queue(const Batch& batch) {
  Context ctx;
  ctx.training = true;
  ctx.plain = recipe_.plain_ops;
  ctx.recompute = recipe_.recompute;
  ctx.seed = static_cast<uint64_t>(recipe_.seed);
  ctx.step = static_cast<uint64_t>(steps_);
  if (live_step_.defined()) {
    update::set_live_step(live_step_, ctx.step);
    ctx.live_step = reinterpret_cast<const uint64_t*>(live_step_.ptr<int64_t>());
  }
  flops_ = runner_.run([this](const Batch& b, const Context& c) { return model_->loss(b, c); }, feed_(batch), ctx,
                       weight_, results_.flat(1, 1), {0, batch.samples, 0});
  optimizer_->prepare(lr_, {});
  const auto update = [this] {
    optimizer_->measure_gradients();
    results_.flat(0, 1).copy_from(optimizer_->norm2());
    optimizer_->apply();
  };
  runner_.update(update, optimizer_->recurs(), 1);
  readbacks_[static_cast<size_t>(steps_ % 2)]->start(results_);
  ++steps_;
  if (steps_ > 1) settle(steps_ - 2);
}

void TrainingSteps::finish() {
  if (settled_ < steps_) settle(steps_ - 1);
  synchronize(device_);
}

void TrainingSteps::settle(int64_t step) {
  const std::vector<float>& numbers = readbacks_[static_cast<size_t>(step % 2)]->values();
  loss_ = numbers[1];
  settled_ = step + 1;
  check(std::isfinite(loss_), "bench", "the loss of step ", step + 1, " is not finite");
}

}  // namespace accrete
