// What a person sees while a run goes on: one line that is redrawn on a terminal, a plain line every few seconds
// elsewhere.
//
//   st 1200/93750  ep 3.8  stage 2/4 (192px, 8 blocks)  loss 4.812  norm 0.91  lr 6.1e-4  312 ms  41% peak  1641 tok/s
//   eta 2h10, all 5h12
#pragma once

#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>

namespace accrete {

// ---- numbers as a person reads them; pure
// -----------------------------------------------------------------------------
std::string format_duration(
    double seconds);  // "9 s", "4m05", "5h12", "3d07h"; "?" when unknown (NaN, negative, infinite)
std::string format_milliseconds(double seconds);  // "0.42 ms", "31 ms", "2.4 s"
std::string format_count(double value);           // "1641", "12.3k", "4.56M", "1.24G"
std::string format_bytes(double bytes);           // "512 B", "1.50 MB" (10^6), "12.0 GB"
std::string format_flops(double flops);           // "3.20 GFLOP", "1.45 PFLOP"
std::string format_rate(double lr);               // a learning rate: "6.1e-4", "0.1", "0"
std::string format_loss(double loss);             // four digits: "4.812", "0.0312", "nan"
// A value of a measure by its name: "99.30 %" of top-1 and top-5, else as a loss.
std::string format_measure(const std::string& name, double value);

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

// Parts that are unknown (NaN, or stages == 1 without a note) are left out of the line.
struct ProgressState {
  int64_t step = 0, steps = 0;  // finished, planned (0: unknown)
  double epoch = kUnknown;
  int stage = 1, stages = 1;  // from 1
  std::string stage_note;     // "192px, 8 blocks"
  double loss = kUnknown, grad_norm = kUnknown, lr = kUnknown;
  double step_seconds = kUnknown;
  double peak_share = kUnknown;  // achieved FLOP/s over the measured ceiling, 0..1
  double data_share = kUnknown;  // of the step that was spent waiting for data, 0..1; shown from 1 % on
  double rate = kUnknown;
  std::string rate_unit = "tok/s";
  double eta_seconds = kUnknown;       // of the stage
  double plan_eta_seconds = kUnknown;  // of all stages; shown where there are several
};

std::string progress_line(const ProgressState& state);

// Cuts at `width` characters and marks the cut; UTF-8 characters stay whole.
std::string fit_width(std::string_view line, size_t width);

// ---- the screen
// ------------------------------------------------------------------------------------------------------- All output of
// a run goes through one Progress, so that messages and the redrawn line do not tear each other.
class Progress {
 public:
  struct Options {
    bool tty = false;             // redraw one line; else plain lines
    bool quiet = false;           // the screen stays empty; the log does not
    size_t width = 0;             // of the terminal; 0: do not cut
    double redraw_s = 0.1;        // on a terminal
    double plain_s = 5;           // between plain lines
    double log_s = 30;            // between progress lines in the log
    std::ostream* log = nullptr;  // RUN/log.txt
  };
  Progress(std::ostream& screen, const Options& options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Shows the state when a redraw is due. now_s: any steady clock, in seconds.
  void update(const ProgressState& state, double now_s);
  // A permanent line (evaluation, stage change, warning), on the screen and in the log.
  void print(std::string_view line);
  // The last state stays on the screen, whether it was due or not.
  void finish();

 private:
  void clear_line();
  void put_line(std::ostream& out, std::string_view line);

  std::ostream& screen_;
  Options options_;
  std::string drawn_, latest_;               // on the terminal now; the newest, drawn or not
  bool on_screen_ = false, in_log_ = false;  // whether latest_ stands there for good
  double drawn_s_, logged_s_;
};

// Options for standard error: whether it is a terminal, and its width.
Progress::Options terminal_options();

}  // namespace accrete
