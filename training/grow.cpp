#include "training/grow.h"

#include <algorithm>
#include <cmath>
#include <set>

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

// How one axis of one parameter changes: element (i, k) of the result, i an index of the mapped axis seen as
// (outer, index, unit), is the sum over sources of factor * source.
struct Change {
  AxisMap map;
  std::vector<std::vector<float>> factors;  // one for each source
};

// Factors for the values. Output axes: average over the sources. Input axes: sum of the sources, each divided by the
// number of its copies.
Change change_of(const AxisMap& map, bool input) {
  std::vector<int> copies(static_cast<size_t>(map.from), 0);
  for (const auto& sources : map.sources)
    for (const int64_t s : sources) ++copies[static_cast<size_t>(s)];
  Change c{map, {}};
  for (const auto& sources : map.sources) {
    std::vector<float> f;
    for (const int64_t s : sources)
      f.push_back(1.0f / static_cast<float>(input ? copies[static_cast<size_t>(s)] : static_cast<int>(sources.size())));
    c.factors.push_back(std::move(f));
  }
  return c;
}

// Gradients of the new parameters in terms of those of the old: the transposed inverse. Where values are copied
// (factor 1) the copies share the gradient, where they are shared (1/n) each copy gets all of it.
Change gradient_change(const AxisMap& map, bool input) { return change_of(map, !input); }

// Applies a change to one axis: `outer` x indices x `unit` elements. `square`: with squared factors, for second
// moments.
void apply(const float* in, float* out, const Change& c, int64_t outer, int64_t unit, bool square) {
  const int64_t from = c.map.from, to = c.map.to();
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < to; ++i) {
      float* y = out + (o * to + i) * unit;
      std::fill(y, y + unit, 0.0f);
      const auto& sources = c.map.sources[static_cast<size_t>(i)];
      for (size_t k = 0; k < sources.size(); ++k) {
        const float f = c.factors[static_cast<size_t>(i)][k], factor = square ? f * f : f;
        const float* x = in + (o * from + sources[k]) * unit;
        // One rounding for each source: doubling and halving are exact.
        for (int64_t u = 0; u < unit; ++u) y[u] += factor * x[u];
      }
    }
}

struct AxisChange {
  int axis;
  int parts;  // the axis is (parts, indices, unit)
  int64_t unit;
  AxisMap map;
  bool input;
};

// Factor on the values of a parameter that keeps tied embeddings consistent; 1 for most. r = indices after / before.
float tied_factor(const ParamEntry& e, TiedMode mode, double embed_ratio) {
  const float r = static_cast<float>(embed_ratio);
  switch (mode) {
    case TiedMode::exact:
      return e.marks.tie == Tie::input ? 1.0f / r : 1.0f;
    case TiedMode::released:
      return e.marks.tie == Tie::table ? 1.0f / r : 1.0f;
    case TiedMode::half_stream:  // tables and ends of branches write to the residual stream
      return e.marks.branch_end ||
                     (e.block < 0 && e.shape.rank() >= 2 && e.axes.back().role == Role::embed && !e.axes.back().input)
                 ? 1.0f / r
                 : 1.0f;
  }
  return 1.0f;
}

std::vector<float> mapped(const Tensor& values, const Shape& shape, const std::vector<AxisChange>& changes,
                          float factor, bool gradient, bool square) {
  std::vector<float> now = values.to_vector<float>();
  std::vector<int64_t> sizes = shape.vector();
  for (const AxisChange& a : changes) {
    const Change c = gradient ? gradient_change(a.map, a.input) : change_of(a.map, a.input);
    int64_t outer = a.parts, inner = a.unit;
    for (int i = 0; i < a.axis; ++i) outer *= sizes[static_cast<size_t>(i)];
    for (size_t i = static_cast<size_t>(a.axis) + 1; i < sizes.size(); ++i) inner *= sizes[i];
    std::vector<float> next(static_cast<size_t>(outer * a.map.to() * inner));
    apply(now.data(), next.data(), c, outer, inner, square);
    sizes[static_cast<size_t>(a.axis)] = a.parts * a.map.to() * a.unit;
    now = std::move(next);
  }
  // A stored value that is f times as large has a gradient 1/f times as large.
  const float f = gradient ? (square ? 1.0f / (factor * factor) : 1.0f / factor) : factor;
  if (f != 1.0f)
    for (float& v : now) v *= f;
  return now;
}

void set(const Tensor& target, const std::vector<float>& values) {
  std::copy(values.begin(), values.end(), target.ptr<float>());
}

// All flats of `from` that go along: values, averages, and moments unless they are reset. fn(flat, gradient, square).
template <class Fn>
void for_each_flat(const Snapshot& from, Snapshot& to, Moments moments, Fn&& fn) {
  fn(from.values, to.values, false, false);
  for (const auto& [name, flat] : from.averages) {
    to.averages[name] = Tensor::zeros(to.values.shape());
    fn(flat, to.averages[name], false, false);
  }
  if (moments == Moments::reset) return;
  for (const auto& [name, flat] : from.moments) {
    to.moments[name] = Tensor::zeros(to.values.shape());
    fn(flat, to.moments[name], true, name == "v");
  }
}

std::string block_name(const ParamEntry& e, int block) {
  return e.group + "." + std::to_string(block) + "." + e.local_name();
}

}  // namespace

Moments moments_of(const std::string& name) {
  return named<Moments>(name, {{"reset", Moments::reset}, {"carry", Moments::carry}, {"exact", Moments::exact}},
                        "policy for moments");
}
Pairing pairing_of(const std::string& name) {
  return named<Pairing>(name, {{"half", Pairing::half}, {"adjacent", Pairing::adjacent}}, "pairing");
}
TiedMode tied_of(const std::string& name) {
  return named<TiedMode>(
      name, {{"exact", TiedMode::exact}, {"released", TiedMode::released}, {"half_stream", TiedMode::half_stream}},
      "treatment of tied embeddings");
}

Groups grouped(int64_t n, int64_t ratio, Pairing pairing) {
  check(ratio >= 1 && n % ratio == 0, "grow", n, " indices cannot be merged in groups of ", ratio,
        "; expected a multiple of ", ratio);
  const int64_t count = n / ratio;
  Groups groups(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < ratio; ++j)
      groups[static_cast<size_t>(i)].push_back(pairing == Pairing::half ? i + j * count : i * ratio + j);
  return groups;
}

AxisMap merging(const Groups& groups) {
  AxisMap m;
  for (const auto& g : groups) m.from += static_cast<int64_t>(g.size());
  m.sources = groups;
  return m;
}

AxisMap copying(const Groups& groups) {
  AxisMap m;
  m.from = static_cast<int64_t>(groups.size());
  size_t n = 0;
  for (const auto& g : groups) n += g.size();
  m.sources.resize(n);
  for (size_t i = 0; i < groups.size(); ++i)
    for (const int64_t j : groups[i]) m.sources.at(static_cast<size_t>(j)) = {static_cast<int64_t>(i)};
  return m;
}

Snapshot map_axes(const Snapshot& from, const RoleMap& map, TiedMode tied, Moments moments) {
  std::vector<ParamEntry> entries = from.entries;
  std::vector<std::vector<AxisChange>> changes(entries.size());
  std::vector<float> factors(entries.size(), 1.0f);
  const bool any_tie =
      std::any_of(entries.begin(), entries.end(), [](const auto& e) { return e.marks.tie != Tie::none; });
  bool merges = false;
  for (size_t i = 0; i < entries.size(); ++i) {
    ParamEntry& e = entries[i];
    std::vector<int64_t> sizes = e.shape.vector();
    double embed_ratio = 1;
    for (size_t a = 0; a < e.axes.size(); ++a) {
      const Axis& axis = e.axes[a];
      const int64_t count = sizes[a] / (axis.parts * axis.unit);
      const auto m = axis.role == Role::none ? std::nullopt : map(axis.role, count);
      if (!m) continue;
      check(m->from == count, "grow", e.name, ": the map is for ", m->from, " ", name_of(axis.role), "; got ", count);
      changes[i].push_back({static_cast<int>(a), axis.parts, axis.unit, *m, axis.input});
      sizes[a] = axis.parts * m->to() * axis.unit;
      if (axis.role == Role::embed) embed_ratio = static_cast<double>(m->to()) / static_cast<double>(count);
      for (const auto& s : m->sources) merges = merges || s.size() > 1;
    }
    e.shape = Shape(sizes);
    if (any_tie) factors[i] = tied_factor(e, tied, embed_ratio);
  }
  check(moments != Moments::exact || !merges, "grow",
        "second moments have no exact map when indices merge; expected moments reset or carry");
  Snapshot to = empty_snapshot(std::move(entries));
  for_each_flat(from, to, moments, [&](const Tensor& a, const Tensor& b, bool gradient, bool square) {
    for (size_t i = 0; i < to.entries.size(); ++i) {
      const int n = static_cast<int>(i);
      set(to.part(b, n), mapped(from.part(a, n), from.entries[i].shape, changes[i], factors[i], gradient, square));
    }
  });
  if (moments != Moments::reset) to.steps = from.steps;
  return to;
}

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
  bool merges = false;
  for (const auto& sources : map) {
    merges = merges || sources.size() > 1;
    for (const int s : sources)
      check(s >= 0 && s < found->second, "grow", "block ", s, " of \"", group, "\" does not exist; expected below ",
            found->second);
  }
  check(moments != Moments::exact || !merges, "grow",
        "second moments have no exact map when blocks merge; expected moments reset or carry");
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
    check(i >= 0, "grow", "the blocks of \"", group, "\" are not alike: ", e.name);
    return i;
  };
  const auto sources_of = [&](const ParamEntry& e) {
    return e.group == group ? map[static_cast<size_t>(e.block)] : std::vector<int>{0};
  };
  for_each_flat(from, to, moments, [&](const Tensor& a, const Tensor& b, bool, bool) {
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

Snapshot silence(const Snapshot& from, const BlockSet& blocks) {
  Snapshot to = from;
  to.values = from.values.clone();
  for (size_t i = 0; i < to.entries.size(); ++i)
    if (to.entries[i].marks.branch_end && blocks.contains(to.entries[i].group, to.entries[i].block))
      to.value(static_cast<int>(i)).zero();
  return to;
}

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
  for_each_flat(from, to, Moments::carry, [&](const Tensor& a, const Tensor& b, bool, bool) {
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
