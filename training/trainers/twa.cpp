#include "training/trainers/twa.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>

#include "training/checkpoint.h"
#include "training/duration.h"
#include "training/subspace.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

constexpr const char* kEma = "ema.twa";  // the running average of coefficients ema

std::optional<int64_t> number_in(std::string_view text) {
  int64_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  return error == std::errc() && end == text.data() + text.size() && n >= 0 ? std::optional(n) : std::nullopt;
}

// The newest checkpoint of a run, or the checkpoint that the path itself is.
fs::path checkpoint_of(const std::string& path) {
  if (fs::exists(fs::path(path) / "params.safetensors")) return path;
  const auto all = list_checkpoints(path);
  check(!all.empty(), "plan", "twa: \"plan.models\" names ", path,
        ", which is missing or holds no checkpoint; expected the folder of a run or of a checkpoint");
  return all.back();
}

// Sizes (whole numbers, lists) and switches of two model configs must agree; rates of dropout may differ.
void check_same_sizes(const Json& model, const Json& wanted, const fs::path& path) {
  for (const auto& [key, value] : wanted.items()) {
    const bool size = value.is_number_integer() || value.is_boolean() || value.is_array();
    check(!size || (model.contains(key) && model[key] == value), "plan", "twa: the model in ", path.string(), " has ",
          key, " ", model.contains(key) ? model[key].dump() : "unknown", "; expected ", value.dump(),
          ", as in the recipe");
  }
}

// Schedules of the averaging stage, as the papers' code has them (twa spec 3.5, 4.4).
ScheduleConfig averaging_schedule(const std::string& name, const std::string& duration) {
  ScheduleConfig s;
  s.name = name;
  s.final_factor = 0;
  if (name == "cosine") {
    s.warmup = "0.2run";
    s.warmup_to_peak = true;
  }
  if (name == "step") {
    const Duration d = parse_duration(duration, "plan.average.duration");
    const bool whole = d.unit == Duration::Unit::epochs && d.value >= 2 && d.value == std::floor(d.value);
    const auto epoch = [](double e) { return std::to_string(static_cast<int64_t>(std::floor(e))) + "ep"; };
    s.milestones = whole ? std::vector<std::string>{epoch(0.5 * d.value), epoch(0.75 * d.value + 0.9)}
                         : std::vector<std::string>{"0.5run", "0.75run"};
  }
  return s;
}

void set_values(StageStart& start, const Tensor& host) {
  start.store.values().copy_from(host);
  start.store.refresh();
}

SnapshotFiles open_all(const StageStart& start, const std::vector<fs::path>& files) {
  return {files, start.store.entries()};
}

std::vector<int> range(int begin, int end) {
  std::vector<int> list(static_cast<size_t>(end - begin));
  std::iota(list.begin(), list.end(), begin);
  return list;
}

// Greedy soup (arXiv 2203.05482): from the best snapshot on, one joins the mean when that lowers the loss.
void cook(StageStart& start, const SnapshotFiles& files, const std::string& split) {
  const Tensor host = Tensor::zeros(start.store.values().shape());
  const auto judge = [&](const std::vector<int>& chosen) {
    files.mean(chosen, host);
    set_values(start, host);
    return start.score(split, 0);
  };
  std::vector<double> losses;
  for (int i = 0; i < files.count(); ++i) losses.push_back(judge({i}));
  std::vector<int> order = range(0, files.count());
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return losses[static_cast<size_t>(a)] < losses[static_cast<size_t>(b)]; });
  std::vector<int> kept = {order[0]};
  double best = losses[static_cast<size_t>(order[0])];
  for (size_t i = 1; i < order.size(); ++i) {
    std::vector<int> candidate = kept;
    candidate.push_back(order[i]);
    const double loss = judge(candidate);
    if (loss < best) kept = candidate, best = loss;
  }
  files.mean(kept, host);
  set_values(start, host);
  start.note(Json{{"event", "choice"}, {"losses", losses}, {"kept", kept}, {"loss", best}, {"split", split}});
}

// Its rows go to the device where they fit beside a step.
std::unique_ptr<Subspace> make_stepper(const StageStart& start, Basis basis, const OptimConfig& optim,
                                       const std::vector<double>& begin, double reach) {
  const Device device = start.store.device();
  if (!device.queued()) return std::make_unique<Subspace>(optim, start.store, std::move(basis), begin, reach);
  const int64_t bytes = DeviceBasis::bytes(basis);
  const int64_t room = start.spare_memory ? start.spare_memory() : std::numeric_limits<int64_t>::max();
  auto stepper = std::make_unique<Subspace>(optim, start.store, std::move(basis), begin, reach, room);
  if (!stepper->on_device())
    start.note(Json{{"event", "projection"},
                    {"on", "cpu"},
                    {"why", "the rows take " + human_bytes(bytes) + " of " + name_of(device) +
                                ", which has no room for them beside a step: every step goes over the host"}});
  return stepper;
}

}  // namespace

Twa::Twa(const Json& plan, const Stage& stage) : stage_(stage) {
  from_json(config_, plan, "plan");
  check(!stage.stepper && !stage.elastic, "plan", "twa averages what an optimizer trains; the stage \"", stage.name,
        "\" has a step of its own");
  const bool iclr = config_.variant == "iclr";
  TwaAverage& a = config_.average;
  const auto follow = [](auto& field, const auto& value) {
    if (!field) field = value;
  };
  follow(config_.center, !iclr);
  follow(config_.basis, iclr ? "orthonormal" : "unit");
  follow(a.optimizer, iclr ? "sgd" : "adamw");
  follow(a.lr, iclr ? 200.0 : 0.03);
  follow(a.weight_decay, iclr ? 1e-5 : 0.0);
  follow(a.schedule, iclr ? "step" : "cosine");
  follow(a.data, iclr ? "train" : "held_out");
  follow(a.blocks, iclr ? "single" : "per_tensor");
  const auto one = [](const std::string& key, const std::string& value, const std::vector<std::string>& allowed) {
    std::string list;
    for (const std::string& name : allowed) list += (list.empty() ? "" : ", ") + name;
    check(std::find(allowed.begin(), allowed.end(), value) != allowed.end(), "config", "\"plan.", key, "\": \"", value,
          "\" is unknown; expected one of ", list);
  };
  one("basis", *config_.basis, {"orthonormal", "unit", "cgs2", "cgs1_f32"});
  one("average.optimizer", *a.optimizer, {"sgd", "adamw"});
  one("average.schedule", *a.schedule, {"constant", "linear", "step", "cosine"});
  one("average.data", *a.data, {"train", "held_out"});
  check_block_rule(*a.blocks);
  check(*a.lr >= 0 && *a.weight_decay >= 0, "config", "\"plan.average\": lr and weight_decay must be at least 0");
  const bool uses_data = a.coefficients == "trained" || a.coefficients == "greedy";
  check(!uses_data || *a.data == "train" || stage.data.holdout > 0, "plan",
        "twa: plan.average.data is held_out, but nothing is held out; expected data.holdout above 0, e.g. 0.02, or "
        "plan.average.data=train");

  for (const std::string& path : config_.models) {
    models_.push_back(checkpoint_of(path));
    const Json state = read_checkpoint_state(models_.back());
    check(state.contains("spent") && state.contains("model"), "checkpoint", models_.back().string(),
          ": state.json lacks \"spent\" or \"model\"");
    check_same_sizes(state["model"], stage.model, models_.back());
    Spent spent;
    from_json(spent, state["spent"], "spent", "state.json");
    spent_ += spent;
  }
  count_ = models_.empty() ? config_.snapshots + config_.include_start : static_cast<int64_t>(models_.size());
  check(count_ >= 2, "plan", "twa needs at least two ",
        models_.empty() ? "snapshots; expected plan.snapshots 2 or more" : "models in plan.models", "; got ", count_);
  const std::string& c = a.coefficients;
  if (c.starts_with("last:")) last_ = number_in(c.substr(5)).value_or(0);
  check(c == "trained" || c == "uniform" || c == "greedy" || c == "ema" || (last_ >= 1 && last_ <= count_), "config",
        "\"plan.average.coefficients\": expected trained, uniform, greedy, ema or last:K with K from 1 to ", count_,
        "; got \"", c, "\"");
  check(c != "ema" || models_.empty(), "plan",
        "twa: finished models have no running average; expected "
        "plan.average.coefficients uniform, greedy, last:K or trained");
  const auto number = a.start == "last" ? std::optional(count_ - 1) : number_in(a.start);
  check(a.start == "mean" || (number && *number < count_), "config",
        "\"plan.average.start\": expected mean, last or the number of a snapshot below ", count_, "; got \"", a.start,
        "\"");
  begin_.assign(static_cast<size_t>(count_), a.start == "mean" ? 1.0 / static_cast<double>(count_) : 0.0);
  if (a.start != "mean") begin_[static_cast<size_t>(*number)] = 1;

  config_.collect.duration = share_of(config_.collect.duration, stage.duration, "plan.collect.duration");
  collect_schedule_ = stage.schedule;
  from_json(collect_schedule_, config_.collect.schedule, "plan.collect.schedule");
  a.duration = share_of(a.duration, stage.duration, "plan.average.duration");
  check(c != "trained" || parse_duration(a.duration, "plan.average.duration").value > 0, "plan",
        "twa: plan.average.duration is 0; expected at least a step, or plan.average.coefficients=uniform");
  a.ema = share_of(a.ema, stage.duration, "plan.average.ema");
  average_schedule_ = averaging_schedule(*a.schedule, a.duration);
  optim_.name = *a.optimizer;
  optim_.lr = *a.lr;
  optim_.weight_decay = *a.weight_decay;
  optim_.beta2 = 0.999;
  optim_.clip = a.clip;
  if (models_.empty()) make_plan(config_.collect.plan, collecting().stage);  // refuses what is impossible
}

std::optional<Part> Twa::part(int number, Results before) const {
  if (!models_.empty()) {
    if (number > 0) return std::nullopt;
    return averaging(0, [models = models_](const StageStart&) {
      std::vector<fs::path> files;
      for (const fs::path& model : models) files.push_back(model / "params.safetensors");
      return files;
    });
  }
  if (number == 0) return collecting();
  if (number > 1) return std::nullopt;
  return averaging(1, [stage = before[0].index, n = static_cast<int>(count_)](const StageStart& start) {
    std::vector<fs::path> files;
    for (int i = 0; i < n; ++i) files.push_back(start.collected(stage, i));
    return files;
  });
}

Part Twa::collecting() const {
  Part part{part_of(stage_, 0, "collect"), config_.collect.plan};
  Stage& stage = part.stage;
  stage.duration = config_.collect.duration;
  stage.schedule = collect_schedule_;
  stage.schedule_to = stage_.schedule_from + (stage_.schedule_to - stage_.schedule_from) * config_.collect.schedule_to;
  stage.collect = Collect{config_.snapshots, config_.from, config_.include_start};
  stage.keep = false;
  if (config_.average.coefficients == "ema") stage.average_times[kEma] = config_.average.ema;
  return part;
}

Part Twa::averaging(int number, const Files& files) const {
  Part part{part_of(stage_, number, "average")};
  Stage& stage = part.stage;
  stage.averages.clear();
  stage.average_times.clear();
  stage.initialised_at_random = false;
  stage.charged += spent_;
  stage.statistics_batches = config_.average.statistics;
  stage.optim = optim_;
  stage.schedule = average_schedule_;
  stage.schedule_from = 0, stage.schedule_to = 1;
  if (config_.average.coefficients == "trained")
    average_trained(stage, files);
  else
    average_fixed(stage, files);
  return part;
}

void Twa::average_fixed(Stage& stage, const Files& files) const {
  stage.duration = "0st";
  const std::string c = config_.average.coefficients;
  const int n = static_cast<int>(count_), first = c == "uniform" ? 0 : n - static_cast<int>(last_);
  const std::string split = *config_.average.data;
  if (c == "greedy") stage.scoring = Scoring{2 * count_ - 1, split};
  if (c != "ema") stage.start_flops = [n](int64_t params) { return static_cast<double>(n * params); };
  stage.initialise = [=](StageStart& start) {
    if (c == "ema") {
      const auto average = start.previous->averages.find(kEma);
      check(average != start.previous->averages.end(), "plan", "the collecting stage kept no running average");
      set_values(start, average->second);
    } else if (c == "greedy") {
      cook(start, open_all(start, files(start)), split);
    } else {
      const Tensor host = Tensor::zeros(start.store.values().shape());
      open_all(start, files(start)).mean(range(first, n), host);
      set_values(start, host);
    }
    if (start.optimizer) start.optimizer->reset_averages();
  };
}

void Twa::average_trained(Stage& stage, const Files& files) const {
  stage.duration = config_.average.duration;
  stage.split = *config_.average.data;
  stage.evaluate_first = true;  // of the mean: what plain averaging gives
  stage.initialise = [files, begin = begin_](StageStart& start) {
    const SnapshotFiles snapshots = open_all(start, files(start));
    const Tensor host = Tensor::zeros(start.store.values().shape());
    const auto one = std::find(begin.begin(), begin.end(), 1.0);
    if (one == begin.end())
      snapshots.mean(range(0, snapshots.count()), host);
    else
      snapshots.read(static_cast<int>(one - begin.begin()), host);
    set_values(start, host);
  };
  const BasisConfig rows{*config_.center, *config_.basis, *config_.average.blocks, config_.average.precision};
  stage.stepper = [files, rows, optim = optim_, begin = begin_, reach = config_.average.reach](StageStart& start) {
    Basis basis(open_all(start, files(start)), rows, start.folder);
    const BasisReport& r = basis.report();
    start.note(Json{{"event", "basis"},
                    {"snapshots", basis.snapshots()},
                    {"rank", r.rank},
                    {"blocks", basis.blocks()},
                    {"spread", r.spread},
                    {"cond", r.cond},
                    {"orthogonality_error", r.orthogonality_error},
                    {"lambda_max", r.lambda_max},
                    {"cosine", r.cosine},
                    {"bytes", r.bytes}});
    return make_stepper(start, std::move(basis), optim, begin, reach);
  };
  // Gram matrix n^2, rows and their check n^2 each (twice where a correction is needed); unit rows: 4 n.
  const auto n = static_cast<double>(count_);
  const double start = rows.rows == "unit" ? n * n + 4 * n : 5 * n * n;
  stage.start_flops = [start](int64_t params) { return start * static_cast<double>(params); };
  stage.step_flops = [n](int64_t params) { return 4 * n * static_cast<double>(params); };
  stage.device_bytes = [n = count_, precision = precision_of(config_.average.precision)](int64_t params) {
    return n * encoded_bytes(precision, params);
  };
}

}  // namespace accrete
