#include "engine/core/json.h"

#include <unordered_set>
#include <vector>

#include "engine/core/error.h"

namespace accrete {

std::string printable(std::string_view text, size_t limit) {
  std::string out(text.substr(0, limit));
  for (char& c : out)
    if (c < 32 || c > 126) c = '?';
  if (text.size() > limit) out += "...";
  return out;
}

template <class Json>
Json parse_json(std::string_view text, std::string_view where, int max_depth) {
  // The library stops at a NUL byte as if the text ended there, and skips a byte order mark; neither is JSON.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    fail(where, "not valid JSON: NUL byte at offset ", nul);
  check(!text.starts_with("\xEF\xBB\xBF"), where, "not valid JSON: it starts with a byte order mark");

  std::vector<std::unordered_set<std::string>> open;  // keys seen so far in each open object or array
  const auto watch = [&](int depth, typename Json::parse_event_t event, Json& value) {
    using Event = typename Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      check(depth < max_depth, where, "JSON is nested too deeply; expected at most ", max_depth, " levels");
      open.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      open.pop_back();
    } else if (event == Event::key) {
      const std::string& key = value.template get_ref<const std::string&>();
      check(open.back().insert(key).second, where, "key \"", printable(key), "\" appears twice in one object");
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::exception& error) {
    std::string reason = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (const size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    fail(where, "not valid JSON: ", printable(reason, 240));
  }
}

template nlohmann::json parse_json(std::string_view, std::string_view, int);
template nlohmann::ordered_json parse_json(std::string_view, std::string_view, int);

}  // namespace accrete
