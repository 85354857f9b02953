#include "training/growth_schedule.h"

#include <algorithm>

namespace accrete {
namespace {

void sort_unique(std::vector<int64_t>& v) {
  std::sort(v.begin(), v.end());
  v.erase(std::unique(v.begin(), v.end()), v.end());
}

// At most `count` values of v from index `from` on.
std::vector<int64_t> window(const std::vector<int64_t>& v, size_t from, size_t count) {
  from = std::min(from, v.size() - 1);
  return {v.begin() + static_cast<std::ptrdiff_t>(from),
          v.begin() + static_cast<std::ptrdiff_t>(std::min(v.size(), from + count))};
}

std::vector<int64_t> first_middle_last(const std::vector<int64_t>& v) {
  std::vector<int64_t> three = {v.front(), v[v.size() / 2], v.back()};
  sort_unique(three);
  return three;
}

size_t index_of(const std::vector<int64_t>& v, int64_t value) {
  return static_cast<size_t>(std::lower_bound(v.begin(), v.end(), value) - v.begin());
}

}  // namespace

int64_t make_divisible(double v, int64_t d) {
  const auto q = std::max(d, static_cast<int64_t>(v + static_cast<double>(d) / 2) / d * d);
  return static_cast<double>(q) < 0.9 * v ? q + d : q;
}

double staged(double full, double scale, int k, int stages) {
  const double t = stages > 1 ? static_cast<double>(k) / (stages - 1) : 1.0;
  return full * (scale + (1 - scale) * t);
}

std::vector<GrowthSize> candidate_sizes(std::span<const GrowthSize> schedule, int k,
                                        const std::optional<GrowthSize>& at, bool force_depth) {
  if (k + 1 == static_cast<int>(schedule.size())) return {schedule.back()};
  std::vector<int64_t> depths, extents;
  for (const GrowthSize& s : schedule) depths.push_back(s.blocks), extents.push_back(s.extent);
  sort_unique(depths);
  sort_unique(extents);
  if (!at) {
    depths = first_middle_last(depths);
    extents = first_middle_last(extents);
  } else {
    depths = window(depths, index_of(depths, at->blocks) + (force_depth ? 1 : 0), 3);
    extents = window(extents, index_of(extents, at->extent), 2);
  }
  const GrowthSize largest{depths.back(), extents.back()};
  if (at == largest) return {largest};
  std::vector<GrowthSize> sizes;
  for (const int64_t extent : extents)
    for (const int64_t blocks : depths) sizes.push_back({blocks, extent});
  return sizes;
}

}  // namespace accrete
