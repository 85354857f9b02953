#include "engine/core/config.h"

#include <algorithm>
#include <sstream>

#include "engine/core/error.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "engine/core/suggest.h"

namespace accrete {
namespace {

constexpr std::string_view kComment = "why";

std::string number(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

Rule numeric(std::string words, std::function<bool(double)> holds) {
  return {std::move(words), [holds](const Json& value) { return holds(value.get<double>()); }};
}

// The value as a person should see it in a message: JSON, shortened.
std::string shown(const Json& value) {
  return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60);
}

std::string quoted_list(const std::vector<Field>& fields) {
  std::string text;
  for (const auto& field : fields) text += (text.empty() ? "" : ", ") + field.name;
  return text;
}

std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// A sibling that looks like the key, else a key of that name anywhere, else what the object does have.
std::string advice(const std::vector<Field>& fields, const std::string& name, const std::string& path,
                   const ReadContext& context) {
  std::vector<std::string> siblings, elsewhere;
  for (const auto& field : fields) siblings.push_back(field.name);
  if (const auto found = nearest(name, siblings); !found.empty())
    return "; did you mean \"" + config_detail::join(path, found) + "\"?";
  for (const auto& known : context.known)
    if (last_part(known) == name) return "; did you mean \"" + known + "\"?";
  if (const auto found = nearest(config_detail::join(path, name), context.known); !found.empty())
    return "; did you mean \"" + found + "\"?";
  return "; expected one of: " + quoted_list(fields);
}

}  // namespace

Rule at_least(double low) {
  return numeric("of at least " + number(low), [low](double value) { return value >= low; });
}
Rule at_most(double high) {
  return numeric("of at most " + number(high), [high](double value) { return value <= high; });
}
Rule between(double low, double high) {
  return numeric("from " + number(low) + " to " + number(high),
                 [=](double value) { return value >= low && value <= high; });
}
Rule above(double low) {
  return numeric("above " + number(low), [low](double value) { return value > low; });
}
Rule one_of(std::vector<std::string> names) {
  std::string words = "(";
  for (const auto& name : names) words += (words.size() > 1 ? ", " : "") + name;
  return {words + ")",
          [names](const Json& value) { return std::ranges::find(names, value.get<std::string>()) != names.end(); }};
}

namespace config_detail {

std::string join(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

void wrong_type(const Json& value, const std::string& path, const std::string& expected, const ReadContext& context) {
  const std::string key = path.empty() ? "the configuration" : path;
  fail(context.where, key, ": expected ", expected, "; got ", shown(value));
}

void check_rules(const std::vector<Rule>& rules, const std::string& type, const Json& value, const std::string& path,
                 const ReadContext& context) {
  if (value.is_null()) return;
  if (value.is_structured()) {
    for (const auto& [key, item] : value.items()) check_rules(rules, type, item, join(path, key), context);
    return;
  }
  for (const auto& rule : rules)
    if (!rule.holds(value)) {
      std::string hint;
      if (value.is_string() && rule.words.starts_with("(")) {  // a choice: the nearest one may be what was meant
        std::vector<std::string> names;
        std::istringstream words(rule.words.substr(1, rule.words.size() - 2));
        for (std::string name; std::getline(words >> std::ws, name, ',');) names.push_back(name);
        if (const auto found = nearest(value.get<std::string>(), names); !found.empty())
          hint = "; did you mean \"" + found + "\"?";
      }
      fail(context.where, path, ": expected ", type, "; got ", shown(value), hint);
    }
}

int64_t read_integer(const Json& value, int64_t low, int64_t high, const std::string& path,
                     const ReadContext& context) {
  std::optional<int64_t> result;
  if (value.is_number_unsigned()) {
    if (const auto read = value.get<uint64_t>(); read <= static_cast<uint64_t>(high))
      result = static_cast<int64_t>(read);
  } else if (value.is_number_integer()) {
    result = value.get<int64_t>();
  } else if (value.is_number_float()) {  // 1e6 is a convenient way to write a whole number
    const double read = value.get<double>();
    if (std::abs(read) <= 9007199254740992.0 && read == std::floor(read))
      result = static_cast<int64_t>(read);
    else
      wrong_type(value, path, "integer", context);
  } else {
    wrong_type(value, path, "integer", context);
  }
  if (!result || *result < low || *result > high)
    wrong_type(value, path, "integer from " + std::to_string(low) + " to " + std::to_string(high), context);
  return *result;
}

Json without_comments(const Json& value) {
  if (!value.is_structured()) return value;
  Json out = value.is_array() ? Json::array() : Json::object();
  for (const auto& [key, item] : value.items()) {
    if (value.is_array())
      out.push_back(without_comments(item));
    else if (key != kComment)
      out[key] = without_comments(item);
  }
  return out;
}

void read_object(const std::vector<Field>& fields, const Json& value, const std::string& path,
                 const ReadContext& context) {
  if (!value.is_object()) wrong_type(value, path, "object", context);
  for (const auto& [key, item] : value.items()) {
    const auto field = std::ranges::find(fields, key, &Field::name);
    if (field != fields.end())
      field->read(item, join(path, key), context);
    else if (key != kComment)
      fail(context.where, "unknown key \"", printable(join(path, key)), "\"", advice(fields, key, path, context));
  }
}

Json write_object(const std::vector<Field>& fields) {
  Json object = Json::object();
  for (const auto& field : fields) object[field.name] = field.value;
  return object;
}

std::vector<std::string> key_paths(const std::vector<Field>& fields, const std::string& prefix) {
  std::vector<std::string> paths;
  for (const auto& field : fields) {
    paths.push_back(join(prefix, field.name));
    for (auto& path : key_paths(field.children, paths.back())) paths.push_back(std::move(path));
  }
  return paths;
}

namespace {

struct Row {
  std::string key, value, meaning;
};

void add_rows(std::vector<Row>& rows, const std::vector<Field>& fields, const std::string& prefix) {
  for (const auto& field : fields) {
    const std::string key = prefix + field.name;
    const bool many = field.value.is_array() || field.type.starts_with("object of ");
    const bool plain_struct = field.type == "object" && !field.children.empty();
    if (plain_struct)
      rows.push_back({key, "", field.meaning});
    else
      rows.push_back({key, field.value.dump(), field.meaning + "; " + field.type});
    add_rows(rows, field.children, key + (many ? ".N." : "."));
  }
}

}  // namespace

std::string describe(const std::vector<Field>& fields) {
  std::vector<Row> rows = {{"key", "default", "meaning"}};
  add_rows(rows, fields, "");
  size_t keys = 0, values = 0;
  for (const auto& row : rows) keys = std::max(keys, row.key.size()), values = std::max(values, row.value.size());
  values = std::min<size_t>(values, 28);  // one long default must not push every meaning off the screen
  std::string text;
  for (const auto& row : rows) {
    std::string line = row.key;
    line.resize(keys + 2, ' ');
    line += row.value;
    line.resize(std::max(line.size() + 2, keys + 2 + values + 2), ' ');
    text += line + row.meaning + "\n";
  }
  return text;
}

Json with_override(Json config, std::string_view assignment, const std::vector<std::string>& known) {
  const size_t equals = assignment.find('=');
  const std::string path(assignment.substr(0, equals));
  check(equals != std::string_view::npos && !path.empty(), "override", "\"", printable(assignment),
        "\" is not of the form key=value");
  const std::string text(assignment.substr(equals + 1));
  Json* place = &config;
  std::string walked;
  std::istringstream parts(path);
  for (std::string part; std::getline(parts, part, '.');) {
    if (place->is_array()) {
      const bool digits =
          !part.empty() && part.size() < 10 && std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
      check(digits && std::stoul(part) < place->size(), "override", walked, " has elements 0 to ",
            static_cast<int64_t>(place->size()) - 1, "; got \"", printable(part), "\"");
      place = &(*place)[std::stoul(part)];
    } else {
      if (!place->is_object() && !place->is_null()) {
        const auto found = nearest(path, known);
        fail("override", walked, " is a value, not an object; got \"", printable(path), "\"",
             found.empty() ? "" : "; did you mean \"" + found + "\"?");
      }
      place = &(*place)[part];
    }
    walked = join(walked, part);
  }
  // Text without quotes is text; so is 123 where the value is a text now.
  Json value = Json::accept(text) ? parse_json<Json>(text, "override") : Json(text);
  if (place->is_string() && !value.is_string() && !value.is_null()) value = text;
  *place = std::move(value);
  return config;
}

}  // namespace config_detail

Json read_json(const std::filesystem::path& path) { return parse_json<Json>(read_text(path), path.string()); }

namespace {

void compare(const Json& before, const Json& after, const std::string& path, std::vector<Difference>& out) {
  if (before == after) return;
  if (!before.is_object() || !after.is_object()) {
    out.push_back({path, before.dump(), after.dump()});
    return;
  }
  for (const auto& [key, value] : before.items()) {
    const std::string inner = config_detail::join(path, key);
    if (after.contains(key))
      compare(value, after[key], inner, out);
    else
      out.push_back({inner, value.dump(), "absent"});
  }
  for (const auto& [key, value] : after.items())
    if (!before.contains(key)) out.push_back({config_detail::join(path, key), "absent", value.dump()});
}

}  // namespace

std::vector<Difference> differences(const Json& before, const Json& after) {
  std::vector<Difference> out;
  compare(config_detail::without_comments(before), config_detail::without_comments(after), "", out);
  return out;
}

std::string to_text(const std::vector<Difference>& differences) {
  std::string text;
  for (const auto& [key, before, after] : differences)
    text += (text.empty() ? "" : "; ") + key + " " + before + " -> " + after;
  return text;
}

}  // namespace accrete
