#include "training/predict.h"

#include "training/recorders.h"

namespace accrete {
namespace {

struct StepCost {
  double flops = 0;
  int64_t peak = 0, params = 0, trainable = 0;
  std::string table;
};

// One optimizer step with micro-batches of `micro` sequences, on the dry device.
StepCost dry_step(const LoopSettings& settings, const Stage& stage, const Source& source, int64_t micro) {
  const Recipe& recipe = settings.recipe;
  release_cache(kDry);
  reset_peak(kDry);
  const auto model = settings.make_model(stage.model, recipe.precision == "bf16" ? DType::bf16 : DType::f32, kDry);
  ParamStore& store = model->params();
  if (stage.trainable)
    for (size_t i = 0; i < store.entries().size(); ++i)
      store.set_trainable(static_cast<int>(i), stage.trainable(store.entries()[i]));
  Optimizer optimizer(stage.optim, store);
  Context ctx;
  ctx.training = true;
  ctx.plain = recipe.plain_ops;
  ctx.recompute = recipe.recompute;
  StepCost cost;
  const Batch batch = source.get(0, micro);
  Tape tape;
  backward(model->loss(batch, ctx));
  cost.flops = tape.total_flops() * static_cast<double>(stage.batch.size) / static_cast<double>(micro);
  cost.peak = memory_use(kDry).peak;
  cost.table = memory_report(kDry);
  cost.params = store.parameter_count();
  cost.trainable = store.trainable_count();
  return cost;
}

}  // namespace

std::vector<StagePrediction> predict(const LoopSettings& settings, Plan& plan) {
  std::vector<StagePrediction> all;
  RunState state;
  while (const auto stage = plan.next(state)) {
    const auto source = settings.make_source(stage->data, "train", static_cast<uint64_t>(settings.recipe.seed));
    const int64_t size = stage->batch.size, micro = stage->batch.micro_size();
    check(size % micro == 0, "config", "batch.micro (", micro, ") does not divide batch.size (", size, ")");
    Clock clock;
    clock.steps_per_epoch = static_cast<double>(source->epoch_samples()) / static_cast<double>(size);
    clock.tokens_per_step = static_cast<double>(source->tokens_per_sample() * size);
    StagePrediction p;
    p.name = stage->name;
    p.note = stage_note(*stage);
    p.steps = to_steps(stage->duration, clock, "duration");
    clock.run_steps = p.steps;
    const Schedule schedule(stage->schedule, clock);
    to_steps(settings.recipe.eval.every, clock, "eval.every");
    to_steps(settings.recipe.checkpoint.every, clock, "checkpoint.every");
    const StepCost step = dry_step(settings, *stage, *source, micro);
    p.params = step.params;
    p.trainable = step.trainable;
    p.flops = step.flops * static_cast<double>(p.steps);
    p.tokens = clock.tokens_per_step * static_cast<double>(p.steps);
    p.peak_memory = step.peak;
    p.memory_table = step.table;
    all.push_back(p);
    StageResult result;
    result.name = p.name;
    result.steps = p.steps;
    result.flops = p.flops;
    state.results.push_back(result);
    state.step += p.steps;
    state.spent.flops += p.flops;
    ++state.stage;
    check(all.size() < 10000, "plan", "more than 10000 stages");
  }
  return all;
}

int64_t largest_micro_batch(const LoopSettings& settings, const Stage& stage, int64_t bytes) {
  const auto source = settings.make_source(stage.data, "train", static_cast<uint64_t>(settings.recipe.seed));
  for (int64_t micro = stage.batch.micro_size(); micro >= 1; --micro)
    if (stage.batch.size % micro == 0 && dry_step(settings, stage, *source, micro).peak <= bytes) return micro;
  return 0;
}

}  // namespace accrete
