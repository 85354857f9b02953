// The arithmetic of the loop: a training step, an evaluation, the scoring of variants.
#include <cmath>

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

// Forward and backward of one micro-batch; gradients are added to the store. Returns the loss.
double Loop::train_batch(const Batch& batch, const Context& ctx, float share) {
  Tape tape;
  const Tensor loss = objective_ ? objective_(batch, ctx) : model_->loss(batch, ctx);
  backward(loss, Tensor::from(std::vector<float>{share}, Shape{1}, settings_.device).view(Shape{}));
  view_.step_flops += tape.total_flops();
  return static_cast<double>(loss.item());
}

// First sample of the present step: the position in the stream of tokens, whatever the length of the variants before.
int64_t Loop::variant_position(const Stage& stage, const VariantData& variant) const {
  const RunState& s = view_.state;
  return stage.seed ? s.stage_step * variant.batch.size : s.spent.tokens / variant.source->tokens_per_sample();
}

void Loop::train_step(const Stage& stage) {
  ParamStore& store = model_->params();
  RunState& s = view_.state;
  Context ctx = context(stage, true);
  int64_t size = stage.batch.size, micro = stage.batch.micro_size();
  size_t variant = 0;
  if (stage.elastic) {
    variant = drawn_variant(*stage.elastic, ctx.seed, ctx.step);
    const VariantData& v = variants_[variant];
    ctx.skip = &v.skip;
    size = v.batch.size;
    micro = v.batch.micro_size();
  }
  evaluated_now_ = false;
  store.zero_grads();
  view_.step_flops = 0;
  double loss = 0;
  int64_t tokens = 0;
  for (int64_t done = 0; done < size; done += micro) {
    const int64_t rows = std::min(micro, size - done);
    Batch batch;
    if (loader_) {
      batch = loader_->next();
    } else {
      const VariantData& v = variants_[variant];
      batch = v.source->get(variant_position(stage, v) + done, rows);
    }
    ctx.first_sample = done;
    view_.batch = &batch;
    emit(Event::batch_ready);
    const float share = static_cast<float>(rows) / static_cast<float>(size);
    loss += train_batch(batch, ctx, share) * share;
    tokens += batch.tokens;
    view_.batch = nullptr;
  }
  view_.loss = loss;
  view_.grad_norm = stepper_->gradient_norm();
  emit(Event::gradients_ready);
  if (!std::isfinite(loss) || !std::isfinite(view_.grad_norm)) explain_nonfinite(stage, loss, view_.grad_norm);
  view_.lr = stage.optim.lr * schedule_.factor(schedule_begin_ + s.stage_step);
  stepper_->step(view_.lr, ctx.skip ? *ctx.skip : BlockSet{});

  ++s.step;
  ++s.stage_step;
  s.spent.samples += size;
  s.spent.tokens += tokens;
  view_.step_flops += step_flops_;
  s.spent.flops += view_.step_flops;
  const double before = s.spent.seconds;
  charge_time();
  view_.step_seconds = s.spent.seconds - before;
  if (stage.elastic) s.variant_seconds[variant] += view_.step_seconds, ++s.variant_steps[variant];
  view_.tokens_per_second = static_cast<double>(tokens) / view_.step_seconds;
  view_.data_wait = loader_ ? loader_->wait_seconds() - waited_ : 0;
  waited_ += view_.data_wait;
  view_.allocations = device_allocations(settings_.device);
  view_.peak_memory = memory_use(settings_.device).peak;
  emit(Event::step_done);
}

// Mean loss over the targets of a source; its FLOPs are added to `flops`.
double Loop::mean_loss(const Source& source, int64_t size, int64_t batches, double& flops, const BlockSet* skip) {
  Context ctx;
  ctx.plain = settings_.recipe.plain_ops;
  ctx.seed = static_cast<uint64_t>(settings_.recipe.seed);
  ctx.skip = skip;
  EvalSums total;
  Tape tape;
  const NoGrad quiet;
  const int64_t samples = batches > 0 ? std::min(source.epoch_samples(), batches * size) : source.epoch_samples();
  for (int64_t first = 0; first < samples; first += size) {
    const Batch batch = source.get(first, std::min(size, samples - first));
    const EvalSums sums = model_->evaluate(batch, ctx);
    total.loss += sums.loss;
    total.count += sums.count;
  }
  flops += tape.total_flops();
  check(total.count > 0, "eval", "the data that is evaluated has no target");
  return total.loss / static_cast<double>(total.count);
}

void Loop::evaluate(const Stage& stage) {
  const EvalConfig& eval = settings_.recipe.eval;
  const int64_t size = eval.batch > 0 ? eval.batch : stage.batch.micro_size();
  double& flops = view_.state.spent.eval_flops;
  view_.split = eval.split;
  view_.eval_loss = mean_loss(*eval_source_, size, eval.batches, flops);
  const auto ema = stepper_->state().find("ema");
  view_.has_ema = ema != stepper_->state().end();
  if (view_.has_ema) {
    const WithValues averaged(model_->params(), ema->second);
    view_.eval_ema_loss = mean_loss(*eval_source_, size, eval.batches, flops);
  }
  evaluated_now_ = true;
  charge_time();
  emit(Event::eval);
}

// All variants on the same training batches, with the weights of the running average that the stage names. What this
// costs is part of the method and charged as training.
void Loop::score_variants(const Stage& stage) {
  const Elastic& elastic = *stage.elastic;
  RunState& s = view_.state;
  std::optional<WithValues> averaged;
  if (!elastic.score_average.empty()) averaged.emplace(model_->params(), stepper_->state().at(elastic.score_average));
  for (size_t i = 0; i < variants_.size(); ++i) {
    const VariantData& v = variants_[i];
    s.scores[i] += mean_loss(*v.source, v.batch.micro_size(), elastic.score_batches, s.spent.flops, &v.skip);
  }
  ++s.scorings;
  charge_time();
}

// Runs the step again, op by op, to name the first op whose result is not finite; keeps the batch.
void Loop::explain_nonfinite(const Stage& stage, double loss, double norm) {
  ParamStore& store = model_->params();
  std::string culprit;
  store.zero_grads();
  Context ctx = context(stage, true);
  ctx.recompute = false;
  const std::filesystem::path kept = settings_.run / ("bad_batch_" + std::to_string(view_.state.step) + ".safetensors");
  const VariantData* variant = stage.elastic ? &variants_[drawn_variant(*stage.elastic, ctx.seed, ctx.step)] : nullptr;
  if (variant) ctx.skip = &variant->skip;
  const BatchConfig& rows = variant ? variant->batch : stage.batch;
  const int64_t size = rows.size, micro = rows.micro_size();
  const int64_t first = variant ? variant_position(stage, *variant) : loader_->position() - size;
  for (int64_t i = 0; i < size / micro && culprit.empty(); ++i) {
    const Batch batch = (variant ? variant->source : source_)->get(first + i * micro, micro);
    ctx.first_sample = i * micro;
    Tape tape({.check_finite = true});
    backward(objective_ ? objective_(batch, ctx) : model_->loss(batch, ctx));
    culprit = tape.first_nonfinite();
    if (!culprit.empty() || (i + 1) * micro == size) keep_batch(kept, batch);
  }
  if (culprit.empty()) culprit = "no single op (the sum of the gradients overflowed)";
  fail("train", "step ", view_.state.step + 1, ": loss ", loss, ", gradient norm ", norm,
       "; first non-finite result: ", culprit, "; the batch is kept in ", kept.string(),
       "; saved checkpoints are untouched; hint: lower optim.lr or set optim.clip");
}

}  // namespace accrete
