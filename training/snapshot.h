// Snapshot: weights outside of a model, and what the optimizer knows of them. Growth verbs (training/grow.h) turn
// snapshots into snapshots; stages begin from them; checkpoints are read as them.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/nn/params.h"
#include "training/optimizer.h"

namespace accrete {

// All tensors are in host memory: flat f32 buffers with the offsets of `entries`.
struct Snapshot {
  std::vector<ParamEntry> entries;
  Tensor values;
  std::map<std::string, Tensor> averages;  // running averages of the values: "ema", ...
  std::map<std::string, Tensor> moments;   // "m", "v", "momentum"; empty: the optimizer starts anew
  std::vector<double> steps;               // optimizer steps behind the moments, one number for each entry; or empty

  int find(std::string_view name) const;  // -1 when absent
  // One entry of a flat buffer, in its shape; shares memory. The second form: of the values.
  Tensor part(const Tensor& flat, int index) const;
  Tensor value(int index) const { return part(values, index); }
  int64_t flat_count() const { return values.defined() ? values.count() : 0; }
};

// A snapshot without values for a list of entries: offsets are set, `values` is zero.
Snapshot empty_snapshot(std::vector<ParamEntry> entries);

// Copies of everything; without optimizer: of the values only.
Snapshot snapshot(const ParamStore& store, const Optimizer* optimizer = nullptr);

// The store computes with other values in this scope: an average, a candidate. They are flat, in the store's layout.
class WithValues {
 public:
  WithValues(ParamStore& store, const Tensor& values) : store_(store), kept_(store.values().clone()) { set(values); }
  ~WithValues() { set(kept_); }
  WithValues(const WithValues&) = delete;
  WithValues& operator=(const WithValues&) = delete;

 private:
  void set(const Tensor& values) {
    store_.values().copy_from(values);
    store_.refresh();
  }
  ParamStore& store_;
  Tensor kept_;
};

enum class Missing : uint8_t { refuse, keep };
// Sets the store (and, where given, the optimizer: averages and moments; an average that the snapshot lacks starts from
// the values, moments that it lacks stay zero). Names and shapes must agree; all that do not are listed in one Error.
// Missing::keep leaves parameters that the snapshot lacks as they are.
void restore(ParamStore& store, const Snapshot& from, Optimizer* optimizer = nullptr,
             Missing missing = Missing::refuse);

// Reads a checkpoint folder (params, and optim and ema where present) for a model with these entries.
Snapshot read_snapshot(const std::filesystem::path& checkpoint, const std::vector<ParamEntry>& entries);

}  // namespace accrete
