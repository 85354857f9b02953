#include "training/growth_ops.h"

#include <algorithm>

#include "engine/core/random.h"

namespace accrete {
namespace {

template <class E>
E named(const std::string& name, std::initializer_list<std::pair<const char*, E>> names, const char* what) {
  std::string list;
  for (const auto& [known, value] : names) {
    if (name == known) return value;
    list += (list.empty() ? "" : ", ") + std::string(known);
  }
  fail("config", "unknown ", what, " \"", name, "\"; expected one of ", list);
}

constexpr float kNoise = 0.01f;

// Source of each block of the range, counted within it; nothing: drawn at random.
DepthMap sources_of(const Growth& g) {
  DepthMap map(static_cast<size_t>(g.to));
  const std::vector<int> interpolated = block_sources(g.from, g.to, g.map);
  for (int i = 0; i < g.to; ++i) {
    auto& sources = map[static_cast<size_t>(i)];
    if (g.how == GrowOperator::stack)
      sources = {i % g.from};
    else if (g.how != GrowOperator::rand)
      sources = {interpolated[static_cast<size_t>(i)]};
    else if (i < g.from)
      sources = {i};
  }
  return map;
}

int blocks_of(const Snapshot& s, const std::string& group) {
  for (const auto& [name, count] : block_groups(s.entries))
    if (name == group) return count;
  fail("grow", "no blocks \"", group, "\"");
}

// A map of the blocks [first, first + count) of a group, completed by the blocks before and after them.
DepthMap within(const Snapshot& s, const std::string& group, int first, int count, const DepthMap& range) {
  const int all = blocks_of(s, group);
  check(first >= 0 && count >= 1 && first + count <= all, "grow", "blocks ", first, " to ", first + count, " of \"",
        group, "\" do not exist; it has ", all);
  DepthMap map;
  for (int i = 0; i < first; ++i) map.push_back({i});
  for (std::vector<int> sources : range) {
    for (int& i : sources) i += first;
    map.push_back(std::move(sources));
  }
  for (int i = first + count; i < all; ++i) map.push_back({i});
  return map;
}

Moments carried(OptState moments) { return moments == OptState::reset ? Moments::reset : Moments::carry; }

}  // namespace

GrowOperator grow_operator_of(const std::string& name) {
  using O = GrowOperator;
  return named<O>(name,
                  {{"mogrow", O::mogrow},
                   {"rand", O::rand},
                   {"stack", O::stack},
                   {"interp", O::interp},
                   {"interp_noise", O::interp_noise},
                   {"identity", O::identity}},
                  "growth operator");
}

OptState opt_state_of(const std::string& name) {
  using S = OptState;
  return named<S>(name, {{"reset", S::reset}, {"map", S::map}, {"map_zero_new", S::map_zero_new}},
                  "policy for moments");
}

std::vector<int> grown_blocks(const Growth& g) {
  if (g.how != GrowOperator::rand && g.how != GrowOperator::stack) return new_blocks(g.from, g.to, g.map);
  std::vector<int> added;
  for (int i = g.from; i < g.to; ++i) added.push_back(i);
  return added;
}

Snapshot grow_blocks(const Snapshot& from, const Growth& g, uint64_t seed) {
  const Snapshot source = g.how == GrowOperator::mogrow ? take_average(from, kGrowAverage) : from;
  Snapshot to = map_depth(source, g.group, within(source, g.group, g.first, g.from, sources_of(g)), carried(g.moments));
  BlockSet added;
  for (const int i : grown_blocks(g)) added.insert(g.group, g.first + i);
  if (g.how == GrowOperator::identity) to = silence(to, added);
  for (size_t i = 0; i < to.entries.size(); ++i) {
    const ParamEntry& e = to.entries[i];
    if (!added.contains(e.group, e.block)) continue;
    const int n = static_cast<int>(i);
    if (g.how == GrowOperator::interp_noise) {
      // The released code truncates at 200 standard deviations, which is never.
      const RandomKey key = random_key(seed, "grow:" + e.name, static_cast<uint64_t>(g.to));
      float* p = to.value(n).ptr<float>();
      for (int64_t k = 0; k < e.count(); ++k) {
        const Philox4 w = random_words(key, static_cast<uint64_t>(k));
        p[k] += kNoise * to_normal(w.v[0], w.v[1]);
      }
    }
    if (g.moments != OptState::map_zero_new) continue;
    for (auto& [name, flat] : to.moments) to.part(flat, n).zero();
    if (!to.steps.empty()) to.steps[i] = 0;  // bias correction begins anew too
  }
  return to;
}

Snapshot take_average(const Snapshot& from, const std::string& name) {
  const auto average = from.averages.find(name);
  check(average != from.averages.end(), "grow", "the weights have no running average \"", name, "\"");
  Snapshot to = from;
  to.values = average->second;
  return to;
}

Snapshot keep_blocks(const Snapshot& from, const std::string& group, int first, int count,
                     const std::vector<int>& active, OptState moments) {
  DepthMap map;
  for (const int i : active) map.push_back({i});
  return map_depth(from, group, within(from, group, first, count, map), carried(moments));
}

}  // namespace accrete
