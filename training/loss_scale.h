// Loss scaling for training in f16 (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2).
//
// Gradients of activations are often below 2^-24, where f16 ends, while the large half of its range stays unused. So
// the loss is multiplied by a scale before backward, which moves all gradients up, and the finished f32 gradients are
// divided by it. The scale is found by trying: a step whose gradients are not finite is not taken and halves the scale;
// after many good steps it is doubled. Powers of two change no bit of a gradient that fits.
//
// What a step finds out takes effect two steps later: on a GPU the next step is queued before this one's outcome is
// known, and with a fixed distance the same run gives the same numbers on every device and after every resume.
#pragma once

#include <cstdint>

#include "engine/core/config.h"

namespace accrete {

struct LossScaleConfig {
  double initial = 65536;
  double growth = 2;
  double backoff = 0.5;
  int64_t interval = 2000;
  double floor = 1;

  template <class V>
  void fields(V& v) {
    v("initial", initial, "scale of the first step", between(1, 0x1p60));
    v("growth", growth, "the scale is multiplied by this after `interval` good steps; 1: never grows",
      between(1, 1024));
    v("backoff", backoff, "the scale is multiplied by this after a step that is not finite", between(0.001, 0.999));
    v("interval", interval, "good steps in a row before the scale grows", between(1, 1000000000));
    v("floor", floor, "smallest scale; a step that is not finite there ends the run", between(1, 0x1p60));
  }
};

class LossScale {
 public:
  explicit LossScale(const LossScaleConfig& config);

  // The scale of step `step` (from 0). The outcomes of all steps up to step - 2 have been recorded, and at most one
  // more.
  double of(int64_t step) const;

  enum class Outcome : uint8_t {
    taken,    // the step counts
    skipped,  // its gradients were too large for f16: nothing was changed, and the scale shrinks
    failed,   // not finite at the smallest scale: the numbers themselves are at fault
  };
  // Outcome of the next step in order: whether its gradients were all finite.
  Outcome record(bool finite);

  int64_t recorded() const { return recorded_; }  // steps
  int64_t skipped() const { return skipped_; }

  // What a checkpoint keeps. restore throws Error when `state` is not what state() writes.
  Json state() const;
  void restore(const Json& state);

 private:
  LossScaleConfig config_;
  double now_, next_;  // of the steps recorded_ and recorded_ + 1
  int64_t good_ = 0;   // steps in a row with the scale next_
  int64_t recorded_ = 0, skipped_ = 0;
};

}  // namespace accrete
