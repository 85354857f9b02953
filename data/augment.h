// One picture of a data set -> one sample of a batch: (C, S, S) f32, normalised. Pure functions of their arguments; all
// random numbers have the address (seed, purpose, sample).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/image.h"
#include "data/image_config.h"
#include "data/rand_augment.h"

namespace accrete {

// What a sample shows of its picture, as fractions of the picture's width and height (beyond 0..1: a border).
struct View {
  double x0 = 0, y0 = 0, x1 = 1, y1 = 1;
  bool flipped = false;
};

// Mean and standard deviation of each channel on [0, 1].
struct Normalisation {
  std::vector<double> mean, stddev;
};
// Of the settings, else the data set's own, else ImageNet's (for grey pictures the mean of its channels).
Normalisation normalisation_of(const ImageConfig& config, int64_t channels, const std::vector<double>& own_mean = {},
                               const std::vector<double>& own_stddev = {});

class Augmenter {
 public:
  // Error in one sentence for settings that cannot be meant. `size` is S.
  Augmenter(const AugmentConfig& augment, const ImageConfig& image, const Normalisation& normalisation, int64_t size,
            uint64_t seed);

  // For training: crop and resize, flip, ThreeAugment or RandAugment, colour jitter, normalise, erase. Sample numbers
  // of one picture in different epochs differ. `name` opens the Error of a picture that cannot be read. out: (C, S, S)
  View train(const StoredImage& image, const std::string& name, uint64_t sample, float* out) const;
  // For evaluation, pixel for pixel as torchvision with Pillow: shorter side to floor(S / crop_pct), the other to
  // int(size * long / short), centre crop, zeros where the crop is larger. Pictures of S <= 32 pixels stay as they are.
  View evaluate(const StoredImage& image, const std::string& name, float* out) const;

  int64_t size() const { return size_; }
  int64_t channels() const { return channels_; }

 private:
  void check_stored(const StoredImage& image, const std::string& name) const;
  Image whole(const StoredImage& image, const std::string& name) const;
  Image training_crop(const StoredImage& image, const std::string& name, uint64_t sample, View& view) const;
  Image center_crop(const StoredImage& image, const std::string& name, View& view) const;
  Image shorter_side(const Image& image, int64_t side, Filter filter, const std::string& name) const;
  void recolour(Image& image, uint64_t sample) const;
  // (S, S, C) u8 -> (C, S, S) f32
  void to_planes(const Image& image, bool flip, float* out) const;
  void erase(uint64_t sample, float* out) const;

  AugmentConfig config_;
  ImageConfig image_;
  int64_t size_, channels_;
  uint64_t seed_;
  Surroundings surroundings_;
  bool random_filter_ = false;                 // bilinear or bicubic, drawn for each resize and each operation
  std::shared_ptr<const RandAugment> policy_;  // null: none
  bool three_ = false, jitter_ = false;
  std::array<std::array<float, 256>, 3> table_;  // normalised value of each byte
};

// RandomResizedCrop: a region of the picture with a share of its area drawn from `scale` and a width / height drawn
// from `ratio` (on a logarithmic scale); after ten tries that do not fit, the largest centred region.
Region random_region(int64_t width, int64_t height, const std::vector<double>& scale, const std::vector<double>& ratio,
                     Draws& draws);

}  // namespace accrete
