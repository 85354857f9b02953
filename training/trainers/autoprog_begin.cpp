#include "training/trainers/autoprog_begin.h"

namespace accrete {
namespace {

const Snapshot& before(const StageStart& start) {
  check(start.previous != nullptr, "plan", "the first stage has no stage to grow from");
  return *start.previous;
}

// Block of the full network that block `i` of the shallower one stands for.
int64_t full_number(int64_t i, const Shallower& s) {
  if (i < s.first) return i;
  if (i >= s.first + s.blocks) return i + s.full - s.blocks;
  return s.first + (i - s.first) * s.full / s.blocks;
}

}  // namespace

Begin begin_grown(std::vector<Growth> growths) {
  return [growths](StageStart& start) {
    Snapshot now = before(start);
    GrowOperator how = growths.front().how;
    if (how == GrowOperator::mogrow && !now.averages.contains(kGrowAverage)) {
      how = GrowOperator::interp;
      start.note(Json{{"event", "growth"}, {"by", "interp"}, {"why", "the stage before kept no running average"}});
    }
    const bool fresh = how == GrowOperator::rand;
    if (fresh) start.store.initialise(start.seed);
    const auto groups = block_groups(now.entries);
    check(groups.size() == growths.size(), "plan", "the network has ", groups.size(), " groups of blocks; expected ",
          growths.size());
    // All other parameters are copied by the growth of any group, from the average under mogrow: once is enough.
    if (how == GrowOperator::mogrow) now = take_average(now, kGrowAverage), how = GrowOperator::interp;
    for (size_t i = 0; i < groups.size(); ++i) {
      Growth g = growths[i];
      g.group = groups[i].first;
      g.how = how;
      now = grow_blocks(now, g, start.seed);
    }
    restore(start.store, now, start.optimizer, fresh ? Missing::keep : Missing::refuse);
  };
}

Begin begin_extracted(std::vector<ActiveBlocks> parts, OptState moments, bool average) {
  return [=](StageStart& start) {
    Snapshot now = before(start);
    if (average) now = take_average(now, kGrowAverage);
    const auto groups = block_groups(now.entries);
    check(groups.size() == parts.size(), "plan", "the network has ", groups.size(), " groups of blocks; expected ",
          parts.size());
    for (size_t i = 0; i < groups.size(); ++i)
      now = keep_blocks(now, groups[i].first, static_cast<int>(parts[i].first), static_cast<int>(parts[i].count),
                        parts[i].active, moments);
    restore(start.store, now, start.optimizer);
  };
}

Begin begin_with_part(Begin whole, Json model, Shallower s) {
  return [=](StageStart& start) {
    const auto full = start.model(model);
    StageStart inner{.store = full->params(),
                     .network = full.get(),
                     .previous = start.previous,
                     .earlier = start.earlier,
                     .external = start.external,
                     .fresh = start.fresh,
                     .pretrained = start.pretrained,
                     .model = start.model,
                     .collected = start.collected,
                     .score = [](const std::string&, int64_t) -> double {
                       fail("plan", "autoprog cannot begin a stage that measures its weights before it begins");
                     },
                     .note = start.note,
                     .folder = start.folder,
                     .seed = start.seed,
                     .dry = start.dry};
    whole(inner);
    Snapshot now = snapshot(full->params());
    std::vector<int> kept;
    for (int64_t i = 0; i < s.blocks; ++i) kept.push_back(static_cast<int>(full_number(s.first + i, s) - s.first));
    for (const auto& [group, count] : block_groups(now.entries))
      now = keep_blocks(now, group, static_cast<int>(s.first), static_cast<int>(s.full), kept, OptState::reset);
    restore(start.store, now, start.optimizer);
  };
}

Trainable renumbered(Trainable whole, Shallower s) {
  return [=](const ParamEntry& entry) {
    ParamEntry e = entry;
    if (e.block >= 0) {
      const std::string local = e.local_name();
      e.block = e.number = static_cast<int>(full_number(e.block, s));
      e.name = e.group + "." + std::to_string(e.block) + "." + local;
    }
    return whole(e);
  };
}

}  // namespace accrete
