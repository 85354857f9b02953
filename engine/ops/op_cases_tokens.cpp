// Rows of the op table for sequences of tokens, soft targets and what goes into a vision transformer: images,
// patches, tables of positions.
#include "engine/ops/images.h"
#include "engine/ops/op_rows.h"

namespace accrete::ops {

void add_token_rows(std::vector<OpRow>&) {}

}  // namespace accrete::ops
