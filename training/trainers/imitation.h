// Module imitation: a part of a network learns to compute what a part of another, frozen network computes.
//
//   loss = mean ( residual stream after the part - residual stream of the teacher after its part )^2  + w * task loss
#pragma once

#include <functional>

#include "training/stage.h"

namespace accrete {

struct Imitation {
  Json teacher;  // config of the other network
  std::function<Snapshot(StageStart&)> weights;
  int64_t blocks = 0;      // of the teacher before its stream is compared
  int64_t behind = 0;      // blocks of the stage's network after its part; they do not run for the comparison
  double task_weight = 0;  // w; above 0 the stage's network runs a second time, to its end
};
// The objective of a stage (Stage::objective). The teacher runs without dropout and without gradients.
std::function<LossFn(StageStart&)> imitation(Imitation settings);

}  // namespace accrete
