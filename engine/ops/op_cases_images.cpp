// Rows of the op table for grids of features: convolution and its norm, the ops of VOLO.
#include "engine/ops/images.h"
#include "engine/ops/op_rows.h"

namespace accrete::ops {

void add_image_rows(std::vector<OpRow>&) {}

}  // namespace accrete::ops
