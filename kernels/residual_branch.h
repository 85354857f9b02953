// The end of a residual branch: LayerScale, stochastic depth and the sum, in one pass. Rows of C channels; a sample is
// `rows_per_sample` rows.
#pragma once

#include "kernels/device.h"
#include "kernels/philox.h"

namespace accrete::kernels {

// Keeps sample b with probability 1 - p, scaled by 1 / (1 - p): word (first + b) % 4 of block (first + b) / 4, as an
// element of dropout. p = 0 keeps all and draws nothing.
struct DropPath {
  DropPath() = default;
  DropPath(float p, const RandomKey& key, int64_t first)
      : key(key), first(first), threshold(p > 0.0f ? drop_threshold(p) : 0), scale(1.0f / (1.0f - p)) {}
  RandomKey key;
  int64_t first = 0;
  uint32_t threshold = 0;
  float scale = 1.0f;

  ACCRETE_HD float factor(int64_t sample) const {
    if (threshold == 0) return scale;
    const auto element = static_cast<uint64_t>(first + sample);
    const Philox4 words = random_words(key, element / 4);
    const uint64_t j = element % 4;  // without an address: registers have none
    const uint32_t word = j == 0 ? words.v[0] : j == 1 ? words.v[1] : j == 2 ? words.v[2] : words.v[3];
    return word >= threshold ? scale : 0.0f;
  }
};

// The factors of rows that come in increasing order: drawn once per sample.
struct RowFactor {
  DropPath drop;
  int64_t rows_per_sample, end = 0;  // of the sample whose factor is kept
  float kept = 0.0f;
  ACCRETE_HD RowFactor(const DropPath& drop, int64_t rows_per_sample) : drop(drop), rows_per_sample(rows_per_sample) {}
  ACCRETE_HD float at(int64_t row) {
    if (row >= end) {
      const int64_t sample = row / rows_per_sample;
      end = (sample + 1) * rows_per_sample;
      kept = drop.factor(sample);
    }
    return kept;
  }
};

// How a branch joins the stream: x + factor(row's sample) * gamma * branch.   gamma: (cols) f32 or null (1)
struct BranchEnd {
  const float* gamma = nullptr;
  DropPath drop;
  int64_t rows_per_sample = 1;
};

// y = x + factor(row's sample) * gamma * branch.   y, x, branch: (rows, cols), y may alias either; x null: 0; gamma:
// (cols) f32 or null (1). A dropped branch is not read.
ACCRETE_KERNEL(residual_branch_forward, T* y, const T* x, const T* branch, const float* gamma, DropPath drop,
               int64_t rows, int64_t rows_per_sample, int64_t cols);
// dbranch = factor * gamma * dy; dgamma[c] += sum over rows of factor * dy * branch, in an order that depends on the
// sizes only.   dbranch: (rows, cols) or null, may alias dy; dgamma: (cols) f32 or null (then branch is not read)
ACCRETE_KERNEL(residual_branch_backward, T* dbranch, float* dgamma, const T* dy, const T* branch, const float* gamma,
               DropPath drop, int64_t rows, int64_t rows_per_sample, int64_t cols);

}  // namespace accrete::kernels
