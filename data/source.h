// Where training meets data: an endless stream of samples whose position is a number.
#pragma once

#include <cstdint>

#include "engine/core/batch.h"

namespace accrete {

// What samples are made for.
enum class Purpose : uint8_t {
  train,  // to learn from: shuffled as data.sampling says; pictures are augmented and mixed
  score,  // to compare variants of a model by on what they train on: as train, but nothing is mixed or erased
  judge,  // to measure: every sample once, in the order of the data, as it is
};

// Samples [first, first + count) of the stream are a pure function of (source settings, first, count): a run continues
// at any position at once, and any number of threads may ask for any pieces. Training sources shuffle every epoch anew;
// evaluation sources keep the order of the data and have epoch_samples() samples that matter.
class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t epoch_samples() const = 0;        // samples in one pass over the data
  virtual int64_t tokens_per_sample() const = 0;    // sequence length; 1 for images
  virtual int64_t unreadable() const { return 0; }  // pictures that could not be read so far
  // Thread-safe. Tensors are in host memory; batch.samples == count (evaluation: fewer at the end of the data).
  virtual Batch get(int64_t first, int64_t count) const = 0;
};

}  // namespace accrete
