// Configurations are plain structs with one list of fields; the list drives JSON in and out, overrides, help and error
// messages.
//
//   struct OptimConfig {
//     std::string name = "adamw";
//     double lr = 3e-4;
//     template <class V> void fields(V& v) {
//       v("name", name, "optimizer", one_of("adamw", "sgd"));
//       v("lr", lr, "peak learning rate", above(0));
//     }
//   };
//   struct RunConfig {
//     OptimConfig optim;
//     std::optional<double> clip;                    // null: no clipping
//     Json plan = {{"name", "plain"}};               // settings that another struct reads later: from_json(own, plan,
//     "plan") template <class V> void fields(V& v) { v("optim", optim, "the optimizer"); v("clip", clip, "...");
//     v("plan", plan, "..."); }
//   };
//   RunConfig c;
//   from_json(c, read_json("recipe.json"));          // unknown key "optim.lrr"; did you mean "optim.lr"?
//   apply_override(c, "optim.lr=6e-4");
//
// A field is a bool, an integer, a double, a std::string, a struct with fields(), a Json object of any content, or a
// std::vector, std::map<std::string, ...> or std::optional of these. Keys that a recipe leaves out keep their values.
// The key "why" is a comment: allowed in every object, ignored.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace accrete {

using Json = nlohmann::ordered_json;  // keeps the order of the keys, so a written configuration reads like its struct

// ---- rules: what a value must satisfy beyond its type. Lists and maps apply them to each element, null passes.
// ---------
struct Rule {
  std::string words;                       // completes "expected ...": "above 0", "one of adamw, sgd"
  std::function<bool(const Json&)> holds;  // called with a scalar of the right type
};
Rule at_least(double low);
Rule at_most(double high);
Rule between(double low, double high);  // both ends included
Rule above(double low);                 // low itself is refused
Rule one_of(std::vector<std::string> names);
template <class... Names>
Rule one_of(const char* first, const Names&... rest) {
  return one_of(std::vector<std::string>{first, rest...});
}

// ---- what a struct's list of fields turns into ----------------------------------------------------------------------
// Where a value is read from: `where` opens every message, `known` are all key paths for "did you mean".
struct ReadContext {
  std::string where;
  std::vector<std::string> known;
};

struct Field {
  std::string name, meaning;
  std::string type;  // in words: "number above 0", "list of integers"
  Json value;        // at the time of listing
  std::function<void(const Json&, const std::string& path, const ReadContext&)> read;  // into the struct; throws Error
  std::vector<Field> children;  // of a nested struct; of one element for lists, maps and optionals of structs
};

// The visitor that fields() is called with.
class FieldList {
 public:
  template <class T, class... Rules>
  void operator()(std::string name, T& value, std::string meaning, const Rules&... rules);

  std::vector<Field> fields;
};

template <class T>
concept HasFields = requires(T value, FieldList list) {
  value.fields(list);
};

template <HasFields T>
std::vector<Field> list_fields(T& config) {
  FieldList list;
  config.fields(list);
  return std::move(list.fields);
}

namespace config_detail {

void read_object(const std::vector<Field>& fields, const Json& value, const std::string& path,
                 const ReadContext& context);
Json write_object(const std::vector<Field>& fields);
std::vector<std::string> key_paths(const std::vector<Field>& fields, const std::string& prefix);
std::string describe(const std::vector<Field>& fields);
Json with_override(Json config, std::string_view assignment, const std::vector<std::string>& known);
[[noreturn]] void wrong_type(const Json& value, const std::string& path, const std::string& expected,
                             const ReadContext& context);
void check_rules(const std::vector<Rule>& rules, const std::string& type, const Json& value, const std::string& path,
                 const ReadContext& context);
int64_t read_integer(const Json& value, int64_t low, int64_t high, const std::string& path, const ReadContext& context);
Json without_comments(const Json& value);
std::string join(const std::string& path, const std::string& name);

template <class T>
struct Traits : std::false_type {};
template <class E>
struct Traits<std::vector<E>> : std::true_type {
  using Element = E;
};
template <class E>
struct Traits<std::map<std::string, E>> : std::true_type {
  using Element = E;
};
template <class E>
struct Traits<std::optional<E>> : std::true_type {
  using Element = E;
};
template <class T>
constexpr bool is_optional = false;
template <class E>
constexpr bool is_optional<std::optional<E>> = true;
template <class T>
constexpr bool is_vector = false;
template <class E>
constexpr bool is_vector<std::vector<E>> = true;

// The type in words, for help and errors.
template <class T>
std::string type_words() {
  if constexpr (std::same_as<T, bool>) {
    return "true or false";
  } else if constexpr (std::integral<T>) {
    return "integer";
  } else if constexpr (std::floating_point<T>) {
    return "number";
  } else if constexpr (std::same_as<T, std::string>) {
    return "text";
  } else if constexpr (std::same_as<T, Json> || HasFields<T>) {
    return "object";
  } else {
    const std::string inner = type_words<typename Traits<T>::Element>();
    if constexpr (is_optional<T>) return "null or " + inner;
    const std::string many = inner == "true or false" ? inner : inner + "s";
    return (is_vector<T> ? "list of " : "object of ") + many;
  }
}

template <class T>
Json write_value(const T& value) {
  if constexpr (HasFields<T>) {
    T copy = value;  // fields() hands out references, which a const object cannot
    return write_object(list_fields(copy));
  } else if constexpr (is_optional<T>) {
    return value ? write_value(*value) : Json();
  } else if constexpr (is_vector<T>) {
    Json list = Json::array();
    for (const auto& item : value) list.push_back(write_value<typename T::value_type>(item));
    return list;
  } else if constexpr (Traits<T>::value) {
    Json object = Json::object();
    for (const auto& [key, item] : value) object[key] = write_value(item);
    return object;
  } else {
    return Json(value);
  }
}

template <class T>
void read_value(T& out, const Json& value, const std::string& path, const ReadContext& context) {
  const auto expect = [&](bool right) {
    if (!right) wrong_type(value, path, type_words<T>(), context);
  };
  if constexpr (std::same_as<T, Json>) {
    expect(value.is_object());
    out = without_comments(value);
  } else if constexpr (HasFields<T>) {
    read_object(list_fields(out), value, path, context);
  } else if constexpr (is_optional<T>) {
    if (value.is_null()) return out.reset();
    typename T::value_type item = out.value_or(typename T::value_type{});
    read_value(item, value, path, context);
    out = std::move(item);
  } else if constexpr (is_vector<T>) {
    expect(value.is_array());
    out.clear();
    for (size_t i = 0; i < value.size(); ++i) {
      typename T::value_type item{};
      read_value(item, value[i], join(path, std::to_string(i)), context);
      out.push_back(std::move(item));
    }
  } else if constexpr (Traits<T>::value) {
    expect(value.is_object());
    out.clear();
    for (const auto& [key, inner] : value.items())
      if (key != "why") read_value(out[key], inner, join(path, key), context);
  } else if constexpr (std::same_as<T, bool>) {
    expect(value.is_boolean());
    out = value.template get<bool>();
  } else if constexpr (std::integral<T>) {
    constexpr auto top = std::min<uint64_t>(std::numeric_limits<T>::max(), std::numeric_limits<int64_t>::max());
    out = static_cast<T>(read_integer(value, static_cast<int64_t>(std::numeric_limits<T>::min()),
                                      static_cast<int64_t>(top), path, context));
  } else if constexpr (std::floating_point<T>) {
    expect(value.is_number() && std::isfinite(value.template get<T>()));
    out = value.template get<T>();
  } else {
    static_assert(std::same_as<T, std::string>, "this type cannot be a configuration field");
    expect(value.is_string());
    out = value.template get<std::string>();
  }
}

// Fields of the struct inside T, with its default values: what describe() prints below a list or an optional.
template <class T>
std::vector<Field> inner_fields() {
  if constexpr (HasFields<T>) {
    T sample{};
    auto fields = list_fields(sample);
    for (auto& field : fields) field.read = nullptr;  // the sample dies here
    return fields;
  } else if constexpr (Traits<T>::value) {
    return inner_fields<typename Traits<T>::Element>();
  } else {
    return {};
  }
}

}  // namespace config_detail

template <class T, class... Rules>
void FieldList::operator()(std::string name, T& value, std::string meaning, const Rules&... rules) {
  namespace detail = config_detail;
  Field field;
  field.name = std::move(name), field.meaning = std::move(meaning);
  field.type = detail::type_words<T>();
  const std::vector<Rule> all = {rules...};
  for (const auto& rule : all) field.type += (&rule == &all[0] ? " " : ", ") + rule.words;
  field.value = detail::write_value(value);
  if constexpr (HasFields<T>)
    field.children = list_fields(value);
  else
    field.children = detail::inner_fields<T>();
  field.read = [&value, all, type = field.type](const Json& json, const std::string& path, const ReadContext& context) {
    detail::read_value(value, json, path, context);
    detail::check_rules(all, type, detail::write_value(value), path, context);
  };
  fields.push_back(std::move(field));
}

// ---- the functions that programs use --------------------------------------------------------------------------------
// Reads a JSON file strictly (no duplicate keys, no NaN; see json.h).
Json read_json(const std::filesystem::path& path);

// Sets the fields that `json` names; on an Error nothing has changed. `prefix` is the path of this object inside a
// larger configuration, for messages; `where` opens them (the name of the file).
template <HasFields T>
void from_json(T& config, const Json& json, const std::string& prefix = "", const std::string& where = "config") {
  T next = config;
  const auto fields = list_fields(next);
  config_detail::read_object(fields, json, prefix, {where, config_detail::key_paths(fields, prefix)});
  config = std::move(next);
}

// All fields, in the order of the list.
template <HasFields T>
Json to_json(const T& config) {
  return config_detail::write_value(config);
}

// apply_override(config, "optim.lr=3e-4"): the value is JSON, or text without quotes. List elements by number:
// "stages.0.lr=1e-3".
template <HasFields T>
void apply_override(T& config, std::string_view assignment) {
  const auto fields = list_fields(config);
  from_json(config,
            config_detail::with_override(config_detail::write_object(fields), assignment,
                                         config_detail::key_paths(fields, "")),
            "", "override");
}

// A table of key, default and meaning for --help.
template <HasFields T>
std::string describe(const T& config) {
  T copy = config;
  return config_detail::describe(list_fields(copy));
}

// What changed between two configurations; `before` and `after` are compact JSON, or "absent". Comments do not count.
struct Difference {
  std::string key, before, after;
};
std::vector<Difference> differences(const Json& before, const Json& after);
template <HasFields T>
std::vector<Difference> differences(const T& before, const T& after) {
  return differences(to_json(before), to_json(after));
}
// "optim.lr 0.0003 -> 0.0006; model.depth 6 -> 8"
std::string to_text(const std::vector<Difference>& differences);

}  // namespace accrete
