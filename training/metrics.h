// metrics.jsonl: what a run measured, one JSON object a line, each with an "event" (step, eval, stage_start, stage_end,
// run_end, ...). Numbers that JSON cannot hold are the texts "nan", "inf" and "-inf".
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/core/config.h"
#include "engine/core/file.h"

namespace accrete {

// Appends to the file; a line is with the system when write() returns.
// A run that goes on from a checkpoint hands in the position that it stored there: everything written after the
// checkpoint is dropped, because those steps happen again. A file shorter than that (lost in a crash) is cut at its
// last complete line.
class MetricsWriter {
 public:
  explicit MetricsWriter(const std::filesystem::path& path, uint64_t keep = ~uint64_t{0});

  void write(const Json& event);  // an object with the text "event"
  uint64_t position() const { return file_.position(); }

 private:
  AppendFile file_;
};

// One line of the file, with its newline.
std::string metrics_line(const Json& event);

// The value of a metric: a number, or NaN / infinity written as text; NaN when the key is absent or something else.
double metric(const Json& event, const std::string& key);

// A text of an event; `otherwise` when the key is absent or no text.
std::string event_text(const Json& event, const std::string& key, const std::string& otherwise);

// All events of a file. An incomplete last line (the run was killed, or is writing it) is ignored; any other bad line
// is an Error.
std::vector<Json> read_metrics(const std::filesystem::path& path);

}  // namespace accrete
