#include "training/step_runner.h"

namespace accrete {
namespace {

// A batch in memory of its own, for recorded launches to read.
Batch standing(const Batch& batch) {
  const SegmentScope segment(Segment::data);
  Batch copy = batch;
  if (batch.inputs.defined()) copy.inputs = like(batch.inputs);
  if (batch.targets.defined()) copy.targets = like(batch.targets);
  for (auto& [name, tensor] : copy.extra) tensor = like(tensor);
  return copy;
}

void fill(const Batch& to, const Batch& from) {
  if (to.inputs.defined()) to.inputs.copy_from(from.inputs);
  if (to.targets.defined()) to.targets.copy_from(from.targets);
  for (const auto& [name, tensor] : to.extra) tensor.copy_from(from.extra.at(name));
}

}  // namespace

bool StepRunner::turn(Recording& r, const std::function<void()>& work) {
  if (!pool_) pool_ = make_pool(device_);
  if (r.turns++ == 0) {
    const PoolScope pool(pool_);
    work();
    return true;
  }
  if (!r.capture) {
    try {
      r.capture = std::make_unique<Capture>(device_, pool_, work);
    } catch (const Error& e) {
      obstacle_ = e.what();
      record_ = false;
      return false;
    }
  }
  r.capture->replay();
  ++replays_;
  return true;
}

double StepRunner::run_once(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight,
                            const Tensor& loss, const Kind& kind) const {
  if (begin_ && kind.first_sample == 0) begin_();
  Tape tape;
  const Tensor value = loss_of(batch, ctx);
  loss.copy_from(value);
  backward(value, weight.view(Shape{}));
  return tape.total_flops();
}

double StepRunner::run(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight,
                       const Tensor& loss, const Kind& kind) {
  if (!record_) return run_once(loss_of, batch, ctx, weight, loss, kind);
  Recording& r = kinds_[kind];
  if (r.turns == 0) r.inputs = standing(batch);
  fill(r.inputs, batch);
  if (!turn(r, [&] { r.flops = run_once(loss_of, r.inputs, ctx, weight, loss, kind); }))
    return run_once(loss_of, batch, ctx, weight, loss, kind);
  return r.flops;
}

void StepRunner::update(const std::function<void()>& work, bool recurs, double number) {
  if (!record_ || !recurs) return work();
  if (number != update_.number) update_ = Recording{.number = number};
  if (!turn(update_, work)) work();
}

}  // namespace accrete
