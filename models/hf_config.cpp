#include "models/hf_config.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/core/file.h"
#include "engine/core/json.h"

namespace accrete {

HfConfig::HfConfig(const std::filesystem::path& path) : where_(path.string()) {
  check(std::filesystem::exists(path), where_, "the file is missing; a model folder needs it beside the weights");
  json_ = parse_json(read_text(path, size_t{16} << 20), where_);
  check(json_.is_object(), where_, "expected a JSON object; got ", json_.type_name());
}

bool HfConfig::has(const char* key) const {
  const auto it = json_.find(key);
  return it != json_.end() && !it->is_null();
}

void HfConfig::wrong(const char* key, const std::string& expected) const {
  fail(where_, "\"", key, "\" must be ", expected, "; got ", printable(at(key).dump(), 40));
}

int64_t HfConfig::integer(const char* key, int64_t absent, int64_t lowest) const {
  if (!has(key)) return absent;
  const auto& value = at(key);
  if (!value.is_number_integer() || value < lowest || value > (int64_t{1} << 40))
    wrong(key, "a whole number from " + std::to_string(lowest));
  return value.get<int64_t>();
}

double HfConfig::number(const char* key, double absent) const {
  if (!has(key)) return absent;
  const auto& value = at(key);
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() < 0)
    wrong(key, "a number from 0");
  return value.get<double>();
}

bool HfConfig::flag(const char* key, bool absent) const {
  if (!has(key)) return absent;
  if (!at(key).is_boolean()) wrong(key, "true or false");
  return at(key).get<bool>();
}

std::string HfConfig::text(const char* key, const std::string& absent) const {
  if (!has(key)) return absent;
  if (!at(key).is_string()) wrong(key, "text");
  return at(key).get<std::string>();
}

std::vector<double> HfConfig::numbers(const char* key) const {
  std::vector<double> list;
  if (!has(key)) return list;
  const bool right = at(key).is_array() && std::all_of(at(key).begin(), at(key).end(), [](const auto& v) {
                       return v.is_number() && std::isfinite(v.template get<double>());
                     });
  if (!right) wrong(key, "a list of numbers");
  for (const auto& v : at(key)) list.push_back(v.get<double>());
  return list;
}

std::vector<std::string> HfConfig::texts(const char* key) const {
  std::vector<std::string> list;
  if (!has(key)) return list;
  const bool right =
      at(key).is_array() && std::all_of(at(key).begin(), at(key).end(), [](const auto& v) { return v.is_string(); });
  if (!right) wrong(key, "a list of texts");
  for (const auto& v : at(key)) list.push_back(v.get<std::string>());
  return list;
}

HfConfig HfConfig::child(const char* key) const {
  if (!has(key)) return HfConfig(where_ + ": " + key, nlohmann::json::object());
  if (!at(key).is_object()) wrong(key, "an object");
  return HfConfig(where_ + ": " + key, at(key));
}

void HfConfig::refuse_unless(const char* key, bool supported) const {
  check(flag(key, supported) == supported, where_, "\"", key, "\": ", supported ? "false" : "true",
        " is not supported here");
}

void write_hf_json(const std::filesystem::path& path, const nlohmann::json& value) {
  write_text(path, value.dump(2) + "\n");
}

}  // namespace accrete
