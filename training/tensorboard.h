// TensorBoard event files with scalars. The format is a few dozen bytes of protobuf in checksummed records:
//
//   u64 length | u32 masked CRC-32C of the length | Event | u32 masked CRC-32C of the Event          (little-endian)
//   Event { 1 wall_time: double, 2 step: int64, 3 file_version: text, 5 summary, 7 session_log }
//   summary { 1 value { 1 tag: text, 2 simple_value: float } }      session_log { 1 status: 1 = start }
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "engine/core/config.h"
#include "engine/core/file.h"

namespace accrete {

// The bytes, for EventWriter and for tests.
std::string event_record(std::string_view event);
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, int64_t step, std::string_view tag, float value);
std::string restart_event(double wall_time, int64_t step);  // tells the reader to forget values at `step` and later

// One event file in `folder` (made if missing). A resumed run makes another file there: give the first step that will
// happen again, and the values that the interrupted run wrote from there on disappear from the curves.
class EventWriter {
 public:
  // wall_time: unix seconds.
  EventWriter(const std::filesystem::path& folder, double wall_time, std::optional<int64_t> resumed_at = {});

  void scalar(std::string_view tag, double value, int64_t step, double wall_time);
  // The numbers of a metrics event: "step" events as train/loss, train/lr, ...; "eval" events as valid/loss, ... by
  // their split.
  void add(const Json& event, double wall_time);

 private:
  AppendFile file_;
};

}  // namespace accrete
