#include "training/metrics.h"

#include <cmath>
#include <limits>

#include "engine/core/error.h"
#include "engine/core/json.h"

namespace accrete {
namespace {

// Bytes of the complete lines among the first `keep`.
uint64_t complete_lines(const std::filesystem::path& path, uint64_t keep) {
  if (!std::filesystem::exists(path)) return 0;
  const MappedFile file(path);
  const size_t end = file.text().substr(0, keep).rfind('\n');
  return end == std::string_view::npos ? 0 : end + 1;
}

Json with_texts(const Json& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (std::isnan(number)) return "nan";
    if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  }
  if (!value.is_structured()) return value;
  Json out = value;
  for (auto& item : out) item = with_texts(item);
  return out;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& path, uint64_t keep)
    : file_(path, complete_lines(path, keep)) {}

void MetricsWriter::write(const Json& event) { file_.write(metrics_line(event)); }

std::string metrics_line(const Json& event) {
  const bool named = event.is_object() && event.contains("event") && event["event"].is_string();
  if (!named)
    fail("metrics", "expected an object with the text \"event\"; got ",
         printable(event.dump(-1, ' ', true, Json::error_handler_t::replace)));
  // Generated samples may end inside a UTF-8 character; those bytes become U+FFFD.
  return with_texts(event).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

double metric(const Json& event, const std::string& key) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const auto found = event.find(key);
  if (found == event.end()) return nan;
  if (found->is_number()) return found->get<double>();
  if (*found == "inf") return infinity;
  return *found == "-inf" ? -infinity : nan;
}

std::string event_text(const Json& event, const std::string& key, const std::string& otherwise) {
  const auto found = event.find(key);
  return found != event.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

std::vector<Json> read_metrics(const std::filesystem::path& path) {
  const MappedFile file(path);
  std::vector<Json> events;
  std::string_view rest = file.text();
  for (size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    const std::string where = path.string() + " line " + std::to_string(events.size() + 1);
    Json event = parse_json<Json>(rest.substr(0, end), where);
    check(event.is_object() && event.contains("event") && event["event"].is_string(), where,
          "expected an object with the text \"event\"");
    events.push_back(std::move(event));
    rest.remove_prefix(end + 1);
  }
  return events;
}

}  // namespace accrete
