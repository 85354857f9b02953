#include "engine/core/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "engine/core/error.h"
#include "engine/core/json.h"

namespace accrete {
namespace fs = std::filesystem;
static_assert(std::endian::native == std::endian::little,
              "safetensors values are little-endian and are not swapped here");

namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // limit of the format; also bounds what a hostile file can make us parse
constexpr size_t kMaxIndex = 1'000'000'000;   // bytes of an index file

struct DtypeSize {
  std::string_view name;
  int bits;
};
constexpr DtypeSize kDtypes[] = {{"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
                                 {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
                                 {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
                                 {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
                                 {"I64", 64},        {"U64", 64}};

// Position in the enumeration; -1 for an unknown name.
int dtype_rank(std::string_view dtype) {
  const auto found = std::ranges::find(kDtypes, dtype, &DtypeSize::name);
  return found == std::end(kDtypes) ? -1 : static_cast<int>(found - std::begin(kDtypes));
}

// Bytes of a tensor. Overflow is refused although the true size may be 0 (a 0 after two huge sizes): no honest file has
// that.
size_t tensor_bytes(const SafetensorsEntry& entry, const std::string& where) {
  const int bits = safetensors_bits(entry.dtype);
  check(bits > 0, where, "tensor \"", printable(entry.name), "\" has unknown dtype \"", printable(entry.dtype), "\"");
  uint64_t total = 1;
  bool fits = true;
  for (const int64_t size : entry.shape) {
    check(size >= 0, where, "tensor \"", printable(entry.name), "\" has a negative size ", size);
    fits = fits && !__builtin_mul_overflow(total, static_cast<uint64_t>(size), &total);
  }
  fits = fits && !__builtin_mul_overflow(total, static_cast<uint64_t>(bits), &total);
  check(fits, where, "the shape of tensor \"", printable(entry.name), "\" overflows 64 bits");
  check(total % 8 == 0, where, "tensor \"", printable(entry.name), "\" does not fill whole bytes");
  return total / 8;
}

struct Range {
  uint64_t begin, end;
};

uint64_t read_count(const nlohmann::json& value, const std::string& name, const char* field, const std::string& where) {
  if (!value.is_number_unsigned())
    fail(where, field, " of tensor \"", printable(name), "\": expected non-negative integers; got ",
         printable(value.dump(-1, ' ', true), 40));
  return value.get<uint64_t>();
}

// One `"name": {"dtype":..., "shape":..., "data_offsets":...}` of the header.
Range read_entry(const std::string& name, const nlohmann::json& value, SafetensorsEntry& entry,
                 const std::string& where) {
  const bool complete = value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
                        value.contains("data_offsets");
  if (!complete)
    fail(where, "tensor \"", printable(name), "\": expected an object with dtype, shape and data_offsets; got ",
         printable(value.dump(-1, ' ', true), 60));
  check(value["dtype"].is_string(), where, "dtype of tensor \"", printable(name), "\" is not a string");
  check(value["shape"].is_array(), where, "shape of tensor \"", printable(name), "\" is not an array");
  const auto& offsets = value["data_offsets"];
  check(offsets.is_array() && offsets.size() == 2, where, "data_offsets of tensor \"", printable(name),
        "\": expected [begin, end]");
  entry.name = name;
  entry.dtype = value["dtype"].get<std::string>();
  for (const auto& item : value["shape"]) {
    const uint64_t size = read_count(item, name, "shape", where);
    check(size <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), where, "the shape of tensor \"",
          printable(name), "\" overflows 64 bits");
    entry.shape.push_back(static_cast<int64_t>(size));
  }
  return {read_count(offsets[0], name, "data_offsets", where), read_count(offsets[1], name, "data_offsets", where)};
}

}  // namespace

std::span<const std::string_view> safetensors_dtypes() {
  static const auto names = [] {
    std::array<std::string_view, std::size(kDtypes)> out;
    for (size_t i = 0; i < out.size(); ++i) out[i] = kDtypes[i].name;
    return out;
  }();
  return names;
}

int safetensors_bits(std::string_view dtype) {
  const int rank = dtype_rank(dtype);
  return rank < 0 ? 0 : kDtypes[rank].bits;
}

// ---- reading --------------------------------------------------------------------------------------------------------

void Safetensors::add(std::span<const std::byte> bytes, const std::string& where) {
  check(bytes.size() >= 8, where, "not a safetensors file: expected at least 8 bytes; got ", bytes.size());
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  check(length <= kMaxHeader, where, "not a safetensors file: the header length is ", length, "; expected at most ",
        kMaxHeader);
  check(length <= bytes.size() - 8, where, "the file is truncated: the header needs ", length, " bytes; ",
        bytes.size() - 8, " are left");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  const auto values = bytes.subspan(8 + length);

  const nlohmann::json header = parse_json(text, where, 4);
  check(header.is_object(), where, "the header is not a JSON object");
  std::vector<std::pair<Range, SafetensorsEntry>> found;
  TextMap metadata;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      check(value.is_object(), where, "__metadata__ is not an object");
      for (const auto& [key, text_value] : value.items()) {
        check(text_value.is_string(), where, "__metadata__ \"", printable(key), "\" is not a string");
        metadata[key] = text_value.get<std::string>();
      }
      continue;
    }
    SafetensorsEntry entry;
    const Range range = read_entry(name, value, entry, where);
    found.emplace_back(range, std::move(entry));
  }
  // Tensors must tile the data: sorted by offset, each begins where the one before ended. Empty ones share a begin, so
  // sort by the end too.
  std::ranges::sort(found, [](const auto& a, const auto& b) {
    return std::tie(a.first.begin, a.first.end, a.second.name) < std::tie(b.first.begin, b.first.end, b.second.name);
  });
  uint64_t next = 0;
  for (auto& [range, entry] : found) {
    check(range.begin == next && range.end >= range.begin, where, "tensor \"", printable(entry.name), "\" lies at [",
          range.begin, ", ", range.end, "]; expected it to begin at ", next, " (no holes, no overlap)");
    entry.bytes = tensor_bytes(entry, where);
    check(entry.bytes == range.end - range.begin, where, "tensor \"", printable(entry.name),
          "\": shape and dtype need ", entry.bytes, " bytes; the offsets hold ", range.end - range.begin);
    check(range.end <= values.size(), where, "the file is truncated: tensor \"", printable(entry.name), "\" ends at ",
          range.end, " of ", values.size(), " data bytes");
    entry.data = values.data() + range.begin;
    next = range.end;
  }
  check(next == values.size(), where, "the tensors end at ", next, " but the file has ", values.size(), " data bytes");
  if (entries_.empty()) metadata_ = std::move(metadata);
  for (auto& [range, entry] : found) entries_.push_back(std::move(entry));
}

void Safetensors::make_index(const std::string& where) {
  for (size_t i = 0; i < entries_.size(); ++i)
    check(index_.emplace(entries_[i].name, i).second, where, "tensor \"", printable(entries_[i].name),
          "\" is in two shards");
}

void Safetensors::add_shards(const fs::path& index) {
  const std::string where = index.string();
  const nlohmann::json root = parse_json(read_text(index, kMaxIndex), where);
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  check(map != root.end() && map->is_object(), where, "expected an object with \"weight_map\"");
  std::map<std::string, std::set<std::string>> shards;  // file name -> tensors that should be in it
  for (const auto& [name, file] : map->items()) {
    check(file.is_string(), where, "weight_map of \"", printable(name), "\" is not a file name");
    const std::string text = file.get<std::string>();
    const bool plain = !text.empty() && text != "." && text != ".." && text.find_first_of("/\\") == std::string::npos;
    check(plain, where, "weight_map names \"", printable(text), "\"; expected a plain file name in the same folder");
    shards[text].insert(name);
  }
  std::string wrong;
  for (const auto& [file, expected] : shards) {
    const size_t first = entries_.size();
    files_.push_back(std::make_shared<const MappedFile>(index.parent_path() / file));
    add(files_.back()->bytes(), files_.back()->path().string());
    std::set<std::string> present;
    for (size_t i = first; i < entries_.size(); ++i) present.insert(entries_[i].name);
    for (const auto& name : expected)
      if (!present.contains(name)) wrong += "; missing in " + file + ": " + printable(name);
    for (const auto& name : present)
      if (!expected.contains(name)) wrong += "; not in the index but in " + file + ": " + printable(name);
  }
  check(wrong.empty(), where, "index and shards do not agree", wrong.substr(0, 2000));
}

Safetensors Safetensors::open(const fs::path& path) {
  Safetensors result;
  fs::path file = path;
  std::error_code unreadable;  // an unreadable path is no folder and no file; opening it below says why
  if (fs::is_directory(path, unreadable)) {
    file = path / "model.safetensors";
    if (!fs::exists(file, unreadable)) file = path / "model.safetensors.index.json";
    check(fs::exists(file, unreadable), path.string(),
          "the folder has no model.safetensors and no model.safetensors.index.json");
  }
  if (file.extension() == ".json") {
    result.add_shards(file);
  } else {
    result.files_.push_back(std::make_shared<const MappedFile>(file));
    result.add(result.files_.back()->bytes(), file.string());
  }
  result.make_index(file.string());
  return result;
}

Safetensors Safetensors::from_memory(std::span<const std::byte> bytes, const std::string& where) {
  Safetensors result;
  result.add(bytes, where);
  result.make_index(where);
  return result;
}

const SafetensorsEntry* Safetensors::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

// ---- writing --------------------------------------------------------------------------------------------------------

SafetensorsHeader safetensors_header(std::span<const SafetensorsEntry> entries, const TextMap& metadata) {
  const std::string where = "safetensors";
  SafetensorsHeader header;
  header.order.resize(entries.size());
  std::iota(header.order.begin(), header.order.end(), size_t{0});
  for (const auto& entry : entries) {
    check(entry.name != "__metadata__", where, "\"__metadata__\" cannot be the name of a tensor");
    header.sizes.push_back(tensor_bytes(entry, where));
  }
  std::ranges::sort(header.order, [&](size_t a, size_t b) {
    const int rank_a = dtype_rank(entries[a].dtype), rank_b = dtype_rank(entries[b].dtype);
    return rank_a != rank_b ? rank_a > rank_b : entries[a].name < entries[b].name;
  });
  std::set<std::string_view> names;
  std::string& out = header.bytes;
  out.assign(8, '\0');
  out += '{';
  const auto quoted = [&](const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      fail(where, "\"", printable(text), "\" is not valid UTF-8");
    }
  };
  if (!metadata.empty()) {
    out += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) out += (out.back() == '{' ? "" : ",") + quoted(key) + ":" + quoted(value);
    out += '}';
  }
  uint64_t begin = 0;
  for (const size_t i : header.order) {
    const auto& entry = entries[i];
    check(names.insert(entry.name).second, where, "two tensors are called \"", printable(entry.name), "\"");
    out += (out.size() == 9 ? "" : ",") + quoted(entry.name) + ":{\"dtype\":\"" + entry.dtype + "\",\"shape\":[";
    for (size_t axis = 0; axis < entry.shape.size(); ++axis)
      out += (axis ? "," : "") + std::to_string(entry.shape[axis]);
    out += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(begin + header.sizes[i]) + "]}";
    begin += header.sizes[i];
  }
  out += '}';
  out.resize((out.size() + 7) / 8 * 8, ' ');
  const uint64_t length = out.size() - 8;
  check(length <= kMaxHeader, where, "the header would have ", length, " bytes; expected at most ", kMaxHeader);
  std::memcpy(out.data(), &length, 8);
  return header;
}

void save_safetensors(const fs::path& path, std::span<const SafetensorsEntry> entries,
                      const std::function<const void*(size_t)>& fetch, const TextMap& metadata) {
  const SafetensorsHeader header = safetensors_header(entries, metadata);
  AtomicFile file(path);
  file.write(header.bytes);
  for (const size_t i : header.order)
    if (header.sizes[i] > 0) file.write(fetch(i), header.sizes[i]);
  file.commit();
}

void save_safetensors(const fs::path& path, std::span<const SafetensorsEntry> entries, const TextMap& metadata) {
  save_safetensors(
      path, entries, [&](size_t i) -> const void* { return entries[i].data; }, metadata);
}

}  // namespace accrete
