#include "training/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/core/error.h"

namespace accrete {

Schedule::Schedule(const ScheduleConfig& config, const Clock& clock)
    : config_(config), total_(std::max<int64_t>(1, clock.run_steps)) {
  warmup_ = to_steps(config.warmup, clock, "schedule.warmup");
  check(warmup_ <= total_, "config", "schedule.warmup (", warmup_, " steps) is longer than the stage (", total_,
        " steps)");
  if (config.name == "wsd") {
    decay_ = to_steps(config.decay, clock, "schedule.decay");
    check(warmup_ + decay_ <= total_, "config", "schedule.warmup and schedule.decay (", warmup_ + decay_,
          " steps) are longer than the stage (", total_, " steps)");
  }
  for (const std::string& m : config.milestones) milestones_.push_back(to_steps(m, clock, "schedule.milestones"));
}

double Schedule::factor(int64_t t) const {
  if (t < warmup_) return static_cast<double>(t + 1) / static_cast<double>(warmup_ + (config_.warmup_to_peak ? 0 : 1));
  const double f = config_.final_factor;
  const double span = static_cast<double>(std::max<int64_t>(1, total_ - warmup_));
  const double u = std::clamp(static_cast<double>(t - warmup_) / span, 0.0, 1.0);
  if (config_.name == "cosine") return f + (1 - f) * 0.5 * (1 + std::cos(std::numbers::pi * u));
  if (config_.name == "linear") return 1 - (1 - f) * u;
  if (config_.name == "poly") return f + (1 - f) * std::pow(1 - u, config_.power);
  if (config_.name == "wsd") {
    const int64_t begin = total_ - decay_;
    if (t < begin || decay_ == 0) return 1.0;
    const double progress = std::min(1.0, static_cast<double>(t - begin) / static_cast<double>(decay_));
    return f + (1 - f) * (1 - std::sqrt(progress));
  }
  if (config_.name == "step") {
    double factor = 1.0;
    for (const int64_t m : milestones_)
      if (t >= m) factor *= config_.gamma;
    return factor;
  }
  return 1.0;  // constant
}

}  // namespace accrete
