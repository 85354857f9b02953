// Mixing the pictures of a batch: mixup (Zhang et al. 2017), CutMix (Yun et al. 2019), VOLO's MixToken; label smoothing
// and the soft targets that follow (recipes spec 1.7, volo spec 5). Picture b mixes with its partner B-1-b.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "data/draws.h"
#include "data/image_config.h"

namespace accrete {

// Rows [y0, y1) and columns [x0, x1).
struct MixBox {
  int64_t y0 = 0, y1 = 0, x0 = 0, x1 = 0;
  int64_t area() const { return (y1 - y0) * (x1 - x0); }
  bool operator==(const MixBox&) const = default;
};
// The box of CutMix and MixToken on an h x w grid: its sides are the share sqrt(1 - lambda) of the grid's, its centre
// is anywhere, and what lies outside the grid is cut off.
MixBox mix_box(int64_t h, int64_t w, double lambda, Draws& draws);

// How one picture is mixed: lambda of it and 1 - lambda of its partner. With a box that is CutMix, lambda is the share
// of the picture that stays.
struct Mixing {
  float lambda = 1;
  bool cut = false;
  MixBox box;
};

// Draws how the pictures of a batch are mixed; h, w: their size. mix_mode: batch, the same for all; pair, partners
// share a draw; elem, each its own. The step of `key` is the number of the first sample, and sample b of the batch (in
// pair mode the first of the two) draws from step + b: what one draws does not move the numbers of another. Error for
// an odd batch, whose middle picture would have no partner, when mixup or cutmix is on.
std::vector<Mixing> draw_mixing(const AugmentConfig& config, int64_t batch, int64_t h, int64_t w, const RandomKey& key);

// Mixes in place. images: (B, C, h, w)
void mix_images(const std::vector<Mixing>& mixing, float* images, int64_t channels, int64_t h, int64_t w);

// (1 - smoothing) at `label`, and smoothing / classes everywhere. target: (classes)
void smooth_target(int32_t label, double smoothing, int64_t classes, float* target);
// t_b <- lambda_b t_b + (1 - lambda_b) t_(B-1-b), in place. targets: (B, classes)
void mix_targets(const std::vector<float>& lambdas, float* targets, int64_t classes);

}  // namespace accrete
