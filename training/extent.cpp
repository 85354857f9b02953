#include "training/extent.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"

namespace accrete {

int64_t extent(const DataConfig& data) { return data.pictures() ? data.resolution : data.length; }

void set_extent(DataConfig& data, BatchConfig& batch, int64_t extent) {
  check(extent > 0, "extent", "samples need an extent above 0; got ", extent);
  if (data.pictures()) {
    if (extent == data.resolution) return;
    if (data.images.resize == "batch_bilinear" && data.crop_resolution == 0) data.crop_resolution = data.resolution;
    data.resolution = extent;
    return;
  }
  if (extent == data.length) return;
  const int64_t micro = std::max<int64_t>(1, batch.micro_size() * data.length / extent);
  const double rows = static_cast<double>(batch.size * data.length) / static_cast<double>(extent);
  const int64_t pieces = std::max<int64_t>(1, std::llround(rows / static_cast<double>(micro)));
  data.length = extent;
  batch.size = micro * pieces;
  batch.micro = micro;
}

}  // namespace accrete
