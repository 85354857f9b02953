// What all verbs of growth do alike: the flat buffers of a snapshot that change together. For training/grow*.cpp.
#pragma once

#include "training/grow.h"

namespace accrete {

enum class FlatKind : uint8_t { values, first_moment, second_moment };

// fn(flat before, flat after, kind) for the values, the running averages (which change like values) and, unless they
// are reset, the moments. `to` has its entries; flats are zero before fn fills them.
template <class Fn>
void for_each_flat(const Snapshot& from, Snapshot& to, Moments moments, Fn&& fn) {
  fn(from.values, to.values, FlatKind::values);
  for (const auto& [name, flat] : from.averages) {
    to.averages[name] = Tensor::zeros(to.values.shape());
    fn(flat, to.averages[name], FlatKind::values);
  }
  if (moments == Moments::reset) return;
  for (const auto& [name, flat] : from.moments) {
    to.moments[name] = Tensor::zeros(to.values.shape());
    fn(flat, to.moments[name], name == "v" ? FlatKind::second_moment : FlatKind::first_moment);
  }
}

}  // namespace accrete
