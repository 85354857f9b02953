#include "training/extent.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"

namespace accrete {

int64_t extent(const DataConfig& data) { return data.length; }

void set_extent(DataConfig& data, BatchConfig& batch, int64_t extent) {
  check(extent > 0, "extent", "samples need an extent above 0; got ", extent);
  if (extent == data.length) return;
  const int64_t micro = std::max<int64_t>(1, batch.micro_size() * data.length / extent);
  const double rows = static_cast<double>(batch.size * data.length) / static_cast<double>(extent);
  const int64_t pieces = std::max<int64_t>(1, std::llround(rows / static_cast<double>(micro)));
  data.length = extent;
  batch.size = micro * pieces;
  batch.micro = micro;
}

}  // namespace accrete
