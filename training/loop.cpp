#include "training/loop.h"

#include <cmath>

#include "engine/ops/ops.h"
#include "training/checkpoint.h"
#include "training/extent.h"
#include "training/predict.h"
#include "training/signals.h"

namespace accrete {
namespace {

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

Loop::Loop(LoopSettings settings, const Plan& plan, std::vector<Observer*> observers)
    : settings_(std::move(settings)), plan_(plan), observers_(std::move(observers)) {
  view_.recipe = &settings_.recipe;
  best_score_ = std::numeric_limits<double>::infinity();
  if (settings_.recipe.precision == "f16") loss_scale_.emplace(settings_.recipe.loss_scale);
}

void Loop::emit(Event event) {
  for (Observer* o : observers_) o->on(event, view_);
}

void Loop::charge_time() {
  const auto now = std::chrono::steady_clock::now();
  view_.state.spent.seconds += seconds_between(mark_, now);
  mark_ = now;
}

Outcome Loop::run(const std::filesystem::path& checkpoint) {
  const SignalWatch signals;
  mark_ = std::chrono::steady_clock::now();
  const auto begin = mark_;
  set_tf32(settings_.recipe.precision == "tf32");
  if (settings_.measure_ceiling) view_.ceiling = measured_ceiling(compute(), settings_.device);
  if (!checkpoint.empty()) {
    restore(read_checkpoint_state(checkpoint));
    // What a kill has left half removed, also where no further checkpoint follows.
    const CheckpointConfig& c = settings_.recipe.checkpoint;
    prune_checkpoints(settings_.run, c.keep_last, c.keep_best ? best_ : "");
  }
  view_.stages = static_cast<int>(planned_stages(plan_).size());
  view_.resumed = !checkpoint.empty();
  emit(Event::run_start);

  Outcome outcome = Outcome::complete;
  std::filesystem::path load_from = checkpoint;
  const int64_t first_step = view_.state.step;  // a run that goes on from the end of a stage takes one, however late
  while (outcome == Outcome::complete) {
    const std::optional<Stage> stage = plan_.next(view_.state.results);
    if (!stage) break;
    view_.stage = &*stage;
    begin_stage(*stage, load_from);
    load_from.clear();
    outcome = run_stage(*stage);
    if (outcome == Outcome::complete || outcome == Outcome::until) end_stage(*stage);
    const bool late = settings_.hours > 0 && seconds_between(begin, mark_) > settings_.hours * 3600;
    if (late && outcome == Outcome::complete && view_.state.step > first_step) outcome = Outcome::hours;
  }
  check(model_ != nullptr, "train", "the plan has no stage");
  view_.reason = outcome == Outcome::complete ? "complete"
                 : outcome == Outcome::until  ? "until"
                 : outcome == Outcome::signal ? "signal"
                                              : "hours";
  if (outcome == Outcome::complete || outcome == Outcome::until) {
    view_.checksum = checksum(model_->params());
    view_.train_unreadable = source_->unreadable();
    emit(Event::run_end);
  }
  return outcome;
}

// Sources, clock and schedule of a stage.
void Loop::open_data(const Stage& stage) {
  const Recipe& recipe = settings_.recipe;
  const auto seed = static_cast<uint64_t>(stage.seed.value_or(recipe.seed));
  source_ = settings_.make_source(stage.data, stage.split, seed, Purpose::train);
  // Evaluated at the recipe's full size, whatever the stage trains at.
  eval_source_ = settings_.make_source(recipe.data, recipe.eval.split, seed, Purpose::judge);
  const int64_t size = stage.batch.size, micro = stage.batch.micro_size();
  check(size % micro == 0, "config", "batch.micro (", micro, ") does not divide batch.size (", size, ")");
  check(source_->epoch_samples() > 0, "data", "the split \"", stage.split, "\" has no sample");
  clock_.steps_per_epoch = static_cast<double>(source_->epoch_samples()) / static_cast<double>(size);
  clock_.tokens_per_step = static_cast<double>(source_->tokens_per_sample() * size);
  view_.steps_per_epoch = clock_.steps_per_epoch;
  view_.stage_steps = std::max<int64_t>(1, to_steps(stage.duration, clock_, "duration"));
  view_.trains = parse_duration(stage.duration, "duration").value > 0;
  const double part = stage.schedule_to - stage.schedule_from;
  clock_.run_steps = std::max<int64_t>(1, std::llround(static_cast<double>(view_.stage_steps) / part));
  schedule_begin_ = std::llround(stage.schedule_from * static_cast<double>(clock_.run_steps));
  schedule_ = Schedule(stage.schedule, clock_);
}

// Batches of a stage, from the position of the run.
void Loop::open_loader(const Stage& stage) {
  const auto seed = static_cast<uint64_t>(stage.seed.value_or(settings_.recipe.seed));
  const int64_t size = stage.batch.size, micro = stage.batch.micro_size();
  variants_.clear();
  if (stage.elastic) {
    for (const Variant& v : stage.elastic->variants) {
      DataConfig data = stage.data;
      VariantData& mine = variants_.emplace_back();
      mine.batch = stage.batch;
      set_extent(data, mine.batch, v.extent);
      mine.source = settings_.make_source(data, stage.split, seed, Purpose::train);
      mine.judge = settings_.make_source(data, stage.split, seed, Purpose::score);
      mine.skip = block_set(model_->params().entries(), v.skip);
    }
  } else if (view_.trains) {
    // Position in the stream of samples: a stage goes on where the one before stopped, whatever its sequence length,
    // unless it has a stream of its own.
    const RunState& s = view_.state;
    const int64_t first = stage.seed
                              ? s.stage_step * size
                              : (s.spent.tokens > 0 ? s.spent.tokens / source_->tokens_per_sample() : s.spent.samples);
    loader_ = std::make_unique<Loader>(source_, first, micro, micro, static_cast<int>(stage.data.loader_threads));
  }
}

// What the steps of a stage run in.
void Loop::open_runner(const Stage& stage) {
  const Device device = settings_.device;
  int64_t pieces = stage.batch.size / stage.batch.micro_size();
  for (const VariantData& v : variants_) pieces = std::max(pieces, (v.batch.size - 1) / v.batch.micro_size() + 1);
  runner_ = std::make_unique<StepRunner>(device, settings_.record_launches, [this] { model_->params().zero_grads(); });
  feed_ = std::make_unique<BatchFeed>(device);
  readbacks_.clear();
  for (int i = 0; i < 2; ++i) readbacks_.push_back(std::make_unique<Readback>(device, 1 + pieces));
  const SegmentScope segment(Segment::workspace);
  results_ = Tensor::zeros(Shape{1 + pieces}, DType::f32, device);
  weight_ = Tensor::zeros(Shape{1}, DType::f32, device);
  weight_value_ = 0;
  if (device.queued()) live_step_ = Tensor::zeros(Shape{1}, DType::i64, device);
}

StageStart Loop::start_of(const Stage& stage) {
  StageStart start{.store = model_->params(), .network = model_.get()};
  start.optimizer = dynamic_cast<Optimizer*>(stepper_.get());
  start.previous = previous_ ? &*previous_ : nullptr;
  start.seed = static_cast<uint64_t>(stage.seed.value_or(settings_.recipe.seed));
  start.folder = settings_.run / "work" / std::to_string(view_.state.stage);
  start.earlier = [this](int index) {
    check(index >= 0 && index < view_.state.stage, "plan", "stage ", index, " has not ended yet");
    return previous_ && index == view_.state.stage - 1 ? *previous_ : load_stage(index);
  };
  start.external = [this](const std::filesystem::path& path) {
    const Json state = read_checkpoint_state(path);
    check(state.contains("model"), "checkpoint", path.string(), ": state.json lacks \"model\"");
    return read_snapshot(path, settings_.make_model(state["model"], compute(), kDry)->params().entries());
  };
  start.fresh = [this, seed = start.seed](const Json& model) {
    const auto m = settings_.make_model(model, DType::f32, kCpu);
    m->params().initialise(seed);
    return snapshot(m->params());
  };
  start.pretrained = [this](const Json& model) {
    check(settings_.initial_weights != nullptr, "plan", "there are no weights to begin with (init.from)");
    return settings_.initial_weights(model);
  };
  start.model = [this](const Json& model) { return settings_.make_model(model, compute(), settings_.device); };
  start.collected = [this](int index, int i) { return snapshot_file(settings_.run, index, i); };
  start.score = [this, &stage](const std::string& split, int64_t batches) {
    const auto seed = static_cast<uint64_t>(stage.seed.value_or(settings_.recipe.seed));
    const auto source = split == settings_.recipe.eval.split
                            ? eval_source_
                            : settings_.make_source(stage.data, split, seed, Purpose::judge);
    estimate_statistics(stage);
    return evaluated(*source, stage.batch.micro_size(), batches, view_.state.spent.flops).loss;
  };
  start.spare_memory = [this, &stage] { return spare_memory(settings_, stage); };
  start.note = [this](Json event) { view_.notes.push_back(std::move(event)); };
  return start;
}

void Loop::begin_stage(const Stage& stage, const std::filesystem::path& checkpoint) {
  runner_ = nullptr;  // recorded launches know the addresses of the model
  stepper_ = nullptr;
  loader_ = nullptr;
  objective_ = nullptr;
  model_ = nullptr;
  reset_peak(settings_.device);
  model_ = settings_.make_model(stage.model, compute(), settings_.device);
  ParamStore& store = model_->params();
  if (stage.trainable)
    for (size_t i = 0; i < store.entries().size(); ++i)
      store.set_trainable(static_cast<int>(i), stage.trainable(store.entries()[i]));
  if (checkpoint.empty()) view_.state.stage_step = 0;
  open_data(stage);
  view_.notes = stage.notes;
  view_.split = settings_.recipe.eval.split;  // a run continued at the end of its stage evaluates no more
  const bool begins = checkpoint.empty();
  if (begins) {
    stage_begin_ = view_.state.spent;
    view_.state.spent += stage.charged;
    const size_t variants = stage.elastic ? stage.elastic->variants.size() : 0;
    view_.state.scores.assign(variants, 0.0);
    view_.state.variant_seconds.assign(variants, 0.0);
    view_.state.variant_steps.assign(variants, 0);
    view_.state.scorings = 0;
    if (stage.start_flops) view_.state.spent.flops += stage.start_flops(store.parameter_count());
  }
  view_.state.variant_flops.clear();
  if (stage.elastic)
    for (const Variant& v : stage.elastic->variants)
      view_.state.variant_flops.push_back(step_cost(settings_, stage, &v).flops);
  step_flops_ = stage.step_flops ? stage.step_flops(store.parameter_count()) : 0;
  if (!stage.stepper) stepper_ = std::make_unique<Optimizer>(stage.optim, store, average_decays(stage, clock_));
  StageStart start = start_of(stage);
  if (begins) {
    check(stage.initialise != nullptr, "plan", "the stage \"", stage.name, "\" does not say how it begins");
    stage.initialise(start);
  }
  if (stage.stepper) stepper_ = stage.stepper(start);
  if (!begins) load_checkpoint(checkpoint, store, *stepper_);
  if (stage.objective) objective_ = stage.objective(start);
  label_ = stage.label ? stage.label(start) : Json();
  open_loader(stage);
  open_runner(stage);
  previous_.reset();

  view_.model = model_.get();
  view_.stepper = stepper_.get();
  view_.data_wait = waited_ = 0;
  view_.peak_memory = memory_use(settings_.device).peak;
  charge_time();
  emit(Event::stage_start);
  view_.notes.clear();
  if (begins && stage.collect && stage.collect->include_start)
    save_flat(snapshot_file(settings_.run, view_.state.stage, 0), store.entries(), store.values());
  if (begins && stage.evaluate_first) evaluate(stage);
}

Outcome Loop::run_stage(const Stage& stage) {
  const Recipe& recipe = settings_.recipe;
  Clock clock = clock_;
  if (!stage.whole.empty()) clock.run_steps = std::max<int64_t>(1, to_steps(stage.whole, clock_, "duration"));
  const int64_t eval_every = to_steps(recipe.eval.every, clock, "eval.every");
  const int64_t save_every = to_steps(recipe.checkpoint.every, clock, "checkpoint.every");
  const auto process_begin = std::chrono::steady_clock::now();
  int64_t& at = view_.state.stage_step;
  while (at < view_.stage_steps) {
    if (view_.trains)
      train_step(stage);
    else
      ++view_.state.step, ++at, evaluated_now_ = false;
    const bool last = at == view_.stage_steps;
    const bool timed_out = settings_.hours > 0 && seconds_between(process_begin, mark_) > settings_.hours * 3600;
    const bool stop = SignalWatch::received() != 0 || timed_out;
    if (stage.elastic && at * stage.elastic->scorings / view_.stage_steps > view_.state.scorings) score_variants(stage);
    if (stage.collect)
      if (const int64_t i = stage.collect->due(at, view_.stage_steps); i >= 0) {
        settle();
        save_flat(snapshot_file(settings_.run, view_.state.stage, static_cast<int>(i)), model_->params().entries(),
                  model_->params().values());
      }
    bool better = false;
    if (last) estimate_statistics(stage);
    if (last || (eval_every > 0 && at % eval_every == 0)) {
      evaluate(stage);
      better = view_.eval.score() < best_score_;
      if (better) best_score_ = view_.eval.score();
    }
    const bool reached = settings_.has_until && evaluated_now_ && view_.eval.score() <= settings_.until_score;
    const bool keep_best = better && recipe.checkpoint.keep_best;
    if (keep_best) best_.clear();
    if (last || stop || reached || keep_best || (save_every > 0 && at % save_every == 0)) {
      if (keep_best) best_ = "this";
      save();
    }
    if (reached) return Outcome::until;
    if (stop && !last) return timed_out ? Outcome::hours : Outcome::signal;
  }
  return Outcome::complete;
}

void Loop::end_stage(const Stage& stage) {
  RunState& s = view_.state;
  StageResult result;
  result.index = s.stage;
  result.name = stage.name;
  result.model = stage.model;
  result.loss = view_.eval.loss;
  result.steps = s.stage_step;
  result.spent = s.spent - stage_begin_;
  if (stage.elastic) {
    Json scored = Json::array();
    for (size_t i = 0; i < stage.elastic->variants.size(); ++i)
      scored.push_back(
          Json{{"name", stage.elastic->variants[i].name},
               {"loss", s.scores[i] / static_cast<double>(std::max<int64_t>(1, s.scorings))},
               {"tokens", variants_[i].batch.size * variants_[i].source->tokens_per_sample()},  // of a step
               {"flops", s.variant_flops[i]},
               {"seconds", s.variant_seconds[i] / std::max(1.0, static_cast<double>(s.variant_steps[i]))}});
    result.found["variants"] = scored;
    view_.notes.push_back(Json{{"event", "search"}, {"variants", scored}});
  }
  if (Json found = stepper_->findings(); !found.is_null()) view_.notes.push_back(std::move(found));
  if (!runner_->obstacle().empty())
    view_.notes.push_back(Json{{"event", "launches"}, {"recorded", false}, {"why", runner_->obstacle()}});
  if (stage.keep) {
    save_checkpoint(stage_folder(settings_.run, s.stage), model_->params(), *stepper_, checkpoint_state());
    charge_time();
  }
  emit(Event::stage_end);
  view_.notes.clear();
  s.results.push_back(result);
  ++s.stage;
  s.stage_step = 0;
  if (plan_.next(s.results))  // else nobody asks for them
    previous_ = snapshot(model_->params(), dynamic_cast<const Optimizer*>(stepper_.get()));
}

double measured_ceiling(DType dtype, Device device) {
  if (device.kind != DeviceKind::cpu && device.kind != DeviceKind::cuda) return 0;
  const int64_t n = device.kind == DeviceKind::cuda ? 8192 : 1024;
  const NoGrad quiet;
  double best = 0;
  try {
    ParamStore store(dtype, device);  // numbers, not zeros: a GPU multiplies zeros faster
    const Param matrix = Scope(store).param("matrix", Shape{n, n}, {kEmbed, kEmbed}, Init::normal(1.0f), false);
    store.allocate();
    store.initialise(1);
    const Tensor a = matrix();
    for (int i = 0; i < 6; ++i) {
      synchronize(device);
      const auto begin = std::chrono::steady_clock::now();
      ops::matmul(a, a, false, true);
      synchronize(device);
      const double s = seconds_between(begin, std::chrono::steady_clock::now());
      if (i > 0) best = std::max(best, 2.0 * static_cast<double>(n) * static_cast<double>(n * n) / s);
    }
  } catch (const OutOfMemory&) {
    // A run that has no room for this needs none.
  }
  release_cache(device);
  return best;
}

}  // namespace accrete
