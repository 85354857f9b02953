#include "training/predict.h"

#include <algorithm>
#include <cmath>

#include "engine/core/transfer.h"
#include "training/extent.h"
#include "training/recorders.h"

namespace accrete {
namespace {

StepCost dry_step(const LoopSettings& settings, const Stage& stage, const Source& source, int64_t rows, int64_t micro,
                  const std::vector<int64_t>& skip = {}, bool own_memory = false) {
  const Recipe& recipe = settings.recipe;
  release_cache(kDry);
  reset_peak(kDry);
  const DType compute = compute_type(recipe.precision);
  const auto model = settings.make_model(stage.model, compute, kDry);
  ParamStore& store = model->params();
  if (stage.trainable)
    for (size_t i = 0; i < store.entries().size(); ++i)
      store.set_trainable(static_cast<int>(i), stage.trainable(store.entries()[i]));
  std::map<std::string, double> averages = stage.averages;
  for (const auto& [name, time] : stage.average_times) averages[name] = 0;  // only their memory counts here
  const Optimizer optimizer(stage.optim, store, averages);
  Tensor own;
  if (own_memory) {
    const SegmentScope segment(Segment::optimizer);
    own = Tensor::empty(Shape{stage.device_bytes(store.parameter_count())}, DType::u8, kDry);
  }
  const BlockSet skipped = block_set(store.entries(), skip);
  Context ctx;
  ctx.training = true;
  ctx.plain = recipe.plain_ops;
  ctx.recompute = recipe.recompute;
  ctx.skip = &skipped;
  StepCost cost;
  Batch batch = source.get(0, micro);
  {
    const SegmentScope segment(Segment::data);
    batch = dry_batch(batch);
  }
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
  cost.has_statistics = store.has_running_statistics();
  cost.trainable = store.trainable_count();
  return cost;
}

StepCost cost_of(const LoopSettings& settings, const Stage& stage, const Variant* variant, bool own_memory) {
  DataConfig data = stage.data;
  BatchConfig batch = stage.batch;
  check(batch.size % batch.micro_size() == 0, "config", "batch.micro (", batch.micro_size(),
        ") does not divide batch.size (", batch.size, ")");
  if (variant) set_extent(data, batch, variant->extent);
  const auto source =
      settings.make_source(data, stage.split, static_cast<uint64_t>(settings.recipe.seed), Purpose::train);
  StepCost cost = dry_step(settings, stage, *source, batch.size, batch.micro_size(),
                           variant ? variant->skip : std::vector<int64_t>{}, own_memory);
  cost.tokens = static_cast<double>(batch.size * source->tokens_per_sample());
  cost.score_flops = cost.forward_flops * static_cast<double>(batch.micro_size()) / static_cast<double>(batch.size);
  return cost;
}

// A tenth stays free: evaluations have other shapes than steps, and a driver wants something too.
int64_t spare_beside(int64_t peak, Device device) { return std::max<int64_t>(0, memory_limit(device) - peak) / 10 * 9; }

}  // namespace

StepCost step_cost(const LoopSettings& settings, const Stage& stage, const Variant* variant) {
  const StepCost cost = cost_of(settings, stage, variant, false);
  const bool keeps = settings.device.queued() && stage.device_bytes &&
                     stage.device_bytes(cost.params) <= spare_beside(cost.peak, settings.device);
  return keeps ? cost_of(settings, stage, variant, true) : cost;
}

int64_t spare_memory(const LoopSettings& settings, const Stage& stage) {
  return spare_beside(cost_of(settings, stage, nullptr, false).peak, settings.device);
}

std::vector<StagePrediction> predict(const LoopSettings& settings, const Plan& plan) {
  std::vector<StagePrediction> all;
  int64_t begun = 0;  // steps of the run before the stage
  for (const Stage& stage : planned_stages(plan)) {
    const auto source =
        settings.make_source(stage.data, stage.split, static_cast<uint64_t>(settings.recipe.seed), Purpose::train);
    Clock clock;
    clock.steps_per_epoch = static_cast<double>(source->epoch_samples()) / static_cast<double>(stage.batch.size);
    clock.tokens_per_step = static_cast<double>(source->tokens_per_sample() * stage.batch.size);
    StagePrediction p;
    p.name = stage.name;
    p.note = stage_note(stage);
    p.steps = to_steps(stage.duration, clock, "duration");
    if (stage.collect) stage.collect->due(0, p.steps);  // refuses what cannot be
    // Of the whole that the stage is a part of.
    clock.run_steps =
        std::max<int64_t>(1, std::llround(static_cast<double>(p.steps) / (stage.schedule_to - stage.schedule_from)));
    const Schedule schedule(stage.schedule, clock);
    to_steps(settings.recipe.eval.every, clock, "eval.every");
    to_steps(settings.recipe.checkpoint.every, clock, "checkpoint.every");
    StepCost step = step_cost(settings, stage);
    if (stage.elastic) {
      // The variants that will be drawn; scorings are forward passes of all of them.
      const Elastic& e = *stage.elastic;
      std::vector<StepCost> costs;
      double scoring = 0, flops = 0, tokens = 0;
      for (const Variant& v : e.variants) {
        costs.push_back(step_cost(settings, stage, &v));
        scoring += costs.back().score_flops * static_cast<double>(e.score_batches);
      }
      const auto seed = static_cast<uint64_t>(stage.seed.value_or(settings.recipe.seed));
      for (int64_t i = 0; i < p.steps; ++i) {
        const StepCost& c = costs[drawn_variant(e, seed, static_cast<uint64_t>(stage.seed ? i : begun + i))];
        flops += c.flops, tokens += c.tokens;
      }
      step.flops = flops / static_cast<double>(std::max<int64_t>(1, p.steps));
      clock.tokens_per_step = tokens / static_cast<double>(std::max<int64_t>(1, p.steps));
      p.flops += scoring * static_cast<double>(std::min(e.scorings, p.steps));
    }
    if (stage.scoring) {
      const auto judge = settings.make_source(stage.data, stage.scoring->split, 0, Purpose::judge);
      int64_t rows = judge->epoch_samples();
      if (stage.scoring->batches > 0) rows = std::min(rows, stage.scoring->batches * stage.batch.micro_size());
      p.flops +=
          step.forward_flops / static_cast<double>(stage.batch.size) * static_cast<double>(rows * stage.scoring->times);
    }
    if (step.has_statistics) {
      const double estimations = 1 + (stage.scoring ? static_cast<double>(stage.scoring->times) : 0.0);
      p.flops += estimations * static_cast<double>(stage.statistics_batches) * step.score_flops;
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
    begun += std::max<int64_t>(1, p.steps);
  }
  return all;
}

int64_t largest_micro_batch(const LoopSettings& settings, const Stage& stage, int64_t bytes) {
  const auto source =
      settings.make_source(stage.data, stage.split, static_cast<uint64_t>(settings.recipe.seed), Purpose::train);
  for (int64_t micro = stage.batch.micro_size(); micro >= 1; --micro) {
    if (stage.batch.size % micro != 0) continue;
    try {
      if (dry_step(settings, stage, *source, stage.batch.size, micro).peak <= bytes) return micro;
    } catch (const Error&) {
      // Refused, as odd numbers of pictures that are mixed in pairs are: no size to recommend.
    }
  }
  return 0;
}

}  // namespace accrete
