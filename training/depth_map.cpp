#include "training/depth_map.h"

#include <algorithm>

#include "engine/core/error.h"

namespace accrete {

MapMode map_mode_of(const std::string& name) {
  if (name == "top") return MapMode::top;
  if (name == "even") return MapMode::even;
  fail("config", "unknown map \"", name, "\" of blocks; expected top or even");
}

std::vector<int> block_sources(int from, int to, MapMode mode) {
  check(from >= 1 && from <= to, "grow", "a stack of ", from, " blocks cannot grow to ", to,
        "; expected at least one block and no fewer than before");
  std::vector<int> sources(static_cast<size_t>(to));
  const int q = to / from, keep = from - to % from;  // sources with q copies; the others have q + 1
  for (int i = 0; i < to; ++i) {
    const int low = i / q;
    sources[static_cast<size_t>(i)] = mode == MapMode::even ? static_cast<int>(static_cast<int64_t>(i) * from / to)
                                      : low < keep          ? low
                                                            : (i + keep) / (q + 1);
  }
  return sources;
}

std::vector<int> new_blocks(int from, int to, MapMode mode) {
  const std::vector<int> sources = block_sources(from, to, mode);
  std::vector<int> copies;
  for (int i = 1; i < to; ++i)
    if (sources[static_cast<size_t>(i)] == sources[static_cast<size_t>(i - 1)]) copies.push_back(i);
  return copies;
}

std::vector<int> active_blocks(int depth, int base, int max, MapMode mode) {
  check(base <= depth && depth <= max, "grow", "a network of ", max, " blocks that grew from ", base,
        " cannot run with ", depth);
  const std::vector<int> added = new_blocks(base, max, mode);
  const auto skipped_end = added.begin() + (max - depth);
  std::vector<int> active;
  for (int i = 0; i < max; ++i)
    if (std::find(added.begin(), skipped_end, i) == skipped_end) active.push_back(i);
  return active;
}

}  // namespace accrete
