// How a stack of blocks becomes deeper: the growth operators of progressive training, from snapshot to snapshot.
//
// With S the blocks of the smaller network, a of them, T the b of the larger, src the map of training/depth_map.h:
//   rand          T_i = S_i for i < a; the others are drawn at random, on top
//   stack         T_i = S_(i mod a)                                   StackBERT (Gong et al. 2019)
//   interp        T_i = S_src(i)
//   interp_noise  the same, with normal noise of standard deviation 0.01 on the copies
//   identity      the same, and the copies add nothing at first: the last linear layers of their branches are zero
//   mogrow        the same from a running average of the weights      AutoProg (arXiv 2203.14509): momentum growth
// All other parameters are copied, under mogrow from the average too. Every running average grows from itself.
#pragma once

#include <cstdint>
#include <string>

#include "training/depth_map.h"
#include "training/grow.h"

namespace accrete {

enum class GrowOperator : uint8_t { rand, stack, interp, interp_noise, identity, mogrow };
GrowOperator grow_operator_of(const std::string& name);

// The average that mogrow takes the weights from.
inline constexpr const char* kGrowAverage = "ema.grow";

// What becomes of the optimizer's moments: all begin anew; they go along with the weights they belong to; the same, but
// those of new blocks begin anew.
enum class OptState : uint8_t { reset, map, map_zero_new };
OptState opt_state_of(const std::string& name);

// Blocks [first, first + from) of a group become `to` blocks; those before and after stay as they are.
struct Growth {
  std::string group;
  int first = 0, from = 0, to = 0;
  GrowOperator how = GrowOperator::interp;
  MapMode map = MapMode::top;
  OptState moments = OptState::reset;
};

// The blocks of the result (counted from growth.first) that the smaller network does not have itself.
std::vector<int> grown_blocks(const Growth& growth);

// `rand` leaves the new blocks out: the store is to be filled at random before (restore with Missing::keep). The noise
// of interp_noise comes from the seed. Error when mogrow finds no average kGrowAverage.
Snapshot grow_blocks(const Snapshot& from, const Growth& growth, uint64_t seed);

// The weights become those of the running average; averages and moments stay.
Snapshot take_average(const Snapshot& from, const std::string& name);

// Of blocks [first, first + count) of a group only the `active` ones (counted from first) stay.
Snapshot keep_blocks(const Snapshot& from, const std::string& group, int first, int count,
                     const std::vector<int>& active, OptState moments);

}  // namespace accrete
