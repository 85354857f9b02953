#include "data/token_meta.h"

#include "engine/core/error.h"
#include "engine/core/file.h"
#include "engine/core/json.h"

namespace accrete {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr size_t kLargestMeta = size_t{64} << 20;  // a character vocabulary of all Unicode fits

int64_t whole_number(const json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  check(it != object.end() && it->is_number_integer() && *it >= 0 && *it <= INT64_MAX, where, "\"", key,
        "\" must be a whole number from 0");
  return it->get<int64_t>();
}

std::string word(const json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  check(it != object.end() && it->is_string(), where, "\"", key, "\" must be a string");
  return it->get<std::string>();
}

}  // namespace

std::string TokenMeta::to_json() const {
  nlohmann::ordered_json out = {{"format", "accrete-tokens"},
                                {"version", 1},
                                {"tokenizer", tokenizer},
                                {"vocab_size", vocab_size},
                                {"dtype", width == 2 ? "uint16" : "uint32"}};
  out["end_of_text"] = end_of_text ? nlohmann::ordered_json(*end_of_text) : nlohmann::ordered_json(nullptr);
  out["splits"] = nlohmann::ordered_json::object();
  for (const auto& [name, split] : splits) {
    out["splits"][name] = {{"file", split.file},
                           {"tokens", split.tokens},
                           {"bytes", split.text.bytes},
                           {"words", split.text.words},
                           {"lines", split.text.lines}};
  }
  return out.dump(2) + "\n";
}

TokenMeta TokenMeta::from_json(std::string_view text, const std::string& where) {
  const json root = parse_json(text, where, 8);
  check(root.is_object(), where, "expected a JSON object");
  TokenMeta meta;
  meta.vocab_size = whole_number(root, "vocab_size", where);
  check(meta.vocab_size >= 1 && meta.vocab_size <= INT32_MAX, where, "\"vocab_size\" must be 1..", INT32_MAX, "; got ",
        meta.vocab_size);
  if (root.contains("dtype")) {
    const std::string dtype = word(root, "dtype", where);
    check(dtype == "uint16" || dtype == "uint32", where, "\"dtype\" must be \"uint16\" or \"uint32\"; got \"",
          printable(dtype), "\"");
    meta.width = dtype == "uint16" ? 2 : 4;
  }
  if (root.contains("tokenizer")) meta.tokenizer = word(root, "tokenizer", where);
  if (root.contains("end_of_text") && !root["end_of_text"].is_null()) {
    const int64_t id = whole_number(root, "end_of_text", where);
    check(id < meta.vocab_size, where, "\"end_of_text\" is ", id, ", outside the vocabulary of ", meta.vocab_size);
    meta.end_of_text = static_cast<int32_t>(id);
  }
  if (root.contains("splits")) {
    check(root["splits"].is_object(), where, "\"splits\" must be an object");
    for (const auto& [name, value] : root["splits"].items()) {
      const std::string inside = where + ": split " + printable(name, 20);
      check(value.is_object(), inside, "expected a JSON object");
      SplitMeta split;
      split.file = word(value, "file", inside);
      check(!split.file.empty() && split.file.find('/') == std::string::npos && split.file != "..", inside,
            "\"file\" must be a plain file name; got \"", printable(split.file), "\"");
      split.tokens = whole_number(value, "tokens", inside);
      split.text.bytes = whole_number(value, "bytes", inside);
      split.text.words = whole_number(value, "words", inside);
      split.text.lines = whole_number(value, "lines", inside);
      meta.splits.emplace(name, std::move(split));
    }
  }
  return meta;
}

std::optional<TokenMeta> TokenMeta::read(const fs::path& folder) {
  const fs::path path = folder / "meta.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  return from_json(read_text(path, kLargestMeta), path.string());
}

}  // namespace accrete
