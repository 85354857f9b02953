// Depths of models with one group of blocks ("depth": 12) and with several ("depth": [4, 14]: VOLO's outlookers and
// transformers), and how a smaller number of blocks divides among the groups.
#pragma once

#include <vector>

#include "engine/core/config.h"

namespace accrete {

// Blocks of each group, in the order of the model. Error when the config says no depth.
std::vector<int64_t> group_depths(const Json& model);
int64_t total_depth(const Json& model);
// The model with other depths: a number where it has a number.
Json with_group_depths(Json model, const std::vector<int64_t>& depths);

// `blocks` blocks of a network that has `full` ones. Two groups by the rule of AutoProg's VOLO (autoprog spec 2.2):
// 0.23 of all, rounded to an even number, are outlookers; where the full network does not follow it, its own share.
// Error for more than two groups, whose blocks would have to move between groups.
std::vector<int64_t> split_depth(const std::vector<int64_t>& full, int64_t blocks);

}  // namespace accrete
