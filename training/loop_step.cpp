// The arithmetic of the loop: a training step, an evaluation, the scoring of variants.
#include <algorithm>
#include <cmath>

#include "engine/ops/update.h"
#include "training/checkpoint.h"
#include "training/loop.h"
#include "training/snapshot.h"

namespace accrete {

Context Loop::context(const Stage& stage, bool training) const {
  const Recipe& recipe = settings_.recipe;
  Context ctx;
  ctx.training = training;
  ctx.plain = recipe.plain_ops;
  ctx.recompute = training && recipe.recompute;
  ctx.seed = static_cast<uint64_t>(stage.seed.value_or(recipe.seed));
  ctx.step = static_cast<uint64_t>(stage.seed ? view_.state.stage_step : view_.state.step);
  return ctx;
}

// First sample of the present step: the position in the stream of tokens, whatever the length of the variants before.
int64_t Loop::variant_position(const Stage& stage, const VariantData& variant) const {
  const RunState& s = view_.state;
  return stage.seed ? s.stage_step * variant.batch.size : s.spent.tokens / variant.source->tokens_per_sample();
}

// Queues one optimizer step. Nothing in here waits for the device, but for a Subspace, which steps on the host.
void Loop::train_step(const Stage& stage) {
  RunState& s = view_.state;
  Context ctx = context(stage, true);
  QueuedStep step;
  int64_t size = stage.batch.size, micro = stage.batch.micro_size();
  step.first = loader_ ? loader_->position() : 0;
  if (stage.elastic) {
    step.variant = drawn_variant(*stage.elastic, ctx.seed, ctx.step);
    const VariantData& v = variants_[step.variant];
    ctx.skip = &v.skip;
    size = v.batch.size;
    micro = v.batch.micro_size();
    step.first = variant_position(stage, v);
  }
  if (loss_scale_) step.scale = loss_scale_->of(loss_scale_->recorded() + (queued_ ? 1 : 0));
  evaluated_now_ = false;
  if (live_step_.defined()) {
    update::set_live_step(live_step_, ctx.step);
    ctx.live_step = reinterpret_cast<const uint64_t*>(live_step_.ptr<int64_t>());
  }
  const LossFn loss_of =
      objective_ ? objective_ : [this](const Batch& b, const Context& c) { return model_->loss(b, c); };
  for (int64_t done = 0; done < size; done += micro) {
    const int64_t rows = std::min(micro, size - done);
    const Batch batch =
        (*feed_)(loader_ ? loader_->next() : variants_[step.variant].source->get(step.first + done, rows));
    ctx.first_sample = done;
    view_.batch = &batch;
    emit(Event::batch_ready);
    const float share = static_cast<float>(rows) / static_cast<float>(size);
    const float weight = share * static_cast<float>(step.scale);
    if (weight != weight_value_) update::fill(weight_, weight), weight_value_ = weight;
    const Tensor loss = results_.flat(1 + static_cast<int64_t>(step.shares.size()), 1);
    step.flops += runner_->run(loss_of, batch, ctx, weight_, loss, {step.variant, rows, done});
    step.shares.push_back(static_cast<double>(share));
    step.tokens += batch.tokens;
    view_.batch = nullptr;
  }
  emit(Event::gradients_ready);
  step.lr = stage.optim.lr * schedule_.factor(schedule_begin_ + s.stage_step);
  stepper_->prepare(step.lr, ctx.skip ? *ctx.skip : BlockSet{});
  const auto update = [this, scale = step.scale] {
    stepper_->measure_gradients(scale, settings_.device.queued() && !loss_scale_);
    results_.flat(0, 1).copy_from(stepper_->norm2());
    stepper_->apply();
  };
  runner_->update(update, stepper_->recurs(), step.scale);

  ++s.step;
  ++s.stage_step;
  s.spent.samples += size;
  s.spent.tokens += step.tokens;
  step.flops += step_flops_;
  s.spent.flops += step.flops;
  step.data_wait = loader_ ? loader_->wait_seconds() - waited_ : 0;
  waited_ += step.data_wait;
  step.readback = static_cast<size_t>(s.step % 2);
  readbacks_[step.readback]->start(results_);
  step.state = s;
  settle();  // the step before
  queued_ = std::move(step);
  if (!settings_.device.queued()) settle();
}

// Takes in the numbers of the queued step, if there is one, and reports it.
void Loop::settle() {
  if (!queued_) return;
  const QueuedStep step = std::move(*queued_);
  queued_.reset();
  const std::vector<float>& numbers = readbacks_[step.readback]->values();
  view_.grad_norm = std::sqrt(static_cast<double>(numbers[0])) / step.scale;
  view_.loss_scale = loss_scale_ ? step.scale : 0;
  view_.loss = 0;
  for (size_t i = 0; i < step.shares.size(); ++i) view_.loss += static_cast<double>(numbers[1 + i]) * step.shares[i];
  const double before = view_.state.spent.seconds;
  charge_time();
  RunState& now = view_.state;
  view_.step_seconds = now.spent.seconds - before;
  if (!now.variant_seconds.empty()) {
    now.variant_seconds[step.variant] += view_.step_seconds;
    ++now.variant_steps[step.variant];
  }
  // Observers see the run as it was after that step.
  RunState seen = step.state;
  seen.spent.seconds = now.spent.seconds;
  std::swap(now, seen);
  const bool finite = std::isfinite(view_.loss) && std::isfinite(view_.grad_norm);
  if (loss_scale_ ? loss_scale_->record(finite) == LossScale::Outcome::failed : !finite) {
    --now.step, --now.stage_step;  // the step did not happen
    explain_nonfinite(*view_.stage, step);
  }
  view_.lr = step.lr;
  view_.step_flops = step.flops;
  view_.tokens_per_second = static_cast<double>(step.tokens) / view_.step_seconds;
  view_.data_wait = step.data_wait;
  view_.allocations = device_allocations(settings_.device);
  view_.peak_memory = memory_use(settings_.device).peak;
  emit(Event::step_done);
  std::swap(now, seen);
}

// Averages over the targets of a source; the FLOPs are added to `flops`.
EvalResult Loop::evaluated(const Source& source, int64_t size, int64_t batches, double& flops, const BlockSet* skip) {
  Context ctx;
  ctx.plain = settings_.recipe.plain_ops;
  ctx.seed = static_cast<uint64_t>(settings_.recipe.seed);
  ctx.skip = skip;
  EvalSums total;
  BatchFeed feed(settings_.device);
  Tape tape;
  const NoGrad quiet;
  const int64_t samples = batches > 0 ? std::min(source.epoch_samples(), batches * size) : source.epoch_samples();
  for (int64_t first = 0; first < samples; first += size)
    total += model_->evaluate(feed(source.get(first, std::min(size, samples - first))), ctx);
  flops += tape.total_flops();
  check(total.count > 0, "eval", "the data that is evaluated has no target");
  const auto count = static_cast<double>(total.count);
  return {model_->task(), total.loss / count, total.top1 / count, total.top5 / count};
}

void Loop::evaluate(const Stage& stage) {
  const EvalConfig& eval = settings_.recipe.eval;
  const int64_t size = eval.batch > 0 ? eval.batch : stage.batch.micro_size();
  double& flops = view_.state.spent.eval_flops;
  settle();
  view_.split = eval.split;
  view_.eval = evaluated(*eval_source_, size, eval.batches, flops);
  const auto ema = stepper_->state().find("ema");
  view_.has_ema = ema != stepper_->state().end();
  if (view_.has_ema) {
    const WithValues averaged(model_->params(), ema->second);
    view_.eval_ema = evaluated(*eval_source_, size, eval.batches, flops);
  }
  view_.eval_unreadable = eval_source_->unreadable();
  evaluated_now_ = true;
  charge_time();
  emit(Event::eval);
}

// Running statistics of batch norms for weights that no step has made (an average): the mean over some training batches
// (twa spec 5). With momentum 1/k in batch k, running values that begin anywhere become that mean.
void Loop::estimate_statistics(const Stage& stage) {
  if (stage.statistics_batches <= 0 || !model_->params().has_running_statistics()) return;
  settle();
  // Training samples, whatever the stage itself learns from.
  const auto seed = static_cast<uint64_t>(stage.seed.value_or(settings_.recipe.seed));
  const auto source =
      stage.split == "train" ? source_ : settings_.make_source(stage.data, "train", seed, Purpose::train);
  Context ctx = context(stage, true);
  ctx.recompute = false;
  BatchFeed feed(settings_.device);
  Tape tape;
  {
    const NoGrad quiet;
    const int64_t rows = stage.batch.micro_size();
    for (int64_t k = 0; k < stage.statistics_batches; ++k) {
      ctx.norm_momentum = 1.0f / static_cast<float>(k + 1);
      model_->loss(feed(source->get(k * rows, rows)), ctx);
    }
  }
  view_.state.spent.flops += tape.total_flops();
  charge_time();
}

// All variants on the same training batches, with the weights of the running average that the stage names. What this
// costs is part of the method and charged as training.
void Loop::score_variants(const Stage& stage) {
  settle();
  const Elastic& elastic = *stage.elastic;
  RunState& s = view_.state;
  std::optional<WithValues> averaged;
  if (!elastic.score_average.empty()) averaged.emplace(model_->params(), stepper_->state().at(elastic.score_average));
  for (size_t i = 0; i < variants_.size(); ++i) {
    const VariantData& v = variants_[i];
    s.scores[i] += evaluated(*v.judge, v.batch.micro_size(), elastic.score_batches, s.spent.flops, &v.skip).loss;
  }
  ++s.scorings;
  charge_time();
}

// Runs the step again, op by op, to name the first op whose result is not finite; keeps the batch.
void Loop::explain_nonfinite(const Stage& stage, const QueuedStep& step) {
  ParamStore& store = model_->params();
  std::string culprit;
  store.zero_grads();
  Context ctx = context(stage, true);
  ctx.recompute = false;
  const std::filesystem::path kept = settings_.run / ("bad_batch_" + std::to_string(view_.state.step) + ".safetensors");
  const VariantData* variant = stage.elastic ? &variants_[step.variant] : nullptr;
  if (variant) ctx.skip = &variant->skip;
  const BatchConfig& rows = variant ? variant->batch : stage.batch;
  const int64_t size = rows.size, micro = rows.micro_size();
  for (int64_t i = 0; i < size / micro && culprit.empty(); ++i) {
    const Batch host = (variant ? variant->source : source_)->get(step.first + i * micro, micro);
    const Batch batch = (*feed_)(host);
    ctx.first_sample = i * micro;
    Tape tape({.check_finite = true});
    backward(objective_ ? objective_(batch, ctx) : model_->loss(batch, ctx));
    culprit = tape.first_nonfinite();
    if (!culprit.empty() || (i + 1) * micro == size) keep_batch(kept, host);
  }
  if (culprit.empty()) culprit = "no single op (the sum of the gradients overflowed)";
  fail("train", "step ", view_.state.step + 1, ": loss ", view_.loss, ", gradient norm ", view_.grad_norm,
       "; first non-finite result: ", culprit, "; the batch is kept in ", kept.string(),
       "; saved checkpoints are untouched; hint: lower optim.lr or set optim.clip");
}

}  // namespace accrete
