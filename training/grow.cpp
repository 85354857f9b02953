#include "training/grow.h"

#include <algorithm>
#include <set>

#include "training/grow_flats.h"

namespace accrete {
namespace {

std::string block_name(const ParamEntry& e, int block) {
  return e.group + "." + std::to_string(block) + "." + e.local_name();
}

}  // namespace

std::vector<std::pair<std::string, int>> block_groups(const std::vector<ParamEntry>& entries) {
  std::vector<std::pair<std::string, int>> groups;
  for (const ParamEntry& e : entries) {
    if (e.block < 0) continue;
    auto it = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == e.group; });
    if (it == groups.end()) it = groups.insert(groups.end(), {e.group, 0});
    it->second = std::max(it->second, e.block + 1);
  }
  return groups;
}

Snapshot map_depth(const Snapshot& from, const std::string& group, const DepthMap& map, Moments moments) {
  const auto groups = block_groups(from.entries);
  const auto found = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == group; });
  check(found != groups.end(), "grow", "no blocks \"", group, "\"");
  std::set<int> used;
  bool one_to_one = true;
  for (const auto& sources : map) {
    one_to_one = one_to_one && sources.size() <= 1;
    for (const int s : sources) {
      check(s >= 0 && s < found->second, "grow", "block ", s, " of \"", group, "\" does not exist; expected below ",
            found->second);
      one_to_one = used.insert(s).second && one_to_one;
    }
  }
  check(
      moments != Moments::exact || one_to_one, "grow",
      "moments have no exact map when blocks are merged or copied, which changes the function; expected moments reset "
      "or carry");
  // The entries of the group in the order of its blocks; all others keep their places.
  std::vector<ParamEntry> entries, pattern;
  for (const ParamEntry& e : from.entries)
    if (e.group == group && e.block == 0) pattern.push_back(e);
  bool placed = false;
  for (const ParamEntry& e : from.entries) {
    if (e.group != group) {
      entries.push_back(e);
      continue;
    }
    if (placed) continue;
    placed = true;
    for (size_t b = 0; b < map.size(); ++b)
      for (ParamEntry p : pattern) {
        if (map[b].empty()) continue;
        p.name = block_name(p, static_cast<int>(b));
        p.block = static_cast<int>(b);
        entries.push_back(std::move(p));
      }
  }
  Snapshot to = empty_snapshot(std::move(entries));
  const auto source = [&](const ParamEntry& e, int block) {
    const int i = from.find(e.block < 0 || e.group != group ? e.name : block_name(e, block));
    check(i >= 0 && from.entries[static_cast<size_t>(i)].shape == e.shape, "grow", "the blocks of \"", group,
          "\" are not alike: ", e.name);
    return i;
  };
  const auto sources_of = [&](const ParamEntry& e) {
    return e.group == group ? map[static_cast<size_t>(e.block)] : std::vector<int>{0};
  };
  for_each_flat(from, to, moments, [&](const Tensor& a, const Tensor& b, FlatKind) {
    for (size_t i = 0; i < to.entries.size(); ++i) {
      const ParamEntry& e = to.entries[i];
      const std::vector<int> sources = sources_of(e);
      const float f = 1.0f / static_cast<float>(sources.size());
      float* y = to.part(b, static_cast<int>(i)).ptr<float>();
      for (const int s : sources) {
        const float* x = from.part(a, source(e, s)).ptr<float>();
        for (int64_t k = 0; k < e.count(); ++k) y[k] += f * x[k];
      }
    }
  });
  if (moments == Moments::reset || from.steps.empty()) return to;
  for (const ParamEntry& e : to.entries)
    to.steps.push_back(from.steps[static_cast<size_t>(source(e, sources_of(e).front()))]);
  return to;
}

Snapshot scale_branches(const Snapshot& from, const BlockSet& blocks, float factor) {
  Snapshot to = from;
  const auto scale = [&](Tensor& flat) {
    flat = flat.clone();
    for (size_t i = 0; i < to.entries.size(); ++i) {
      const ParamEntry& e = to.entries[i];
      if (!e.marks.branch_end || !blocks.contains(e.group, e.block)) continue;
      const Tensor part = to.part(flat, static_cast<int>(i));
      if (factor == 0) part.zero();  // no negative zeros
      for (int64_t k = 0; k < e.count() && factor != 0; ++k) part.ptr<float>()[k] *= factor;
    }
  };
  scale(to.values);
  for (auto& [name, flat] : to.averages) scale(flat);
  return to;
}

Snapshot silence(const Snapshot& from, const BlockSet& blocks) { return scale_branches(from, blocks, 0.0f); }

Snapshot interpolate(const Snapshot& a, const Snapshot& b, double w) {
  check(w >= 0 && w <= 1, "grow", "the weight of an interpolation must lie in [0, 1]; got ", w);
  check(a.entries.size() == b.entries.size(), "grow", "models with ", a.entries.size(), " and ", b.entries.size(),
        " parameters cannot be interpolated");
  for (size_t i = 0; i < a.entries.size(); ++i)
    check(a.entries[i].name == b.entries[i].name && a.entries[i].shape == b.entries[i].shape, "grow",
          "interpolation: ", a.entries[i].name, " ", a.entries[i].shape, " and ", b.entries[i].name, " ",
          b.entries[i].shape, " differ");
  if (w == 0) return a;
  if (w == 1) return b;
  Snapshot to = empty_snapshot(a.entries);
  const auto mix = [&](const Tensor& x, const Tensor& y, const Tensor& out) {
    const float wa = static_cast<float>(1 - w), wb = static_cast<float>(w);
    for (int64_t i = 0; i < out.count(); ++i) out.ptr<float>()[i] = wa * x.ptr<float>()[i] + wb * y.ptr<float>()[i];
  };
  mix(a.values, b.values, to.values);
  const auto mix_all = [&](const auto& x, const auto& y, auto& out) {
    for (const auto& [name, flat] : x) {
      const auto other = y.find(name);
      if (other == y.end()) continue;
      out[name] = Tensor::zeros(to.values.shape());
      mix(flat, other->second, out[name]);
    }
  };
  mix_all(a.averages, b.averages, to.averages);
  mix_all(a.moments, b.moments, to.moments);
  if (!to.moments.empty()) {
    to.steps = a.steps;
    for (size_t i = 0; i < to.steps.size() && i < b.steps.size(); ++i) to.steps[i] = std::min(a.steps[i], b.steps[i]);
  }
  return to;
}

Snapshot take(const Snapshot& from, const std::function<bool(const ParamEntry&)>& wanted) {
  std::vector<ParamEntry> entries;
  std::vector<int> places;
  for (size_t i = 0; i < from.entries.size(); ++i)
    if (wanted(from.entries[i])) entries.push_back(from.entries[i]), places.push_back(static_cast<int>(i));
  Snapshot to = empty_snapshot(std::move(entries));
  for_each_flat(from, to, Moments::carry, [&](const Tensor& a, const Tensor& b, FlatKind) {
    for (size_t i = 0; i < places.size(); ++i) to.part(b, static_cast<int>(i)).copy_from(from.part(a, places[i]));
  });
  if (!from.steps.empty())
    for (const int p : places) to.steps.push_back(from.steps[static_cast<size_t>(p)]);
  return to;
}

Snapshot assemble(std::span<const Snapshot> parts, const std::vector<ParamEntry>& like) {
  Snapshot to = empty_snapshot(like);
  std::set<std::string_view> wanted;
  for (const ParamEntry& e : to.entries) wanted.insert(e.name);
  std::vector<int> owners(to.entries.size(), -1);
  for (size_t p = 0; p < parts.size(); ++p)
    for (const ParamEntry& e : parts[p].entries) {
      check(wanted.contains(e.name), "assemble", "part ", p, " brings ", e.name, ", which the model does not have");
      const int i = to.find(e.name);
      int& owner = owners[static_cast<size_t>(i)];
      check(owner < 0, "assemble", e.name, " comes from part ", owner, " and from part ", p);
      check(to.entries[static_cast<size_t>(i)].shape == e.shape, "assemble", e.name, " of part ", p, " is ", e.shape,
            "; expected ", to.entries[static_cast<size_t>(i)].shape);
      owner = static_cast<int>(p);
      to.value(i).copy_from(parts[p].value(parts[p].find(e.name)));
    }
  for (size_t i = 0; i < owners.size(); ++i)
    check(owners[i] >= 0, "assemble", to.entries[i].name, " comes from no part");
  return to;
}

void freeze(ParamStore& store, const std::function<bool(const ParamEntry&)>& trains) {
  for (size_t i = 0; i < store.entries().size(); ++i)
    store.set_trainable(static_cast<int>(i), trains(store.entries()[i]));
}

}  // namespace accrete
