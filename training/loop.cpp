#include "training/loop.h"

#include <cmath>

#include "engine/ops/ops.h"
#include "training/checkpoint.h"
#include "training/signals.h"

namespace accrete {
namespace {

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

Loop::Loop(LoopSettings settings, Plan& plan, std::vector<Observer*> observers)
    : settings_(std::move(settings)), plan_(plan), observers_(std::move(observers)) {
  view_.recipe = &settings_.recipe;
  view_.stages = plan_.stages();
  best_loss_ = std::numeric_limits<double>::infinity();
}

void Loop::emit(Event event) {
  for (Observer* o : observers_) o->on(event, view_);
}

Outcome Loop::run(const std::filesystem::path& checkpoint) {
  const SignalWatch signals;
  mark_ = std::chrono::steady_clock::now();
  const auto begin = mark_;
  if (settings_.measure_ceiling)
    view_.ceiling = measured_ceiling(settings_.recipe.precision == "bf16" ? DType::bf16 : DType::f32, settings_.device);
  if (!checkpoint.empty()) restore(read_checkpoint_state(checkpoint));
  view_.resumed = !checkpoint.empty();
  emit(Event::run_start);

  Outcome outcome = Outcome::complete;
  std::filesystem::path load_from = checkpoint;
  std::unique_ptr<Model> previous;
  while (outcome == Outcome::complete) {
    const std::optional<Stage> stage = plan_.next(view_.state);
    if (!stage) break;
    view_.stage = &*stage;
    previous = std::move(model_);
    begin_stage(*stage, previous ? &previous->params() : nullptr, load_from);
    previous = nullptr;
    load_from.clear();
    outcome = run_stage(*stage);
    if (outcome == Outcome::complete || outcome == Outcome::until) {
      StageResult result;
      result.name = stage->name;
      result.loss = view_.eval_loss;
      result.steps = view_.state.stage_step;
      result.flops = view_.state.spent.flops - stage_begin_flops_;
      result.seconds = view_.state.spent.seconds - stage_begin_seconds_;
      emit(Event::stage_end);
      view_.state.results.push_back(result);
      ++view_.state.stage;
      view_.state.stage_step = 0;
    }
    if (settings_.hours > 0 && outcome == Outcome::complete && seconds_between(begin, mark_) > settings_.hours * 3600)
      outcome = Outcome::hours;
  }
  check(model_ != nullptr, "train", "the plan has no stage");
  view_.reason = outcome == Outcome::complete ? "complete"
                 : outcome == Outcome::until  ? "until"
                 : outcome == Outcome::signal ? "signal"
                                              : "hours";
  if (outcome == Outcome::complete || outcome == Outcome::until) {
    view_.checksum = checksum(model_->params());
    emit(Event::run_end);
  }
  return outcome;
}

void Loop::begin_stage(const Stage& stage, const ParamStore* previous, const std::filesystem::path& checkpoint) {
  const Recipe& recipe = settings_.recipe;
  optimizer_ = nullptr;
  loader_ = nullptr;
  reset_peak(settings_.device);
  model_ = settings_.make_model(stage.model, recipe.precision == "bf16" ? DType::bf16 : DType::f32, settings_.device);
  ParamStore& store = model_->params();
  if (stage.trainable)
    for (size_t i = 0; i < store.entries().size(); ++i)
      store.set_trainable(static_cast<int>(i), stage.trainable(store.entries()[i]));
  if (checkpoint.empty()) stage.initialise(store, previous);
  optimizer_ = std::make_unique<Optimizer>(stage.optim, store);
  if (!checkpoint.empty()) load_checkpoint(checkpoint, store, optimizer_.get());

  source_ = settings_.make_source(stage.data, "train", static_cast<uint64_t>(recipe.seed));
  eval_source_ = settings_.make_source(stage.data, recipe.eval.split, static_cast<uint64_t>(recipe.seed));
  const int64_t size = stage.batch.size, micro = stage.batch.micro_size();
  check(size % micro == 0, "config", "batch.micro (", micro, ") does not divide batch.size (", size, ")");
  check(source_->epoch_samples() > 0, "data", "the training split has no sample");
  Clock clock;
  clock.steps_per_epoch = static_cast<double>(source_->epoch_samples()) / static_cast<double>(size);
  clock.tokens_per_step = static_cast<double>(source_->tokens_per_sample() * size);
  view_.steps_per_epoch = clock.steps_per_epoch;
  view_.stage_steps = to_steps(stage.duration, clock, "duration");
  clock.run_steps = view_.stage_steps;
  schedule_ = Schedule(stage.schedule, clock);
  // A stage goes on in the stream of samples where the one before stopped.
  loader_ = std::make_unique<Loader>(source_, view_.state.spent.samples, micro, micro,
                                     static_cast<int>(stage.data.loader_threads));
  view_.model = model_.get();
  view_.optimizer = optimizer_.get();
  view_.data_wait = waited_ = 0;
  view_.split = recipe.eval.split;  // a run continued at the end of its stage evaluates no more
  if (view_.state.stage_step == 0) {
    stage_begin_flops_ = view_.state.spent.flops;
    stage_begin_seconds_ = view_.state.spent.seconds;
  }
  view_.peak_memory = memory_use(settings_.device).peak;
  emit(Event::stage_start);
}

Outcome Loop::run_stage(const Stage& stage) {
  const Recipe& recipe = settings_.recipe;
  Clock clock;
  clock.steps_per_epoch = view_.steps_per_epoch;
  clock.tokens_per_step = static_cast<double>(source_->tokens_per_sample() * stage.batch.size);
  clock.run_steps = view_.stage_steps;
  const int64_t eval_every = to_steps(recipe.eval.every, clock, "eval.every");
  const int64_t save_every = to_steps(recipe.checkpoint.every, clock, "checkpoint.every");
  const auto process_begin = std::chrono::steady_clock::now();
  int64_t& at = view_.state.stage_step;
  while (at < view_.stage_steps) {
    train_step(stage);
    const bool last = at == view_.stage_steps;
    const bool timed_out = settings_.hours > 0 && seconds_between(process_begin, mark_) > settings_.hours * 3600;
    const bool stop = SignalWatch::received() != 0 || timed_out;
    bool better = false;
    if (last || (eval_every > 0 && at % eval_every == 0)) {
      evaluate(stage);
      better = view_.eval_loss < best_loss_;
      if (better) best_loss_ = view_.eval_loss;
    }
    const bool reached = settings_.has_until && evaluated_now_ && view_.eval_loss <= settings_.until_loss;
    const bool keep_best = better && recipe.checkpoint.keep_best;
    if (keep_best) best_.clear();
    if (last || stop || reached || keep_best || (save_every > 0 && at % save_every == 0)) {
      if (keep_best) best_ = "this";
      save(stage);
    }
    if (reached) return Outcome::until;
    if (stop && !last) return timed_out ? Outcome::hours : Outcome::signal;
  }
  return Outcome::complete;
}

void Loop::train_step(const Stage& stage) {
  const Recipe& recipe = settings_.recipe;
  ParamStore& store = model_->params();
  const int64_t pieces = stage.batch.size / stage.batch.micro_size();
  Context ctx;
  ctx.training = true;
  ctx.plain = recipe.plain_ops;
  ctx.recompute = recipe.recompute;
  ctx.seed = static_cast<uint64_t>(recipe.seed);
  ctx.step = static_cast<uint64_t>(view_.state.step);
  evaluated_now_ = false;

  store.zero_grads();
  double loss = 0, flops = 0;
  int64_t tokens = 0;
  for (int64_t i = 0; i < pieces; ++i) {
    const Batch batch = loader_->next();
    ctx.first_sample = i * stage.batch.micro_size();
    view_.batch = &batch;
    emit(Event::batch_ready);
    Tape tape;
    const Tensor l = model_->loss(batch, ctx);
    const float share = 1.0f / static_cast<float>(pieces);
    backward(l, Tensor::from(std::vector<float>{share}, Shape{1}, settings_.device).view(Shape{}));
    loss += static_cast<double>(l.item()) * share;
    flops += tape.total_flops();
    tokens += batch.tokens;
    view_.batch = nullptr;
  }
  view_.loss = loss;
  view_.grad_norm = optimizer_->gradient_norm();
  emit(Event::gradients_ready);
  if (!std::isfinite(loss) || !std::isfinite(view_.grad_norm)) explain_nonfinite(stage, loss, view_.grad_norm);
  view_.lr = stage.optim.lr * schedule_.factor(view_.state.stage_step);
  optimizer_->step(view_.lr, view_.state.stage_step + 1);

  RunState& s = view_.state;
  ++s.step;
  ++s.stage_step;
  s.spent.samples += stage.batch.size;
  s.spent.tokens += tokens;
  s.spent.flops += flops;
  const auto now = std::chrono::steady_clock::now();
  view_.step_seconds = seconds_between(mark_, now);
  s.spent.seconds += view_.step_seconds;
  mark_ = now;
  view_.step_flops = flops;
  view_.tokens_per_second = static_cast<double>(tokens) / view_.step_seconds;
  view_.data_wait = loader_->wait_seconds() - waited_;
  waited_ += view_.data_wait;
  view_.allocations = device_allocations(settings_.device);
  view_.peak_memory = memory_use(settings_.device).peak;
  emit(Event::step_done);
}

double Loop::evaluate_split(const Stage& stage) {
  const Recipe& recipe = settings_.recipe;
  const int64_t size = recipe.eval.batch > 0 ? recipe.eval.batch : stage.batch.micro_size();
  const int64_t samples = eval_source_->epoch_samples();
  Context ctx;
  ctx.plain = recipe.plain_ops;
  ctx.seed = static_cast<uint64_t>(recipe.seed);
  EvalSums total;
  Tape tape;
  const NoGrad quiet;
  int64_t batches = 0;
  for (int64_t first = 0; first < samples; first += size) {
    if (recipe.eval.batches > 0 && batches++ == recipe.eval.batches) break;
    const Batch batch = eval_source_->get(first, std::min(size, samples - first));
    const EvalSums sums = model_->evaluate(batch, ctx);
    total.loss += sums.loss;
    total.count += sums.count;
  }
  view_.state.spent.eval_flops += tape.total_flops();
  check(total.count > 0, "eval", "the split \"", recipe.eval.split, "\" has no target");
  return total.loss / static_cast<double>(total.count);
}

void Loop::evaluate(const Stage& stage) {
  view_.split = settings_.recipe.eval.split;
  view_.eval_loss = evaluate_split(stage);
  const Tensor ema = optimizer_->ema();
  view_.has_ema = ema.defined();
  if (view_.has_ema) {
    ParamStore& store = model_->params();
    const Tensor kept = store.values().clone();
    store.values().copy_from(ema);
    store.refresh();
    view_.eval_ema_loss = evaluate_split(stage);
    store.values().copy_from(kept);
    store.refresh();
  }
  evaluated_now_ = true;
  const auto now = std::chrono::steady_clock::now();
  view_.state.spent.seconds += seconds_between(mark_, now);
  mark_ = now;
  emit(Event::eval);
}

Json Loop::checkpoint_state() const {
  Json j;
  j["format"] = 1;
  j["family"] = model_->family();
  j["model"] = model_->config();
  j["stage"] = view_.state.stage;
  j["stage_name"] = view_.stage->name;
  j["step"] = view_.state.step;
  j["stage_step"] = view_.state.stage_step;
  j["spent"] = to_json(view_.state.spent);
  j["results"] = Json::array();
  for (const StageResult& r : view_.state.results) j["results"].push_back(to_json(r));
  j["stage_begin_flops"] = stage_begin_flops_;
  j["stage_begin_seconds"] = stage_begin_seconds_;
  // Infinity (nothing evaluated yet) is not JSON.
  j["best_loss"] = std::isfinite(best_loss_) ? Json(best_loss_) : Json();
  j["best"] = best_;
  j["eval_loss"] = view_.eval_loss;
  j["plan"] = plan_.save();
  j["metrics_position"] = metrics_position ? metrics_position() : 0;
  return j;
}

void Loop::restore(const Json& j) {
  const auto need = [&](const char* key) -> const Json& {
    check(j.contains(key), "checkpoint", "state.json lacks \"", key, "\"");
    return j.at(key);
  };
  try {
    RunState& s = view_.state;
    s.stage = need("stage").get<int>();
    s.step = need("step").get<int64_t>();
    s.stage_step = need("stage_step").get<int64_t>();
    from_json(s.spent, need("spent"), "spent", "state.json");
    for (const Json& r : need("results")) {
      StageResult result;
      from_json(result, r, "results", "state.json");
      s.results.push_back(result);
    }
    stage_begin_flops_ = need("stage_begin_flops").get<double>();
    stage_begin_seconds_ = need("stage_begin_seconds").get<double>();
    if (need("best_loss").is_number()) best_loss_ = j["best_loss"].get<double>();
    best_ = need("best").get<std::string>();
    view_.eval_loss = need("eval_loss").get<double>();
    plan_.load(need("plan"));
  } catch (const nlohmann::json::exception& e) {
    fail("checkpoint", "state.json is not as this program writes it: ", e.what());
  }
}

void Loop::save(const Stage&) {
  char name[32];
  std::snprintf(name, sizeof name, "%08lld", static_cast<long long>(view_.state.step));
  if (best_ == "this") best_ = name;
  save_checkpoint(settings_.run, view_.state.step, model_->params(), *optimizer_, checkpoint_state());
  prune_checkpoints(settings_.run, settings_.recipe.checkpoint.keep_last,
                    settings_.recipe.checkpoint.keep_best ? best_ : "");
  const auto now = std::chrono::steady_clock::now();
  view_.state.spent.seconds += seconds_between(mark_, now);
  mark_ = now;
  emit(Event::checkpoint);
}

// Runs the step again, op by op, to name the first op whose result is not finite; keeps the batch.
void Loop::explain_nonfinite(const Stage& stage, double loss, double norm) {
  ParamStore& store = model_->params();
  std::string culprit;
  store.zero_grads();
  Context ctx;
  ctx.training = true;
  ctx.plain = settings_.recipe.plain_ops;
  ctx.seed = static_cast<uint64_t>(settings_.recipe.seed);
  ctx.step = static_cast<uint64_t>(view_.state.step);
  const std::filesystem::path kept = settings_.run / ("bad_batch_" + std::to_string(view_.state.step) + ".safetensors");
  const int64_t micro = stage.batch.micro_size();
  for (int64_t i = 0; i < stage.batch.size / micro && culprit.empty(); ++i) {
    const Batch batch = source_->get(view_.state.spent.samples + i * micro, micro);
    ctx.first_sample = i * micro;
    Tape tape({.check_finite = true});
    backward(model_->loss(batch, ctx));
    culprit = tape.first_nonfinite();
    if (!culprit.empty() || (i + 1) * micro == stage.batch.size) keep_batch(kept, batch);
  }
  if (culprit.empty()) culprit = "no single op (the sum of the gradients overflowed)";
  fail("train", "step ", view_.state.step + 1, ": loss ", loss, ", gradient norm ", norm,
       "; first non-finite result: ", culprit, "; the batch is kept in ", kept.string(),
       "; saved checkpoints are untouched; hint: lower optim.lr or set optim.clip");
}

double measured_ceiling(DType dtype, Device device) {
  if (device.kind != DeviceKind::cpu) return 0;
  constexpr int64_t n = 1024;
  const NoGrad quiet;
  double best = 0;
  try {
    const Tensor a = Tensor::zeros(Shape{n, n}, dtype, device), b = Tensor::zeros(Shape{n, n}, dtype, device);
    for (int i = 0; i < 6; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      ops::matmul(a, b, false, true);
      const double s = seconds_between(begin, std::chrono::steady_clock::now());
      if (i > 0) best = std::max(best, 2.0 * n * n * n / s);
    }
  } catch (const OutOfMemory&) {
    // A run that has no room for this needs none.
  }
  release_cache(device);
  return best;
}

}  // namespace accrete
