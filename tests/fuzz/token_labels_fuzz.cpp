// Any bytes as a file of token labels: refused with an Error, or every map gives targets that are probabilities.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "data/token_labels.h"
#include "engine/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 5) return 0;
  // The first bytes are the view; it may lie anywhere around the picture.
  const auto place = [&](int i) { return static_cast<double>(data[i]) / 64.0 - 1.5; };
  const accrete::View view{place(0), place(1), place(0) + data[2] / 64.0 + 0.01, place(1) + data[3] / 64.0 + 0.01,
                           data[4] % 2 == 1};
  data += 5, size -= 5;
  try {
    const auto labels = accrete::TokenLabels::from_memory({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    const auto classes = static_cast<size_t>(labels.shape().classes);
    std::vector<float> tokens(4 * classes), whole(classes);
    for (int64_t i = 0; i < labels.size() && i < 3; ++i) {
      labels.label(i);
      labels.targets(i, view, 2, 0.1, tokens.data(), whole.data());
      for (const float p : tokens)
        if (!(p >= 0 && p <= 1.1f)) std::abort();
    }
  } catch (const accrete::Error&) {
  }
  return 0;
}
