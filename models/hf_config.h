// config.json of a Hugging Face model folder: typed look-ups with one sentence for every way in which they can be
// wrong.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace accrete {

class HfConfig {
 public:
  // Reads the file strictly; Error when it is missing, is no JSON object or has duplicate keys.
  explicit HfConfig(const std::filesystem::path& path);

  const std::string& where() const { return where_; }
  // Present and not null: null means "the default" in these files.
  bool has(const char* key) const;
  // The value, or `absent` where there is none; Error on another type.
  int64_t integer(const char* key, int64_t absent, int64_t lowest = 1) const;
  double number(const char* key, double absent) const;  // 0 or above, finite
  bool flag(const char* key, bool absent) const;
  std::string text(const char* key, const std::string& absent) const;
  std::vector<double> numbers(const char* key) const;     // list of numbers; empty where there is none
  std::vector<std::string> texts(const char* key) const;  // list of texts; empty where there is none
  // The object inside; an empty one where there is none.
  HfConfig child(const char* key) const;
  const nlohmann::json& json() const { return json_; }
  // Error "... is not supported" unless the flag is absent or has this value.
  void refuse_unless(const char* key, bool supported) const;

 private:
  HfConfig(std::string where, nlohmann::json json) : where_(std::move(where)), json_(std::move(json)) {}
  [[noreturn]] void wrong(const char* key, const std::string& expected) const;
  const nlohmann::json& at(const char* key) const { return json_.at(key); }

  std::string where_;
  nlohmann::json json_;
};

// Writes it as those libraries do: keys sorted, two spaces, a line end.
void write_hf_json(const std::filesystem::path& path, const nlohmann::json& value);

}  // namespace accrete
