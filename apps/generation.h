// Continuing a text, token by token, with the key-value cache of a Gpt.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "apps/sampling.h"
#include "models/gpt.h"

namespace accrete {

struct GenerateOptions {
  int64_t tokens = 100;         // at most
  int64_t vocab_size = 0;       // ids below it can be chosen; 0: all of the model (a padded vocabulary has no text)
  std::optional<int32_t> stop;  // the id that ends the text
  SamplingOptions sampling;
};

struct Generated {
  std::vector<int32_t> ids;  // without the prompt and without the stop id
  bool stopped = false;      // by the stop id
  int64_t restarts = 0;      // how often the context was full
};

// The model has learnt `context` positions and nothing beyond them. When they are used up, the last context / 2 tokens
// (at least one) are read again as the beginning of a new text, and generation goes on; the same happens at once to a
// prompt that is longer than the context. So every token is predicted from between context / 2 and context tokens, and
// the cost of a token stays bounded. `on_token` is called with every new id as soon as it is known.
Generated generate(const Gpt& model, std::span<const int32_t> prompt, const GenerateOptions& options,
                   const std::function<void(int32_t)>& on_token = {});

}  // namespace accrete
