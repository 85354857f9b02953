#include "training/batch_runner.h"

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

double BatchRunner::run_once(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight,
                             const Tensor& loss) const {
  Tape tape;
  const Tensor value = loss_of(batch, ctx);
  loss.copy_from(value);
  backward(value, weight.view(Shape{}));
  return tape.total_flops();
}

double BatchRunner::run(const LossFn& loss_of, const Batch& batch, const Context& ctx, const Tensor& weight,
                        const Tensor& loss, const Kind& kind) {
  if (!record_) return run_once(loss_of, batch, ctx, weight, loss);
  if (!pool_) pool_ = make_pool(device_);
  const auto [entry, first] = kinds_.try_emplace(kind);
  Recording& r = entry->second;
  if (first) {
    r.inputs = standing(batch);
    r.loss = Tensor::empty(Shape{1}, DType::f32, device_);
    fill(r.inputs, batch);
    const PoolScope pool(pool_);
    r.flops = run_once(loss_of, r.inputs, ctx, weight, r.loss);
  } else {
    if (!r.capture) {
      try {
        r.capture =
            std::make_unique<Capture>(device_, pool_, [&] { run_once(loss_of, r.inputs, ctx, weight, r.loss); });
      } catch (const Error& e) {
        obstacle_ = e.what();
        record_ = false;
        return run_once(loss_of, batch, ctx, weight, loss);
      }
    }
    fill(r.inputs, batch);
    r.capture->replay();
    ++replays_;
  }
  loss.copy_from(r.loss);
  return r.flops;
}

}  // namespace accrete
