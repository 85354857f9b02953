#include "training/depth_split.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/error.h"
#include "training/growth_schedule.h"

namespace accrete {

std::vector<int64_t> group_depths(const Json& model) {
  const Json depth = model.value("depth", Json());
  const auto whole = [](const Json& n) { return n.is_number_integer() && n.get<int64_t>() >= 0; };
  const bool list = depth.is_array() && !depth.empty() && std::all_of(depth.begin(), depth.end(), whole);
  check(list || whole(depth), "plan", "the model has no depth that could change; got depth ", depth.dump());
  if (list) return depth.get<std::vector<int64_t>>();
  return {depth.get<int64_t>()};
}

int64_t total_depth(const Json& model) {
  const auto depths = group_depths(model);
  return std::accumulate(depths.begin(), depths.end(), int64_t{0});
}

Json with_group_depths(Json model, const std::vector<int64_t>& depths) {
  check(depths.size() == group_depths(model).size(), "plan", "a model of ", group_depths(model).size(),
        " groups of blocks cannot have depths for ", depths.size());
  if (model["depth"].is_array())
    model["depth"] = depths;
  else
    model["depth"] = depths[0];
  return model;
}

std::vector<int64_t> split_depth(const std::vector<int64_t>& full, int64_t blocks) {
  if (full.size() == 1) return {blocks};
  const int64_t all = std::accumulate(full.begin(), full.end(), int64_t{0});
  check(full.size() == 2, "plan", "a network of ", full.size(),
        " groups of blocks cannot grow block by block; expected the same blocks in two groups, model.depth=[", full[0],
        ",", all - full[0], "]");
  const auto ruled = [](int64_t l) { return make_divisible(0.23 * static_cast<double>(l), 2); };
  const bool follows = ruled(all) == full[0];
  int64_t first =
      follows ? ruled(blocks) : std::llround(static_cast<double>(full[0] * blocks) / static_cast<double>(all));
  const int64_t most = std::min(full[0], blocks - 1);
  if (most >= 1) first = std::clamp<int64_t>(first, 1, most);
  check(most >= 1 && blocks - first <= full[1], "plan", blocks, " blocks cannot be divided among ", full[0], " and ",
        full[1], "; expected at least one in each group");
  return {first, blocks - first};
}

}  // namespace accrete
