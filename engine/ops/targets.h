// What losses ask of their targets.
#pragma once

#include "engine/core/tensor.h"

namespace accrete::ops {

// Error unless targets are `rows` i32 on `device`, and, where host code can see them, each below `classes`. (On a
// device a target beyond the classes makes the loss NaN. Negative targets are not counted.)
void check_targets(const char* where, const Tensor& targets, int64_t rows, int64_t classes, Device device);

}  // namespace accrete::ops
