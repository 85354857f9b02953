// Position tables of another length or grid (autoprog spec 4).
#include <algorithm>

#include "engine/ops/images.h"
#include "training/grow_flats.h"

namespace accrete {
namespace {

// Row i of the result is a weighted sum of rows of the table.
using Taps = std::vector<std::vector<std::pair<int64_t, float>>>;

// Half-pixel centres (align_corners = false).
Taps linear_taps(int64_t from, int64_t to) {
  Taps taps(static_cast<size_t>(to));
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to);
    const double x = std::max(0.0, center - 0.5);
    const int64_t low = std::min(static_cast<int64_t>(x), from - 1), high = std::min(low + 1, from - 1);
    const auto t = static_cast<float>(x - static_cast<double>(low));
    taps[static_cast<size_t>(i)] = {{low, 1.0f - t}, {high, t}};
  }
  return taps;
}

// The table along one axis: `outer` x rows x `inner`. Rows that no tap list covers do not exist in the result.
std::vector<float> resampled(const std::vector<float>& in, const Taps& taps, int64_t outer, int64_t inner) {
  const auto to = static_cast<int64_t>(taps.size());
  const int64_t from = static_cast<int64_t>(in.size()) / (outer * inner);
  std::vector<float> out(static_cast<size_t>(outer * to * inner), 0.0f);
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < to; ++i)
      for (const auto& [row, weight] : taps[static_cast<size_t>(i)]) {
        const float* x = in.data() + (o * from + row) * inner;
        float* y = out.data() + (o * to + i) * inner;
        for (int64_t u = 0; u < inner; ++u) y[u] += weight * x[u];
      }
  return out;
}

// The axis of positions of an entry; -1: it is no table of positions.
int grid_axis(const ParamEntry& e) {
  for (size_t a = 0; a < e.axes.size(); ++a)
    if (e.axes[a].role == Role::grid) return static_cast<int>(a);
  return -1;
}

// All tables with `rows` rows in place of what they had: fn(values, outer, inner) gives the new values.
template <class Fn>
Snapshot with_tables(const Snapshot& from, int64_t rows, Moments moments, Fn&& fn) {
  std::vector<ParamEntry> entries = from.entries;
  bool any = false;
  for (ParamEntry& e : entries) {
    const int axis = grid_axis(e);
    if (axis < 0) continue;
    any = true;
    std::vector<int64_t> sizes = e.shape.vector();
    sizes[static_cast<size_t>(axis)] = rows;
    e.shape = Shape(sizes);
  }
  check(any, "grow", "the model has no table of positions to resize");
  Snapshot to = empty_snapshot(std::move(entries));
  for_each_flat(from, to, moments, [&](const Tensor& a, const Tensor& b, FlatKind) {
    for (size_t i = 0; i < to.entries.size(); ++i) {
      const ParamEntry& e = from.entries[i];
      const int axis = grid_axis(e), n = static_cast<int>(i);
      if (axis < 0) {
        to.part(b, n).copy_from(from.part(a, n));
        continue;
      }
      int64_t outer = 1, inner = 1;
      for (int d = 0; d < axis; ++d) outer *= e.shape[d];
      for (int d = axis + 1; d < e.shape.rank(); ++d) inner *= e.shape[d];
      const std::vector<float> values = fn(from.part(a, n).to_vector<float>(), outer, inner);
      std::copy(values.begin(), values.end(), to.part(b, n).ptr<float>());
    }
  });
  if (moments != Moments::reset) to.steps = from.steps;
  return to;
}

void check_rows(const Snapshot& from, int64_t rows) {
  for (const ParamEntry& e : from.entries)
    if (const int axis = grid_axis(e); axis >= 0)
      check(e.shape[axis] == rows, "grow", e.name, " has ", e.shape[axis], " positions; expected ", rows);
}

}  // namespace

Snapshot resize_sequence(const Snapshot& from, int64_t length, SequenceResize how) {
  check(length > 0, "grow", "a table of ", length, " positions; expected at least one");
  const auto rows_of = [](size_t values, int64_t outer, int64_t inner) {
    return static_cast<int64_t>(values) / (outer * inner);
  };
  if (how == SequenceResize::linear)
    return with_tables(from, length, Moments::reset, [&](std::vector<float> v, int64_t outer, int64_t inner) {
      const int64_t rows = rows_of(v.size(), outer, inner);
      return rows == length ? v : resampled(v, linear_taps(rows, length), outer, inner);
    });
  Taps prefix(static_cast<size_t>(length));
  for (int64_t i = 0; i < length; ++i) prefix[static_cast<size_t>(i)] = {{i, 1.0f}};
  return with_tables(from, length, Moments::carry, [&](const std::vector<float>& v, int64_t outer, int64_t inner) {
    const int64_t rows = rows_of(v.size(), outer, inner);
    check(length <= rows, "grow", "a table of ", rows, " positions has no first ", length, "; expected at most ", rows,
          ", or linear interpolation");
    return resampled(v, prefix, outer, inner);
  });
}

Snapshot resize_grid(const Snapshot& from, const Grid& before, const Grid& after, double offset) {
  check(before.extra == after.extra, "grow", "special tokens stay; got ", before.extra, " and ", after.extra);
  check(after.h > 0 && after.w > 0 && before.h > 0 && before.w > 0, "grow", "a grid without cells");
  check_rows(from, before.extra + before.h * before.w);
  if (before.h == after.h && before.w == after.w) return from;  // no resampling, whatever the offset
  const ops::GridSize old_grid{before.h, before.w}, new_grid{after.h, after.w};
  const int64_t extra = before.extra, old_rows = extra + old_grid.count();
  return with_tables(
      from, extra + new_grid.count(), Moments::reset, [&](const std::vector<float>& v, int64_t outer, int64_t inner) {
        std::vector<float> all;
        for (int64_t o = 0; o < outer; ++o) {
          const auto table = v.begin() + o * old_rows * inner;
          const Tensor old = Tensor::from<float>({table, table + old_rows * inner}, Shape{old_rows, inner});
          const auto values = ops::resample_grid(old, extra, old_grid, new_grid, offset).to_vector<float>();
          all.insert(all.end(), values.begin(), values.end());
        }
        return all;
      });
}

}  // namespace accrete
