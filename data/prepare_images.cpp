#include "data/prepare_images.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "data/image_decode.h"
#include "data/image_resize.h"
#include "data/image_set.h"
#include "data/in_order.h"
#include "data/jpeg.h"
#include "data/staging.h"
#include "engine/core/error.h"
#include "engine/core/file.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// Sums of the values of each channel; whole numbers, so that the order does not matter.
struct Sums {
  int64_t pixels = 0;
  uint64_t value[3] = {}, square[3] = {};

  void add(const Image& image) {
    pixels += image.width * image.height;
    const size_t channels = static_cast<size_t>(image.channels);
    for (size_t i = 0; i < image.pixels.size(); i += channels)
      for (size_t c = 0; c < channels; ++c) {
        const uint64_t p = image.pixels[i + c];
        value[c] += p, square[c] += p * p;
      }
  }
  void add(const Sums& other) {
    pixels += other.pixels;
    for (int c = 0; c < 3; ++c) value[c] += other.value[c], square[c] += other.square[c];
  }
};

// A picture as it goes into a shard.
struct Packed {
  StoredImage stored;           // kept as it was: encoded, or values
  std::vector<uint8_t> shrunk;  // encoded anew, in place of that
  int64_t width = 0, height = 0;
  bool smaller = false;
  Sums sums;
  std::string broken;  // why it is left out; empty: it is not

  std::span<const uint8_t> bytes() const {
    if (!shrunk.empty()) return shrunk;
    return stored.encoded.empty() ? std::span<const uint8_t>(stored.pixels.pixels) : stored.encoded;
  }
};

Packed pack(const ImageSet& set, int64_t i, const PrepareImages& options) {
  Packed packed;
  const std::string name = set.name(i);
  try {
    packed.stored = set.read(i);
    const bool encoded = packed.stored.pixels.pixels.empty();
    Image decoded;
    if (encoded) decoded = decode_image(packed.stored.encoded, set.channels(), name);
    const Image& image = encoded ? decoded : packed.stored.pixels;
    packed.width = image.width, packed.height = image.height;
    const int64_t side = std::min(image.width, image.height);
    packed.smaller = encoded && options.max_side > 0 && side > options.max_side;
    if (packed.smaller) {
      // The longer side is cut to whole pixels, as torchvision's Resize does.
      packed.width = image.width * options.max_side / side, packed.height = image.height * options.max_side / side;
      Image small = resize_image(image, packed.width, packed.height, Filter::bicubic);
      packed.sums.add(small);
      if (options.pixels)
        decoded = std::move(small);
      else
        packed.shrunk = jpeg_encode(small, options.quality);
    } else {
      packed.sums.add(image);
    }
    if (encoded && options.pixels) packed.stored = {.pixels = std::move(decoded)};
    check(packed.bytes().size() <= UINT32_MAX, name, "the picture takes more than 4 GB");
  } catch (const MissingLibrary&) {
    throw;  // every other picture of the format would be left out too
  } catch (const Error& error) {
    packed = {};
    packed.broken = error.what();
    if (const std::string where = "[" + name + "] "; packed.broken.starts_with(where))
      packed.broken.erase(0, where.size());
  }
  return packed;
}

// The shards and the index of one split.
class Writer {
 public:
  Writer(fs::path folder, std::string split, int64_t shard_bytes)
      : folder_(std::move(folder)), split_(std::move(split)), shard_bytes_(shard_bytes) {}

  void add(const Packed& picture, int32_t label, const std::string& name) {
    const auto bytes = picture.bytes();
    if (shard_ && used_ + static_cast<int64_t>(bytes.size()) > shard_bytes_ && used_ > kShardHeader) close_shard();
    if (!shard_) open_shard();
    shard_->write(bytes.data(), bytes.size());
    names_ += name;
    records_.push_back({.offset = static_cast<uint64_t>(used_),
                        .name_end = names_.size(),
                        .length = static_cast<uint32_t>(bytes.size()),
                        .shard = static_cast<uint32_t>(meta_.shards - 1),
                        .label = static_cast<uint32_t>(label),
                        .width = static_cast<uint32_t>(picture.width),
                        .height = static_cast<uint32_t>(picture.height),
                        .raw = picture.shrunk.empty() && picture.stored.encoded.empty()});
    used_ += static_cast<int64_t>(bytes.size());
    meta_.bytes += static_cast<int64_t>(bytes.size());
    ++meta_.images;
    meta_.shrunk += picture.smaller;
  }
  void skip(std::string name, std::string why) { meta_.skipped.push_back({std::move(name), std::move(why)}); }

  const ImageSplitMeta& meta() const { return meta_; }
  void finish() {
    if (shard_) close_shard();
    AtomicFile index(folder_ / (split_ + ".index"));
    const uint64_t sizes[2] = {records_.size(), names_.size()};
    index.write(kIndexMagic, 8);
    index.write(sizes, sizeof sizes);
    index.write(records_.data(), records_.size() * sizeof(ShardRecord));
    index.write(names_);
    index.commit();
  }

 private:
  void open_shard() {
    const uint32_t header[2] = {kShardVersion, static_cast<uint32_t>(meta_.shards)};
    shard_.emplace(folder_ / shard_name(split_, meta_.shards++));
    shard_->write(kShardMagic, 8);
    shard_->write(header, sizeof header);
    used_ = kShardHeader;
  }
  void close_shard() {
    shard_->commit();
    shard_.reset();
  }

  fs::path folder_;
  std::string split_;
  int64_t shard_bytes_, used_ = 0;
  std::optional<AtomicFile> shard_;
  std::vector<ShardRecord> records_;
  std::string names_;
  ImageSplitMeta meta_;
};

// The name of a picture without the folder that all have in common.
std::string short_name(const std::string& name, const fs::path& in) {
  const std::string root = (in / "").string();
  return name.starts_with(root) ? name.substr(root.size()) : name;
}

std::string with_unit(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, bytes < 1e9 ? "%.1f MB" : "%.2f GB", bytes / (bytes < 1e9 ? 1e6 : 1e9));
  return text;
}

std::vector<double> rounded(std::vector<double> values) {  // digits that mean nothing would only be noise in a file
  for (double& v : values) v = std::round(v * 1e6) / 1e6;
  return values;
}

// Pixels on [0, 1]; a constant channel has no deviation to divide by, and 1 leaves it as it is.
void state_moments(ImageMeta& meta, const Sums& sums) {
  for (int64_t c = 0; c < meta.channels; ++c) {
    const double n = static_cast<double>(sums.pixels), mean = static_cast<double>(sums.value[c]) / n;
    const double variance = static_cast<double>(sums.square[c]) / n - mean * mean;
    meta.mean.push_back(mean / 255);
    meta.stddev.push_back(variance > 1e-3 ? std::sqrt(variance) / 255 : 1);
  }
  meta.mean = rounded(meta.mean), meta.stddev = rounded(meta.stddev);
}

// Shards and indices of an earlier, larger result; nobody would read them, and they may be many gigabytes.
void remove_left_over(const fs::path& out, const ImageMeta& meta) {
  std::error_code ignored;
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(out, ignored))
    for (const char* split : {"train", "valid", "test"}) {
      const std::string name = entry.path().filename().string();
      const auto it = meta.splits.find(split);
      const int64_t shards = it == meta.splits.end() ? 0 : it->second.shards;
      long long number = 0;
      if (std::sscanf(name.c_str(), (std::string(split) + "-%lld.shard").c_str(), &number) == 1 &&
          name == shard_name(split, number) && number >= shards)
        old.push_back(entry.path());
      if (name == std::string(split) + ".index" && it == meta.splits.end()) old.push_back(entry.path());
    }
  for (const fs::path& path : old) fs::remove(path, ignored);
}

}  // namespace

ImageMeta prepare_images(const PrepareImages& options, const std::function<void(const std::string&)>& log) {
  check(options.max_side >= 0 && options.max_side <= 65500, "prepare", "the side must be 0..65500; got ",
        options.max_side);
  check(options.quality >= 1 && options.quality <= 100, "prepare", "the quality of a JPEG is 1..100; got ",
        options.quality);
  check(options.shard_bytes >= 1, "prepare", "a shard needs at least a byte");
  const std::vector<std::string> splits = image_splits(options.in);
  std::error_code ignored;
  check(!fs::equivalent(options.in, options.out, ignored), "prepare", "the result cannot lie in the folder it is made ",
        "from: ", options.out.string());
  std::map<std::string, std::shared_ptr<const ImageSet>> sets;  // opened first: wrong folders are noticed at once
  for (const std::string& split : splits) sets[split] = open_images(options.in, split);

  ImageMeta meta;
  meta.classes = sets.begin()->second->classes();
  meta.channels = sets.begin()->second->channels();
  meta.max_side = options.max_side, meta.quality = options.quality;
  for (const auto& [split, set] : sets)
    check(set->classes() == meta.classes && set->channels() == meta.channels, "prepare",
          "the classes of the splits of ", options.in.string(), " differ");

  Staging staging(options.out);
  for (const std::string& split : splits) {
    const ImageSet& set = *sets.at(split);
    Writer writer(staging.folder(), split, options.shard_bytes);
    Sums sums;
    const auto start = std::chrono::steady_clock::now();
    auto told = start;
    in_order(
        set.size(), options.threads, [&](int64_t i) { return pack(set, i, options); },
        [&](int64_t i, Packed packed) {
          const std::string name = short_name(set.name(i), options.in);
          if (packed.broken.empty()) {
            writer.add(packed, set.label(i), name);
            sums.add(packed.sums);
          } else {
            log("left out " + name + ": " + packed.broken);
            writer.skip(name, packed.broken);
          }
          const auto now = std::chrono::steady_clock::now();
          if (now - told < std::chrono::seconds(5)) return;
          told = now;
          const double seconds = std::chrono::duration<double>(now - start).count();
          log(split + ": " + std::to_string(i + 1) + " of " + std::to_string(set.size()) + " pictures, " +
              std::to_string(static_cast<int64_t>(static_cast<double>(i + 1) / seconds)) + "/s");
        });
    writer.finish();
    const ImageSplitMeta& m = writer.meta();
    if (m.images == 0)
      fail("prepare", "no picture of the split \"", split, "\" can be read; the first is ", m.skipped.front().file,
           ": ", m.skipped.front().why);
    log(split + ": " + std::to_string(m.images) + " pictures, " + with_unit(static_cast<double>(m.bytes)) + " in " +
        std::to_string(m.shards) + (m.shards == 1 ? " shard, " : " shards, ") + std::to_string(m.shrunk) +
        " made smaller, " + std::to_string(m.skipped.size()) + " left out");
    if (split == "train") state_moments(meta, sums);
    meta.splits.emplace(split, m);
  }
  write_text(staging.folder() / "meta.json", meta.to_json());
  staging.publish("meta.json");
  remove_left_over(options.out, meta);
  return meta;
}

}  // namespace accrete
