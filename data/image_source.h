// Pictures as a Source: an endless stream of augmented training samples, or one pass of evaluation.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "data/augment.h"
#include "data/image_set.h"
#include "data/source.h"
#include "data/token_labels.h"
#include "data/token_source.h"

namespace accrete {

struct ImageOptions {
  int64_t resolution = 224;     // side at which the model computes
  int64_t crop_resolution = 0;  // side of the run's full pictures; 0: resolution. See ImageConfig::resize
  AugmentConfig augment;
  ImageConfig image;
  bool train = true;  // augmented and mixed; false: the evaluation pipeline, sequential, nothing mixed
  Sampling sampling = Sampling::shuffled;
  uint64_t seed = 0;
  // Share of the pictures that is kept out of training, the same in every run on this data; `held_out` chooses it
  // instead of the others.
  double holdout = 0;
  bool held_out = false;
  bool soft_targets = false;  // hand them out even where neither smoothing nor mixing asks for them
  int64_t token_grid = 0;     // VOLO: cells a side of the coarser grid of patches, for mix_token and token labels
  // Called once for each of the first 20 pictures that cannot be read, and once more when the others are only counted.
  std::function<void(const std::string&)> log;
};

// A batch holds inputs (B, C, S, S) f32 and targets (B) i32, unmixed; what batch.h lists under `extra` as the settings
// ask: soft_targets with smoothing, mixing or token labels; token_targets with mix_token (the class target, unmixed,
// for every patch) or token labels (a target of its own for each); mix_box with mix_token. batch.resolution is set
// where the model resizes (batch_bilinear below the full resolution).
//
// Pictures are mixed among those of one call of get, which is a micro-batch: cutting a step into other micro-batches
// mixes other pairs, as it does in training on several GPUs. Everything else belongs to the sample and does not depend
// on the call.
class ImageSource : public Source {
 public:
  ImageSource(std::shared_ptr<const ImageSet> images, const ImageOptions& options);

  // Pictures in one pass. With repeats = r an epoch is as long, but of a fraction 1/r of the pictures, each r times in
  // a row with augmentations of their own.
  int64_t epoch_samples() const override { return static_cast<int64_t>(chosen_.size()); }
  int64_t tokens_per_sample() const override { return 1; }
  // In training, a picture that cannot be read is replaced by the next one that can; in evaluation its target is -1 and
  // it is black. Error with the last reason when 1,000 in a row, or all of them, cannot be read (in evaluation: the
  // first 1,000), and that of the decoder, MissingLibrary, when this build lacks the library of a format.
  Batch get(int64_t first, int64_t count) const override;

  // Number of the picture (in the ImageSet) that sample n shows, as long as it can be read.
  int64_t picture(int64_t sample) const;
  int64_t unreadable() const override;
  const ImageSet& images() const { return *images_; }
  int64_t classes() const { return static_cast<int64_t>(images_->classes().size()); }

 private:
  int64_t place(int64_t sample) const;  // in chosen_
  // Writes one sample; returns the number of its picture, or -1 (evaluation) when it cannot be read.
  int64_t fill(int64_t sample, float* out, View& view) const;
  void note_broken(int64_t picture, const std::string& why) const;
  void make_targets(Batch& batch, const std::vector<int64_t>& pictures, const std::vector<View>& views,
                    int64_t first) const;

  std::shared_ptr<const ImageSet> images_;
  ImageOptions options_;
  bool resized_ = false;  // by the model
  std::unique_ptr<const Augmenter> augmenter_;
  std::unique_ptr<const TokenLabels> labels_;
  std::vector<int64_t> chosen_;  // pictures of this part of the data, in the order of the set
  mutable std::mutex mutex_;
  mutable std::set<int64_t> broken_;
  mutable std::atomic<bool> any_read_ = false;
};

// The pictures of a set of n that a share `holdout` keeps out of training, in rising order: a function of n and the
// share alone, so that every run on the same data holds out the same.
std::vector<int64_t> held_out_pictures(int64_t n, double holdout);

}  // namespace accrete
