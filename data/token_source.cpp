#include "data/token_source.h"

#include <algorithm>

#include "data/permutation.h"
#include "engine/core/error.h"

namespace accrete {

Sampling sampling_of(const std::string& name) {
  if (name == "shuffled") return Sampling::shuffled;
  if (name == "random") return Sampling::random;
  if (name == "sequential") return Sampling::sequential;
  fail("data", "unknown sampling \"", name, "\"; expected shuffled, random or sequential");
}

TokenSource::TokenSource(TokenStream tokens, const WindowOptions& options)
    : tokens_(std::move(tokens)), options_(options) {
  const int64_t n = tokens_.size(), T = options_.length;
  check(T >= 1, "data", "the length of a window must be at least 1; got ", T);
  if (options_.sampling != Sampling::sequential) {
    check(options_.stride == 0, "data", "a stride is for sequential sampling only");
    check(n > T, "data", "the text is too short: a window of length ", T, " needs ", T + 1, " tokens; got ", n);
    // One window less than would fit leaves room for an offset of up to T - 1 tokens.
    const int64_t most = (n - 1) / T;
    windows_ = most > 1 ? most - 1 : 1;
    return;
  }
  if (options_.stride == 0) options_.stride = T;
  check(options_.stride >= 1 && options_.stride <= T + 1, "data", "the stride must be 1..", T + 1,
        " for windows of length ", T, "; got ", options_.stride);
  check(n >= 2, "data", "the text is too short to predict anything: expected at least 2 tokens; got ", n);
  // Window j takes tokens j*stride .. j*stride + T; the first window that reaches the end is the last.
  const int64_t rest = std::max<int64_t>(0, n - T - 1);
  windows_ = (rest + options_.stride - 1) / options_.stride + 1;
}

TokenSource::Window TokenSource::window(int64_t sample) const {
  const int64_t n = tokens_.size(), T = options_.length;
  const uint64_t count = static_cast<uint64_t>(windows_);
  switch (options_.sampling) {
    case Sampling::shuffled: {
      const uint64_t epoch = static_cast<uint64_t>(sample) / count, index = static_cast<uint64_t>(sample) % count;
      const int64_t slack = n - 1 - windows_ * T;
      const uint64_t offsets = static_cast<uint64_t>(std::min(slack, T - 1) + 1);
      const uint64_t offset = random_below(random_key(options_.seed, "data.offset", epoch), 0, offsets);
      const uint64_t place = permuted(index, count, random_key(options_.seed, "data.order", epoch));
      return {static_cast<int64_t>(offset + place * static_cast<uint64_t>(T)), T, 0};
    }
    case Sampling::random: {
      const RandomKey key = random_key(options_.seed, "data.random");
      return {static_cast<int64_t>(random_below(key, static_cast<uint64_t>(sample), static_cast<uint64_t>(n - T))), T,
              0};
    }
    case Sampling::sequential: {
      const int64_t begin = sample * options_.stride;
      const int64_t length = std::min(T, n - 1 - begin);
      const int64_t overlap = sample == 0 ? 0 : T - options_.stride;  // -1 when a stride of T + 1 leaves one out
      return {begin, length, std::clamp<int64_t>(overlap, 0, length)};
    }
  }
  return {};
}

int64_t TokenSource::fill(int64_t sample, int32_t* inputs, int32_t* targets) const {
  const int64_t T = options_.length;
  const Window w = window(sample);
  // The inputs are w[begin ..], the targets the same one token later.
  tokens_.copy(w.begin, w.length, inputs);
  std::fill(inputs + w.length, inputs + T, 0);
  std::fill(targets, targets + w.skip, -1);
  tokens_.copy(w.begin + 1 + w.skip, w.length - w.skip, targets + w.skip);
  std::fill(targets + w.length, targets + T, -1);
  return w.length - w.skip;
}

Batch TokenSource::get(int64_t first, int64_t count) const {
  check(first >= 0 && count >= 0, "data", "samples ", first, "..", first + count, " do not exist");
  if (options_.sampling == Sampling::sequential) count = std::clamp<int64_t>(windows_ - first, 0, count);
  const SegmentScope segment(Segment::data);
  const int64_t T = options_.length;
  Batch batch;
  batch.inputs = Tensor::empty({count, T}, DType::i32);
  batch.targets = Tensor::empty({count, T}, DType::i32);
  batch.samples = count;
  int32_t *inputs = batch.inputs.ptr<int32_t>(), *targets = batch.targets.ptr<int32_t>();
  for (int64_t row = 0; row < count; ++row) batch.tokens += fill(first + row, inputs + row * T, targets + row * T);
  return batch;
}

}  // namespace accrete
