// Learning-rate schedules: the factor in [0, 1] on the peak rate, a pure function of the step.
//
// With t = step (from 0) and w warm-up steps: t < w gives (t + 1) / (w + 1) (nanoGPT's form, never 0), or
// (t + 1) / w with warmup_to_peak, or s + (1 - s) t / w with warmup_start = s > 0. After that, with
// u = (t - w) / (total - w) in [0, 1], or u = t / total with decay_from_start, and f the final factor:
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
  double warmup_start = 0;
  bool decay_from_start = false;
  std::string unit = "step";
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
    v("warmup_start", warmup_start, "above 0: the warm-up is a line from this share of the peak (DeiT: 0.001)",
      between(0, 1));
    v("decay_from_start", decay_from_start,
      "cosine, linear and poly count from the first step and the warm-up lies over their beginning (timm, DeiT)");
    v("unit", unit,
      "how often the rate changes: at every step, once an epoch, or (deit) as DeiT's code does it, once an epoch with "
      "the rate of the epoch before",
      one_of("step", "epoch", "deit"));
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
  double at(double t) const;  // t may lie between steps

  double steps_per_epoch_ = 0;
  int64_t total_ = 1, warmup_ = 0, decay_ = 0;
  std::vector<int64_t> milestones_;
};

}  // namespace accrete
