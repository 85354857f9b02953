#include "apps/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/error.h"
#include "engine/core/random.h"

namespace accrete {

void check_sampling(const SamplingOptions& o) {
  check(o.temperature >= 0 && std::isfinite(o.temperature), "generate",
        "temperature out of range; expected 0 or above; got ", o.temperature);
  check(o.top_k >= 0, "generate", "top-k out of range; expected 0 (all) or above; got ", o.top_k);
  check(o.top_p >= 0 && o.top_p <= 1, "generate", "top-p out of range; expected 0 to 1; got ", o.top_p);
}

int32_t greedy_token(std::span<const float> logits) {
  check(!logits.empty(), "generate", "no logits to choose from");
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    check(!std::isnan(logits[i]), "generate", "the model gives NaN for token ", i, "; its weights are broken");
    if (logits[i] > logits[best]) best = i;
  }
  check(std::isfinite(logits[best]), "generate", "the largest logit is ", logits[best], "; the weights are broken");
  return static_cast<int32_t>(best);
}

Candidates candidates(std::span<const float> logits, const SamplingOptions& o) {
  check_sampling(o);
  const int32_t best = greedy_token(logits);
  Candidates c;
  if (o.temperature == 0) return {{best}, {1.0}};
  c.ids.resize(logits.size());
  std::iota(c.ids.begin(), c.ids.end(), 0);
  const auto keep = o.top_k == 0 ? c.ids.size() : std::min(c.ids.size(), static_cast<size_t>(o.top_k));
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(c.ids.begin(), c.ids.begin() + static_cast<long>(keep), c.ids.end(), before);
  c.ids.resize(keep);
  const double top = logits[static_cast<size_t>(best)];
  for (const int32_t id : c.ids)
    c.probabilities.push_back(std::exp((logits[static_cast<size_t>(id)] - top) / o.temperature));
  const double all = std::accumulate(c.probabilities.begin(), c.probabilities.end(), 0.0);
  const double enough = o.top_p < 1 ? o.top_p * all : INFINITY;
  double total = 0;
  size_t n = 0;
  while (n < c.ids.size() && (n == 0 || (total < enough && c.probabilities[n] > 0))) total += c.probabilities[n++];
  c.ids.resize(n);
  c.probabilities.resize(n);
  for (double& p : c.probabilities) p /= total;
  return c;
}

int32_t sample_token(std::span<const float> logits, const SamplingOptions& o, uint64_t index) {
  const Candidates c = candidates(logits, o);
  const Philox4 w = random_words(random_key(o.seed, "generate"), index);
  const uint64_t bits = static_cast<uint64_t>(w.v[0]) << 21 ^ w.v[1] >> 11;  // 53 bits
  double left = static_cast<double>(bits) * 0x1p-53;
  for (size_t i = 0; i + 1 < c.ids.size(); ++i) {
    left -= c.probabilities[i];
    if (left < 0) return c.ids[i];
  }
  return c.ids.back();
}

}  // namespace accrete
