// What every op of the op table means, as plain loops in double precision: written from the formulas in
// engine/ops/ops.h and images.h (reference_tokens.h and reference_images.h go with the rows of those names), sharing no
// code with the engine (only the random words of dropout, which have tests of their own).
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/reference_array.h"
#include "tests/reference_images.h"
#include "tests/reference_tokens.h"

namespace accrete::reference {

// ---- elementwise ----------------------------------------------------------------------------------------------------
inline double gelu(double x, bool tanh_form) {
  const double inner = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
  return tanh_form ? 0.5 * x * (1.0 + std::tanh(inner)) : 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
}

inline Array map(const Array& x, const std::function<double(double)>& f) {
  Array y(x.shape);
  for (size_t i = 0; i < x.v.size(); ++i) y.v[i] = f(x.v[i]);
  return y;
}

inline Array zip(const Array& a, const Array& b, const std::function<double(double, double)>& f) {
  Array y(a.shape);
  for (size_t i = 0; i < a.v.size(); ++i) y.v[i] = f(a.v[i], b.v[i]);
  return y;
}

// y[r, c] = f(x[r, c], per_column[c])
inline Array by_column(const Array& x, const Array& per_column, const std::function<double(double, double)>& f) {
  Array y(x.shape);
  for (int64_t i = 0; i < x.shape.count(); ++i) y[i] = f(x[i], per_column[i % x.cols()]);
  return y;
}

inline Array dropout(const Array& x, const Settings& s) {
  Array y(x.shape);
  for (int64_t i = 0; i < x.shape.count(); ++i)
    y[i] = s.dropout == 0.0f || kept(s, s.first + i) ? x[i] / (1.0 - static_cast<double>(s.dropout)) : 0.0;
  return y;
}

// ---- data movement and reductions -----------------------------------------------------------------------------------
inline Array reshape(const Array& x, const Settings& s) {
  Array y = x;
  y.shape = s.shape;
  return y;
}

inline Array transpose(const Array& x) {
  std::vector<int64_t> sizes = x.shape.vector();
  std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
  Array y{Shape(sizes)};
  const int64_t R = x.shape[-2], C = x.shape[-1], B = R * C > 0 ? x.shape.count() / (R * C) : 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t r = 0; r < R; ++r)
      for (int64_t c = 0; c < C; ++c) y[(b * C + c) * R + r] = x[(b * R + r) * C + c];
  return y;
}

inline Array swap_middle(const Array& x) {
  const int64_t A = x.shape[0], B = x.shape[1], C = x.shape[2], D = x.shape[3];
  Array y(Shape{A, C, B, D});
  for (int64_t a = 0; a < A; ++a)
    for (int64_t b = 0; b < B; ++b)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t d = 0; d < D; ++d) y[((a * C + c) * B + b) * D + d] = x[((a * B + b) * C + c) * D + d];
  return y;
}

inline Array slice_last(const Array& x, const Settings& s) {
  Array y(x.shape.with_last(s.end - s.begin));
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = s.begin; c < s.end; ++c) y[r * (s.end - s.begin) + c - s.begin] = x[r * x.cols() + c];
  return y;
}

inline Array slice_rows(const Array& x, const Settings& s) {
  std::vector<int64_t> sizes = x.shape.vector();
  const int64_t row = x.shape.count() / sizes[0];
  sizes[0] = s.end - s.begin;
  Array y{Shape(sizes)};
  for (int64_t i = 0; i < y.shape.count(); ++i) y[i] = x[s.begin * row + i];
  return y;
}

inline Array sum(const Array& x, double factor) {
  Array y{Shape{}};
  for (const double v : x.v) y[0] += v;
  y[0] *= factor;
  return y;
}

inline Array sum_rows(const Array& x) {
  Array y(Shape{x.cols()});
  for (int64_t i = 0; i < x.shape.count(); ++i) y[i % x.cols()] += x[i];
  return y;
}

// ---- products -------------------------------------------------------------------------------------------------------
inline Array matmul(const Array& a, const Array& b, bool ta, bool tb) {
  const int64_t B = a.shape.rank() == 3 ? a.shape[0] : 1;
  const int64_t M = a.shape[ta ? -1 : -2], K = a.shape[ta ? -2 : -1], N = b.shape[tb ? -2 : -1];
  Array y(a.shape.rank() == 3 ? Shape{B, M, N} : Shape{M, N});
  for (int64_t i = 0; i < B; ++i)
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n)
        for (int64_t k = 0; k < K; ++k)
          y[(i * M + m) * N + n] +=
              a[i * M * K + (ta ? k * M + m : m * K + k)] * b[i * K * N + (tb ? n * K + k : k * N + n)];
  return y;
}

inline Array linear(const Arrays& in) {
  const Array &x = in[0], &w = in[1], &b = in[2];
  const int64_t out = w.shape[0], K = w.shape[1];
  Array y(x.shape.with_last(out));
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t o = 0; o < out; ++o) {
      double sum = b.present ? b[o] : 0.0;
      for (int64_t k = 0; k < K; ++k) sum += x[r * K + k] * w[o * K + k];
      y[r * out + o] = sum;
    }
  return y;
}

// ---- normalisation --------------------------------------------------------------------------------------------------
inline Array layernorm(const Array& x, const Array& gamma, const Array& beta, double eps) {
  Array y(x.shape);
  const int64_t C = x.cols();
  for (int64_t r = 0; r < x.rows(); ++r) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < C; ++c) mean += x[r * C + c] / static_cast<double>(C);
    for (int64_t c = 0; c < C; ++c) variance += std::pow(x[r * C + c] - mean, 2) / static_cast<double>(C);
    for (int64_t c = 0; c < C; ++c)
      y[r * C + c] = (x[r * C + c] - mean) / std::sqrt(variance + eps) * gamma[c] + (beta.present ? beta[c] : 0.0);
  }
  return y;
}

inline Array softmax(const Array& x, bool causal) {
  Array y(x.shape);
  const int64_t C = x.cols(), T = causal ? x.shape[-2] : 1;
  for (int64_t r = 0; r < x.rows(); ++r) {
    const int64_t visible = causal ? r % T + 1 + C - T : C;
    double total = 0;
    for (int64_t c = 0; c < visible; ++c) total += std::exp(x[r * C + c]);
    for (int64_t c = 0; c < visible; ++c) y[r * C + c] = std::exp(x[r * C + c]) / total;
  }
  return y;
}

// ---- attention ------------------------------------------------------------------------------------------------------
// One definition for packed and cached keys: `key(b, j, h, d)` and `value(b, j, h, d)` read them.
template <class Key, class Value>
Array attention(const Array& qkv, int64_t kv_len, const Settings& s, bool causal, Key key, Value value) {
  const int64_t B = qkv.shape[0], T = qkv.shape[1], H = s.heads, D = qkv.shape[2] / (3 * H);
  Array o(Shape{B, T, H * D});
  std::vector<double> p(static_cast<size_t>(kv_len));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < T; ++i) {
        const int64_t visible = causal ? i + 1 + kv_len - T : kv_len;
        double total = 0;
        for (int64_t j = 0; j < visible; ++j) {
          double score = 0;
          for (int64_t d = 0; d < D; ++d) score += qkv[(b * T + i) * 3 * H * D + h * D + d] * key(b, j, h, d);
          p[static_cast<size_t>(j)] = std::exp(score / std::sqrt(static_cast<double>(D)));
          total += p[static_cast<size_t>(j)];
        }
        for (int64_t j = 0; j < visible; ++j) {
          double weight = p[static_cast<size_t>(j)] / total;
          if (s.dropout > 0.0f) {
            const int64_t index = (((s.first + b) * H + h) * T + i) * kv_len + j;
            weight = kept(s, index) ? weight / (1.0 - static_cast<double>(s.dropout)) : 0.0;
          }
          for (int64_t d = 0; d < D; ++d) o[(b * T + i) * H * D + h * D + d] += weight * value(b, j, h, d);
        }
      }
  return o;
}

inline Array packed_attention(const Array& qkv, const Settings& s) {
  const int64_t T = qkv.shape[1], H = s.heads, D = qkv.shape[2] / (3 * H);
  const auto part = [&](int64_t which) {
    return [&, which](int64_t b, int64_t j, int64_t h, int64_t d) {
      return qkv[(b * T + j) * 3 * H * D + which * H * D + h * D + d];
    };
  };
  return attention(qkv, T, s, s.causal, part(1), part(2));
}

inline Array cached_attention(const Arrays& in, const Settings& s) {
  const int64_t capacity = in[1].shape[1], width = in[1].shape[2], D = width / s.heads;
  const auto from = [&](const Array& cache) {
    return [&](int64_t b, int64_t j, int64_t h, int64_t d) { return cache[(b * capacity + j) * width + h * D + d]; };
  };
  return attention(in[0], s.length, s, true, from(in[1]), from(in[2]));
}

// ---- embedding and loss ---------------------------------------------------------------------------------------------
inline Array embedding(const Arrays& in, const Settings& s) {
  const Array &ids = in[0], &tokens = in[1], &positions = in[2];
  const int64_t T = ids.shape[1], C = tokens.shape[1];
  Array y(Shape{ids.shape[0], T, C});
  for (int64_t n = 0; n < ids.shape.count(); ++n)
    for (int64_t c = 0; c < C; ++c)
      y[n * C + c] = tokens[static_cast<int64_t>(ids[n]) * C + c] +
                     (positions.present ? positions[(s.first + n % T) * C + c] : 0.0);
  return y;
}

inline Array token_losses(const Array& logits, const Array& targets, double smoothing) {
  const int64_t V = logits.cols();
  Array loss(Shape{logits.rows()});
  for (int64_t n = 0; n < logits.rows(); ++n) {
    if (targets[n] < 0) continue;
    double total = 0;
    for (int64_t v = 0; v < V; ++v) total += std::exp(logits[n * V + v]);
    for (int64_t v = 0; v < V; ++v) {
      const double hit = v == static_cast<int64_t>(targets[n]) ? 1.0 : 0.0;
      const double want = (1.0 - smoothing) * hit + smoothing / static_cast<double>(V);
      loss[n] -= want * (logits[n * V + v] - std::log(total));
    }
  }
  return loss;
}

inline Array cross_entropy(const Array& logits, const Array& targets, double smoothing) {
  double counted = 0;
  for (const double t : targets.v) counted += t >= 0;
  return sum(token_losses(logits, targets, smoothing), counted > 0 ? 1.0 / counted : 0.0);
}

// ---- by the name of the row -----------------------------------------------------------------------------------------
inline Arrays evaluate(const std::string& op, const Arrays& in, const Settings& s) {
  static const std::map<std::string, std::function<double(double)>> unary = {
      {"neg", [](double x) { return -x; }},
      {"exp", [](double x) { return std::exp(x); }},
      {"log", [](double x) { return std::log(x); }},
      {"sqrt", [](double x) { return std::sqrt(x); }},
      {"square", [](double x) { return x * x; }},
      {"reciprocal", [](double x) { return 1 / x; }},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
      {"relu", [](double x) { return x > 0 ? x : 0; }},
      {"silu", [](double x) { return x / (1 + std::exp(-x)); }},
      {"gelu_tanh", [](double x) { return gelu(x, true); }},
      {"gelu_erf", [](double x) { return gelu(x, false); }},
  };
  static const std::map<std::string, std::function<double(double, double)>> binary = {
      {"add", [](double a, double b) { return a + b; }},
      {"sub", [](double a, double b) { return a - b; }},
      {"mul", [](double a, double b) { return a * b; }},
      {"div", [](double a, double b) { return a / b; }},
  };
  if (const auto f = unary.find(op); f != unary.end()) return {map(in[0], f->second)};
  if (const auto f = binary.find(op); f != binary.end()) return {zip(in[0], in[1], f->second)};
  const double alpha = static_cast<double>(s.alpha), beta = static_cast<double>(s.beta);
  const double eps = static_cast<double>(s.eps), smoothing = static_cast<double>(s.smoothing);
  if (op == "affine") return {map(in[0], [&](double x) { return alpha * x + beta; })};
  if (op == "bias_add") return {by_column(in[0], in[1], [](double x, double b) { return x + b; })};
  if (op == "column_scale") return {by_column(in[0], in[1], [](double x, double b) { return x * b; })};
  if (op == "cast" || op == "cast_f16") return {in[0]};
  if (op == "dropout") return {dropout(in[0], s)};
  if (op == "reshape") return {reshape(in[0], s)};
  if (op == "transpose") return {transpose(in[0])};
  if (op == "swap_middle") return {swap_middle(in[0])};
  if (op == "slice_last") return {slice_last(in[0], s)};
  if (op == "slice_rows") return {slice_rows(in[0], s)};
  if (op == "sum") return {sum(in[0], 1.0)};
  if (op == "mean") return {sum(in[0], 1.0 / static_cast<double>(in[0].v.size()))};
  if (op == "sum_rows") return {sum_rows(in[0])};
  if (op == "matmul") return {matmul(in[0], in[1], s.trans_a, s.trans_b)};
  if (op == "linear") return {linear(in)};
  if (op == "linear_gelu") return {map(linear(in), [&](double x) { return gelu(x, s.gelu == ops::Gelu::tanh); })};
  if (op == "mlp") {
    const Array u = linear({in[0], in[1], in[2]});
    return {linear({map(u, [&](double x) { return gelu(x, s.gelu == ops::Gelu::tanh); }), in[3], in[4]})};
  }
  if (op == "layernorm") return {layernorm(in[0], in[1], in[2], eps)};
  if (op == "residual_layernorm") {
    const Array total = reference::residual_branch({in[1], in[0], in[4]}, s);
    return {total, layernorm(total, in[2], in[3], eps)};
  }
  if (op == "softmax") return {softmax(in[0], s.causal)};
  if (op == "attention") return {packed_attention(in[0], s)};
  if (op == "attention_cached") return {cached_attention(in, s)};
  if (op == "embedding") return {embedding(in, s)};
  if (op == "cross_entropy") return {cross_entropy(in[0], in[1], smoothing)};
  if (op == "linear_cross_entropy") {
    Array no_bias;
    no_bias.present = false;
    return {cross_entropy(linear({in[0], in[1], no_bias}), in[2], smoothing)};
  }
  if (op == "linear_token_losses") {
    Array no_bias;
    no_bias.present = false;
    return {token_losses(linear({in[0], in[1], no_bias}), in[2], 0.0)};
  }
  if (op == "token_losses") return {token_losses(in[0], in[1], 0.0)};
  if (const auto y = evaluate_tokens(op, in, s)) return *y;
  if (const auto y = evaluate_images(op, in, s)) return *y;
  fail("reference", "no reference for op \"", op, "\"");
}

}  // namespace accrete::reference
