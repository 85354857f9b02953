// Targets of samples as targets of their tokens.
#include <algorithm>

#include "engine/ops/images.h"
#include "kernels/permute.h"

namespace accrete::ops {

// One copy for the first token, then what is there once more behind it until all are filled: a launch per doubling.
Tensor repeat_tokens(const Tensor& x, int64_t tokens) {
  check(x.rank() >= 1 && tokens >= 0 && (x.dtype() == DType::f32 || x.dtype() == DType::i32), "repeat_tokens",
        "expected f32 or i32 (B, ..) and a count of tokens; got ", x.shape(), " ", name_of(x.dtype()), " and ", tokens);
  std::vector<int64_t> sizes = x.shape().vector();
  const int64_t B = sizes[0], C = B > 0 ? x.count() / B : 0;
  sizes.insert(sizes.begin() + 1, tokens);
  Tensor y = Tensor::empty(Shape(sizes), x.dtype(), x.device());
  if (y.count() > 0) {
    on_device(x.device(), [&](const auto& dev) {
      // Both types are 4 bytes that only move.
      auto* out = static_cast<float*>(y.data());
      kernels::copy_rows<float>(dev, out, tokens * C, static_cast<const float*>(x.data()), C, B, C);
      for (int64_t done = 1; done < tokens; done *= 2)
        kernels::copy_rows<float>(dev, out + done * C, tokens * C, out, tokens * C, B,
                                  std::min(done, tokens - done) * C);
    });
  }
  return no_gradient("repeat_tokens", y, {x}, Cost{0, static_cast<double>(x.bytes() + y.bytes()), 0, 0},
                     "targets have none");
}

}  // namespace accrete::ops
