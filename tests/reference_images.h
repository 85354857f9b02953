// The rows of op_cases_images.cpp in double precision (see reference.h).
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include "tests/reference_array.h"

namespace accrete::reference {

// Cell (b, i, j, c) of a grid; 0 outside.
inline double cell(const Array& x, int64_t b, int64_t i, int64_t j, int64_t c) {
  if (i < 0 || i >= x.shape[1] || j < 0 || j >= x.shape[2]) return 0.0;
  return x[((b * x.shape[1] + i) * x.shape[2] + j) * x.shape[3] + c];
}

inline Array conv2d(const Arrays& in, const Settings& s) {
  const Array &x = in[0], &w = in[1], &bias = in[2];
  const int64_t B = x.shape[0], C = x.shape[3], O = w.shape[0], k = s.kernel;
  const int64_t H = (x.shape[1] + 2 * s.pad - k) / s.stride + 1, W = (x.shape[2] + 2 * s.pad - k) / s.stride + 1;
  Array y(Shape{B, H, W, O});
  int64_t at = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i < H; ++i)
      for (int64_t j = 0; j < W; ++j)
        for (int64_t o = 0; o < O; ++o) {
          double sum = bias.present ? bias[o] : 0.0;
          for (int64_t di = 0; di < k; ++di)
            for (int64_t dj = 0; dj < k; ++dj)
              for (int64_t c = 0; c < C; ++c)
                sum += w[((o * k + di) * k + dj) * C + c] *
                       cell(x, b, s.stride * i + di - s.pad, s.stride * j + dj - s.pad, c);
          y[at++] = sum;
        }
  return y;
}

inline Array batch_norm(const Arrays& in, const Settings& s) {
  const Array& x = in[0];
  Array y(x.shape);
  const int64_t N = x.rows(), C = x.cols();
  const double count = static_cast<double>(N);
  for (int64_t c = 0; c < C; ++c) {
    double mean = in[3][c], variance = in[4][c];
    if (s.training) {
      mean = variance = 0;
      for (int64_t n = 0; n < N; ++n) mean += x[n * C + c] / count;
      for (int64_t n = 0; n < N; ++n) variance += std::pow(x[n * C + c] - mean, 2) / count;
    }
    for (int64_t n = 0; n < N; ++n)
      y[n * C + c] =
          (x[n * C + c] - mean) / std::sqrt(variance + static_cast<double>(s.eps)) * (in[1].present ? in[1][c] : 1) +
          (in[2].present ? in[2][c] : 0);
  }
  return y;
}

// Window by window, as the paper has it: every place of the window adds to its cell.
inline Array outlook(const Array& v, const Array& logits, const Settings& s) {
  const int64_t B = v.shape[0], H = v.shape[1], W = v.shape[2], C = v.shape[3], D = C / s.heads;
  Array y(v.shape);
  for (int64_t n = 0; n < logits.shape.count() / 9; ++n) {  // rows of 9 logits
    const int64_t r = n % 9, head = n / 9 % s.heads, window = n / 9 / s.heads;
    const int64_t j = window % logits.shape[2], i = window / logits.shape[2] % logits.shape[1];
    const int64_t b = window / logits.shape[2] / logits.shape[1];
    const int64_t y_row = 2 * i - 1 + r / 3, y_col = 2 * j - 1 + r % 3;
    if (b >= B || y_row < 0 || y_row >= H || y_col < 0 || y_col >= W) continue;
    double total = 0;
    for (int64_t q = 0; q < 9; ++q) total += std::exp(static_cast<double>(s.scale) * logits[n * 9 + q]);
    for (int64_t q = 0; q < 9; ++q) {
      const double a = std::exp(static_cast<double>(s.scale) * logits[n * 9 + q]) / total;
      for (int64_t d = 0; d < D; ++d)
        y[((b * H + y_row) * W + y_col) * C + head * D + d] +=
            a * cell(v, b, 2 * i - 1 + q / 3, 2 * j - 1 + q % 3, head * D + d);
    }
  }
  return y;
}

inline Array average_pool2(const Array& x) {
  const int64_t B = x.shape[0], H = x.shape[1], W = x.shape[2], C = x.shape[3], h = (H + 1) / 2, w = (W + 1) / 2;
  Array y(Shape{B, h, w, C});
  for (int64_t n = 0; n < y.shape.count(); ++n) {
    const int64_t c = n % C, j = n / C % w, i = n / C / w % h, b = n / C / w / h;
    double cells = 0;
    for (int64_t r = 2 * i; r < 2 * i + 2; ++r)
      for (int64_t q = 2 * j; q < 2 * j + 2; ++q) {
        y[n] += cell(x, b, r, q, c);
        cells += r < H && q < W;
      }
    y[n] /= cells;
  }
  return y;
}

inline Array cross_attention(const Array& q, const Array& kv, const Settings& s) {
  const int64_t B = q.shape[0], S = q.shape[1], C = q.shape[2], T = kv.shape[1], D = C / s.heads;
  Array o(q.shape);
  std::vector<double> p(static_cast<size_t>(T));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t i = 0; i < S; ++i) {
        double total = 0;
        for (int64_t t = 0; t < T; ++t) {
          double score = 0;
          for (int64_t d = h * D; d < (h + 1) * D; ++d) score += q[(b * S + i) * C + d] * kv[(b * T + t) * 2 * C + d];
          p[static_cast<size_t>(t)] = std::exp(score / std::sqrt(static_cast<double>(D)));
          total += p[static_cast<size_t>(t)];
        }
        for (int64_t t = 0; t < T; ++t)
          for (int64_t d = h * D; d < (h + 1) * D; ++d)
            o[(b * S + i) * C + d] += p[static_cast<size_t>(t)] / total * kv[(b * T + t) * 2 * C + C + d];
      }
  return o;
}

inline Array mix_tokens(const Array& x, const Array& box, const Settings& s) {
  const int64_t B = x.shape[0], H = x.shape[1], W = x.shape[2], C = x.shape[3];
  Array y(x.shape);
  for (int64_t n = 0; n < x.shape.count(); ++n) {
    const int64_t j = n / C % W, i = n / C / W % H, b = n / C / W / H;
    const auto edge = [&](int64_t k) { return s.unit * static_cast<int64_t>(box[k]); };
    const bool inside = i >= edge(0) && i < edge(1) && j >= edge(2) && j < edge(3);
    y[n] = cell(x, inside ? B - 1 - b : b, i, j, n % C);
  }
  return y;
}

inline Array max_tokens(const Array& x) {
  const int64_t T = x.shape[1], C = x.shape[2];
  Array y(Shape{x.shape[0], C});
  for (int64_t n = 0; n < y.shape.count(); ++n) {
    y[n] = x[n / C * T * C + n % C];
    for (int64_t t = 1; t < T; ++t) y[n] = std::max(y[n], x[(n / C * T + t) * C + n % C]);
  }
  return y;
}

inline Array repeat_tokens(const Array& x, const Settings& s) {
  std::vector<int64_t> sizes = x.shape.vector();
  sizes.insert(sizes.begin() + 1, s.length);
  Array y{Shape(sizes)};
  const int64_t C = x.shape[0] > 0 ? x.shape.count() / x.shape[0] : 0;
  for (int64_t n = 0; n < y.shape.count(); ++n) y[n] = x[n / C / s.length * C + n % C];
  return y;
}

// By the name of the row; nothing: it is another file's.
inline std::optional<Arrays> evaluate_images(const std::string& op, const Arrays& in, const Settings& s) {
  if (op == "conv2d") return Arrays{conv2d(in, s)};
  if (op == "batch_norm") return Arrays{batch_norm(in, s)};
  if (op == "outlook_attention") return Arrays{outlook(in[0], in[1], s)};
  if (op == "average_pool2") return Arrays{average_pool2(in[0])};
  if (op == "cross_attention") return Arrays{cross_attention(in[0], in[1], s)};
  if (op == "mix_tokens") return Arrays{mix_tokens(in[0], in[1], s)};
  if (op == "max_tokens") return Arrays{max_tokens(in[0])};
  if (op == "repeat_tokens") return Arrays{repeat_tokens(in[0], s)};
  return {};
}

}  // namespace accrete::reference
