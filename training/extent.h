// The extent of a sample is what progressive growth changes beside the model: the length of a text, the resolution of
// pictures.
#pragma once

#include "training/recipe.h"

namespace accrete {

int64_t extent(const DataConfig& data);

// Gives the samples another extent. Text: the step keeps its tokens: rows * extent stays, as nearly as whole rows and
// whole micro-batches allow, and no micro-batch holds more tokens than before (memory). Pictures: the step keeps its
// samples, as released; crops stay at the full resolution where the model resizes them (images.resize batch_bilinear).
void set_extent(DataConfig& data, BatchConfig& batch, int64_t extent);

}  // namespace accrete
