#include "training/trainers/vcycle.h"

#include <algorithm>

#include "engine/core/random.h"
#include "training/depth_split.h"

namespace accrete {
namespace {

const std::vector<std::string> kWidth = {"embed_dim", "num_heads", "mlp_dim"}, kDepth = {"depth"};

bool grows(const VCycleConfig& config, const char* what) {
  return std::find(config.grow.begin(), config.grow.end(), what) != config.grow.end();
}

// The indices that merge into one, for the roles that a level divides.
RoleGroups width_groups(const VCycleConfig& config) {
  return [ratio = config.ratio, pairs = pairing_of(config.width_pairs)](Role role,
                                                                        int64_t count) -> std::optional<Groups> {
    if (role != Role::embed && role != Role::heads && role != Role::mlp) return std::nullopt;
    return grouped(count, ratio, pairs);
  };
}

// fn(name of a group of blocks, the blocks of the larger model that merge into one), where the two models differ.
template <class Fn>
void for_each_depth(const std::vector<ParamEntry>& large, const std::vector<ParamEntry>& small,
                    const VCycleConfig& config, Fn&& fn) {
  const auto few = block_groups(small);
  for (const auto& [name, count] : block_groups(large))
    for (const auto& [other, less] : few)
      if (other == name && less != count) fn(name, grouped(count, config.ratio, pairing_of(config.depth_pairs)));
}

DepthMap blocks_of(const AxisMap& map) {
  DepthMap blocks;
  for (const auto& sources : map.sources) blocks.emplace_back(sources.begin(), sources.end());
  return blocks;
}

// "8 -> 4" for each size that differs.
Json sizes_changed(const Json& from, const Json& to) {
  Json changed = Json::object();
  for (const auto& keys : {kDepth, kWidth})
    for (const std::string& key : keys)
      if (from.contains(key) && from[key] != to[key]) changed[key] = from[key].dump() + " -> " + to[key].dump();
  return changed;
}

// A stage begins from `weights`: moments as the config says, running averages anew.
void begin_from(StageStart& start, Snapshot weights, const VCycleConfig& config) {
  weights.averages.clear();
  if (config.moments == "reset") weights.moments.clear(), weights.steps.clear();
  restore(start.store, weights, start.optimizer);
}

}  // namespace

Snapshot coalesced(const Snapshot& from, const std::vector<ParamEntry>& like, const VCycleConfig& config) {
  const Moments moments = moments_of(config.moments);
  Snapshot now = from;
  if (grows(config, "width")) {
    const auto merge = [groups = width_groups(config)](Role role, int64_t count) -> std::optional<AxisMap> {
      const auto g = groups(role, count);
      return g ? std::optional(merging(*g)) : std::nullopt;
    };
    now = map_axes(now, merge, tied_of(config.tied), moments);
  }
  for_each_depth(from.entries, like, config, [&](const std::string& group, const Groups& groups) {
    now = map_depth(now, group, blocks_of(merging(groups)), moments);
  });
  return now;
}

Snapshot decoalesced(const Snapshot& from, const std::vector<ParamEntry>& like, const VCycleConfig& config,
                     uint64_t seed) {
  const Moments moments = moments_of(config.moments);
  Snapshot now = from;
  BlockSet copies, second;
  for_each_depth(like, from.entries, config, [&](const std::string& group, const Groups& groups) {
    now = map_depth(now, group, blocks_of(copying(groups)), moments);
    for (const auto& members : groups)
      for (size_t i = 0; i < members.size(); ++i) {
        copies.insert(group, static_cast<int>(members[i]));
        if (i > 0) second.insert(group, static_cast<int>(members[i]));
      }
  });
  if (grows(config, "width")) {
    const auto groups = width_groups(config);
    const auto copy = [&](Role role, int64_t count) -> std::optional<AxisMap> {
      const auto g = groups(role, count * config.ratio);
      return g ? std::optional(copying(*g)) : std::nullopt;
    };
    now = map_axes(now, copy, tied_of(config.tied), moments);
    if (config.split == "lemon") now = split_unequally(now, groups, seed);
  }
  if (config.depth_copy == "zero_second") return silence(now, second);
  if (config.depth_copy == "half_branch") return scale_branches(now, copies, 1.0f / static_cast<float>(config.ratio));
  return now;
}

VCycle::VCycle(const Json& plan, const Stage& stage) : stage_(stage) {
  from_json(config_, plan, "plan");
  check_whole(stage, "vcycle");
  check(stage.first_block == 0 && (stage.last_block < 0 || stage.last_block == total_depth(stage.model)), "plan",
        "vcycle resizes all blocks; the stage \"", stage.name, "\" may only change the blocks from ", stage.first_block,
        " to ", stage.last_block - 1);
  check(!stage.objective && !stage.stepper, "plan", "vcycle trains models of several sizes; the stage \"", stage.name,
        "\" has an objective or a step of its own, which is for one size");
  check(!config_.grow.empty(), "plan", "vcycle: \"plan.grow\" is empty; expected \"width\", \"depth\" or both");
  check(config_.split == "equal" || config_.moments == "reset", "plan",
        "vcycle: with plan.split lemon there are no moments to carry; expected plan.moments reset");
  const auto lower = static_cast<size_t>(config_.levels - 1);
  if (config_.small.empty()) config_.small.resize(lower);
  check(config_.small.size() == lower, "plan", "vcycle: \"plan.small\" describes ", config_.small.size(),
        " lower levels; expected ", lower, " for plan.levels ", config_.levels);

  std::vector<std::string> keys;
  if (grows(config_, "width")) keys = kWidth;
  if (grows(config_, "depth")) keys.insert(keys.end(), kDepth.begin(), kDepth.end());
  const std::string method = "vcycle with levels " + std::to_string(config_.levels);
  int64_t divisor = 1;
  for (int k = 0; k < config_.levels; ++k, divisor *= config_.ratio) {
    models_.push_back(divided(stage.model, keys, divisor, method.c_str()));
    const std::string key = k == 0 ? "plan.final" : "plan.small." + std::to_string(k - 1);
    ScheduleConfig schedule = stage.schedule;
    check(!level(k).schedule.contains("warmup"), "config", "\"", key, ".schedule.warmup\" is set by \"", key,
          ".warmup\"");
    from_json(schedule, level(k).schedule, key + ".schedule");
    schedule.warmup = share_of(level(k).warmup, stage.duration, key + ".warmup");
    schedules_.push_back(schedule);
  }
}

std::optional<Part> VCycle::part(int number, Results before) const {
  const int bottom = static_cast<int>(config_.levels) - 1, end = 2 * bottom;
  if (number > end) return std::nullopt;
  const bool down = number < bottom;  // trained for a moment, then coalesced
  const int k = down ? number : end - number;
  const std::string title = "level " + std::to_string(k + 1);
  Part part{part_of(stage_, number, down ? title + " warm-up" : title), Json{{"name", "plain"}}};
  Stage& stage = part.stage;
  stage.model = models_[static_cast<size_t>(k)];
  stage.optim.lr *= level(k).lr_factor;
  stage.optim.adam_lr *= level(k).lr_factor;
  if (down) {
    stage.duration = share_of(config_.warm, stage_.duration, "plan.warm");
    stage.schedule = ScheduleConfig{.name = "constant", .warmup = "1run"};
    stage.schedule_from = 0, stage.schedule_to = 1;
  } else {
    const std::string key = k == 0 ? "plan.final" : "plan.small." + std::to_string(k - 1);
    stage.duration = share_of(level(k).duration, stage_.duration, key + ".duration");
    stage.schedule = schedules_[static_cast<size_t>(k)];
    part.plan = level(k).plan;
  }
  stage.keep = number == end ? stage_.keep : down;
  stage.first_block = 0, stage.last_block = -1;
  if (number < end) {  // what is asked of the stage is asked of its end
    stage.collect.reset();
    stage.elastic.reset();
    stage.label = nullptr;
    stage.averages.clear();
    stage.average_times.clear();
  }
  if (number == 0) return part;

  stage.evaluate_first = config_.evaluate_first;
  const Json& last_model = models_[static_cast<size_t>(number <= bottom ? k - 1 : k + 1)];
  Json note = {{"event", "growth"}, {"method", number <= bottom ? "coalesce" : "de-coalesce and mix"}};
  note.update(sizes_changed(last_model, stage.model));
  if (number > bottom) note["w_dec"] = config_.w_dec;
  stage.notes = {note};
  if (number <= bottom) {
    stage.initialise = [config = config_](StageStart& start) {
      check(start.previous != nullptr, "plan", "vcycle: the level above has left no weights");
      begin_from(start, coalesced(*start.previous, start.store.entries(), config), config);
    };
  } else {
    stage.initialise = [config = config_, kept = before[static_cast<size_t>(k)].index](StageStart& start) {
      check(start.previous != nullptr, "plan", "vcycle: the level below has left no weights");
      const auto seed =
          random_below(random_key(start.seed, "lemon", start.store.entries().size()), 0, uint64_t{1} << 62);
      const Snapshot up = decoalesced(*start.previous, start.store.entries(), config, seed);
      begin_from(start, interpolate(start.earlier(kept), up, config.w_dec), config);
    };
  }
  return part;
}

}  // namespace accrete
