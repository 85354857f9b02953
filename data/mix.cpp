#include "data/mix.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/core/error.h"

namespace accrete {

namespace {

// The draw at `key`, with numbers of its own.
Mixing draw_one(const AugmentConfig& config, int64_t h, int64_t w, const RandomKey& key) {
  Draws draws(key);
  // Both are drawn, used or not: lambda is the same with one of the two mixings as with both.
  const bool mixed = draws.chance(config.mix_prob), switched = draws.chance(config.mix_switch);
  Mixing m;
  if (!mixed) return m;
  m.cut = config.cutmix > 0 && (config.mixup <= 0 || switched);
  const double alpha = m.cut ? config.cutmix : config.mixup;
  const double lambda = draws.beta(alpha, alpha);
  m.lambda = static_cast<float>(lambda);
  if (m.cut) {
    m.box = mix_box(h, w, lambda, draws);
    m.lambda = static_cast<float>(1.0 - static_cast<double>(m.box.area()) / static_cast<double>(h * w));
  }
  return m;
}

// a <- lambda_a a + (1 - lambda_a) b and b <- lambda_b b + (1 - lambda_b) a at once.
void blend(float* a, float* b, int64_t n, float la, float lb) {
  const float ra = 1.0f - la, rb = 1.0f - lb;
  for (int64_t i = 0; i < n; ++i) {
    const float x = a[i], y = b[i];
    a[i] = la * x + ra * y;
    b[i] = lb * y + rb * x;
  }
}

// One side of a pair: `image` takes from `partner`, which still holds what it held.   (channels, h, w)
void mix_into(const Mixing& m, float* image, const float* partner, int64_t channels, int64_t h, int64_t w) {
  if (!m.cut) {
    const float rest = 1.0f - m.lambda;
    if (m.lambda != 1.0f)
      for (int64_t i = 0; i < channels * h * w; ++i) image[i] = m.lambda * image[i] + rest * partner[i];
    return;
  }
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t y = m.box.y0; y < m.box.y1; ++y) {
      const int64_t at = (c * h + y) * w + m.box.x0;
      std::copy_n(partner + at, m.box.x1 - m.box.x0, image + at);
    }
}

}  // namespace

MixBox mix_box(int64_t h, int64_t w, double lambda, Draws& draws) {
  const double cut = std::sqrt(1.0 - lambda);
  const auto ch = static_cast<int64_t>(static_cast<double>(h) * cut);
  const auto cw = static_cast<int64_t>(static_cast<double>(w) * cut);
  const int64_t cy = draws.below(h), cx = draws.below(w);
  return {std::clamp<int64_t>(cy - ch / 2, 0, h), std::clamp<int64_t>(cy + ch / 2, 0, h),
          std::clamp<int64_t>(cx - cw / 2, 0, w), std::clamp<int64_t>(cx + cw / 2, 0, w)};
}

std::vector<Mixing> draw_mixing(const AugmentConfig& config, int64_t batch, int64_t h, int64_t w,
                                const RandomKey& key) {
  std::vector<Mixing> all(static_cast<size_t>(batch));
  if (config.mixup <= 0 && config.cutmix <= 0) return all;
  check(batch % 2 == 0, "augment",
        "mixup and cutmix mix pairs of pictures; expected an even number in a micro-batch; got ", batch);
  if (config.mix_mode == "batch") {
    if (batch > 0) std::fill(all.begin(), all.end(), draw_one(config, h, w, key));
    return all;
  }
  const bool pair = config.mix_mode == "pair";
  for (int64_t b = 0; b < (pair ? batch / 2 : batch); ++b) {
    RandomKey own = key;
    own.step += static_cast<uint64_t>(b);
    all[static_cast<size_t>(b)] = draw_one(config, h, w, own);
    if (pair) all[static_cast<size_t>(batch - 1 - b)] = all[static_cast<size_t>(b)];
  }
  return all;
}

void mix_images(const std::vector<Mixing>& mixing, float* images, int64_t channels, int64_t h, int64_t w) {
  const auto batch = static_cast<int64_t>(mixing.size());
  const int64_t size = channels * h * w;
  std::vector<float> kept;
  for (int64_t b = 0; b < batch / 2; ++b) {
    const Mixing &ma = mixing[static_cast<size_t>(b)], &mb = mixing[static_cast<size_t>(batch - 1 - b)];
    float *a = images + b * size, *z = images + (batch - 1 - b) * size;
    if (!ma.cut && !mb.cut) {
      if (ma.lambda != 1.0f || mb.lambda != 1.0f) blend(a, z, size, ma.lambda, mb.lambda);
    } else if (ma.cut && mb.cut && ma.box == mb.box) {
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t y = ma.box.y0; y < ma.box.y1; ++y) {
          const int64_t at = (c * h + y) * w;
          std::swap_ranges(a + at + ma.box.x0, a + at + ma.box.x1, z + at + ma.box.x0);
        }
    } else {
      kept.assign(a, a + size);
      mix_into(ma, a, z, channels, h, w);
      mix_into(mb, z, kept.data(), channels, h, w);
    }
  }
}

void smooth_target(int32_t label, double smoothing, int64_t classes, float* target) {
  const double off = smoothing / static_cast<double>(classes);
  std::fill_n(target, classes, static_cast<float>(off));
  target[label] = static_cast<float>(1.0 - smoothing + off);
}

void mix_targets(const std::vector<float>& lambdas, float* targets, int64_t classes) {
  const auto batch = static_cast<int64_t>(lambdas.size());
  for (int64_t b = 0; b < batch / 2; ++b)
    blend(targets + b * classes, targets + (batch - 1 - b) * classes, classes, lambdas[static_cast<size_t>(b)],
          lambdas[static_cast<size_t>(batch - 1 - b)]);
}

}  // namespace accrete
