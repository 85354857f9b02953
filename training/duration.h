// Durations with units: "5000st" (optimizer steps), "3ep" (epochs), "0.25run" (share of the run), "2e9tok" (tokens).
// A bare number has no meaning and is refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace accrete {

struct Duration {
  enum class Unit : uint8_t { steps, epochs, run, tokens } unit = Unit::steps;
  double value = 0;
};

// Error names `key` when the text is not a duration.
Duration parse_duration(std::string_view text, std::string_view key);

// What a duration is measured against.
struct Clock {
  double steps_per_epoch = 0;
  double tokens_per_step = 0;
  int64_t run_steps = 0;  // length of the whole run; 0 while it is not known ("run" is then refused)
};
// Rounded to whole steps. 0 stays 0; anything above 0 is at least 1.
int64_t to_steps(const Duration& d, const Clock& clock, std::string_view key);
inline int64_t to_steps(std::string_view text, const Clock& clock, std::string_view key) {
  return to_steps(parse_duration(text, key), clock, key);
}

}  // namespace accrete
