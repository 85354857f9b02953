// How the stages of a progressive training begin: a grown network, the chosen part of a supernet, a part of the weights
// that the full network would have begun with.
#pragma once

#include <functional>

#include "training/growth_ops.h"
#include "training/stage.h"

namespace accrete {

using Begin = std::function<void(StageStart&)>;
using Trainable = std::function<bool(const ParamEntry&)>;

// Of the `full` blocks from `first` on, `blocks` are there.
struct Shallower {
  int64_t first = 0, blocks = 0, full = 0;
};

// The network of the stage before, grown; growths[g] is that of group g, whose name is filled in. Where that stage kept
// no running average for mogrow (a nested plan need not), the weights themselves grow, and a note says so.
Begin begin_grown(std::vector<Growth> growths);

// Of `count` blocks of a group from `first` on, the `active` ones.
struct ActiveBlocks {
  int64_t first = 0, count = 0;
  std::vector<int> active;
};
// These blocks of each group, with the weights of the stage before or (`average`) their running average.
Begin begin_extracted(std::vector<ActiveBlocks> groups, OptState moments, bool average);

// The full network `model` begins as `whole` says; evenly spaced blocks of it are taken over.
Begin begin_with_part(Begin whole, Json model, Shallower s);

// A predicate on the parameters of the full network, for the shallower one.
Trainable renumbered(Trainable whole, Shallower s);

}  // namespace accrete
