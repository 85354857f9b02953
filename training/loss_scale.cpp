#include "training/loss_scale.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"

namespace accrete {

namespace {
constexpr double kCeiling = 0x1p60;  // far below the end of f32, in which the scale is handed to the device
}

LossScale::LossScale(const LossScaleConfig& config) : config_(config) {
  check(config.initial >= config.floor, "loss scale", "initial is below floor; expected at least ", config.floor,
        "; got ", config.initial);
  now_ = next_ = config.initial;
}

double LossScale::of(int64_t step) const {
  check(step == recorded_ || step == recorded_ + 1, "loss scale", "step ", step, " is asked for after ", recorded_,
        " outcomes; expected ", recorded_, " or ", recorded_ + 1);
  return step == recorded_ ? now_ : next_;
}

LossScale::Outcome LossScale::record(bool finite) {
  // A step that still ran with an older scale says nothing about the present one.
  const double used = now_;
  const bool present = used == next_;
  now_ = next_;
  ++recorded_;
  if (finite) {
    if (present && ++good_ >= config_.interval) {
      next_ = std::min(next_ * config_.growth, kCeiling);
      good_ = 0;
    }
    return Outcome::taken;
  }
  ++skipped_;
  good_ = 0;
  if (used <= config_.floor) return Outcome::failed;
  if (present) next_ = std::max(next_ * config_.backoff, config_.floor);
  return Outcome::skipped;
}

Json LossScale::state() const {
  return Json{{"now", now_}, {"next", next_}, {"good", good_}, {"recorded", recorded_}, {"skipped", skipped_}};
}

void LossScale::restore(const Json& state) {
  const auto number = [&](const char* key) {
    check(state.is_object() && state.contains(key) && state.at(key).is_number(), "checkpoint",
          "the loss scale lacks the number \"", key, "\"");
    const double value = state.at(key).get<double>();
    check(std::isfinite(value) && value >= 0, "checkpoint", "the loss scale's \"", key, "\" is ", value,
          "; expected a positive number");
    return value;
  };
  now_ = number("now");
  next_ = number("next");
  good_ = static_cast<int64_t>(number("good"));
  recorded_ = static_cast<int64_t>(number("recorded"));
  skipped_ = static_cast<int64_t>(number("skipped"));
}

}  // namespace accrete
