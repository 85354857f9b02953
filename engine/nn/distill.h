// Settings of knowledge distillation (DeiT, arXiv 2012.12877; models spec 3.3).
#pragma once

#include <string>

#include "engine/core/config.h"

namespace accrete {

struct DistillConfig {
  std::string teacher;
  std::string type = "hard";
  double alpha = 0.5, tau = 1.0;
  std::string reduction = "deit";

  template <class V>
  void fields(V& v) {
    v("teacher", teacher, "model that teaches: run folder, checkpoint or model folder; empty: no distillation");
    v("type", type, "hard: the teacher's class is a second target; soft: its probabilities are",
      one_of("hard", "soft"));
    v("alpha", alpha, "weight of the distillation loss; 1 - alpha is that of the targets", between(0, 1));
    v("tau", tau, "soft: temperature", above(0));
    v("reduction", reduction, "soft: the mean is over all elements (deit, as released) or over samples (batchmean)",
      one_of("deit", "batchmean"));
  }
};

}  // namespace accrete
