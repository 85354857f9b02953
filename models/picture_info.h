// What the folder of an image classifier says beside the weights: names of the classes, and how a picture is prepared.
// Two styles: transformers (id2label in config.json, preprocessor_config.json) and timm (label_names and pretrained_cfg
// in config.json).
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace accrete {

struct PictureInfo {
  std::vector<std::string> class_names;   // in the order of the classes; empty: not told
  std::vector<double> mean, stddev;       // of each channel on [0, 1]; empty: not told
  double crop_pct = 0.875;                // side of the centre crop as a share of the resized shorter side
  std::string interpolation = "bicubic";  // of the resize: bilinear or bicubic
  bool operator==(const PictureInfo&) const = default;
};

// Reads either style; what the folder does not tell stays as in an empty PictureInfo. transformers' squashing resize to
// a square without a crop is read as crop_pct 1.
PictureInfo read_picture_info(const std::filesystem::path& folder);

// ---- for writers
// The labels of the classes, "LABEL_0" and so on where there are no names. Error when there are names for another
// number of classes.
std::vector<std::string> class_labels(const PictureInfo& info, int64_t classes);
// id2label and label2id of a config.json.
void add_hf_labels(nlohmann::json& config, const PictureInfo& info, int64_t classes);
// preprocessor_config.json. The class BitImageProcessor resizes the shorter side and crops the centre, as we do; those
// named after ViT and DeiT squash pictures to a square.
nlohmann::json hf_preprocessor(const PictureInfo& info, int64_t image_size, int64_t channels);
// pretrained_cfg of timm's config.json; `classifier` names the heads.
nlohmann::json timm_pretrained_cfg(const PictureInfo& info, int64_t image_size, int64_t channels, int64_t classes,
                                   const nlohmann::json& classifier);

}  // namespace accrete
