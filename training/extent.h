// The extent of a sample is what progressive growth changes beside the model: the length of a text. (For images it is
// their resolution.)
#pragma once

#include "training/recipe.h"

namespace accrete {

int64_t extent(const DataConfig& data);

// Gives the samples another extent and the step as many tokens as before: rows * extent stays, as nearly as whole rows
// and whole micro-batches allow, and no micro-batch holds more tokens than before (memory).
void set_extent(DataConfig& data, BatchConfig& batch, int64_t extent);

}  // namespace accrete
