#include "kernels/gemm_plan_file.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace accrete::kernels {

namespace {

constexpr std::string_view kTitle =
    "# Chosen algorithms of matrix products and attention. Delete the file to have them timed again; see "
    "kernels/gemm_plan_file.h.";

uint64_t checksum(std::string_view text) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h;
}

std::string hex(uint64_t v) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(v));
  return text;
}

// Takes words off the front of a text; `good` falls once something else stands there.
struct Reader {
  std::string_view rest;
  bool good = true;

  bool take(std::string_view word) {
    if (rest.substr(0, word.size()) != word) return false;
    rest.remove_prefix(word.size());
    return true;
  }
  void expect(std::string_view word) { good = good && take(word); }
  uint64_t digits(uint64_t base, size_t at_least, size_t at_most) {
    uint64_t v = 0;
    size_t n = 0;
    for (; n < at_most && n < rest.size(); ++n) {
      const char c = rest[n];
      const uint64_t digit = c >= '0' && c <= '9'   ? static_cast<uint64_t>(c - '0')
                             : c >= 'a' && c <= 'f' ? static_cast<uint64_t>(c - 'a' + 10)
                                                    : 99;
      if (digit >= base) break;
      v = v * base + digit;
    }
    good = good && n >= at_least;
    rest.remove_prefix(n);
    return v;
  }
};

}  // namespace

std::string plan_line(const std::string& key, const PlanRecord& r) {
  char text[128];
  // Tenths of a microsecond, as a whole number: the same digits whatever the locale says.
  const auto tenths =
      static_cast<unsigned long long>(std::llround(std::fmin(std::fmax(r.microseconds, 0.0), 1e12) * 10));
  std::snprintf(text, sizeof text, " | %s %s %llu.%llu us workspace %llu algorithm ", r.fused ? "fused" : "separate",
                r.timed ? "timed" : "first", tenths / 10, tenths % 10, static_cast<unsigned long long>(r.workspace));
  std::string line = key + text;
  for (const uint64_t word : r.algorithm) line += hex(word);
  return line + " | " + hex(checksum(line));
}

std::optional<std::pair<std::string, PlanRecord>> parse_plan_line(std::string_view line) {
  if (line.size() > kPlanLineBytes || line.find('\n') != std::string_view::npos) return std::nullopt;
  const size_t bar = line.find(" | ");
  if (bar == 0 || bar == std::string_view::npos) return std::nullopt;
  PlanRecord r;
  Reader in{line.substr(bar + 3)};
  r.fused = in.take("fused ");
  if (!r.fused) in.expect("separate ");
  r.timed = in.take("timed ");
  if (!r.timed) in.expect("first ");
  const uint64_t whole = in.digits(10, 1, 13);
  in.expect(".");
  r.microseconds = static_cast<double>(whole * 10 + in.digits(10, 1, 1)) / 10;
  in.expect(" us workspace ");
  r.workspace = in.digits(10, 1, 18);
  in.expect(" algorithm ");
  for (uint64_t& word : r.algorithm) word = in.digits(16, 16, 16);
  const std::string_view before_sum = line.substr(0, line.size() - in.rest.size());
  in.expect(" | ");
  const uint64_t sum = in.digits(16, 16, 16);
  if (!in.good || !in.rest.empty() || sum != checksum(before_sum)) return std::nullopt;
  return std::pair{std::string(line.substr(0, bar)), r};
}

PlanFile::PlanFile(std::string path) : path_(std::move(path)) { read(); }

const PlanRecord* PlanFile::find(const std::string& key) const {
  const auto found = records_.find(key);
  return found == records_.end() ? nullptr : &found->second;
}

void PlanFile::keep(std::string key, const PlanRecord& record) {
  if (lines_.size() >= kPlanFileLines) return;
  if (records_.emplace(key, record).second) lines_.push_back(std::move(key));
}

void PlanFile::read() {
  ignored_ = 0;
  if (path_.empty()) return;
  std::error_code none;
  if (!std::filesystem::is_regular_file(path_, none)) return;
  std::ifstream in(path_, std::ios::binary);
  std::string text(kPlanFileBytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    if (line.empty() || line[0] == '#') continue;
    auto parsed = parse_plan_line(line);
    if (parsed)
      keep(std::move(parsed->first), parsed->second);
    else
      ++ignored_;
  }
}

bool PlanFile::write() const {
  if (path_.empty()) return false;
  std::error_code failed;
  const std::filesystem::path path(path_);
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), failed);
  const std::string aside = path_ + "." + std::to_string(getpid()) + ".new";
  {
    std::ofstream out(aside, std::ios::binary | std::ios::trunc);
    out << kTitle << '\n';
    for (const std::string& key : lines_) out << plan_line(key, records_.at(key)) << '\n';
    out.close();
    if (!out) {
      std::filesystem::remove(aside, failed);
      return false;
    }
  }
  std::filesystem::rename(aside, path, failed);
  if (!failed) return true;
  std::filesystem::remove(aside, failed);
  return false;
}

bool PlanFile::add(const std::string& key, const PlanRecord& record) {
  const std::string line = plan_line(key, record);
  const auto rounded = parse_plan_line(line);
  if (!rounded || rounded->first != key) return false;  // a key that could not be read back is not kept
  read();                                               // what others have written since
  keep(key, record);
  return find(key) && write();
}

std::string default_plan_path() {
  const auto folder = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value ? value : "");
  };
  if (const std::string cache = folder("ACCRETE_CACHE"); !cache.empty()) return cache + "/gemm_plans.txt";
  if (const std::string home = folder("HOME"); !home.empty()) return home + "/.cache/accrete/gemm_plans.txt";
  return {};
}

}  // namespace accrete::kernels
