// What the ladders compute, in double precision and as plainly as the formulas stand in books.
#include <algorithm>
#include <cmath>

#include "kernels/ladder/ladder.h"

namespace accrete::kernels {

namespace {
using Arrays = std::vector<std::vector<double>>;
}  // namespace

// y, x, gamma, beta
void reference_layernorm(const LadderSizes& sizes, Arrays& a) {
  const int64_t N = sizes[0], C = sizes[1];
  auto &y = a[0], &x = a[1], &gamma = a[2], &beta = a[3];
  for (int64_t n = 0; n < N; ++n) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < C; ++c) mean += x[n * C + c] / static_cast<double>(C);
    for (int64_t c = 0; c < C; ++c) variance += std::pow(x[n * C + c] - mean, 2) / static_cast<double>(C);
    const double rstd = 1 / std::sqrt(variance + kLadderEps);
    for (int64_t c = 0; c < C; ++c) y[n * C + c] = (x[n * C + c] - mean) * rstd * gamma[c] + beta[c];
  }
}

// loss, dx, x, targets
void reference_cross_entropy(const LadderSizes& sizes, Arrays& a) {
  const int64_t N = sizes[0], V = sizes[1];
  auto &loss = a[0], &dx = a[1], &x = a[2], &targets = a[3];
  for (int64_t n = 0; n < N; ++n) {
    const double* row = x.data() + n * V;
    const double top = *std::max_element(row, row + V);
    double sum = 0;
    for (int64_t v = 0; v < V; ++v) sum += std::exp(row[v] - top);
    const auto target = static_cast<int64_t>(targets[n]);
    loss[n] = top + std::log(sum) - row[target];
    for (int64_t v = 0; v < V; ++v) dx[n * V + v] = std::exp(row[v] - top) / sum - (v == target ? 1 : 0);
  }
}

// c, a, b
void reference_matmul(const LadderSizes& sizes, Arrays& arrays) {
  const int64_t M = sizes[0], N = sizes[1], K = sizes[2];
  auto &c = arrays[0], &a = arrays[1], &b = arrays[2];
  std::fill(c.begin(), c.end(), 0.0);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t k = 0; k < K; ++k)
      for (int64_t n = 0; n < N; ++n) c[m * N + n] += a[m * K + k] * b[k * N + n];
}

// o, q, k, v, scratch
void reference_attention(const LadderSizes& sizes, Arrays& a) {
  const int64_t H = sizes[0], T = sizes[1], D = sizes[2];
  auto &o = a[0], &q = a[1], &k = a[2], &v = a[3];
  std::fill(o.begin(), o.end(), 0.0);
  std::vector<double> p(static_cast<size_t>(T));
  for (int64_t h = 0; h < H; ++h) {
    for (int64_t i = 0; i < T; ++i) {
      const int64_t at = (h * T + i) * D;
      double top = -INFINITY, sum = 0;
      for (int64_t j = 0; j <= i; ++j) {
        p[j] = 0;
        for (int64_t d = 0; d < D; ++d) p[j] += q[at + d] * k[(h * T + j) * D + d];
        p[j] /= std::sqrt(static_cast<double>(D));
        top = std::max(top, p[j]);
      }
      for (int64_t j = 0; j <= i; ++j) sum += p[j] = std::exp(p[j] - top);
      for (int64_t j = 0; j <= i; ++j)
        for (int64_t d = 0; d < D; ++d) o[at + d] += p[j] / sum * v[(h * T + j) * D + d];
    }
  }
}

// p, m, v, copy, g, scratch
void reference_adamw(const LadderSizes&, Arrays& a) {
  auto &p = a[0], &m = a[1], &v = a[2], &copy = a[3], &g = a[4];
  const double correction1 = 1 - std::pow(kLadderBeta1, kLadderStepNumber),
               correction2 = 1 - std::pow(kLadderBeta2, kLadderStepNumber);
  for (size_t i = 0; i < p.size(); ++i) {
    m[i] = kLadderBeta1 * m[i] + (1 - kLadderBeta1) * g[i];
    v[i] = kLadderBeta2 * v[i] + (1 - kLadderBeta2) * g[i] * g[i];
    p[i] = p[i] * (1 - kLadderLr * kLadderDecay) -
           kLadderLr * (m[i] / correction1) / (std::sqrt(v[i] / correction2) + kLadderAdamEps);
    copy[i] = p[i];
  }
}

}  // namespace accrete::kernels
