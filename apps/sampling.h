// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace accrete {

struct SamplingOptions {
  double temperature = 1.0;  // logits are divided by it; 0: the most probable token (greedy)
  int64_t top_k = 0;         // only the k most probable tokens; 0: all
  double top_p = 1.0;        // then only the smallest set of the most probable tokens with this total (nucleus)
  uint64_t seed = 1;
};
// Error for a negative temperature or top_k, or a top_p outside [0, 1].
void check_sampling(const SamplingOptions& options);

// The id of the largest logit; the lowest id among equals. Error when a logit is NaN or all are -inf.
int32_t greedy_token(std::span<const float> logits);

// Tokens that can be drawn (probability above 0) and their probabilities (sum 1), most probable first; equals in the
// order of their ids.
struct Candidates {
  std::vector<int32_t> ids;
  std::vector<double> probabilities;
};
Candidates candidates(std::span<const float> logits, const SamplingOptions& options);

// One draw. `index` counts the tokens of this generation: with the seed it is the address of the random number, so the
// same arguments give the same token.
int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, uint64_t index);

}  // namespace accrete
