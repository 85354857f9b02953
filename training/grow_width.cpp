// Width: maps of the indices of a role (channels, heads, hidden units), multilevel spec 2.3 and 3.
#include <algorithm>
#include <cmath>

#include "training/grow_flats.h"

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

// One side of a matrix in a map: index i of the result is the sum of factors[i][k] * (index sources[i][k] before).
struct Change {
  const AxisMap* map;
  std::vector<std::vector<float>> factors;
};

// Averaging sides take the mean of the sources. Sharing sides take their sum, each divided by the number of its copies.
Change change_of(const AxisMap& map, bool shares) {
  std::vector<int> copies(static_cast<size_t>(map.from), 0);
  for (const auto& sources : map.sources)
    for (const int64_t s : sources) ++copies.at(static_cast<size_t>(s));
  Change c{&map, {}};
  for (const auto& sources : map.sources) {
    std::vector<float> f;
    for (const int64_t s : sources)
      f.push_back(1.0f /
                  static_cast<float>(shares ? copies[static_cast<size_t>(s)] : static_cast<int>(sources.size())));
    c.factors.push_back(std::move(f));
  }
  return c;
}

// Applies a change to one axis: `outer` x indices x `unit` elements. `square`: with squared factors.
void apply(const float* in, float* out, const Change& c, int64_t outer, int64_t unit, bool square) {
  const int64_t from = c.map->from, to = c.map->to();
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < to; ++i) {
      float* y = out + (o * to + i) * unit;
      std::fill(y, y + unit, 0.0f);
      const auto& sources = c.map->sources[static_cast<size_t>(i)];
      for (size_t k = 0; k < sources.size(); ++k) {
        const float f = c.factors[static_cast<size_t>(i)][k], factor = square ? f * f : f;
        const float* x = in + (o * from + sources[k]) * unit;
        // Halves and sums of two equal numbers are exact: round trips with ratio 2 are bit-exact.
        for (int64_t u = 0; u < unit; ++u) y[u] += factor * x[u];
      }
    }
}

// Elements before and behind an axis: outer x parts x indices x unit x inner.
struct Strides {
  int64_t outer = 1, inner = 1;
};
Strides around(const std::vector<int64_t>& sizes, size_t axis) {
  Strides s;
  for (size_t i = 0; i < axis; ++i) s.outer *= sizes[i];
  for (size_t i = axis + 1; i < sizes.size(); ++i) s.inner *= sizes[i];
  return s;
}

struct AxisChange {
  size_t axis;
  Axis what;
  AxisMap map;
  bool shares;
};

// Whether copies of an index share its value, and merged indices add, instead of copying and averaging: the input side
// of a matrix. Tied embeddings would have to be both; the modes differ in what shares for them:
//   exact        the norm before the output multiplication, so that the table can be copied
//   released     the table
//   half_stream  all that is written to the residual stream, whose values become 1 / ratio of what they were
bool shares(const ParamEntry& e, const Axis& axis, bool any_tie, TiedMode mode) {
  if (axis.input || !any_tie || axis.role != Role::embed) return axis.input;
  switch (mode) {
    case TiedMode::exact:
      return e.marks.tie == Tie::input;
    case TiedMode::released:
      return e.marks.tie == Tie::table;
    case TiedMode::half_stream:
      return e.marks.branch_end || (e.block < 0 && e.shape.rank() >= 2 && e.axes.back().role == Role::embed);
  }
  return false;
}

std::vector<float> mapped(const Tensor& values, const Shape& shape, const std::vector<AxisChange>& changes,
                          FlatKind kind) {
  std::vector<float> now = values.to_vector<float>();
  std::vector<int64_t> sizes = shape.vector();
  for (const AxisChange& a : changes) {
    // Gradients in the new model follow from those in the old by the transposed inverse: where values are copied the
    // copies share the gradient, where values are shared each copy has all of it.
    const Change c = change_of(a.map, kind == FlatKind::values ? a.shares : !a.shares);
    const Strides s = around(sizes, a.axis);
    std::vector<float> next(static_cast<size_t>(s.outer * a.what.parts * a.map.to() * a.what.unit * s.inner));
    apply(now.data(), next.data(), c, s.outer * a.what.parts, a.what.unit * s.inner, kind == FlatKind::second_moment);
    sizes[a.axis] = a.what.parts * a.map.to() * a.what.unit;
    now = std::move(next);
  }
  return now;
}

// Values as a model with these entries draws them.
Snapshot drawn(const std::vector<ParamEntry>& entries, uint64_t seed) {
  ParamStore store(DType::f32, kCpu);
  for (ParamEntry e : entries) {
    e.offset = 0;
    store.declare(std::move(e));
  }
  store.allocate();
  store.initialise(seed);
  return snapshot(store);
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
  const bool any_tie =
      std::any_of(entries.begin(), entries.end(), [](const auto& e) { return e.marks.tie != Tie::none; });
  bool merges = false;
  for (size_t i = 0; i < entries.size(); ++i) {
    ParamEntry& e = entries[i];
    std::vector<int64_t> sizes = e.shape.vector();
    for (size_t a = 0; a < e.axes.size(); ++a) {
      const Axis& axis = e.axes[a];
      const int64_t count = sizes[a] / (axis.parts * axis.unit);
      const auto m = axis.role == Role::none ? std::nullopt : map(axis.role, count);
      if (!m) continue;
      check(m->from == count, "grow", e.name, ": the map is for ", m->from, " ", name_of(axis.role), "; got ", count);
      changes[i].push_back({a, axis, *m, shares(e, axis, any_tie, tied)});
      sizes[a] = axis.parts * m->to() * axis.unit;
      for (const auto& s : m->sources) merges = merges || s.size() > 1;
    }
    e.shape = Shape(sizes);
  }
  check(moments != Moments::exact || !merges, "grow",
        "second moments have no exact map when indices merge; expected moments reset or carry");
  check(moments != Moments::exact || !any_tie || tied != TiedMode::released, "grow",
        "the released treatment of tied embeddings changes the function, so moments have no exact map; expected tied "
        "exact, or moments reset or carry");
  Snapshot to = empty_snapshot(std::move(entries));
  for_each_flat(from, to, moments, [&](const Tensor& a, const Tensor& b, FlatKind kind) {
    for (size_t i = 0; i < to.entries.size(); ++i) {
      const int n = static_cast<int>(i);
      const std::vector<float> values = mapped(from.part(a, n), from.entries[i].shape, changes[i], kind);
      std::copy(values.begin(), values.end(), to.part(b, n).ptr<float>());
    }
  });
  if (moments != Moments::reset) to.steps = from.steps;
  return to;
}

Snapshot split_unequally(const Snapshot& grown, const RoleGroups& groups, uint64_t seed) {
  Snapshot to = grown;
  to.values = grown.values.clone();
  to.moments.clear();
  to.steps.clear();
  const Snapshot random = drawn(grown.entries, seed);
  for (size_t i = 0; i < to.entries.size(); ++i) {
    const ParamEntry& e = to.entries[i];
    for (size_t a = 0; a < e.axes.size(); ++a) {
      const Axis& axis = e.axes[a];
      if (!axis.input || axis.role == Role::none) continue;
      const int64_t count = e.shape[static_cast<int>(a)] / (axis.parts * axis.unit);
      const auto split = groups(axis.role, count);
      if (!split) continue;
      const Strides s = around(e.shape.vector(), a);
      const int64_t unit = axis.unit * s.inner;
      float* values = to.value(static_cast<int>(i)).ptr<float>();
      const float* draws = random.value(static_cast<int>(i)).ptr<float>();
      for (int64_t o = 0; o < s.outer * axis.parts; ++o)
        for (const auto& group : *split)
          for (int64_t u = 0; u < unit; ++u) {
            const auto at = [&](int64_t index) { return (o * count + index) * unit + u; };
            double rest = 0;
            for (const int64_t index : group) rest += static_cast<double>(values[at(index)]);
            for (size_t k = 1; k < group.size(); ++k) {
              values[at(group[k])] = draws[at(group[k])];
              rest -= static_cast<double>(draws[at(group[k])]);
            }
            values[at(group[0])] = static_cast<float>(rest);
          }
    }
  }
  return to;
}

}  // namespace accrete
