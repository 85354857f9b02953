#include "models/picture_info.h"

#include <cmath>

#include "engine/core/error.h"
#include "engine/core/json.h"
#include "models/hf_config.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// PIL's numbers of interpolations, as transformers stores them.
constexpr int kBilinear = 2, kBicubic = 3;

std::string default_label(size_t i) { return "LABEL_" + std::to_string(i); }

// {"0": "cat", "1": "dog"}: every class once.
std::vector<std::string> labels_of(const HfConfig& hf) {
  const HfConfig map = hf.child("id2label");
  std::vector<std::string> names;
  bool plain = true;  // nothing but the library's own LABEL_n
  for (size_t i = 0; i < map.json().size(); ++i) {
    const std::string key = std::to_string(i);
    check(map.has(key.c_str()), map.where(), "has ", map.json().size(), " entries and no \"", key,
          "\"; expected one for each class");
    names.push_back(map.text(key.c_str(), ""));
    plain = plain && names.back() == default_label(i);
  }
  return plain ? std::vector<std::string>() : names;
}

// 256, {"shortest_edge": 256} or {"height": 256, "width": 256}; 0: not told
int64_t edge_of(const HfConfig& hf, const char* key) {
  if (!hf.has(key)) return 0;
  if (!hf.json().at(key).is_object()) return hf.integer(key, 0);
  const HfConfig size = hf.child(key);
  return size.integer("shortest_edge", size.integer("height", 0, 0), 0);
}

void read_preprocessor(const fs::path& path, size_t channels, PictureInfo& info) {
  const HfConfig hf(path);
  if (hf.flag("do_normalize", true)) {
    info.mean = hf.numbers("image_mean");
    info.stddev = hf.numbers("image_std");
  } else {
    info.mean.assign(channels, 0.0), info.stddev.assign(channels, 1.0);
  }
  info.interpolation = hf.integer("resample", kBicubic, 0) == kBilinear ? "bilinear" : "bicubic";
  const int64_t size = edge_of(hf, "size"), crop = edge_of(hf, "crop_size");
  const bool cropped = hf.flag("do_center_crop", false) && size > 0 && crop > 0;
  info.crop_pct = cropped ? static_cast<double>(crop) / static_cast<double>(size) : 1.0;
}

void read_timm(const HfConfig& config, PictureInfo& info) {
  const HfConfig pretrained = config.child("pretrained_cfg");
  info.class_names = config.texts("label_names");
  if (info.class_names.empty()) info.class_names = pretrained.texts("label_names");
  info.mean = pretrained.numbers("mean");
  info.stddev = pretrained.numbers("std");
  info.crop_pct = pretrained.number("crop_pct", info.crop_pct);
  if (pretrained.text("interpolation", "bicubic") == "bilinear") info.interpolation = "bilinear";
}

}  // namespace

PictureInfo read_picture_info(const fs::path& folder) {
  PictureInfo info;
  size_t channels = 3;
  if (fs::exists(folder / "config.json")) {
    const HfConfig config(folder / "config.json");
    channels = static_cast<size_t>(config.integer("num_channels", 3));
    if (config.has("architecture"))
      read_timm(config, info);
    else
      info.class_names = labels_of(config);
  }
  if (fs::exists(folder / "preprocessor_config.json"))
    read_preprocessor(folder / "preprocessor_config.json", channels, info);
  return info;
}

std::vector<std::string> class_labels(const PictureInfo& info, int64_t classes) {
  std::vector<std::string> labels = info.class_names;
  if (labels.empty())
    for (size_t i = 0; i < static_cast<size_t>(classes); ++i) labels.push_back(default_label(i));
  check(static_cast<int64_t>(labels.size()) == classes, "model", labels.size(), " names for ", classes,
        " classes; expected one for each");
  return labels;
}

void add_hf_labels(nlohmann::json& config, const PictureInfo& info, int64_t classes) {
  const auto labels = class_labels(info, classes);
  config["id2label"] = config["label2id"] = nlohmann::json::object();
  for (size_t i = 0; i < labels.size(); ++i) {
    config["id2label"][std::to_string(i)] = labels[i];
    config["label2id"][labels[i]] = i;
  }
}

namespace {

// Mean or deviation as a file must state it; `usual` for every channel where it is not told.
nlohmann::json per_channel(const std::vector<double>& values, double usual, int64_t channels) {
  std::vector<double> all = values;
  if (all.empty()) all.assign(static_cast<size_t>(channels), usual);
  check(static_cast<int64_t>(all.size()) == channels, "model", "mean and stddev have ", all.size(),
        " numbers; expected one for each of ", channels, " channels");
  return all;
}

int64_t resized_edge(const PictureInfo& info, int64_t image_size) {
  return static_cast<int64_t>(std::floor(static_cast<double>(image_size) / info.crop_pct));
}

}  // namespace

nlohmann::json hf_preprocessor(const PictureInfo& info, int64_t image_size, int64_t channels) {
  return {
      {"crop_size", {{"height", image_size}, {"width", image_size}}},
      {"do_center_crop", true},
      {"do_convert_rgb", channels == 3},
      {"do_normalize", true},
      {"do_rescale", true},
      {"do_resize", true},
      {"image_mean", per_channel(info.mean, 0.5, channels)},
      {"image_processor_type", "BitImageProcessor"},
      {"image_std", per_channel(info.stddev, 0.5, channels)},
      {"resample", info.interpolation == "bilinear" ? kBilinear : kBicubic},
      {"rescale_factor", 1.0 / 255.0},
      {"size", {{"shortest_edge", resized_edge(info, image_size)}}},
  };
}

nlohmann::json timm_pretrained_cfg(const PictureInfo& info, int64_t image_size, int64_t channels, int64_t classes,
                                   const nlohmann::json& classifier) {
  return {
      {"classifier", classifier},
      {"crop_mode", "center"},
      {"crop_pct", info.crop_pct},
      {"custom_load", false},
      {"first_conv", "patch_embed.proj"},
      {"fixed_input_size", true},
      {"input_size", {channels, image_size, image_size}},
      {"interpolation", info.interpolation},
      {"mean", per_channel(info.mean, 0.5, channels)},
      {"num_classes", classes},
      {"pool_size", nullptr},
      {"std", per_channel(info.stddev, 0.5, channels)},
      {"tag", "local"},
  };
}

}  // namespace accrete
