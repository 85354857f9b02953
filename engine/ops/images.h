// Differentiable operations on images and grids of tokens. Images are (B, C, H, W), as files and other libraries have
// them; grids of features are channels-last, (B, H, W, C), so that a pixel is a row of a matrix product.
#pragma once

#include "engine/ops/ops.h"

namespace accrete::ops {

// ---- images (images.cpp)
// --------------------------------------------------------------------------------------------
// Cuts images into patches of P x P.   (B, C, H, W) -> (B, (H/P) * (W/P), C * P * P): patches row by row, the numbers
// of each in the order (channel, row, column), so that `linear` with the weight of a convolution of kernel and stride P
// is that convolution. P must divide H and W.
Tensor patchify(const Tensor& images, int64_t patch);
// Bilinear, half-pixel centres (align_corners = false), no antialiasing.   (B, C, H, W) -> (B, C, height, width)
Tensor resize_images(const Tensor& images, int64_t height, int64_t width);

struct GridSize {
  int64_t h = 0, w = 0;
  int64_t count() const { return h * w; }
  bool operator==(const GridSize&) const = default;
};
// A table of positions for another grid: the first `extra` rows stay, the others, a grid row by row, are resampled
// bicubically (a = -0.75, align_corners = false, no antialiasing). `offset` as in training/grow.h: resize_grid.
// (extra + from.h * from.w, C) -> (extra + to.h * to.w, C). Equal grids: the table itself.
Tensor resample_grid(const Tensor& table, int64_t extra, GridSize from, GridSize to, double offset = 0.0);

// ---- convolution and its norm (conv.cpp, batch_norm.cpp)
// ----------------------------------------------------------------
struct ConvOptions {
  int64_t kernel = 1, stride = 1, pad = 0;  // square; zeros around the border
};
// y[b, i, j, o] = bias[o] + sum over (di, dj, c) of w[o, di, dj, c] x[b, stride i + di - pad, stride j + dj - pad, c].
// x: (B, H, W, C); w: (O, kernel * kernel * C), columns in the order (di, dj, c); bias: (O) f32 or undefined
// -> (B, H', W', O), H' = (H + 2 pad - kernel) / stride + 1
Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvOptions& options);

struct BatchNormOptions {
  bool training = false;  // statistics of the batch, which also move the running ones; else the running ones
  float momentum = 0.1f, eps = 1e-5f;
};
// (x - mean) / sqrt(var + eps) * gamma + beta with one mean and variance per channel over all rows. x: (.., C); gamma,
// beta: (C) f32, or both undefined: 1 and 0; running_mean, running_var: (C) f32, in training moved in place:
// r = (1 - momentum) r + momentum s, with the unbiased variance (Ioffe & Szegedy 2015, as PyTorch does it). Not for use
// inside `recompute`, which would move them twice. Training needs at least two rows.
Tensor batch_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options);

// ---- VOLO (outlook.cpp, grid.cpp, repeat.cpp); volo spec 2.2 to 5
// ------------------------------------------------------------------------
// Outlook attention with 3 x 3 windows at stride 2: in every window a softmax over its 9 values for each of its 9
// places, made of logits, mixes the values; overlapping windows add up. v: (B, H, W, C); logits: (B, ceil(H/2),
// ceil(W/2), heads * 81), index head * 81 + place * 9 + value -> (B, H, W, C). The logits are scaled by `scale`.
Tensor outlook_attention(const Tensor& v, const Tensor& logits, int64_t heads, float scale);
Tensor outlook_attention_plain(const Tensor& v, const Tensor& logits, int64_t heads, float scale);
// Mean of 2 x 2 cells at stride 2, ceil mode: cells at a ragged border average what is there.
// (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C)
Tensor average_pool2(const Tensor& x);
// Attention of queries to keys and values that come from elsewhere. q: (B, S, H*D); kv: (B, T, 2*H*D) = [k | v]
// -> (B, S, H*D). Scores are scaled by 1/sqrt(D). Not causal, no dropout.
Tensor cross_attention(const Tensor& q, const Tensor& kv, int64_t heads);
Tensor cross_attention_plain(const Tensor& q, const Tensor& kv, int64_t heads);
// MixToken: inside the box, cells of each sample become those of its partner, sample B-1-b. box: (4) i32 in device
// memory: rows [box[0], box[1]) and columns [box[2], box[3]) of the grid, each times `unit`. x: (B, H, W, C). It is its
// own inverse.
Tensor mix_tokens(const Tensor& x, const Tensor& box, int64_t unit);
// The largest of each column over the tokens; no gradient (it is for evaluation).   (B, T, C) -> (B, C)
Tensor max_tokens(const Tensor& x);
// A target of every sample for each of its tokens; no gradient.   x: f32 or i32, (B, ..) -> (B, tokens, ..)
Tensor repeat_tokens(const Tensor& x, int64_t tokens);

}  // namespace accrete::ops
