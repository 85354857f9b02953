// Observers that every run has: metrics.jsonl and TensorBoard, the progress line, and the page report.html at the end.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>

#include "training/events.h"
#include "training/metrics.h"
#include "training/progress.h"
#include "training/tensorboard.h"

namespace accrete {

// Writes RUN/metrics.jsonl and RUN/tb/. `keep`: bytes of an earlier metrics.jsonl that stay (from the checkpoint).
class MetricsRecorder : public Observer {
 public:
  MetricsRecorder(const std::filesystem::path& run, uint64_t keep, int64_t resumed_step);
  void on(Event event, const LoopView& view) override;
  uint64_t position() const { return metrics_.position(); }

 private:
  void write(const Json& event);
  void write_notes(const LoopView& view);

  MetricsWriter metrics_;
  EventWriter curves_;
};

// The line on the terminal, and RUN/log.txt.
class ProgressRecorder : public Observer {
 public:
  // stage_flops: predicted for each stage of the plan, for the remaining time of all; empty: unknown.
  ProgressRecorder(const std::filesystem::path& run, bool quiet, std::vector<double> stage_flops = {});
  void on(Event event, const LoopView& view) override;
  void print(const std::string& line) { progress_.print(line); }
  void finish() { progress_.finish(); }

 private:
  std::ofstream log_;
  Progress progress_;
  std::vector<double> stage_flops_;
  double smooth_seconds_ = 0;  // of a step, for a steady estimate of the remaining time
  double waited_ = 0;          // for data, in such a step
};

// One line about what a plan decided: "growth: from 4, to 8, ...".
std::string note_text(const Json& note);

// "4 blocks, width 192, length 256": what a person wants to know of a stage.
std::string stage_note(const Stage& stage);

}  // namespace accrete
