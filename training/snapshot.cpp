#include "training/snapshot.h"

#include <cstring>
#include <set>

#include "engine/core/safetensors.h"
#include "training/checkpoint.h"

namespace accrete {
namespace {

// Where entry `index` of the store lies in the snapshot; -1 when it has none. Differences go into `problems`.
std::vector<int> matches(const ParamStore& store, const Snapshot& from, Missing missing) {
  std::vector<int> found;
  std::string problems;
  int count = 0;
  const auto problem = [&](const auto&... words) {
    std::ostringstream text;
    (text << ... << words);
    if (++count <= 20) problems += (count > 1 ? ", " : "") + text.str();
  };
  std::set<std::string_view> used;
  for (const ParamEntry& e : store.entries()) {
    const int i = from.find(e.name);
    found.push_back(i);
    used.insert(e.name);
    if (i < 0 && missing == Missing::refuse) problem("missing ", e.name);
    if (i >= 0 && from.entries[static_cast<size_t>(i)].shape != e.shape)
      problem(e.name, " is ", from.entries[static_cast<size_t>(i)].shape, " instead of ", e.shape);
  }
  for (const ParamEntry& e : from.entries)
    if (!used.contains(e.name)) problem("unexpected ", e.name);
  check(count == 0, "grow", "the weights do not fit the model: ", problems,
        count > 20 ? ", and " + std::to_string(count - 20) + " more" : "");
  return found;
}

}  // namespace

int Snapshot::find(std::string_view name) const {
  for (size_t i = 0; i < entries.size(); ++i)
    if (entries[i].name == name) return static_cast<int>(i);
  return -1;
}

Tensor Snapshot::part(const Tensor& flat, int index) const {
  const ParamEntry& e = entries.at(static_cast<size_t>(index));
  return flat.flat(e.offset, e.count()).view(e.shape);
}

Snapshot empty_snapshot(std::vector<ParamEntry> entries) {
  Snapshot s;
  ParamStore layout(DType::f32, kDry);  // offsets as every store has them
  for (ParamEntry& e : entries) {
    e.offset = 0;
    layout.declare(std::move(e));
  }
  s.entries = layout.entries();
  s.values = Tensor::zeros(Shape{layout.flat_count()});
  return s;
}

Snapshot snapshot(const ParamStore& store, const Optimizer* optimizer) {
  Snapshot s;
  s.entries = store.entries();
  s.values = store.values().to(kCpu);
  if (!optimizer) return s;
  for (const auto& [name, flat] : optimizer->state())
    (optimizer->average(name).defined() ? s.averages : s.moments)[name] = flat.to(kCpu);
  s.steps = optimizer->numbers().at("steps");
  return s;
}

void restore(ParamStore& store, const Snapshot& from, Optimizer* optimizer, Missing missing) {
  const std::vector<int> found = matches(store, from, missing);
  const auto copy = [&](const Tensor& target, const Tensor& source) {
    for (size_t i = 0; i < found.size(); ++i) {
      if (found[i] < 0) continue;
      const ParamEntry& e = store.entries()[i];
      target.flat(e.offset, e.count()).copy_from(from.part(source, found[i]).view(Shape{e.count()}));
    }
  };
  copy(store.values(), from.values);
  store.refresh();
  if (!optimizer) return;
  optimizer->reset_averages();
  for (const auto& [name, flat] : optimizer->state()) {
    const bool average = optimizer->average(name).defined();
    const auto& held = average ? from.averages : from.moments;
    if (const auto it = held.find(name); it != held.end()) copy(flat, it->second);
  }
  if (from.steps.empty() || from.moments.empty()) return;
  std::vector<double> steps(found.size(), 0.0);
  for (size_t i = 0; i < found.size(); ++i)
    if (found[i] >= 0) steps[i] = from.steps[static_cast<size_t>(found[i])];
  optimizer->set_numbers({{"steps", steps}});
}

Snapshot read_snapshot(const std::filesystem::path& checkpoint, const std::vector<ParamEntry>& entries) {
  Snapshot s = empty_snapshot(entries);
  load_flat(checkpoint / "params.safetensors", s.entries, s.values);
  if (std::filesystem::exists(checkpoint / "ema.safetensors")) {
    s.averages["ema"] = Tensor::zeros(s.values.shape());
    load_flat(checkpoint / "ema.safetensors", s.entries, s.averages["ema"]);
  }
  const Safetensors optim = Safetensors::open(checkpoint / "optim.safetensors");
  std::set<std::string> kinds;  // "m" of "m.<first parameter>"
  for (const SafetensorsEntry& e : optim.entries())
    if (!s.entries.empty() && e.name.ends_with("." + s.entries[0].name))
      kinds.insert(e.name.substr(0, e.name.size() - s.entries[0].name.size() - 1));
  for (const std::string& kind : kinds) {
    const Tensor flat = Tensor::zeros(s.values.shape());
    for (const ParamEntry& e : s.entries) {
      const SafetensorsEntry* found = optim.find(kind + "." + e.name);
      check(found && found->dtype == "F32" && found->shape == e.shape.vector(), "checkpoint", checkpoint.string(), ": ",
            kind, ".", e.name, " is missing or has another shape");
      if (found->bytes > 0) std::memcpy(flat.ptr<float>() + e.offset, found->data, found->bytes);
    }
    (kind.starts_with("ema") ? s.averages : s.moments)[kind] = flat;
  }
  if (const SafetensorsEntry* steps = optim.find("steps");
      steps && steps->dtype == "F64" && steps->bytes == s.entries.size() * sizeof(double)) {
    s.steps.resize(s.entries.size());
    std::memcpy(s.steps.data(), steps->data, steps->bytes);
  }
  return s;
}

}  // namespace accrete
