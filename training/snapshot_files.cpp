#include "training/snapshot_files.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "engine/core/device.h"

namespace accrete {
namespace {

constexpr int64_t kTile = 1 << 14;

}  // namespace

SnapshotFiles::SnapshotFiles(std::vector<std::filesystem::path> files, std::vector<ParamEntry> entries)
    : entries_(std::move(entries)) {
  if (!entries_.empty()) flat_count_ = entries_.back().offset + entries_.back().count();
  std::ostringstream problems;
  int found = 0;
  const auto problem = [&]() -> std::ostream& { return problems << (found++ ? ", " : ""); };
  for (const auto& path : files) {
    const Safetensors& file = files_.emplace_back(Safetensors::open(path));
    std::vector<const std::byte*>& data = data_.emplace_back();
    for (const ParamEntry& e : entries_) {
      const SafetensorsEntry* t = file.find(e.name);
      data.push_back(t ? t->data : nullptr);
      if (!t)
        problem() << path.string() << " lacks " << e.name;
      else if (t->dtype != "F32" || t->shape != e.shape.vector())
        problem() << e.name << " of " << path.string() << " is " << t->dtype << " " << Shape(t->shape)
                  << " instead of F32 " << e.shape;
      if (found >= 20) break;
    }
    if (file.entries().size() > entries_.size())
      problem() << path.string() << " has " << file.entries().size() << " tensors instead of " << entries_.size();
    check(found < 20, "snapshots", "the weights do not fit the model: ", problems.str(), ", ...");
  }
  check(found == 0, "snapshots", "the weights do not fit the model: ", problems.str());
}

void SnapshotFiles::read(int i, int64_t begin, int64_t n, float* out) const {
  const auto& data = data_.at(static_cast<size_t>(i));
  const auto after = [](int64_t at, const ParamEntry& e) { return at < e.offset + e.count(); };
  auto e = std::upper_bound(entries_.begin(), entries_.end(), begin, after);  // the first that ends behind `begin`
  for (const int64_t end = begin + n; begin < end;) {
    const int64_t next = e == entries_.end() ? end : std::min(end, e->offset);
    if (begin < next) {
      std::fill(out, out + (next - begin), 0.0f);
      out += next - begin, begin = next;
      continue;
    }
    const int64_t inside = begin - e->offset, part = std::min(end - begin, e->count() - inside);
    std::memcpy(out, data[static_cast<size_t>(e - entries_.begin())] + inside * 4, static_cast<size_t>(part) * 4);
    out += part, begin += part;
    ++e;
  }
}

void SnapshotFiles::read(int i, const Tensor& out) const {
  out.zero();
  read(i, 0, flat_count_, out.ptr<float>());
}

void SnapshotFiles::mean(std::span<const int> which, const Tensor& out) const {
  check(!which.empty(), "snapshots", "the mean of no snapshot");
  out.zero();
  float* result = out.ptr<float>();
  const int64_t tiles = (flat_count_ + kTile - 1) / kTile;
#pragma omp parallel for num_threads(cpu_context().threads) schedule(static)
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = t * kTile, n = std::min(kTile, flat_count_ - begin);
    std::vector<float> tile(static_cast<size_t>(n));
    std::vector<double> sum(static_cast<size_t>(n), 0.0);
    for (const int i : which) {
      read(i, begin, n, tile.data());
      for (size_t k = 0; k < tile.size(); ++k) sum[k] += static_cast<double>(tile[k]);
    }
    for (size_t k = 0; k < tile.size(); ++k)
      result[begin + static_cast<int64_t>(k)] = static_cast<float>(sum[k] / static_cast<double>(which.size()));
  }
}

}  // namespace accrete
