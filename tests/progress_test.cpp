// The progress line: number formats, what is left out, and what reaches a terminal, a pipe and the log.
#include "training/progress.h"

#include <doctest/doctest.h>

#include <cmath>
#include <sstream>

using namespace accrete;

namespace {

ProgressState full_state() {
  ProgressState s;
  s.step = 1200, s.steps = 93750, s.epoch = 3.84, s.stage = 2, s.stages = 4, s.stage_note = "192px, 8 blocks";
  s.loss = 4.8123, s.grad_norm = 0.912, s.lr = 6.1e-4, s.step_seconds = 0.3121, s.peak_share = 0.412;
  s.rate = 1641.3, s.rate_unit = "img/s", s.eta_seconds = 5 * 3600 + 12 * 60;
  return s;
}

ProgressState at(int step) {
  ProgressState s;
  s.step = step, s.loss = 2;
  return s;
}

}  // namespace

TEST_CASE("the line") {
  CHECK(progress_line(full_state()) ==
        "st 1200/93750  ep 3.84  stage 2/4 (192px, 8 blocks)  loss 4.812  norm 0.91  lr 6.1e-4  312 ms  41% peak  1641 "
        "img/s  "
        "eta 5h12");
  ProgressState whole = full_state();
  whole.plan_eta_seconds = 2 * whole.eta_seconds;
  CHECK(progress_line(whole) == progress_line(full_state()) + ", all " + format_duration(2 * whole.eta_seconds));
  whole.stages = 1;
  CHECK(progress_line(whole).find(", all") == std::string::npos);  // one stage: the same
  CHECK(progress_line({}) == "st 0");
  CHECK(progress_line(at(7)) == "st 7  loss 2.000");
  ProgressState broken = at(7);
  broken.loss = kUnknown;
  CHECK(progress_line(broken) == "st 7  loss nan");
}

TEST_CASE("numbers as a person reads them") {
  CHECK(format_duration(9.4) == "9 s");
  CHECK(format_duration(59.6) == "1m00");
  CHECK(format_duration(245) == "4m05");
  CHECK(format_duration(3600 * 48) == "2d00h");
  CHECK(format_duration(kUnknown) == "?");
  CHECK(format_duration(1e300) == "?");
  CHECK(format_duration(-1) == "?");
  CHECK(format_milliseconds(0.000416) == "0.42 ms");
  CHECK(format_milliseconds(0.009996) == "10 ms");
  CHECK(format_milliseconds(0.9999) == "1.00 s");
  CHECK(format_milliseconds(12.34) == "12.3 s");
  CHECK(format_count(0) == "0");
  CHECK(format_count(1641) == "1641");
  CHECK(format_count(3.14159) == "3.14");
  CHECK(format_count(12345) == "12.3k");
  CHECK(format_count(999'950) == "1.00M");
  CHECK(format_count(124'475'904) == "124M");
  CHECK(format_bytes(512) == "512 B");
  CHECK(format_bytes(1.5e6) == "1.50 MB");
  CHECK(format_flops(1.449e15) == "1.45 PFLOP");
  CHECK(format_rate(0.00061) == "6.1e-4");
  CHECK(format_rate(0.1) == "0.1");
  CHECK(format_rate(0) == "0");
  CHECK(format_rate(2e-12) == "2.0e-12");
  CHECK(format_loss(10.8249) == "10.82");
  CHECK(format_loss(0.03124) == "0.0312");
  CHECK(format_loss(1e-9) == "1.000e-09");
  CHECK(format_loss(-HUGE_VAL) == "-inf");
}

TEST_CASE("cutting to the width of the terminal keeps characters whole") {
  CHECK(fit_width("hello", 0) == "hello");
  CHECK(fit_width("hello", 5) == "hello");
  CHECK(fit_width("hello", 4) == "hel\u2026");
  CHECK(fit_width("h\u00e9\u00e9\u00e9o", 5) == "h\u00e9\u00e9\u00e9o");
  CHECK(fit_width("h\u00e9\u00e9\u00e9o", 3) == "h\u00e9\u2026");
}

TEST_CASE("a terminal has one line that is redrawn, and messages above it") {
  std::ostringstream screen, log;
  Progress::Options options;
  options.tty = true, options.log = &log;
  {
    Progress progress(screen, options);
    progress.update(at(1), 0);
    progress.update(at(2), 0.05);  // too soon
    progress.print("eval");
    progress.update(at(3), 0.2);
    progress.update(at(4), 0.25);
  }
  const std::string erase = "\r\x1b[K", one = "st 1  loss 2.000", three = "st 3  loss 2.000", four = "st 4  loss 2.000";
  CHECK(screen.str() == one + erase + "eval\n" + one + erase + three + erase + four + "\n");
  CHECK(log.str() == one + "\neval\n" + four + "\n");
}

TEST_CASE("elsewhere plain lines come every few seconds and the last one always") {
  std::ostringstream screen;
  Progress progress(screen, {});
  for (int second = 0; second <= 12; ++second) progress.update(at(second + 1), second);
  progress.finish();
  progress.finish();
  CHECK(screen.str() == "st 1  loss 2.000\nst 6  loss 2.000\nst 11  loss 2.000\nst 13  loss 2.000\n");
}

TEST_CASE("quiet keeps the screen empty but not the log") {
  std::ostringstream screen, log;
  Progress::Options options;
  options.quiet = true, options.log = &log;
  Progress progress(screen, options);
  progress.update(at(1), 0);
  progress.print("message");
  progress.finish();
  CHECK(screen.str().empty());
  CHECK(log.str() == "st 1  loss 2.000\nmessage\n");
}
