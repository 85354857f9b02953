// The speed of one op on a device whose work is queued.
#pragma once

#include "engine/ops/op_cases.h"

namespace accrete {

// Times the speed case of a row with `tokens` rows of activations, a multiple of 1024, where the table has 1024; spends
// about `seconds` on each direction. Launches are recorded and replayed where the op allows it, so that the host hardly
// counts; backward is the time of both directions less that of forward. Medians; 0 where there is no gradient.
ops::OpSpeed measure_op_queued(const ops::OpRow& row, DType dtype, Device device, int64_t tokens, double seconds);

}  // namespace accrete
