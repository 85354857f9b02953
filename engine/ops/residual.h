// What the ops that end a residual branch share: residual.cpp and norm.cpp.
#pragma once

#include "engine/ops/ops.h"
#include "kernels/residual_branch.h"

namespace accrete::ops {

// Error where the branch or join.scale does not fit x.
void check_join(const char* where, const Tensor& x, const Tensor& branch, const Join& join);
// What a backward function keeps of it: the scale is saved by the tape.
inline Join without_scale(Join join) {
  join.scale = Tensor();
  return join;
}
// For rows of x.
kernels::BranchEnd branch_end(const Join& join, const Tensor& x);
// dbranch = factor * scale * dy;  dscale += sum over rows of factor * dy * branch.   Either may be undefined, branch
// where dscale is.
void residual_branch_backward(const Tensor& dbranch, const Tensor& dscale, const Tensor& dy, const Tensor& branch,
                              const Join& join);

}  // namespace accrete::ops
