// Learning-rate schedules: the factor in [0, 1] on the peak rate, a pure function of the step.
//
// With t = step (from 0) and w warm-up steps: t < w gives (t + 1) / (w + 1) (nanoGPT's form, never 0), or
// (t + 1) / w with warmup_to_peak. After that, with
// u = (t - w) / (total - w) in [0, 1] and f the final factor:
//   constant  1
//   cosine    f + (1 - f) (1 + cos(pi u)) / 2
//   linear    1 - (1 - f) u
//   poly      f + (1 - f) (1 - u)^power
//   wsd       1, and in the last `decay` steps f + (1 - f) (1 - sqrt(progress))       (warm-up, stable, decay; llm.c's
//   form) step      gamma^(number of passed milestones)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/config.h"
#include "training/duration.h"

namespace accrete {

struct ScheduleConfig {
  std::string name = "cosine";
  std::string warmup = "0st";
  bool warmup_to_peak = false;
  double final_factor = 0.1;
  double power = 1.0;
  std::string decay = "0.2run";
  std::vector<std::string> milestones;
  double gamma = 0.1;

  template <class V>
  void fields(V& v) {
    v("name", name, "shape of the learning rate", one_of("constant", "cosine", "linear", "poly", "wsd", "step"));
    v("warmup", warmup, "linear warm-up, a duration");
    v("warmup_to_peak", warmup_to_peak,
      "the last step of the warm-up has the peak rate, (t + 1) / w; else the next has");
    v("final_factor", final_factor, "last rate as a share of the peak", at_least(0), at_most(1));
    v("power", power, "exponent of poly", above(0));
    v("decay", decay, "length of the final decay of wsd, a duration");
    v("milestones", milestones, "durations from the start at which step multiplies the rate by gamma");
    v("gamma", gamma, "factor of step", above(0), at_most(1));
  }
};

class Schedule {
 public:
  Schedule() = default;
  // `clock.run_steps` must be the length of the stage. Error when the warm-up does not leave a step.
  Schedule(const ScheduleConfig& config, const Clock& clock);
  // Factor on the peak rate for 0-based step t of the stage.
  double factor(int64_t t) const;

 private:
  ScheduleConfig config_;
  int64_t total_ = 1, warmup_ = 0, decay_ = 0;
  std::vector<int64_t> milestones_;
};

}  // namespace accrete
