// The sizes of a network that grows in stages, and what a search may choose between: pure functions of numbers.
// Formulas: AutoProg (arXiv 2203.14509) and its released code.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace accrete {

// How many of its growing blocks a network has, and the extent (length, resolution) of its samples.
struct GrowthSize {
  int64_t blocks = 0, extent = 0;
  bool operator==(const GrowthSize&) const = default;
};

// Nearest multiple of `d`, at least d and not below 0.9 v; computed in double, as released.
int64_t make_divisible(double v, int64_t d);

// A quantity in stage k (from 0) of `stages` that grows linearly from scale * full to full; a negative scale gives
// negative values first.
double staged(double full, double scale, int k, int stages);

// What stage k may choose between when the network so far is `at` (nothing: there is none yet): short samples first,
// then few blocks. The first stage: the smallest, middle and largest of the schedule's depths and of its extents. Later
// ones: this extent or the next; of the depths, the three from this one on, from the next one on where `force_depth`.
// The last stage, and one whose network has reached the largest of these: one size.
std::vector<GrowthSize> candidate_sizes(std::span<const GrowthSize> schedule, int k,
                                        const std::optional<GrowthSize>& at, bool force_depth);

}  // namespace accrete
