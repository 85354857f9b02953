#include "apps/generation.h"

#include <algorithm>

namespace accrete {

Generated generate(const Gpt& model, std::span<const int32_t> prompt, const GenerateOptions& options,
                   const std::function<void(int32_t)>& on_token) {
  check_sampling(options.sampling);
  check(options.tokens >= 0, "generate", "the number of tokens is negative: ", options.tokens);
  check(!prompt.empty(), "generate", "the prompt has no tokens; expected at least one");
  const GptConfig& config = model.settings();
  const int64_t vocab = options.vocab_size > 0 ? options.vocab_size : config.vocab_size;
  check(vocab <= config.vocab_size, "generate", "the tokenizer has ", vocab, " ids; the model knows only ",
        config.vocab_size);
  const Device device = static_cast<const Model&>(model).params().device();

  std::vector<int32_t> text(prompt.begin(), prompt.end());
  Gpt::Cache cache = model.make_cache(1);
  size_t read = 0;  // tokens of `text` that the cache holds or has dropped
  Generated result;
  while (static_cast<int64_t>(result.ids.size()) < options.tokens) {
    if (cache.length() + static_cast<int64_t>(text.size() - read) > config.context) {
      const auto keep = static_cast<size_t>(std::max<int64_t>(1, config.context / 2));
      read = text.size() - std::min(keep, text.size());
      for (auto& layer : cache.layers) layer.length = 0;
      ++result.restarts;
    }
    const std::vector<int32_t> fresh(text.begin() + static_cast<std::ptrdiff_t>(read), text.end());
    const Tensor ids = Tensor::from(fresh, Shape{1, static_cast<int64_t>(fresh.size())}, device);
    const std::vector<float> logits = model.next_logits(ids, cache).to_vector<float>();
    read = text.size();
    const int32_t id = sample_token(std::span(logits).first(static_cast<size_t>(vocab)), options.sampling,
                                    static_cast<uint64_t>(result.ids.size()));
    if (options.stop && id == *options.stop) {
      result.stopped = true;
      break;
    }
    result.ids.push_back(id);
    text.push_back(id);
    if (on_token) on_token(id);
  }
  return result;
}

}  // namespace accrete
