#include "training/predict.h"

#include "training/recorders.h"

namespace accrete {
namespace {

StepCost dry_step(const LoopSettings& settings, const Stage& stage, const Source& source, int64_t rows, int64_t micro,
                  const BlockSet* skip) {
  const Recipe& recipe = settings.recipe;
  release_cache(kDry);
  reset_peak(kDry);
  const DType compute = recipe.precision == "bf16" ? DType::bf16 : DType::f32;
  const auto model = settings.make_model(stage.model, compute, kDry);
  ParamStore& store = model->params();
  if (stage.trainable)
    for (size_t i = 0; i < store.entries().size(); ++i)
      store.set_trainable(static_cast<int>(i), stage.trainable(store.entries()[i]));
  const Optimizer optimizer(stage.optim, store, stage.averages);
  Context ctx;
  ctx.training = true;
  ctx.plain = recipe.plain_ops;
  ctx.recompute = recipe.recompute;
  ctx.skip = skip;
  StepCost cost;
  const Batch batch = source.get(0, micro);
  StageStart start{.store = store, .network = model.get()};
  start.model = [&](const Json& config) { return settings.make_model(config, compute, kDry); };
  start.dry = true;
  const LossFn objective = stage.objective ? stage.objective(start) : nullptr;
  Tape tape;
  backward(objective ? objective(batch, ctx) : model->loss(batch, ctx));
  const double pieces = static_cast<double>(rows) / static_cast<double>(micro);
  cost.flops = tape.total_flops() * pieces;
  cost.forward_flops = tape.cost().flops * pieces;
  cost.peak = memory_use(kDry).peak;
  cost.memory_table = memory_report(kDry);
  cost.params = store.parameter_count();
  cost.trainable = store.trainable_count();
  return cost;
}

}  // namespace

StepCost step_cost(const LoopSettings& settings, const Stage& stage, const Variant* variant) {
  DataConfig data = stage.data;
  int64_t size = stage.batch.size, micro = stage.batch.micro_size();
  check(size % micro == 0, "config", "batch.micro (", micro, ") does not divide batch.size (", size, ")");
  if (variant) {
    size = std::max<int64_t>(1, size * data.length / variant->length);
    micro = std::max<int64_t>(1, micro * data.length / variant->length);
    data.length = variant->length;
  }
  const auto source = settings.make_source(data, stage.split, static_cast<uint64_t>(settings.recipe.seed));
  return dry_step(settings, stage, *source, size, micro, variant ? &variant->skip : nullptr);
}

std::vector<StagePrediction> predict(const LoopSettings& settings, const Plan& plan) {
  std::vector<StagePrediction> all;
  for (const Stage& stage : planned_stages(plan)) {
    const auto source = settings.make_source(stage.data, stage.split, static_cast<uint64_t>(settings.recipe.seed));
    Clock clock;
    clock.steps_per_epoch = static_cast<double>(source->epoch_samples()) / static_cast<double>(stage.batch.size);
    clock.tokens_per_step = static_cast<double>(source->tokens_per_sample() * stage.batch.size);
    StagePrediction p;
    p.name = stage.name;
    p.note = stage_note(stage);
    p.steps = to_steps(stage.duration, clock, "duration");
    if (stage.collect) stage.collect->due(0, p.steps);  // refuses what cannot be
    clock.run_steps = std::max<int64_t>(1, p.steps);
    const Schedule schedule(stage.schedule, clock);
    to_steps(settings.recipe.eval.every, clock, "eval.every");
    to_steps(settings.recipe.checkpoint.every, clock, "checkpoint.every");
    StepCost step = step_cost(settings, stage);
    if (stage.elastic) {
      // Every variant is drawn equally often; scorings are forward passes.
      const Elastic& e = *stage.elastic;
      double mean = 0, scoring = 0;
      for (const Variant& v : e.variants) {
        const StepCost cost = step_cost(settings, stage, &v);
        mean += cost.flops / static_cast<double>(e.variants.size());
        const double share = static_cast<double>(stage.batch.micro_size()) / static_cast<double>(stage.batch.size);
        scoring += cost.forward_flops * share * static_cast<double>(e.score_batches);
      }
      step.flops = mean;
      p.flops += scoring * static_cast<double>(e.scorings);
    }
    p.params = step.params;
    p.trainable = step.trainable;
    p.flops += step.flops * static_cast<double>(p.steps) + stage.charged.flops;
    if (stage.start_flops) p.flops += stage.start_flops(p.params);
    if (stage.step_flops) p.flops += stage.step_flops(p.params) * static_cast<double>(p.steps);
    p.tokens = clock.tokens_per_step * static_cast<double>(p.steps) + static_cast<double>(stage.charged.tokens);
    p.peak_memory = step.peak;
    p.memory_table = step.memory_table;
    all.push_back(p);
  }
  return all;
}

int64_t largest_micro_batch(const LoopSettings& settings, const Stage& stage, int64_t bytes) {
  const auto source = settings.make_source(stage.data, stage.split, static_cast<uint64_t>(settings.recipe.seed));
  for (int64_t micro = stage.batch.micro_size(); micro >= 1; --micro)
    if (stage.batch.size % micro == 0 &&
        dry_step(settings, stage, *source, stage.batch.size, micro, nullptr).peak <= bytes)
      return micro;
  return 0;
}

}  // namespace accrete
