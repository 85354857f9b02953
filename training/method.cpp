#include "training/method.h"

#include <charconv>

#include "engine/core/random.h"
#include "training/duration.h"
#include "training/grow.h"

namespace accrete {

Spent& Spent::operator+=(const Spent& b) {
  samples += b.samples;
  tokens += b.tokens;
  flops += b.flops;
  eval_flops += b.eval_flops;
  seconds += b.seconds;
  return *this;
}

Spent operator-(const Spent& a, const Spent& b) {
  return {a.samples - b.samples, a.tokens - b.tokens, a.flops - b.flops, a.eval_flops - b.eval_flops,
          a.seconds - b.seconds};
}

int64_t Collect::due(int64_t step, int64_t steps) const {
  const auto first = static_cast<int64_t>(from * static_cast<double>(steps));
  check(count <= steps - first, "plan", count, " snapshots cannot be taken in ", steps - first,
        " steps; expected fewer snapshots or a longer stage");
  for (int64_t i = 1; i <= count; ++i)
    if (step == first + (steps - first) * i / count) return i - 1 + include_start;
  return -1;
}

BlockSet block_set(const std::vector<ParamEntry>& entries, const std::vector<int64_t>& numbers) {
  BlockSet set;
  const auto groups = block_groups(entries);
  for (int64_t number : numbers) {
    auto group = groups.begin();
    while (group != groups.end() && number >= group->second) number -= (group++)->second;
    check(number >= 0 && group != groups.end(), "plan", "a block that the model does not have");
    set.insert(group->first, static_cast<int>(number));
  }
  return set;
}

size_t drawn_variant(const Elastic& elastic, uint64_t seed, uint64_t step) {
  return random_below(random_key(seed, "variant", step), 0, elastic.variants.size());
}

std::map<std::string, double> average_decays(const Stage& stage, const Clock& clock) {
  std::map<std::string, double> decays = stage.averages;
  for (const auto& [name, time] : stage.average_times)
    decays[name] = 1 - 1 / static_cast<double>(std::max<int64_t>(1, to_steps(time, clock, name)));
  return decays;
}

// Follows the parts through the results: a part that has consumed results and has no further stage is finished, and the
// last result it consumed stands for it, with what all of them spent.
std::optional<Stage> Method::next(Results done) const {
  std::vector<StageResult> finished;
  for (int number = 0;; ++number) {
    const auto p = part(number, finished);
    if (!p) return std::nullopt;
    const auto inner = make_plan(p->plan, p->stage);
    size_t used = 0;
    while (auto stage = inner->next(done.first(used))) {
      if (used == done.size()) {
        if (p->plan.value("name", "plain") != "plain") stage->name = p->stage.name + ": " + stage->name;
        return stage;
      }
      ++used;
    }
    check(used > 0, "plan", "part ", number + 1, " has no stage");
    finished.push_back(done[used - 1]);
    for (const StageResult& r : done.first(used - 1)) finished.back().spent += r.spent;
    done = done.subspan(used);
  }
}

std::vector<Stage> planned_stages(const Plan& plan) {
  std::vector<Stage> stages;
  std::vector<StageResult> done;
  while (auto stage = plan.next(done)) {
    StageResult result;
    result.index = static_cast<int>(done.size());
    result.name = stage->name;
    result.model = stage->model;
    done.push_back(result);
    stages.push_back(std::move(*stage));
    check(done.size() < 10000, "plan", "more than 10000 stages");
  }
  return stages;
}

Stage stage_of(const Recipe& recipe, std::string name) {
  Stage stage;
  stage.name = std::move(name);
  stage.model = recipe.model;
  stage.data = recipe.data;
  stage.batch = recipe.batch;
  stage.optim = recipe.optim;
  stage.schedule = recipe.schedule;
  stage.duration = stage.whole = recipe.duration;
  stage.base_seed = recipe.seed;
  stage.initialise = recipe.init.from.empty() ? begin_at_random : begin_pretrained;
  stage.initialised_at_random = recipe.init.from.empty();
  if (recipe.init.trains == "head") stage.trainable = [](const ParamEntry& e) { return e.marks.head; };
  return stage;
}

std::string share_of(const std::string& duration, const std::string& of, const std::string& key) {
  const Duration share = parse_duration(duration, key), whole = parse_duration(of, "duration");
  if (share.unit != Duration::Unit::run) return duration;
  check(whole.unit != Duration::Unit::run, "config", "\"duration\" cannot be a share of the run");
  double value = share.value * whole.value;
  if (whole.unit == Duration::Unit::steps) value = std::max(share.value > 0 ? 1.0 : 0.0, std::round(value));
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  const char* unit = whole.unit == Duration::Unit::steps ? "st" : whole.unit == Duration::Unit::epochs ? "ep" : "tok";
  return std::string(text, end) + unit;
}

Stage part_of(const Stage& whole, int number, std::string name) {
  Stage stage = whole;
  stage.name = std::move(name);
  if (number == 0) return stage;
  stage.charged = {};
  stage.notes.clear();
  stage.evaluate_first = false;
  stage.initialise = continue_all;
  stage.initialised_at_random = false;
  stage.scoring.reset();  // these belong to the beginning of the whole
  stage.start_flops = nullptr;
  if (whole.seed) {
    const RandomKey key = random_key(static_cast<uint64_t>(*whole.seed), "part", static_cast<uint64_t>(number));
    stage.seed = static_cast<int64_t>(random_below(key, 0, uint64_t{1} << 62));
  }
  return stage;
}

void begin_at_random(StageStart& start) {
  start.store.initialise(start.seed);
  if (start.optimizer) start.optimizer->reset_averages();
}

void begin_pretrained(StageStart& start) {
  check(start.network != nullptr, "plan", "weights of another model need a model that they are for");
  restore(start.store, start.pretrained(start.network->config()));
  if (start.optimizer) start.optimizer->reset_averages();
}

void continue_weights(StageStart& start) {
  check(start.previous != nullptr, "plan", "the first stage has no stage to continue");
  restore(start.store, *start.previous);
  if (start.optimizer) start.optimizer->reset_averages();
}

void continue_all(StageStart& start) {
  check(start.previous != nullptr, "plan", "the first stage has no stage to continue");
  restore(start.store, *start.previous, start.optimizer);
}

void check_whole(const Stage& stage, const char* method) {
  check(!stage.trainable, "plan", method, " rebuilds the whole model; the stage \"", stage.name,
        "\" trains only a part of it");
}

Json divided(Json model, const std::vector<std::string>& keys, int64_t ratio, const char* method) {
  const auto divide = [&](Json& size, const std::string& key) {
    const auto n = size.get<int64_t>();
    check(n % ratio == 0, "plan", method, ": model.", key, " (", n, ") is not divisible by ", ratio,
          "; expected a multiple, e.g. ", (n / ratio + 1) * ratio);
    size = n / ratio;
  };
  for (const std::string& key : keys) {
    if (!model.contains(key)) continue;
    if (model[key].is_array())
      for (Json& size : model[key]) divide(size, key);
    else
      divide(model[key], key);
  }
  return model;
}

}  // namespace accrete
