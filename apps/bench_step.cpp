// bench step: whole optimizer steps on random data: forward, backward, clipping, AdamW.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <iostream>

#include "apps/bench.h"
#include "apps/families.h"
#include "apps/one_step.h"
#include "apps/training_steps.h"
#include "training/progress.h"

namespace accrete {
namespace {

Recipe recipe_of(const StepBench& b) {
  Recipe r = recipe_of_preset(b.model);
  Json& model = r.model;
  const auto set = [&](const char* key, int64_t value) {
    if (value <= 0) return;
    check(model.contains(key) && model[key].is_number_integer(), "bench", b.model, " has no single ", key,
          "; expected a model whose blocks are all alike");
    model[key] = value;
  };
  set("depth", b.depth);
  set("embed_dim", b.embed_dim);
  set("num_heads", b.num_heads);
  if (model["embed_dim"].is_number_integer())
    check(model["embed_dim"].get<int64_t>() % model["num_heads"].get<int64_t>() == 0, "bench", "--num-heads ",
          model["num_heads"].dump(), " does not divide --embed-dim ", model["embed_dim"].dump());
  if (r.family == "gpt") {
    check(b.resolution == 0, "bench", "--resolution is for models of pictures");
    set("vocab_size", b.vocab_size);
    model["context"] = std::max(model["context"].get<int64_t>(), b.length);
    r.data.length = b.length;
  } else {
    check(b.vocab_size == 0, "bench", "--vocab-size is for gpt2");
    set("image_size", b.resolution);
    if (b.patch > 0) set("patch", b.patch);
    if (b.classes > 0) set("classes", b.classes);
    r.data.resolution = model["image_size"].get<int64_t>();
    r.data.augment.smoothing = 0.1;  // soft targets, as vision recipes have them
  }
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

struct Measured {
  std::vector<double> total, forward, back, update;  // seconds of each step; parts only where the host waits for them
  double first = 0, first_loss = 0, last_loss = 0;   // first: seconds from the call to the end of the first step
  double tenth_at = 0;                               // when the tenth step had run, seconds since 1970; 0: it did not
  double flops = 0;
  int64_t params = 0, allocations = 0, replays = 0;
  std::string obstacle;  // why launches were not recorded
};

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Measured measure_on_host(const StepBench& b, const Recipe& recipe, const Stage& stage, const Family& family) {
  Measured m;
  const double begin = now_seconds();
  OneStep step(recipe, stage, family.make_model, kCpu);
  const Batch batch = step_batch(recipe, stage, family, b.batch);
  for (int64_t i = 0; i < b.warmup + b.steps; ++i) {
    if (i == b.warmup) m.allocations = device_allocations(kCpu);
    const StepSeconds s = step.run(batch, {});
    if (i == 0) m.first = now_seconds() - begin, m.first_loss = step.loss();
    if (i == 9) m.tenth_at = unix_seconds();
    if (i < b.warmup) continue;
    m.total.push_back(s.total());
    m.forward.push_back(s.forward);
    m.back.push_back(s.backward);
    m.update.push_back(s.optimizer);
  }
  m.allocations = device_allocations(kCpu) - m.allocations;
  m.last_loss = step.loss();
  m.flops = step.flops();
  m.params = step.model().params().parameter_count();
  return m;
}

// queue() returns when the step before has run, so the time between two returns is that of a step.
Measured measure_queued(const StepBench& b, const Recipe& recipe, const Stage& stage, const Family& family,
                        Device device) {
  Measured m;
  const double begin = now_seconds();
  TrainingSteps steps(recipe, stage, family.make_model, device, !b.eager);
  const Batch batch = step_batch(recipe, stage, family, b.batch);
  for (int64_t i = 0; i < b.warmup; ++i) {
    steps.queue(batch);
    if (i == 0) {
      steps.finish();
      m.first = now_seconds() - begin, m.first_loss = steps.loss();
    }
    if (i == 9) {
      steps.finish();
      m.tenth_at = unix_seconds();
    }
  }
  steps.finish();
  m.allocations = device_allocations(device);
  steps.queue(batch);  // its time is not counted: the queue was empty
  double before = now_seconds();
  for (int64_t i = 0; i < b.steps; ++i) {
    steps.queue(batch);
    const double now = now_seconds();
    m.total.push_back(now - before);
    before = now;
  }
  steps.finish();
  m.allocations = device_allocations(device) - m.allocations;
  m.last_loss = steps.loss();
  m.flops = steps.flops();
  m.params = steps.model().params().parameter_count();
  m.replays = steps.runner().replays();
  m.obstacle = steps.runner().obstacle();
  return m;
}

void print(const Json& j, const Ceilings& ceilings, const StepBench& b, const Measured& m, const Spread& s) {
  std::printf("%s\n", to_text(ceilings).c_str());
  const bool pictures = j.contains("resolution");
  std::printf("%s, %.1f M parameters, batch %lld x %lld%s, %s%s, %s, %d threads\n", b.model.c_str(),
              static_cast<double>(m.params) / 1e6, static_cast<long long>(b.batch),
              static_cast<long long>(pictures ? j["resolution"].get<int64_t>() : b.length), pictures ? " px" : "",
              b.precision.c_str(), b.recompute ? ", recompute" : "", j["device"].get<std::string>().c_str(),
              cpu_context().threads);
  std::printf("step      %s (%s to %s in %zu steps)\n", format_milliseconds(s.median).c_str(),
              format_milliseconds(s.low).c_str(), format_milliseconds(s.high).c_str(), m.total.size());
  if (!m.forward.empty())
    std::printf("          forward %s, backward %s, optimizer %s\n",
                format_milliseconds(j["forward_seconds"].get<double>()).c_str(),
                format_milliseconds(j["backward_seconds"].get<double>()).c_str(),
                format_milliseconds(j["optimizer_seconds"].get<double>()).c_str());
  if (!m.obstacle.empty()) std::printf("          launches were not recorded: %s\n", m.obstacle.c_str());
  std::printf("speed     %s %s, %s/s, %.0f%% of the ceiling\n",
              format_count(j[pictures ? "images_per_second" : "tokens_per_second"].get<double>()).c_str(),
              pictures ? "img/s" : "tok/s", format_flops(j["flops_per_second"].get<double>()).c_str(),
              100 * j["share_of_ceiling"].get<double>());
  std::printf("memory    %s by the engine, %s by the process; %lld allocations after warm-up\n",
              human_bytes(j["peak_memory"].get<int64_t>()).c_str(),
              human_bytes(j["peak_process_memory"].get<int64_t>()).c_str(), static_cast<long long>(m.allocations));
  std::printf("first     step done %s after the start\n", format_milliseconds(m.first).c_str());
}

}  // namespace

void bench_step(const StepBench& b, const BenchOptions& o) {
  Recipe recipe = recipe_of(b);
  const Family family = family_of(recipe.family);
  family.resolve_model(recipe);
  const Stage stage = first_stage(recipe);
  const bool pictures = recipe.data.pictures();
  // The time to the first step is that of a user: making the model and all that is made on first use.
  const Measured m = o.device.queued() ? measure_queued(b, recipe, stage, family, o.device)
                                       : measure_on_host(b, recipe, stage, family);
  const MemoryUse memory = memory_use(o.device);
  const int64_t process_peak = peak_process_memory();
  release_cache(o.device);
  const Ceilings ceilings = measure_ceilings(o.device);  // last: its buffers are no part of the step
  const Spread s = spread_of(m.total);
  const double rate = m.flops / s.median;

  Json j;
  j["device"] = describe(o.device);
  j["model"] = b.model;
  j["config"] = recipe.model;
  j["params"] = m.params;
  j["batch"] = b.batch;
  j[pictures ? "resolution" : "length"] = pictures ? recipe.data.resolution : b.length;
  j["precision"] = b.precision;
  j["recompute"] = b.recompute;
  j["threads"] = cpu_context().threads;
  j["step_seconds"] = to_json(s);
  if (!m.forward.empty()) {
    j["forward_seconds"] = spread_of(m.forward).median;
    j["backward_seconds"] = spread_of(m.back).median;
    j["optimizer_seconds"] = spread_of(m.update).median;
  }
  j[pictures ? "images_per_second" : "tokens_per_second"] =
      static_cast<double>(pictures ? b.batch : b.batch * b.length) / s.median;
  j["flops_per_step"] = m.flops;
  j["flops_per_second"] = rate;
  j["share_of_ceiling"] = rate / ceilings.flops(compute_type(b.precision));
  j["peak_memory"] = memory.peak;
  j["reserved_memory"] = memory.reserved;
  j["peak_process_memory"] = process_peak;
  j["allocations_after_warmup"] = m.allocations;
  if (o.device.queued()) {
    j["replayed_steps"] = m.replays;
    j["not_recorded_because"] = m.obstacle;
  }
  j["time_to_first_step"] = m.first;
  if (m.tenth_at > 0) j["tenth_step_at"] = m.tenth_at;
  j["first_loss"] = m.first_loss;
  j["last_loss"] = m.last_loss;
  j["ceilings"] = to_json(ceilings);
  if (o.json)
    std::cout << j.dump(2) << "\n";
  else
    print(j, ceilings, b, m, s);
}

}  // namespace accrete
