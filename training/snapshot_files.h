// Many snapshots of one model, read from their files piece by piece, so that memory does not grow with their number.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "engine/core/safetensors.h"
#include "engine/core/tensor.h"
#include "engine/nn/params.h"

namespace accrete {

class SnapshotFiles {
 public:
  // Files with one F32 tensor for each entry: snapshots of a run, or params.safetensors of checkpoints. All are mapped;
  // what is missing or has another shape is named in one Error.
  SnapshotFiles(std::vector<std::filesystem::path> files, std::vector<ParamEntry> entries);

  int count() const { return static_cast<int>(files_.size()); }
  const std::vector<ParamEntry>& entries() const { return entries_; }
  int64_t flat_count() const { return flat_count_; }  // up to the end of the last entry
  // Elements [begin, begin + n) of the flat buffer of snapshot i; the padding between entries reads as zero.
  void read(int i, int64_t begin, int64_t n, float* out) const;
  // A whole snapshot -> out: the store's flat buffer on the host.
  void read(int i, const Tensor& out) const;
  // The mean of some of them, summed in f64 in the order given, rounded once -> out: as above.
  void mean(std::span<const int> which, const Tensor& out) const;

 private:
  std::vector<Safetensors> files_;
  std::vector<ParamEntry> entries_;
  std::vector<std::vector<const std::byte*>> data_;  // of each file, of each entry
  int64_t flat_count_ = 0;
};

}  // namespace accrete
