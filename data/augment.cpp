#include "data/augment.h"

#include <algorithm>
#include <cmath>

#include "data/image_decode.h"
#include "engine/core/error.h"

namespace accrete {

namespace {

// Python's round(): ties to even.
int64_t rounded(double v) { return static_cast<int64_t>(std::nearbyint(v)); }

void check_range(const std::vector<double>& range, const char* name) {
  check(range.size() == 2 && range[0] <= range[1], "augment", name, " must be two numbers, the smaller first; got ",
        range.size(), " numbers", range.size() == 2 ? " in falling order" : "");
}

// n independent normal values of the stream: Box-Muller in f32, two pairs from each block of words.
void fill_normal(const RandomKey& key, uint64_t block, float* out, int64_t n) {
  constexpr float kTau = 6.2831853f;
  for (int64_t i = 0; i < n; i += 4, ++block) {
    const Philox4 w = random_words(key, block);
    float values[4];
    for (int pair = 0; pair < 2; ++pair) {
      const float u = (static_cast<float>(w.v[2 * pair] >> 8) + 1.0f) * 0x1p-24f;  // (0, 1]
      const float radius = std::sqrt(-2.0f * std::log(u)), angle = kTau * to_uniform(w.v[2 * pair + 1]);
      values[2 * pair] = radius * std::cos(angle), values[2 * pair + 1] = radius * std::sin(angle);
    }
    std::copy_n(values, std::min<int64_t>(4, n - i), out + i);
  }
}

}  // namespace

Normalisation normalisation_of(const ImageConfig& config, int64_t channels, const std::vector<double>& own_mean,
                               const std::vector<double>& own_stddev) {
  const bool grey = channels == 1;
  Normalisation n;
  n.mean = !config.mean.empty() ? config.mean : own_mean;
  n.stddev = !config.stddev.empty() ? config.stddev : own_stddev;
  if (n.mean.empty()) n.mean = grey ? std::vector<double>{0.449} : std::vector<double>{0.485, 0.456, 0.406};
  if (n.stddev.empty()) n.stddev = grey ? std::vector<double>{0.226} : std::vector<double>{0.229, 0.224, 0.225};
  check(static_cast<int64_t>(n.mean.size()) == channels && static_cast<int64_t>(n.stddev.size()) == channels, "image",
        "mean and stddev need a number for each channel of the pictures; expected ", channels, "; got ", n.mean.size(),
        " and ", n.stddev.size());
  return n;
}

Region random_region(int64_t width, int64_t height, const std::vector<double>& scale, const std::vector<double>& ratio,
                     Draws& draws) {
  const auto W = static_cast<double>(width), H = static_cast<double>(height);
  const double low = std::log(ratio[0]), high = std::log(ratio[1]);
  for (int tries = 0; tries < 10; ++tries) {
    const double area = W * H * draws.uniform(scale[0], scale[1]), aspect = std::exp(draws.uniform(low, high));
    const int64_t w = rounded(std::sqrt(area * aspect)), h = rounded(std::sqrt(area / aspect));
    if (w <= 0 || h <= 0 || w > width || h > height) continue;
    const int64_t y = draws.below(height - h + 1), x = draws.below(width - w + 1);
    return {x, y, w, h};
  }
  int64_t w = width, h = height;
  if (W / H < ratio[0])
    h = rounded(W / ratio[0]);
  else if (W / H > ratio[1])
    w = rounded(H * ratio[1]);
  w = std::clamp<int64_t>(w, 1, width), h = std::clamp<int64_t>(h, 1, height);
  return {(width - w) / 2, (height - h) / 2, w, h};
}

Augmenter::Augmenter(const AugmentConfig& augment, const ImageConfig& image, const Normalisation& normalisation,
                     int64_t size, uint64_t seed)
    : config_(augment),
      image_(image),
      size_(size),
      channels_(static_cast<int64_t>(normalisation.mean.size())),
      seed_(seed) {
  check(size >= 1 && size <= 8192, "image", "the side of the pictures must be 1..8192 pixels; got ", size);
  check(channels_ == 1 || channels_ == 3, "image", "pictures have 1 or 3 channels; got ", channels_);
  check(static_cast<double>(size) / image.crop_pct <= 65536, "image", "crop_pct ", image.crop_pct,
        " asks for pictures of more than 65536 pixels a side to be cut to ", size);
  check_range(augment.scale, "augment.scale");
  check_range(augment.ratio, "augment.ratio");
  for (size_t c = 0; c < static_cast<size_t>(channels_); ++c) {
    const auto mean = static_cast<float>(normalisation.mean[c]), stddev = static_cast<float>(normalisation.stddev[c]);
    for (size_t v = 0; v < 256; ++v) table_[c][v] = (static_cast<float>(v) / 255.0f - mean) / stddev;
    surroundings_.fill[c] = static_cast<uint8_t>(std::clamp<int64_t>(rounded(255.0 * normalisation.mean[c]), 0, 255));
  }
  random_filter_ = augment.interpolation == "random";
  if (!random_filter_) surroundings_.filter = filter_of(augment.interpolation);
  three_ = augment.auto_augment == "three";
  const bool random_policy = !augment.auto_augment.empty() && !three_;
  if (random_policy) {
    auto policy = std::make_shared<RandAugment>(augment.auto_augment);
    if (augment.magnitude >= 0) policy->magnitude = augment.magnitude;
    if (augment.magnitude != 0) policy_ = std::move(policy);
  }
  check(random_policy || augment.magnitude < 0, "augment", "magnitude is that of RandAugment, but auto_augment is \"",
        augment.auto_augment, "\"; expected rand-..., for instance rand-m9-mstd0.5-inc1");
  // A policy replaces the jitter even where its magnitude is 0: less of one must not bring more of the other.
  jitter_ = augment.color_jitter > 0 && !random_policy;
}

void Augmenter::check_stored(const StoredImage& image, const std::string& name) const {
  if (!image.encoded.empty()) return;  // the decoders check
  check(!image.pixels.pixels.empty(), name, "is empty; expected at least one pixel");
  check(image.pixels.channels == channels_, name, "has ", image.pixels.channels, " channels; expected ", channels_);
}

Image Augmenter::whole(const StoredImage& image, const std::string& name) const {
  return image.encoded.empty() ? image.pixels : decode_image(image.encoded, channels_, name);
}

Image Augmenter::shorter_side(const Image& image, int64_t side, Filter filter, const std::string& name) const {
  const int64_t w = image.width, h = image.height, small = std::min(w, h), large = std::max(w, h);
  const int64_t other = side * large / small;
  check(other <= kMaxImagePixels / side, name, "is too long and thin to be resized: ", w, " x ", h,
        " pixels with the shorter side to ", side, " make ", side * other, "; expected at most ", kMaxImagePixels);
  return w <= h ? resize_image(image, side, other, filter) : resize_image(image, other, side, filter);
}

Image Augmenter::center_crop(const StoredImage& stored, const std::string& name, View& view) const {
  Image image = whole(stored, name);
  if (size_ <= 32 && image.width == size_ && image.height == size_) return image;
  const auto side = static_cast<int64_t>(std::floor(static_cast<double>(size_) / image_.crop_pct));
  image = shorter_side(image, std::max<int64_t>(1, side), filter_of(image_.interpolation), name);
  // Where the crop is larger than the picture, a border of zeros comes first, the odd pixel to the right and below.
  const auto offset = [&](int64_t n) {
    return n >= size_ ? rounded(static_cast<double>(n - size_) / 2) : -((size_ - n) / 2);
  };
  const int64_t x = offset(image.width), y = offset(image.height);
  const auto w = static_cast<double>(image.width), h = static_cast<double>(image.height);
  view = {static_cast<double>(x) / w, static_cast<double>(y) / h, static_cast<double>(x + size_) / w,
          static_cast<double>(y + size_) / h};
  return pixels::crop(image, x, y, size_, size_);
}

Image Augmenter::training_crop(const StoredImage& stored, const std::string& name, uint64_t sample, View& view) const {
  if (config_.crop == "center") return center_crop(stored, name, view);
  Draws draws(random_key(seed_, "image.crop", sample));
  Filter filter = surroundings_.filter;
  if (random_filter_)
    filter = Draws(random_key(seed_, "image.filter", sample)).chance(0.5) ? Filter::bilinear : Filter::bicubic;
  if (config_.crop == "random_resized") {
    const bool encoded = !stored.encoded.empty();
    ImageHeader header{"", stored.pixels.width, stored.pixels.height};
    if (encoded) header = read_image_header(stored.encoded, name);
    const Region region = random_region(header.width, header.height, config_.scale, config_.ratio, draws);
    const auto x = static_cast<double>(region.x), y = static_cast<double>(region.y);
    const auto w = static_cast<double>(region.w), h = static_cast<double>(region.h);
    const auto W = static_cast<double>(header.width), H = static_cast<double>(header.height);
    view = {x / W, y / H, (x + w) / W, (y + h) / H};
    if (!encoded) return resize_image(stored.pixels, size_, size_, filter, x, y, w, h);
    const DecodedRegion part = decode_region(stored.encoded, channels_, region, size_, size_, name);
    return resize_image(part.image, size_, size_, filter, part.x, part.y, part.w, part.h);
  }
  // padded, simple: the picture with its shorter side S, a border around it, and S x S pixels from anywhere in that.
  Image image = whole(stored, name);
  if (std::min(image.width, image.height) != size_) image = shorter_side(image, size_, filter, name);
  const int64_t p = config_.padding;
  const int64_t y = draws.below(image.height + 2 * p - size_ + 1) - p;
  const int64_t x = draws.below(image.width + 2 * p - size_ + 1) - p;
  const auto w = static_cast<double>(image.width), h = static_cast<double>(image.height);
  view = {static_cast<double>(x) / w, static_cast<double>(y) / h, static_cast<double>(x + size_) / w,
          static_cast<double>(y + size_) / h};
  return pixels::crop(image, x, y, size_, size_, config_.crop == "simple");
}

void Augmenter::recolour(Image& image, uint64_t sample) const {
  if (policy_) {
    Draws draws(random_key(seed_, "image.policy", sample));
    Draws filters(random_key(seed_, "image.policy.filter", sample));
    Surroundings surroundings = surroundings_;
    if (random_filter_) surroundings.filters = &filters;
    (*policy_)(image, draws, surroundings);
  }
  if (three_) {
    Draws draws(random_key(seed_, "image.policy", sample));
    const int64_t kind = draws.below(3);
    if (kind == 0) pixels::to_grey(image);
    if (kind == 1) pixels::solarize(image, 128);
    if (kind == 2) pixels::gaussian_blur(image, draws.uniform(0.1, 2.0));
  }
  if (!jitter_) return;
  Draws draws(random_key(seed_, "image.jitter", sample));
  const double v = config_.color_jitter;
  double factors[3];
  for (double& f : factors) f = draws.uniform(1 - v, 1 + v);
  int order[3] = {0, 1, 2};
  std::swap(order[0], order[draws.below(3)]);
  std::swap(order[1], order[1 + draws.below(2)]);
  for (const int which : order) {
    if (which == 0) pixels::adjust_brightness(image, factors[0]);
    if (which == 1) pixels::adjust_contrast(image, factors[1]);
    if (which == 2) pixels::adjust_color(image, factors[2]);
  }
}

void Augmenter::to_planes(const Image& image, bool flip, float* out) const {
  const int64_t S = size_, plane = S * S;
  for (int64_t y = 0; y < S; ++y) {
    const uint8_t* row = image.row(y);
    for (int64_t c = 0; c < channels_; ++c) {
      const float* table = table_[static_cast<size_t>(c)].data();
      float* to = out + c * plane + y * S;
      const uint8_t* from = row + c;
      if (channels_ == 3 && !flip) {
        for (int64_t x = 0; x < S; ++x) to[x] = table[from[3 * x]];
      } else if (channels_ == 3) {
        for (int64_t x = 0; x < S; ++x) to[x] = table[from[3 * (S - 1 - x)]];
      } else {
        for (int64_t x = 0; x < S; ++x) to[x] = table[from[flip ? S - 1 - x : x]];
      }
    }
  }
}

void Augmenter::erase(uint64_t sample, float* out) const {
  Draws draws(random_key(seed_, "image.erase", sample));
  if (!draws.chance(config_.erase)) return;
  const RandomKey noise = random_key(seed_, "image.erase.noise", sample);
  uint64_t block = 0;
  const int64_t S = size_, boxes = 1 + draws.below(config_.erase_count);
  const double low = std::log(0.3), high = -low, area = static_cast<double>(S * S);
  std::vector<float> values;
  for (int64_t box = 0; box < boxes; ++box)
    for (int tries = 0; tries < 10; ++tries) {
      const double part = draws.uniform(0.02, 1.0 / 3.0) * area / static_cast<double>(boxes);
      const double aspect = std::exp(draws.uniform(low, high));
      const int64_t h = rounded(std::sqrt(part * aspect)), w = rounded(std::sqrt(part / aspect));
      if (w >= S || h >= S) continue;
      const int64_t top = draws.below(S - h + 1), left = draws.below(S - w + 1);
      const bool pixel = config_.erase_mode == "pixel";
      values.assign(static_cast<size_t>(pixel ? channels_ * h * w : channels_), 0.0f);
      const auto n = static_cast<int64_t>(values.size());
      if (config_.erase_mode != "const")
        fill_normal(noise, block, values.data(), n), block += (static_cast<uint64_t>(n) + 3) / 4;
      for (int64_t c = 0; c < channels_; ++c)
        for (int64_t y = 0; y < h; ++y) {
          float* to = out + (c * S + top + y) * S + left;
          if (pixel)
            std::copy_n(values.data() + (c * h + y) * w, w, to);
          else
            std::fill_n(to, w, values[static_cast<size_t>(c)]);
        }
      break;
    }
}

View Augmenter::train(const StoredImage& stored, const std::string& name, uint64_t sample, float* out) const {
  check_stored(stored, name);
  View view;
  Image image = training_crop(stored, name, sample, view);
  view.flipped = Draws(random_key(seed_, "image.flip", sample)).chance(config_.flip);
  // Operations on pixels see the flipped picture; without any, the flip is part of the last copy.
  const bool operations = policy_ || three_ || jitter_;
  if (operations) {
    if (view.flipped) pixels::flip_horizontal(image);
    recolour(image, sample);
  }
  to_planes(image, view.flipped && !operations, out);
  if (config_.erase > 0) erase(sample, out);
  return view;
}

View Augmenter::evaluate(const StoredImage& stored, const std::string& name, float* out) const {
  check_stored(stored, name);
  View view;
  to_planes(center_crop(stored, name, view), false, out);
  return view;
}

}  // namespace accrete
