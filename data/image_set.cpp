#include "data/image_set.h"

#include <algorithm>

#include "data/image_formats.h"
#include "engine/core/error.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// Shards first: they lie beside a meta.json that says what they are. Folders last: any folder with a `train` in it.
constexpr const ImageFormat* kFormats[] = {&kImageShards, &kCifar, &kIdx, &kClassFolders};

std::pair<const ImageFormat*, std::vector<std::string>> format_of(const fs::path& path) {
  std::error_code ignored;
  check(fs::exists(path, ignored), "images", path.string(), " does not exist");
  check(fs::is_directory(path, ignored), "images", path.string(),
        " is not a folder; expected the folder of a data set");
  for (const ImageFormat* format : kFormats)
    if (auto splits = format->splits(path); !splits.empty()) return {format, std::move(splits)};
  fail("images", path.string(),
       " holds no pictures that are known here; expected train/<class>/*.jpg and val/<class>/*",
       ".jpg, the output of prepare images, CIFAR binaries (data_batch_1.bin, or train.bin of CIFAR-100) or IDX files "
       "(train-images-idx3-ubyte)");
}

}  // namespace

std::vector<std::string> image_splits(const fs::path& path) { return format_of(path).second; }

std::shared_ptr<const ImageSet> open_images(const fs::path& path, const std::string& split) {
  check(split == "train" || split == "valid" || split == "test", "images", "unknown split \"", split,
        "\"; expected train, valid or test");
  const auto [format, splits] = format_of(path);
  const auto there = [&, &names = splits](const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  std::string found = split;
  if (split == "valid" && !there("valid")) found = "test";  // what the data set holds out
  if (!there(found)) {
    std::string list;
    for (const std::string& name : splits) list += (list.empty() ? "" : ", ") + name;
    fail("images", path.string(), " (", format->name, ") has no split \"", split, "\"; it has ", list);
  }
  auto set = format->open(path, found);
  check(set->size() > 0, "images", "the split \"", split, "\" of ", path.string(), " has no picture");
  return set;
}

}  // namespace accrete
