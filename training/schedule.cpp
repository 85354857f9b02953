#include "training/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/core/error.h"

namespace accrete {

Schedule::Schedule(const ScheduleConfig& config, const Clock& clock)
    : config_(config), steps_per_epoch_(clock.steps_per_epoch), total_(std::max<int64_t>(1, clock.run_steps)) {
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
  if (config_.unit == "step" || steps_per_epoch_ <= 0) return at(static_cast<double>(t));
  // DeiT's loop asks for epoch e after that epoch has run, so that the first two have the first rate.
  double epoch = std::floor((static_cast<double>(t) + 0.5) / steps_per_epoch_);
  if (config_.unit == "deit") epoch = std::max(0.0, epoch - 1);
  return at(epoch * steps_per_epoch_);
}

double Schedule::at(double t) const {
  const auto warmup = static_cast<double>(warmup_);
  // Between steps (an epoch's beginning) t has a fraction; limits are whole steps, met when t rounds to them.
  const double step = std::floor(t + 0.5);
  if (step < warmup) {
    if (config_.warmup_start > 0) return config_.warmup_start + (1 - config_.warmup_start) * t / warmup;
    return (t + 1) / (warmup + (config_.warmup_to_peak ? 0 : 1));
  }
  const double f = config_.final_factor, from = config_.decay_from_start ? 0.0 : warmup;
  const double span = std::max(1.0, static_cast<double>(total_) - from);
  const double u = std::clamp((t - from) / span, 0.0, 1.0);
  if (config_.name == "cosine") return f + (1 - f) * 0.5 * (1 + std::cos(std::numbers::pi * u));
  if (config_.name == "linear") return 1 - (1 - f) * u;
  if (config_.name == "poly") return f + (1 - f) * std::pow(1 - u, config_.power);
  if (config_.name == "wsd") {
    const auto begin = static_cast<double>(total_ - decay_);
    if (t < begin || decay_ == 0) return 1.0;
    const double progress = std::min(1.0, (t - begin) / static_cast<double>(decay_));
    return f + (1 - f) * (1 - std::sqrt(progress));
  }
  if (config_.name == "step") {
    double factor = 1.0;
    for (const int64_t m : milestones_)
      if (step >= static_cast<double>(m)) factor *= config_.gamma;
    return factor;
  }
  return 1.0;  // constant
}

}  // namespace accrete
