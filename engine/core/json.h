// Strict JSON for files that somebody else may have written.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace accrete {

// parse_json(text, where): one JSON value, or an Error "[where] ..." that names the line and column. Stricter than the
// library alone: the same key twice in one object is refused (the library silently keeps one), and so are nesting
// beyond `max_depth`, a byte order mark, bytes after the value, NUL bytes, invalid UTF-8, NaN, Infinity and numbers too
// large for a double. Json = nlohmann::json (keys sorted, fast for huge objects) or nlohmann::ordered_json (keys in
// file order; for configurations: its look-ups walk the list, so a vocabulary of 50,000 keys is too much for it).
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, std::string_view where, int max_depth = 64);

extern template nlohmann::json parse_json(std::string_view, std::string_view, int);
extern template nlohmann::ordered_json parse_json(std::string_view, std::string_view, int);

// Text of unknown origin for a one-line message: control and non-ASCII bytes become '?', at most `limit` characters.
std::string printable(std::string_view text, size_t limit = 80);

}  // namespace accrete
