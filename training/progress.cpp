#include "training/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace accrete {
namespace {

template <class... Values>
std::string text(const char* format, Values... values) {
  char buffer[128];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

// Three significant digits, without an exponent for 0.001 <= value < 1000.
std::string three_digits(double value) {
  if (value >= 100) return text("%.0f", value);
  return value >= 10 ? text("%.1f", value) : text("%.2f", value);
}

// 1234567 with {"", "k", "M"} -> "1.23M". The unit is chosen after rounding, so 999.9e3 is 1.00M and not 1000k.
std::string with_unit(double value, std::initializer_list<const char*> units) {
  auto unit = units.begin();
  while (std::abs(value) >= 999.5 && unit + 1 != units.end()) value /= 1000, ++unit;
  return three_digits(value) + *unit;
}

bool known(double value) { return !std::isnan(value); }

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e11) return "?";
  const long long s = std::llround(seconds), m = s / 60, h = m / 60;
  if (s < 60) return text("%lld s", s);
  if (m < 60) return text("%lldm%02lld", m, s % 60);
  if (h < 48) return text("%lldh%02lld", h, m % 60);
  return text("%lldd%02lldh", h / 24, h % 24);
}

std::string format_milliseconds(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  const double ms = seconds * 1000;
  if (ms >= 9999.5) return text("%.1f s", seconds);
  if (ms >= 999.5) return text("%.2f s", seconds);
  return ms >= 9.995 ? text("%.0f ms", ms) : text("%.2f ms", ms);
}

std::string format_count(double value) {
  if (!std::isfinite(value)) return "?";
  if (std::abs(value) < 9999.5)
    return value == std::floor(value) || std::abs(value) >= 99.5 ? text("%.0f", value) : three_digits(value);
  return with_unit(value, {"", "k", "M", "G", "T"});
}

std::string format_bytes(double bytes) {
  if (!std::isfinite(bytes)) return "?";
  return bytes < 999.5 ? text("%.0f B", bytes) : with_unit(bytes, {" B", " kB", " MB", " GB", " TB"});
}

std::string format_flops(double flops) {
  if (!std::isfinite(flops)) return "?";
  return with_unit(flops, {" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP", " EFLOP", " ZFLOP"});
}

std::string format_rate(double lr) {
  if (!std::isfinite(lr)) return "?";
  if (lr == 0) return "0";
  if (std::abs(lr) >= 0.01) return text("%.3g", lr);
  std::string out = text("%.1e", lr);  // "6.1e-04"
  if (const size_t zero = out.find("e-0"); zero != std::string::npos) out.erase(zero + 2, 1);
  return out;
}

std::string format_loss(double loss) {
  if (std::isnan(loss)) return "nan";
  if (std::isinf(loss)) return loss > 0 ? "inf" : "-inf";
  const double size = std::abs(loss);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return text("%.3e", loss);
  return size >= 1 || size == 0 ? text("%.*f",
                                       size >= 1000  ? 0
                                       : size >= 100 ? 1
                                       : size >= 10  ? 2
                                                     : 3,
                                       loss)
                                : text("%.4f", loss);
}

std::string format_measure(const std::string& name, double value) {
  return name.find("top") != std::string::npos ? text("%.2f %%", 100 * value) : format_loss(value);
}

std::string progress_line(const ProgressState& s) {
  std::string line = "st " + std::to_string(s.step) + (s.steps > 0 ? "/" + std::to_string(s.steps) : "");
  if (known(s.epoch)) line += text("  ep %.*f", s.epoch < 10 ? 2 : 1, s.epoch);
  if (s.stages > 1) line += text("  stage %d/%d", s.stage, s.stages);
  if (!s.stage_note.empty()) line += (s.stages > 1 ? " (" : "  (") + s.stage_note + ")";
  // A loss that is not a number must be seen; it is left out only before the first one is known.
  if (known(s.loss) || s.step > 0) line += "  loss " + format_loss(s.loss);
  if (known(s.grad_norm)) line += text("  norm %.*f", s.grad_norm < 100 ? 2 : 0, s.grad_norm);
  if (known(s.lr)) line += "  lr " + format_rate(s.lr);
  if (known(s.step_seconds)) line += "  " + format_milliseconds(s.step_seconds);
  if (known(s.peak_share)) line += text("  %.0f%% peak", s.peak_share * 100);
  if (known(s.data_share) && s.data_share >= 0.01) line += text("  data %.0f%%", s.data_share * 100);
  if (known(s.rate)) line += "  " + format_count(s.rate) + " " + s.rate_unit;
  if (known(s.eta_seconds)) line += "  eta " + format_duration(s.eta_seconds);
  if (known(s.eta_seconds) && known(s.plan_eta_seconds) && s.stages > 1)
    line += ", all " + format_duration(s.plan_eta_seconds);
  return line;
}

std::string fit_width(std::string_view line, size_t width) {
  size_t characters = 0, cut = 0;  // cut: bytes of the first width-1 characters
  for (size_t i = 0; i < line.size(); ++i) {
    if ((line[i] & 0xC0) == 0x80) continue;  // inside a character
    if (++characters == width) cut = i;
  }
  if (width == 0 || characters <= width) return std::string(line);
  return std::string(line.substr(0, cut)) + "\u2026";
}

Progress::Progress(std::ostream& screen, const Options& options)
    : screen_(screen), options_(options), drawn_s_(-1e300), logged_s_(-1e300) {}

Progress::~Progress() { finish(); }

void Progress::clear_line() {
  if (!drawn_.empty()) screen_ << "\r\x1b[K";  // to the start of the line, erase to its end
  drawn_.clear();
}

void Progress::put_line(std::ostream& out, std::string_view line) { out << line << '\n' << std::flush; }

void Progress::update(const ProgressState& state, double now_s) {
  latest_ = progress_line(state);
  on_screen_ = in_log_ = false;
  if (options_.log && now_s - logged_s_ >= options_.log_s) {
    put_line(*options_.log, latest_);
    logged_s_ = now_s;
    in_log_ = true;
  }
  if (options_.quiet || now_s - drawn_s_ < (options_.tty ? options_.redraw_s : options_.plain_s)) return;
  drawn_s_ = now_s;
  if (options_.tty) {
    clear_line();
    drawn_ = fit_width(latest_, options_.width);
    screen_ << drawn_ << std::flush;
  } else {
    put_line(screen_, latest_);
    on_screen_ = true;
  }
}

void Progress::print(std::string_view line) {
  if (options_.log) put_line(*options_.log, line);
  if (options_.quiet) return;
  const std::string below = drawn_;
  clear_line();
  put_line(screen_, line);
  if (below.empty()) return;
  drawn_ = below;
  screen_ << drawn_ << std::flush;
}

void Progress::finish() {
  if (latest_.empty()) return;
  if (options_.log && !in_log_) put_line(*options_.log, latest_);
  if (!options_.quiet && !on_screen_) {
    clear_line();
    put_line(screen_, latest_);
  }
  latest_.clear();
}

Progress::Options terminal_options() {
  Progress::Options options;
  options.tty = ::isatty(STDERR_FILENO) != 0;
  winsize size{};
  if (options.tty && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) options.width = size.ws_col;
  return options;
}

}  // namespace accrete
