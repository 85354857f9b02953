#include "apps/one_step.h"

#include "apps/ceilings.h"
#include "engine/core/transfer.h"

namespace accrete {

OneStep::OneStep(const Recipe& recipe, const Stage& stage, const ModelFactory& make_model, Device device)
    : recipe_(recipe), stage_(stage), device_(device), feed_(device) {
  set_tf32(recipe.precision == "tf32");
  model_ = make_model(stage.model, compute_type(recipe.precision), device);
  ParamStore& store = model_->params();
  if (stage.trainable)
    for (size_t i = 0; i < store.entries().size(); ++i)
      store.set_trainable(static_cast<int>(i), stage.trainable(store.entries()[i]));
  if (device != kDry) store.initialise(static_cast<uint64_t>(recipe.seed));
  optimizer_ = std::make_unique<Optimizer>(stage.optim, store);
}

StepSeconds OneStep::run(const Batch& host, Tape::Options options, const std::function<void(const Tape&)>& look) {
  Context ctx;
  ctx.training = true;
  ctx.plain = recipe_.plain_ops;
  ctx.recompute = recipe_.recompute;
  ctx.seed = static_cast<uint64_t>(recipe_.seed);
  ctx.step = static_cast<uint64_t>(steps_);
  const Batch batch = device_ == kDry ? dry_batch(host) : feed_(host);
  StepSeconds t;
  const double begin = now_seconds();
  model_->params().zero_grads();
  const double zeroed = now_seconds();
  {
    Tape tape(options);
    const Tensor loss = model_->loss(batch, ctx);
    if (device_ != kDry) loss_ = loss.item();
    t.forward = now_seconds() - zeroed;
    const double middle = now_seconds();
    backward(loss);
    synchronize(device_);
    t.backward = now_seconds() - middle;
    flops_ = tape.total_flops();
    bytes_ = tape.total_bytes();
    if (look) look(tape);
  }
  if (device_ == kDry) return t;
  const double update = now_seconds();
  optimizer_->gradient_norm();
  optimizer_->step(stage_.optim.lr);
  synchronize(device_);
  ++steps_;
  t.optimizer = now_seconds() - update + (zeroed - begin);
  return t;
}

Stage first_stage(const Recipe& recipe) {
  const auto stage = make_plan(recipe)->next({});
  check(stage.has_value(), "plan", "has no stage");
  return *stage;
}

Batch step_batch(const Recipe& recipe, const Stage& stage, const Family& family, int64_t rows) {
  if (!stage.data.path.empty())
    return family.make_source(stage.data, "train", static_cast<uint64_t>(recipe.seed), Purpose::train)->get(0, rows);
  return family.random_batch(recipe, stage, rows);
}

}  // namespace accrete
