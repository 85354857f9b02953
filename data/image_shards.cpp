#include "data/image_shards.h"

#include <cmath>
#include <cstdio>
#include <cstring>

#include "data/image_decode.h"
#include "data/image_formats.h"
#include "engine/core/error.h"
#include "engine/core/file.h"
#include "engine/core/json.h"

namespace accrete {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kFormat = "accrete-images";
constexpr int64_t kMostShards = 99999, kMostClasses = 1 << 20;

template <class T>
T load(std::span<const uint8_t> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::span<const uint8_t> bytes_of(const MappedFile& file) {
  return {reinterpret_cast<const uint8_t*>(file.bytes().data()), file.bytes().size()};
}

int64_t whole_number(const json& object, const char* key, int64_t least, int64_t most, const std::string& where) {
  const auto it = object.find(key);
  check(it != object.end() && it->is_number_integer() && *it >= least && *it <= most, where, "\"", key,
        "\" must be a whole number in ", least, "..", most);
  return it->get<int64_t>();
}

std::vector<double> numbers(const json& object, const char* key, size_t count, double least, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) return {};
  check(it->is_array() && it->size() == count, where, "\"", key, "\" must be a list of ", count, " numbers");
  std::vector<double> out;
  for (const json& value : *it) {
    check(value.is_number() && value >= least && value <= 1, where, "\"", key, "\" must hold numbers in ", least,
          "..1");
    out.push_back(value.get<double>());
  }
  return out;
}

std::string word(const json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  check(it != object.end() && it->is_string(), where, "\"", key, "\" must be a string");
  return it->get<std::string>();
}

class Shards : public ImageSet {
 public:
  Shards(const fs::path& folder, const std::string& split, ImageMeta meta) : meta_(std::move(meta)) {
    const ImageSplitMeta& known = meta_.splits.at(split);
    std::vector<int64_t> sizes;
    for (int64_t n = 0; n < known.shards; ++n) {
      const fs::path path = folder / shard_name(split, n);
      shards_.push_back(std::make_shared<const MappedFile>(path));
      const auto bytes = bytes_of(*shards_.back());
      sizes.push_back(static_cast<int64_t>(bytes.size()));
      check(sizes.back() >= kShardHeader && std::memcmp(bytes.data(), kShardMagic, 8) == 0 &&
                load<uint32_t>(bytes, 8) == kShardVersion && load<uint32_t>(bytes, 12) == n,
            path.string(), "not shard ", n, " of version ", kShardVersion);
    }
    const fs::path path = folder / (split + ".index");
    index_file_ = std::make_unique<MappedFile>(path);
    index_ = ShardIndex::parse(bytes_of(*index_file_), sizes, static_cast<int64_t>(meta_.classes.size()),
                               meta_.channels, path.string());
    check(index_.size() == known.images, path.string(), "expected the ", known.images, " pictures of meta.json; got ",
          index_.size());
  }

  int64_t size() const override { return index_.size(); }
  int32_t label(int64_t i) const override { return static_cast<int32_t>(index_.record(i).label); }
  std::string name(int64_t i) const override { return index_.name(i); }
  StoredImage read(int64_t i) const override {
    const ShardRecord r = index_.record(i);
    const auto bytes = bytes_of(*shards_[r.shard]).subspan(r.offset, r.length);
    StoredImage image;
    if (r.raw) {
      image.pixels = Image(r.width, r.height, meta_.channels);
      std::memcpy(image.pixels.pixels.data(), bytes.data(), bytes.size());
    } else {
      image.encoded = bytes;
      image.owner = shards_[r.shard];
    }
    return image;
  }
  const std::vector<std::string>& classes() const override { return meta_.classes; }
  int64_t channels() const override { return meta_.channels; }
  std::vector<double> mean() const override { return meta_.mean; }
  std::vector<double> stddev() const override { return meta_.stddev; }

 private:
  ImageMeta meta_;
  std::vector<std::shared_ptr<const MappedFile>> shards_;
  std::unique_ptr<MappedFile> index_file_;
  ShardIndex index_;
};

ImageMeta read_meta(const fs::path& folder) {
  const fs::path path = folder / "meta.json";
  return ImageMeta::from_json(read_text(path), path.string());
}

std::vector<std::string> splits(const fs::path& folder) {
  std::error_code ignored;
  const fs::path path = folder / "meta.json";
  if (!fs::exists(path, ignored)) return {};
  // Another program's meta.json is none of our business; prepare text's is worth a word.
  const std::string text = read_text(path);
  if (text.find("\"accrete-tokens\"") != std::string::npos)
    fail("images", folder.string(), " holds the tokens of a text, no pictures");
  if (text.find(std::string("\"") + kFormat + "\"") == std::string::npos) return {};
  const ImageMeta meta = ImageMeta::from_json(text, path.string());
  std::vector<std::string> found;
  for (const char* split : {"train", "valid", "test"})
    if (meta.splits.contains(split)) found.push_back(split);
  return found;
}

std::shared_ptr<const ImageSet> open(const fs::path& folder, const std::string& split) {
  return std::make_shared<Shards>(folder, split, read_meta(folder));
}

}  // namespace

std::string shard_name(const std::string& split, int64_t number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "-%05lld.shard", static_cast<long long>(number));
  return split + digits;
}

std::string ImageMeta::to_json() const {
  nlohmann::ordered_json out = {{"format", kFormat}, {"version", 1}, {"channels", channels}};
  if (!mean.empty()) out["mean"] = mean, out["stddev"] = stddev;
  out["max_side"] = max_side;
  out["quality"] = quality;
  out["splits"] = nlohmann::ordered_json::object();
  for (const auto& [name, split] : splits) {
    nlohmann::ordered_json skipped = nlohmann::ordered_json::array();
    for (const SkippedImage& s : split.skipped) skipped.push_back({{"file", s.file}, {"why", s.why}});
    out["splits"][name] = {{"images", split.images}, {"shards", split.shards},          {"bytes", split.bytes},
                           {"shrunk", split.shrunk}, {"skipped", split.skipped.size()}, {"skipped_files", skipped}};
  }
  out["classes"] = classes;
  // A file name need not be UTF-8; JSON must be.
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

ImageMeta ImageMeta::from_json(std::string_view text, const std::string& where) {
  const json root = parse_json(text, where, 8);
  check(root.is_object() && root.value("format", json()) == kFormat, where, "expected \"format\": \"", kFormat, "\"");
  whole_number(root, "version", 1, 1, where);
  ImageMeta meta;
  meta.channels = whole_number(root, "channels", 1, 3, where);
  check(meta.channels != 2, where, "\"channels\" must be 1 or 3; got 2");
  const size_t channels = static_cast<size_t>(meta.channels);
  meta.mean = numbers(root, "mean", channels, 0, where);
  meta.stddev = numbers(root, "stddev", channels, 1e-9, where);
  check(meta.mean.size() == meta.stddev.size(), where, "\"mean\" and \"stddev\" go together");
  meta.max_side = whole_number(root, "max_side", 0, INT32_MAX, where);
  meta.quality = whole_number(root, "quality", 1, 100, where);
  const auto classes = root.find("classes");
  check(classes != root.end() && classes->is_array() && !classes->empty() &&
            static_cast<int64_t>(classes->size()) <= kMostClasses,
        where, "\"classes\" must be a list of 1..", kMostClasses, " names");
  for (const json& name : *classes) {
    check(name.is_string(), where, "\"classes\" must hold names");
    meta.classes.push_back(name.get<std::string>());
  }
  const auto splits = root.find("splits");
  check(splits != root.end() && splits->is_object() && !splits->empty(), where, "\"splits\" must be an object");
  for (const auto& [name, value] : splits->items()) {
    const std::string inside = where + ": split " + printable(name, 20);
    check(name == "train" || name == "valid" || name == "test", inside, "expected train, valid or test");
    check(value.is_object(), inside, "expected a JSON object");
    ImageSplitMeta split;
    split.images = whole_number(value, "images", 0, INT32_MAX, inside);
    split.shards = whole_number(value, "shards", 0, kMostShards, inside);
    split.bytes = whole_number(value, "bytes", 0, INT64_MAX, inside);
    split.shrunk = whole_number(value, "shrunk", 0, INT32_MAX, inside);
    const auto skipped = value.find("skipped_files");
    check(skipped != value.end() && skipped->is_array(), inside, "\"skipped_files\" must be a list");
    for (const json& s : *skipped) {
      check(s.is_object(), inside, "\"skipped_files\" must hold objects");
      split.skipped.push_back({word(s, "file", inside), word(s, "why", inside)});
    }
    meta.splits.emplace(name, std::move(split));
  }
  return meta;
}

ShardIndex ShardIndex::parse(std::span<const uint8_t> bytes, const std::vector<int64_t>& shard_sizes, int64_t classes,
                             int64_t channels, const std::string& where) {
  check(bytes.size() >= kIndexHeader && std::memcmp(bytes.data(), kIndexMagic, 8) == 0, where,
        "not the index of a set of pictures; expected it to begin with ", kIndexMagic);
  const uint64_t count = load<uint64_t>(bytes, 8), names = load<uint64_t>(bytes, 16);
  const uint64_t rest = bytes.size() - kIndexHeader;
  check(count <= rest / sizeof(ShardRecord) && count <= INT32_MAX && names == rest - count * sizeof(ShardRecord), where,
        "expected ", count, " records of ", sizeof(ShardRecord), " bytes and ", names, " bytes of names; got ", rest,
        " bytes");
  ShardIndex index;
  index.bytes_ = bytes;
  index.count_ = static_cast<int64_t>(count);
  uint64_t name_end = 0;
  for (int64_t i = 0; i < index.count_; ++i) {
    const ShardRecord r = index.record(i);
    check(r.shard < shard_sizes.size(), where, "record ", i, " lies in shard ", r.shard, "; there are ",
          shard_sizes.size());
    const uint64_t size = static_cast<uint64_t>(shard_sizes[r.shard]);
    check(r.offset >= kShardHeader && r.offset <= size && r.length >= 1 && r.length <= size - r.offset, where,
          "record ", i, " (", r.length, " bytes at ", r.offset, ") does not lie in its shard of ", size, " bytes");
    check(r.label < static_cast<uint64_t>(classes), where, "record ", i, " has the label ", r.label, "; expected 0..",
          classes - 1);
    check(r.width >= 1 && r.height >= 1 && r.width <= kMaxImagePixels / r.height, where, "record ", i, " has the size ",
          r.width, "x", r.height);
    check(r.raw == 0 || (r.raw == 1 && r.length == int64_t{r.width} * r.height * channels), where, "record ", i,
          " has ", r.length, " bytes of pixels; expected ", int64_t{r.width} * r.height * channels);
    check(r.name_end >= name_end && r.name_end <= names, where, "the name of record ", i, " lies outside the names");
    name_end = r.name_end;
  }
  return index;
}

ShardRecord ShardIndex::record(int64_t i) const {
  return load<ShardRecord>(bytes_, kIndexHeader + static_cast<size_t>(i) * sizeof(ShardRecord));
}

std::string ShardIndex::name(int64_t i) const {
  const size_t begin = i == 0 ? 0 : record(i - 1).name_end, end = record(i).name_end;
  const size_t names = kIndexHeader + static_cast<size_t>(count_) * sizeof(ShardRecord);
  return {reinterpret_cast<const char*>(bytes_.data()) + names + begin, end - begin};
}

const ImageFormat kImageShards = {"shards of prepare images", splits, open};

}  // namespace accrete
