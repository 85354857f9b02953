// Outlook attention (kernels/outlook.h). Kept for backward are v and the logits, not the probabilities: they would take
// as much memory, the forward pass does not write them, and in 16 bits their rounding would pass into every gradient.
// Making them again is one softmax of 81 numbers per window and head beside 3 products of 9 x 9 x head_dim.
#include "kernels/outlook.h"

#include <vector>

#include "engine/ops/images.h"

namespace accrete::ops {
namespace {

constexpr int64_t kPlaces = 9;

kernels::OutlookShape check_outlook(const Tensor& v, const Tensor& logits, int64_t heads, float scale) {
  const char* const where = "outlook_attention";
  check(v.rank() == 4 && heads > 0 && v.size(3) % heads == 0, where, "expected v of (B, H, W, heads * head_dim) with ",
        heads, " heads; got ", v.shape());
  const kernels::OutlookShape s{v.size(0), v.size(1), v.size(2), heads, v.size(3) / heads, scale};
  const Shape expected{s.batch, s.windows_h(), s.windows_w(), heads * kPlaces * kPlaces};
  check(logits.shape() == expected && logits.dtype() == v.dtype(), where, "logits do not fit v ", v.shape(), " ",
        name_of(v.dtype()), "; expected ", expected, " of that type; got ", logits.shape(), " ",
        name_of(logits.dtype()));
  return s;
}

// Products per window and head: 9 x 9 x head_dim forward, twice as much backward.
Cost outlook_cost(const kernels::OutlookShape& s, const Tensor& v, const Tensor& logits) {
  const double product = 2.0 * static_cast<double>(s.batch * s.windows_h() * s.windows_w() * s.channels() * 81);
  const double bytes = static_cast<double>(2 * v.bytes() + logits.bytes());
  return Cost{product, bytes, 2 * product, 2 * bytes};
}

// (windows * 9, H * W): 1 where place q of a window is that cell of the grid.
Tensor window_matrix(const kernels::OutlookShape& s, DType dtype, Device device) {
  const int64_t cells = s.height * s.width, windows = s.windows_h() * s.windows_w();
  std::vector<float> m(static_cast<size_t>(windows * kPlaces * cells), 0.0f);
  for (int64_t n = 0; n < windows * kPlaces; ++n) {
    const int64_t window = n / kPlaces, q = n % kPlaces;
    const int64_t r = 2 * (window / s.windows_w()) - 1 + q / 3, c = 2 * (window % s.windows_w()) - 1 + q % 3;
    if (r >= 0 && r < s.height && c >= 0 && c < s.width) m[static_cast<size_t>(n * cells + r * s.width + c)] = 1.0f;
  }
  return cast(Tensor::from(m, Shape{windows * kPlaces, cells}, device), dtype);
}

}  // namespace

Tensor outlook_attention(const Tensor& v, const Tensor& logits, int64_t heads, float scale) {
  const kernels::OutlookShape s = check_outlook(v, logits, heads, scale);
  Tensor y = like(v);
  on(v,
     [&]<class T>(const auto& dev) { kernels::outlook_forward<T>(dev, y.ptr<T>(), v.ptr<T>(), logits.ptr<T>(), s); });
  return record("outlook_attention", y, {v, logits}, Saved{v, logits}, outlook_cost(s, v, logits),
                [s](const BackwardContext& ctx) -> Grads {
                  const Tensor &v = ctx.saved(0), &logits = ctx.saved(1);
                  Tensor dv = like(v), dlogits = like(logits);
                  const SegmentScope workspace(Segment::workspace);
                  const Tensor turned = Tensor::empty(logits.shape(), DType::f32, v.device());
                  on(v, [&]<class T>(const auto& dev) {
                    kernels::outlook_backward<T>(dev, dv.ptr<T>(), dlogits.ptr<T>(), turned.ptr<float>(),
                                                 ctx.dy().template ptr<T>(), v.ptr<T>(), logits.ptr<T>(), s);
                  });
                  return {dv, dlogits};
                });
}

// Unfold and fold are products with a matrix of zeros and ones; channels come first meanwhile.
Tensor outlook_attention_plain(const Tensor& v, const Tensor& logits, int64_t heads, float scale) {
  const kernels::OutlookShape s = check_outlook(v, logits, heads, scale);
  const int64_t B = s.batch, D = s.head_dim, C = s.channels(), cells = s.height * s.width;
  const int64_t windows = s.windows_h() * s.windows_w(), places = windows * kPlaces;
  const Tensor matrix = window_matrix(s, v.dtype(), v.device());
  const Tensor channels = reshape(transpose(reshape(v, Shape{B, cells, C})), Shape{B * C, cells});
  const Tensor unfolded = reshape(matmul(channels, matrix, false, true), Shape{B * heads, D, places});
  const Tensor values = reshape(transpose(unfolded), Shape{B * heads * windows, kPlaces, D});
  const Tensor by_head = swap_middle(reshape(logits, Shape{B, windows, heads, kPlaces * kPlaces}));
  const Tensor a = softmax(ops::scale(reshape(by_head, Shape{B * heads * windows, kPlaces, kPlaces}), scale));
  const Tensor mixed = transpose(reshape(matmul(a, values), Shape{B * heads, places, D}));
  const Tensor folded = matmul(reshape(mixed, Shape{B * C, places}), matrix);
  return reshape(transpose(reshape(folded, Shape{B, C, cells})), v.shape());
}

}  // namespace accrete::ops
