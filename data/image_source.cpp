#include "data/image_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "data/image_decode.h"
#include "data/mix.h"
#include "data/permutation.h"
#include "engine/core/error.h"

namespace accrete {

namespace {

constexpr size_t kMostLogged = 20;      // broken pictures
constexpr int64_t kMostInARow = 1'000;  // so many broken ones in a row are no accident: a wrong folder, a lost disk

}  // namespace

std::vector<int64_t> held_out_pictures(int64_t n, double holdout) {
  const auto count = static_cast<int64_t>(std::llround(holdout * static_cast<double>(n)));
  const RandomKey key = random_key(static_cast<uint64_t>(n), "image.holdout");
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<int64_t>(permuted(static_cast<uint64_t>(i), static_cast<uint64_t>(n), key)));
  std::sort(out.begin(), out.end());
  return out;
}

ImageSource::ImageSource(std::shared_ptr<const ImageSet> images, const ImageOptions& options)
    : images_(std::move(images)), options_(options) {
  const AugmentConfig& a = options_.augment;
  const int64_t n = images_->size(), full = std::max(options_.resolution, options_.crop_resolution);
  check(n >= 1, "image", "the data set has no pictures");
  check(options_.train || options_.sampling == Sampling::sequential, "image", "evaluation takes pictures in order");
  check(!options_.held_out || options_.holdout > 0, "image", "nothing is held out; expected holdout above 0");
  check(options_.holdout >= 0 && options_.holdout < 1, "image", "holdout must be 0 or a share below 1; got ",
        options_.holdout);
  if (options_.train) {
    resized_ = options_.image.resize == "batch_bilinear" && options_.resolution < full;
    check(!a.mix_token || (a.mixup == 0 && a.cutmix == 0), "augment",
          "mix_token takes the place of mixup and cutmix; expected one of them only");
    check(!a.mix_token || options_.token_grid > 0, "augment", "mix_token is for models with a grid of patches (volo)");
    check(options_.image.token_labels.empty() || options_.token_grid > 0, "image",
          "token_labels are for models with a head for every patch (volo)");
    check(options_.image.token_labels.empty() || (a.mixup == 0 && a.cutmix == 0), "image",
          "token labels belong to the pictures as they are; expected no mixup and no cutmix with them");
    if (!options_.image.token_labels.empty()) {
      labels_ = std::make_unique<TokenLabels>(TokenLabels::open(options_.image.token_labels));
      std::vector<int32_t> own(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) own[static_cast<size_t>(i)] = images_->label(i);
      labels_->check_fits(classes(), own);
    }
  }
  augmenter_ = std::make_unique<Augmenter>(
      a, options_.image, normalisation_of(options_.image, images_->channels(), images_->mean(), images_->stddev()),
      resized_ ? full : options_.resolution, options_.seed);

  const std::vector<int64_t> held = held_out_pictures(n, options_.holdout);
  if (options_.held_out)
    chosen_ = held;
  else
    for (int64_t i = 0, h = 0; i < n; ++i) {
      if (h < static_cast<int64_t>(held.size()) && held[static_cast<size_t>(h)] == i)
        ++h;
      else
        chosen_.push_back(i);
    }
  check(!chosen_.empty(), "image", "holding out ", options_.holdout, " of ", n, " pictures leaves ",
        options_.held_out ? "none held out" : "none for training");
}

int64_t ImageSource::place(int64_t sample) const {
  const int64_t n = epoch_samples(), repeats = options_.train ? options_.augment.repeats : 1;
  const auto size = static_cast<uint64_t>(n), epoch = static_cast<uint64_t>(sample / n);
  const auto index = static_cast<uint64_t>(sample % n / repeats);
  switch (options_.sampling) {
    case Sampling::shuffled:
      return static_cast<int64_t>(permuted(index, size, random_key(options_.seed, "image.order", epoch)));
    case Sampling::random:
      return static_cast<int64_t>(random_below(random_key(options_.seed, "image.random", epoch), index, size));
    case Sampling::sequential:
      return static_cast<int64_t>(index);
  }
  return 0;
}

int64_t ImageSource::picture(int64_t sample) const { return chosen_[static_cast<size_t>(place(sample))]; }

int64_t ImageSource::unreadable() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(broken_.size());
}

void ImageSource::note_broken(int64_t picture, const std::string& why) const {
  const std::lock_guard lock(mutex_);
  if (!broken_.insert(picture).second || !options_.log) return;
  if (broken_.size() <= kMostLogged) options_.log(why);
  if (broken_.size() == kMostLogged + 1) options_.log("further broken pictures are counted only");
}

int64_t ImageSource::fill(int64_t sample, float* out, View& view) const {
  const int64_t begin = place(sample), n = epoch_samples(), most = std::min(n, kMostInARow);
  std::string last;
  for (int64_t tries = 0; tries < most; ++tries) {
    const int64_t picture = chosen_[static_cast<size_t>((begin + tries) % n)];
    const std::string name = images_->name(picture);
    try {
      const StoredImage stored = images_->read(picture);
      view = options_.train ? augmenter_->train(stored, name, static_cast<uint64_t>(sample), out)
                            : augmenter_->evaluate(stored, name, out);
      any_read_ = true;
      return picture;
    } catch (const MissingLibrary&) {
      throw;  // every other picture of the format would follow
    } catch (const Error& error) {
      last = error.what();
      note_broken(picture, last);
    }
    if (options_.train) continue;
    if (!any_read_ && unreadable() >= most) break;  // in a row, over many calls
    std::fill_n(out, augmenter_->channels() * augmenter_->size() * augmenter_->size(), 0.0f);
    return -1;
  }
  if (n <= kMostInARow) fail("images", "none of the ", n, " pictures can be read; the last: ", last);
  fail("images", kMostInARow, " pictures in a row cannot be read; the last: ", last);
}

Batch ImageSource::get(int64_t first, int64_t count) const {
  check(first >= 0 && count >= 0, "image", "samples ", first, "..", first + count, " do not exist");
  if (!options_.train) count = std::clamp<int64_t>(epoch_samples() - first, 0, count);
  const SegmentScope segment(Segment::data);
  const int64_t C = augmenter_->channels(), S = augmenter_->size();
  Batch batch;
  batch.inputs = Tensor::empty({count, C, S, S});
  batch.targets = Tensor::empty({count}, DType::i32);
  batch.samples = batch.tokens = count;
  if (resized_) batch.resolution = options_.resolution;
  std::vector<int64_t> pictures(static_cast<size_t>(count));
  std::vector<View> views(pictures.size());
  float* inputs = batch.inputs.ptr<float>();
  for (int64_t b = 0; b < count; ++b) {
    const auto i = static_cast<size_t>(b);
    pictures[i] = fill(first + b, inputs + b * C * S * S, views[i]);
    batch.targets.ptr<int32_t>()[b] = pictures[i] < 0 ? -1 : images_->label(pictures[i]);
  }
  if (options_.train) make_targets(batch, pictures, views, first);
  return batch;
}

void ImageSource::make_targets(Batch& batch, const std::vector<int64_t>& pictures, const std::vector<View>& views,
                               int64_t first) const {
  const AugmentConfig& a = options_.augment;
  const int64_t B = batch.samples, K = classes(), C = augmenter_->channels(), S = augmenter_->size();
  const bool mixed = a.mixup > 0 || a.cutmix > 0;
  if (!mixed && !a.mix_token && !labels_ && a.smoothing == 0 && !options_.soft_targets) return;
  Tensor soft = Tensor::empty({B, K});
  const int64_t g = options_.token_grid;
  Tensor tokens;
  if (labels_) tokens = Tensor::empty({B, g * g, K});
  for (int64_t b = 0; b < B; ++b) {
    const auto i = static_cast<size_t>(b);
    float* target = soft.ptr<float>() + b * K;
    if (labels_)
      labels_->targets(pictures[i], views[i], g, a.smoothing, tokens.ptr<float>() + b * g * g * K, target);
    else
      smooth_target(batch.targets.ptr<int32_t>()[b], a.smoothing, K, target);
  }
  std::vector<float> lambdas(static_cast<size_t>(B), 1.0f);
  const RandomKey key = random_key(options_.seed, "image.mix", static_cast<uint64_t>(first));
  if (mixed) {
    const std::vector<Mixing> mixing = draw_mixing(a, B, S, S, key);
    mix_images(mixing, batch.inputs.ptr<float>(), C, S, S);
    for (size_t b = 0; b < mixing.size(); ++b) lambdas[b] = mixing[b].lambda;
  }
  if (a.mix_token) {
    // The model exchanges the patches; here only the class target is mixed.
    if (!labels_) tokens = soft.clone();
    Draws draws(key);
    MixBox box;
    if (draws.chance(a.mix_prob)) box = mix_box(g, g, draws.beta(1, 1), draws);
    batch.extra["mix_box"] = Tensor::from<int32_t>({static_cast<int32_t>(box.y0), static_cast<int32_t>(box.y1),
                                                    static_cast<int32_t>(box.x0), static_cast<int32_t>(box.x1)},
                                                   {4});
    const double share = static_cast<double>(box.area()) / static_cast<double>(g * g);
    std::fill(lambdas.begin(), lambdas.end(), static_cast<float>(1.0 - share));
  }
  mix_targets(lambdas, soft.ptr<float>(), K);
  batch.extra["soft_targets"] = soft;
  if (tokens.defined()) batch.extra["token_targets"] = tokens;
}

}  // namespace accrete
