#include "training/duration.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/core/error.h"

namespace accrete {

Duration parse_duration(std::string_view text, std::string_view key) {
  Duration d;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), d.value);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  const bool number = error == std::errc() && std::isfinite(d.value) && d.value >= 0 && d.value <= 1e15;
  if (unit == "st")
    d.unit = Duration::Unit::steps;
  else if (unit == "ep")
    d.unit = Duration::Unit::epochs;
  else if (unit == "run")
    d.unit = Duration::Unit::run;
  else if (unit == "tok")
    d.unit = Duration::Unit::tokens;
  else
    fail("config", "\"", key, "\" needs a unit; expected like 5000st, 3ep, 2e6tok or 0.25run; got \"", text, "\"");
  check(number, "config", "\"", key, "\" is not a duration; expected like 5000st, 3ep, 2e6tok or 0.25run; got \"", text,
        "\"");
  return d;
}

int64_t to_steps(const Duration& d, const Clock& clock, std::string_view key) {
  double steps = 0;
  switch (d.unit) {
    case Duration::Unit::steps:
      steps = d.value;
      break;
    case Duration::Unit::epochs:
      steps = d.value * clock.steps_per_epoch;
      break;
    case Duration::Unit::tokens:
      check(clock.tokens_per_step > 0, "config", "\"", key, "\" is given in tokens, which this data does not count");
      steps = d.value / clock.tokens_per_step;
      break;
    case Duration::Unit::run:
      check(clock.run_steps > 0, "config", "\"", key, "\" cannot be a share of the run; expected st, ep or tok");
      steps = d.value * static_cast<double>(clock.run_steps);
      break;
  }
  check(steps < 1e15, "config", "\"", key, "\" is too long");
  return steps > 0 ? std::max<int64_t>(1, std::llround(steps)) : 0;
}

}  // namespace accrete
