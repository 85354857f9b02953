// bench step: whole optimizer steps of a GPT on random tokens: forward, backward, clipping, AdamW.
#include <sys/resource.h>

#include <cstdio>
#include <iostream>

#include "apps/bench.h"
#include "apps/gpt_family.h"
#include "apps/one_step.h"
#include "models/gpt.h"
#include "training/progress.h"

namespace accrete {
namespace {

Recipe recipe_of(const StepBench& b) {
  GptConfig c = gpt_preset(b.model);
  if (b.depth > 0) c.depth = b.depth;
  if (b.embed_dim > 0) c.embed_dim = b.embed_dim;
  if (b.num_heads > 0) c.num_heads = b.num_heads;
  if (b.vocab_size > 0) c.vocab_size = b.vocab_size;
  c.context = std::max(c.context, b.length);
  check(c.embed_dim % c.num_heads == 0, "bench", "--num-heads ", c.num_heads, " does not divide --embed-dim ",
        c.embed_dim);
  Recipe r;
  r.model = to_json(c);
  r.data.length = b.length;
  r.batch.size = b.batch;
  r.precision = b.precision;
  r.recompute = b.recompute;
  return r;
}

// Largest memory of the process so far, as the system counts it.
int64_t peak_process_memory() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return static_cast<int64_t>(use.ru_maxrss) * 1024;
}

}  // namespace

void bench_step(const StepBench& b, const BenchOptions& o) {
  // The time to the first step is that of a user: making the model and all that is made on first use.
  const double begin = now_seconds();
  const Recipe recipe = recipe_of(b);
  const Stage stage = first_stage(recipe);
  const Family family = gpt_family();
  OneStep step(recipe, stage, family.make_model, kCpu);
  const Batch batch = step_batch(recipe, stage, family, b.batch);
  step.run(batch, {});
  const double first = now_seconds() - begin, first_loss = step.loss();
  for (int64_t i = 1; i < b.warmup; ++i) step.run(batch, {});
  const int64_t allocations = device_allocations(kCpu);
  std::vector<double> total, forward, back, update;
  for (int64_t i = 0; i < b.steps; ++i) {
    const StepSeconds s = step.run(batch, {});
    total.push_back(s.total());
    forward.push_back(s.forward);
    back.push_back(s.backward);
    update.push_back(s.optimizer);
  }
  const int64_t new_allocations = device_allocations(kCpu) - allocations;
  const int64_t engine_peak = memory_use(kCpu).peak, process_peak = peak_process_memory();
  const Ceilings ceilings = measure_ceilings();  // last: its buffers are no part of the step
  const DType dtype = compute_type(b.precision);
  const Spread s = spread_of(total);
  const double rate = step.flops() / s.median;

  Json j;
  j["model"] = b.model;
  j["config"] = recipe.model;
  j["params"] = step.model().params().parameter_count();
  j["batch"] = b.batch;
  j["length"] = b.length;
  j["precision"] = b.precision;
  j["recompute"] = b.recompute;
  j["threads"] = cpu_context().threads;
  j["step_seconds"] = to_json(s);
  j["forward_seconds"] = spread_of(forward).median;
  j["backward_seconds"] = spread_of(back).median;
  j["optimizer_seconds"] = spread_of(update).median;
  j["tokens_per_second"] = static_cast<double>(b.batch * b.length) / s.median;
  j["flops_per_step"] = step.flops();
  j["flops_per_second"] = rate;
  j["share_of_ceiling"] = rate / ceilings.flops(dtype);
  j["peak_memory"] = engine_peak;
  j["peak_process_memory"] = process_peak;
  j["allocations_after_warmup"] = new_allocations;
  j["time_to_first_step"] = first;
  j["first_loss"] = first_loss;
  j["last_loss"] = step.loss();
  j["ceilings"] = to_json(ceilings);
  if (o.json) {
    std::cout << j.dump(2) << "\n";
    return;
  }
  std::printf("%s\n", to_text(ceilings).c_str());
  std::printf("%s, %.1f M parameters, batch %lld x %lld, %s%s, %d threads\n", b.model.c_str(),
              j["params"].get<double>() / 1e6, static_cast<long long>(b.batch), static_cast<long long>(b.length),
              b.precision.c_str(), b.recompute ? ", recompute" : "", cpu_context().threads);
  std::printf("step      %s (%s to %s in %zu steps)\n", format_milliseconds(s.median).c_str(),
              format_milliseconds(s.low).c_str(), format_milliseconds(s.high).c_str(), total.size());
  std::printf("          forward %s, backward %s, optimizer %s\n",
              format_milliseconds(j["forward_seconds"].get<double>()).c_str(),
              format_milliseconds(j["backward_seconds"].get<double>()).c_str(),
              format_milliseconds(j["optimizer_seconds"].get<double>()).c_str());
  std::printf("speed     %s tok/s, %s/s, %.0f%% of the ceiling\n",
              format_count(j["tokens_per_second"].get<double>()).c_str(), format_flops(rate).c_str(),
              100 * rate / ceilings.flops(dtype));
  std::printf("memory    %s by the engine, %s by the process; %lld allocations after warm-up\n",
              human_bytes(engine_peak).c_str(), human_bytes(process_peak).c_str(),
              static_cast<long long>(new_allocations));
  std::printf("first     step done %s after the start\n", format_milliseconds(first).c_str());
}

}  // namespace accrete
