// The rows of op_cases_tokens.cpp in double precision (see reference.h).
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "tests/reference_array.h"

namespace accrete::reference {

// ---- tokens ---------------------------------------------------------------------------------------------------------
inline Array sequence(const Arrays& in) {
  const Array &x = in[0], &cls = in[1], &extra = in[2], &positions = in[3];
  const int64_t B = x.shape[0], N = x.shape[1], C = x.shape[2];
  const int64_t front = (cls.present ? 1 : 0) + (extra.present ? extra.shape[0] : 0), length = front + N;
  Array y(Shape{B, length, C});
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < length; ++t)
      for (int64_t c = 0; c < C; ++c) {
        double& out = y[(b * length + t) * C + c];
        if (t >= front)
          out = x[(b * N + t - front) * C + c];
        else if (cls.present && t == 0)
          out = cls[c];
        else
          out = extra[(t - (cls.present ? 1 : 0)) * C + c];
        const int64_t skipped = positions.present ? length - positions.shape[0] : length;
        if (t >= skipped) out += positions[(t - skipped) * C + c];
      }
  return y;
}

inline Array slice_tokens(const Array& x, int64_t begin, int64_t end) {
  const int64_t B = x.shape[0], T = x.shape[1], C = x.shape[2];
  Array y(Shape{B, end - begin, C});
  for (int64_t i = 0; i < y.shape.count(); ++i) {
    const int64_t per = (end - begin) * C;
    y[i] = x[i / per * T * C + begin * C + i % per];
  }
  return y;
}

inline Array concat_tokens(const Array& a, const Array& b) {
  const int64_t S = a.shape[1] * a.shape[2], T = b.shape[1] * b.shape[2];
  Array y(Shape{a.shape[0], a.shape[1] + b.shape[1], a.shape[2]});
  for (int64_t i = 0; i < y.shape.count(); ++i) {
    const int64_t sample = i / (S + T), rest = i % (S + T);
    y[i] = rest < S ? a[sample * S + rest] : b[sample * T + rest - S];
  }
  return y;
}

inline Array mean_tokens(const Array& x, int64_t begin) {
  const int64_t T = x.shape[1], C = x.shape[2];
  Array y(Shape{x.shape[0], C});
  for (int64_t i = 0; i < x.shape.count(); ++i)
    if (i / C % T >= begin) y[i / (T * C) * C + i % C] += x[i] / static_cast<double>(T - begin);
  return y;
}

// ---- residual branches ----------------------------------------------------------------------------------------------
inline Array drop_path(const Array& x, const Settings& s) {
  Array y(x.shape);
  const int64_t per_sample = x.shape[0] > 0 ? x.shape.count() / x.shape[0] : 1;
  for (int64_t i = 0; i < x.shape.count(); ++i)
    if (s.dropout == 0.0f || kept(s, s.first + i / per_sample)) y[i] = x[i] / (1.0 - static_cast<double>(s.dropout));
  return y;
}

inline Array residual_branch(const Arrays& in, const Settings& s) {
  Array y = drop_path(in[1], s);
  for (int64_t i = 0; i < y.shape.count(); ++i) y[i] = in[0][i] + (in[2].present ? in[2][i % y.shape[-1]] : 1.0) * y[i];
  return y;
}

// ---- losses ---------------------------------------------------------------------------------------------------------
inline Array soft_cross_entropy(const Array& logits, const Array& targets) {
  Array y{Shape{}};
  const int64_t V = logits.cols(), N = logits.rows();
  for (int64_t n = 0; n < N; ++n) {
    double total = 0;
    for (int64_t v = 0; v < V; ++v) total += std::exp(logits[n * V + v]);
    for (int64_t v = 0; v < V; ++v)
      y[0] -= targets[n * V + v] * (logits[n * V + v] - std::log(total)) / static_cast<double>(N);
  }
  return y;
}

inline Array binary_cross_entropy(const Array& logits, const Array& targets) {
  Array y{Shape{}};
  for (int64_t i = 0; i < logits.shape.count(); ++i) {
    const double p = 1.0 / (1.0 + std::exp(-logits[i])), t = targets[i];
    y[0] -= (t * std::log(p) + (1.0 - t) * std::log(1.0 - p)) / static_cast<double>(logits.shape.count());
  }
  return y;
}

inline Array argmax(const Array& x) {
  std::vector<int64_t> sizes = x.shape.vector();
  sizes.pop_back();
  Array y{Shape(sizes)};
  for (int64_t n = 0; n < x.rows(); ++n) {
    int64_t best = 0;
    for (int64_t v = 1; v < x.cols(); ++v)
      if (x[n * x.cols() + v] > x[n * x.cols() + best]) best = v;
    y[n] = static_cast<double>(best);
  }
  return y;
}

// ---- images and grids -----------------------------------------------------------------------------------------------
inline Array patchify(const Array& x, int64_t P) {
  const int64_t B = x.shape[0], C = x.shape[1], H = x.shape[2], W = x.shape[3], across = W / P;
  Array y(Shape{B, (H / P) * across, C * P * P});
  for (int64_t b = 0; b < B; ++b)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t r = 0; r < H; ++r)
        for (int64_t s = 0; s < W; ++s) {
          const int64_t patch = r / P * across + s / P, place = (c * P + r % P) * P + s % P;
          y[(b * y.shape[1] + patch) * y.shape[2] + place] = x[((b * C + c) * H + r) * W + s];
        }
  return y;
}

// Row i: what result i takes of every sample, by a kernel of the distance; samples beyond the border are the border's.
template <class Kernel>
std::vector<std::vector<double>> weights(int64_t from, int64_t to, double offset, int64_t reach, const Kernel& kernel) {
  std::vector<std::vector<double>> rows(static_cast<size_t>(to), std::vector<double>(static_cast<size_t>(from), 0.0));
  for (int64_t i = 0; i < to; ++i) {
    const double x =
        (static_cast<double>(i) + 0.5) * static_cast<double>(from) / (static_cast<double>(to) + offset) - 0.5;
    for (int64_t u = -reach; u < from + reach; ++u) {
      const int64_t inside = std::min(std::max<int64_t>(u, 0), from - 1);
      rows[static_cast<size_t>(i)][static_cast<size_t>(inside)] += kernel(std::abs(x - static_cast<double>(u)));
    }
  }
  return rows;
}

// y[p, i, j, c] = sum over u, v of rows[i][u] columns[j][v] x[p, u, v, c]
inline std::vector<double> separable(const std::vector<double>& x, int64_t channels,
                                     const std::vector<std::vector<double>>& rows,
                                     const std::vector<std::vector<double>>& columns) {
  const auto h = rows.size(), w = columns.size(), H = rows[0].size(), W = columns[0].size();
  const auto C = static_cast<size_t>(channels), planes = x.size() / (H * W * C);
  std::vector<double> y(planes * h * w * C, 0.0);
  for (size_t p = 0; p < planes; ++p)
    for (size_t i = 0; i < h; ++i)
      for (size_t j = 0; j < w; ++j)
        for (size_t u = 0; u < H; ++u)
          for (size_t v = 0; v < W && rows[i][u] != 0; ++v)
            for (size_t c = 0; c < C && columns[j][v] != 0; ++c)
              y[((p * h + i) * w + j) * C + c] += rows[i][u] * columns[j][v] * x[((p * H + u) * W + v) * C + c];
  return y;
}

inline Array resize_images(const Array& x, const Settings& s) {
  const auto tent = [](double d) { return std::max(0.0, 1.0 - d); };
  Array y(Shape{x.shape[0], x.shape[1], s.height, s.width});
  y.v = separable(x.v, 1, weights(x.shape[2], s.height, 0.0, 2, tent), weights(x.shape[3], s.width, 0.0, 2, tent));
  return y;
}

inline Array resample_grid(const Array& x, const Settings& s) {
  if (s.from_h == s.height && s.from_w == s.width) return x;
  const auto keys = [](double d) {
    constexpr double a = -0.75;
    if (d <= 1) return (a + 2) * d * d * d - (a + 3) * d * d + 1;
    return d < 2 ? a * d * d * d - 5 * a * d * d + 8 * a * d - 4 * a : 0.0;
  };
  const double offset = s.offset;
  const int64_t C = x.shape[1];
  Array y(Shape{s.begin + s.height * s.width, C});
  const auto cells = x.v.begin() + s.begin * C;
  std::copy(x.v.begin(), cells, y.v.begin());
  const auto grid = separable({cells, x.v.end()}, C, weights(s.from_h, s.height, offset, 3, keys),
                              weights(s.from_w, s.width, offset, 3, keys));
  std::copy(grid.begin(), grid.end(), y.v.begin() + s.begin * C);
  return y;
}

// By the name of the row; nothing: it is another file's.
inline std::optional<Arrays> evaluate_tokens(const std::string& op, const Arrays& in, const Settings& s) {
  if (op == "sequence") return Arrays{sequence(in)};
  if (op == "slice_tokens") return Arrays{slice_tokens(in[0], s.begin, s.end)};
  if (op == "concat_tokens") return Arrays{concat_tokens(in[0], in[1])};
  if (op == "mean_tokens") return Arrays{mean_tokens(in[0], s.begin)};
  if (op == "drop_path") return Arrays{drop_path(in[0], s)};
  if (op == "residual_branch") return Arrays{residual_branch(in, s)};
  if (op == "soft_cross_entropy") return Arrays{soft_cross_entropy(in[0], in[1])};
  if (op == "binary_cross_entropy") return Arrays{binary_cross_entropy(in[0], in[1])};
  if (op == "argmax") return Arrays{argmax(in[0])};
  if (op == "patchify") return Arrays{patchify(in[0], s.kernel)};
  if (op == "resize_images") return Arrays{resize_images(in[0], s)};
  if (op == "resample_grid") return Arrays{resample_grid(in[0], s)};
  return {};
}

}  // namespace accrete::reference
