// How pictures become samples: the settings of the pipeline, with the names of timm where it has one (recipes spec 1).
#pragma once

#include <string>
#include <vector>

#include "engine/core/config.h"

namespace accrete {

struct AugmentConfig {
  std::string crop = "random_resized";
  std::vector<double> scale = {0.08, 1.0}, ratio = {0.75, 4.0 / 3.0};
  int64_t padding = 4;
  std::string interpolation = "bicubic";
  double flip = 0.5;
  double color_jitter = 0;
  std::string auto_augment;
  double magnitude = -1;
  double erase = 0;
  std::string erase_mode = "pixel";
  int64_t erase_count = 1;
  double mixup = 0, cutmix = 0, mix_prob = 1, mix_switch = 0.5;
  std::string mix_mode = "batch";
  bool mix_token = false;
  double smoothing = 0;
  int64_t repeats = 1;

  template <class V>
  void fields(V& v) {
    v("crop", crop,
      "random_resized: a random part of the picture; padded: shorter side to size (where it differs), random crop with "
      "a "
      "border of zeros (CIFAR); simple: the same with a mirrored border (DeiT III); center: as in evaluation",
      one_of("random_resized", "padded", "simple", "center"));
    v("scale", scale, "random_resized: smallest and largest share of the picture's area", above(0), at_most(1));
    v("ratio", ratio, "random_resized: smallest and largest width / height", above(0));
    v("padding", padding, "padded, simple: width of the border in pixels", between(0, 1024));
    v("interpolation", interpolation, "of the resize; random: bilinear or bicubic, drawn for each picture",
      one_of("bilinear", "bicubic", "random"));
    v("flip", flip, "probability of a horizontal flip", between(0, 1));
    v("color_jitter", color_jitter,
      "brightness, contrast and saturation times a factor from [1 - v, 1 + v]; left out under RandAugment",
      between(0, 1));
    v("auto_augment", auto_augment,
      "RandAugment as timm writes it (\"rand-m9-mstd0.5-inc1\"), \"three\" (DeiT III's ThreeAugment), or empty");
    v("magnitude", magnitude,
      "RandAugment's magnitude in place of the m in auto_augment; negative: as written there; 0: no RandAugment",
      at_most(100));
    v("erase", erase, "probability of random erasing", between(0, 1));
    v("erase_mode", erase_mode, "what an erased box holds: noise for every value, one random colour, zeros",
      one_of("pixel", "rand", "const"));
    v("erase_count", erase_count, "most boxes of one erased picture; 1 to so many are drawn and share the area",
      between(1, 100));
    v("mixup", mixup, "alpha of mixup; 0: none", at_least(0));
    v("cutmix", cutmix, "alpha of cutmix; 0: none", at_least(0));
    v("mix_prob", mix_prob, "probability that a batch (pair, element) is mixed", between(0, 1));
    v("mix_switch", mix_switch, "probability of cutmix where both are on", between(0, 1));
    v("mix_mode", mix_mode, "one draw for a batch, for a pair or for every element", one_of("batch", "pair", "elem"));
    v("mix_token", mix_token, "volo: MixToken, the boxes are exchanged between embedded patches");
    v("smoothing", smoothing, "label smoothing", at_least(0), at_most(0.99));
    v("repeats", repeats,
      "repeated augmentation: so many differently augmented copies of a picture in an epoch that "
      "stays as long (DeiT: 3)",
      between(1, 64));
  }
};

struct ImageConfig {
  double crop_pct = 0.875;
  std::string interpolation = "bicubic";
  std::vector<double> mean, stddev;
  std::string resize = "batch_bilinear";
  std::string token_labels;

  template <class V>
  void fields(V& v) {
    v("crop_pct", crop_pct, "evaluation: side of the centre crop as a share of the resized shorter side", above(0),
      at_most(2));
    v("interpolation", interpolation, "evaluation: of the resize", one_of("bilinear", "bicubic"));
    v("mean", mean, "of each channel on [0, 1], subtracted; empty: the data set's own, else ImageNet's");
    v("stddev", stddev, "of each channel, divided by; empty: as for mean", above(0));
    v("resize", resize,
      "training below the full resolution: full crops are resized as a batch by the model "
      "(batch_bilinear), or crops are made at the smaller size (crop_direct)",
      one_of("batch_bilinear", "crop_direct"));
    v("token_labels", token_labels,
      "volo: file of token-label maps (data/token_labels.h), or a folder with token_labels.bin; "
      "empty: none");
  }
};

}  // namespace accrete
