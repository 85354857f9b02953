// Which block of a shallower network a block of a deeper one comes from, and the numbers of a progressive schedule:
// pure functions of integers. Formulas: AutoProg (arXiv 2203.14509) and its released code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace accrete {

// `top`: the released map. With q = floor(a' / a) copies of the lower blocks and q + 1 of the a' mod a topmost ones,
// new blocks gather at the top. `even`: source(i) = floor(i a / a').
enum class MapMode : uint8_t { top, even };
MapMode map_mode_of(const std::string& name);

// Source of each of `to` blocks among `from` <= `to` blocks: non-decreasing, onto. 6 -> 8, top: 0 1 2 3 4 4 5 5.
std::vector<int> block_sources(int from, int to, MapMode mode);
// The copies: blocks whose source is that of the block before. to - from of them.
std::vector<int> new_blocks(int from, int to, MapMode mode);

// The blocks that run when a network of `max` blocks that grew from `base` is used with `depth` (base <= depth <= max):
// all but the first max - depth of the new ones, so that new blocks join from the top downwards. One function for
// training, scoring and extraction.
std::vector<int> active_blocks(int depth, int base, int max, MapMode mode);

}  // namespace accrete
