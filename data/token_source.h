// Samples of text: windows of token ids, inputs w[0..T-1], targets w[1..T].
#pragma once

#include <string>

#include "data/source.h"
#include "data/token_file.h"

namespace accrete {

enum class Sampling {
  // Training: the text is cut into windows of T tokens that do not overlap, from an offset that changes every epoch;
  // they come in a new random order every epoch, each once. All but at most 2 T tokens take part in an epoch.
  shuffled,
  random,      // training as nanoGPT does it: each window begins anywhere in 0 .. n-T-1, with replacement
  sequential,  // evaluation: in order, every target once; what is missing of the last window has target -1
};
Sampling sampling_of(const std::string& name);  // by the names above

struct WindowOptions {
  int64_t length = 0;  // T
  Sampling sampling = Sampling::shuffled;
  uint64_t seed = 0;
  // Sequential only: distance of window begins, 1 .. T + 1; 0 means T. With stride < T windows overlap and only targets
  // that no earlier window had are counted, so that each is predicted from at least T - stride tokens. T = M - 1 and
  // stride s give the windows of the Hugging Face perplexity guide with maximal length M (stride M = T + 1 leaves out
  // the first target of each window, as that guide does).
  int64_t stride = 0;
};

class TokenSource : public Source {
 public:
  // Throws when the text is too short for one window, or an option makes no sense.
  TokenSource(TokenStream tokens, const WindowOptions& options);

  int64_t epoch_samples() const override { return windows_; }
  int64_t tokens_per_sample() const override { return options_.length; }
  // (count, T) inputs and targets; sequential sampling gives fewer, down to none, at the end of the text. batch.tokens
  // = counted targets.
  Batch get(int64_t first, int64_t count) const override;

  const TokenStream& tokens() const { return tokens_; }
  // One sample in plain memory, T values each; returns the number of counted targets. Sequential: sample <
  // epoch_samples().
  int64_t fill(int64_t sample, int32_t* inputs, int32_t* targets) const;

 private:
  struct Window {
    int64_t begin = 0;   // of the inputs
    int64_t length = 0;  // inputs that exist, 1 .. T
    int64_t skip = 0;    // targets that an earlier window had
  };
  Window window(int64_t sample) const;

  TokenStream tokens_;
  WindowOptions options_;
  int64_t windows_ = 0;  // in one epoch
};

}  // namespace accrete
