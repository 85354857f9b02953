// Every CUDA kernel but attention and optimizers, run by the emulator in three warp orders, and the CPU's version,
// against double precision: odd and empty sizes, both number types, unaligned pointers, aliasing, poisoned outputs.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/layernorm.h"
#include "kernels/permute.h"
#include "kernels/philox.h"
#include "kernels/reduce.h"
#include "kernels/softmax.h"
#include "kernels/unary.h"
#include "tests/kernel_reference.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;
using Values = std::vector<double>;

namespace {

const int64_t kSizes[] = {0, 1, 31, 33, 257, 5000};

struct Shape {
  int64_t rows, cols;
};
const Shape kShapes[] = {{0, 5}, {1, 1}, {3, 31}, {33, 64}, {70, 33}, {5, 257}, {300, 40}, {2, 5000}};

// The mathematics of unary.h once more, in double and from the textbook.
struct UnaryReference {
  Unary f;
  double low, high;
  std::function<double(double)> value, derivative;
};
const double kPi = 3.14159265358979323846;
double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double tanh_argument(double x) { return std::sqrt(2.0 / kPi) * (x + 0.044715 * x * x * x); }
const UnaryReference kUnary[] = {
    {Unary::neg, -3, 3, [](double x) { return -x; }, [](double) { return -1.0; }},
    {Unary::exp, -9, 9, [](double x) { return std::exp(x); }, [](double x) { return std::exp(x); }},
    {Unary::log, 0.01, 9, [](double x) { return std::log(x); }, [](double x) { return 1 / x; }},
    {Unary::sqrt, 0.01, 9, [](double x) { return std::sqrt(x); }, [](double x) { return 0.5 / std::sqrt(x); }},
    {Unary::square, -3, 3, [](double x) { return x * x; }, [](double x) { return 2 * x; }},
    {Unary::reciprocal, 0.1, 9, [](double x) { return 1 / x; }, [](double x) { return -1 / (x * x); }},
    {Unary::tanh, -5, 5, [](double x) { return std::tanh(x); },
     [](double x) { return 1 - std::tanh(x) * std::tanh(x); }},
    {Unary::sigmoid, -9, 9, sigmoid, [](double x) { return sigmoid(x) * (1 - sigmoid(x)); }},
    {Unary::relu, -3, 3, [](double x) { return x > 0 ? x : 0; }, [](double x) { return x > 0 ? 1.0 : 0.0; }},
    {Unary::silu, -9, 9, [](double x) { return x * sigmoid(x); },
     [](double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }},
    {Unary::gelu_tanh, -6, 6, [](double x) { return 0.5 * x * (1 + std::tanh(tanh_argument(x))); },
     [](double x) {
       const double t = std::tanh(tanh_argument(x));
       return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2.0 / kPi) * (1 + 3 * 0.044715 * x * x);
     }},
    {Unary::gelu_erf, -6, 6, [](double x) { return x * cdf(x); },
     [](double x) { return cdf(x) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * kPi); }},
};

template <class Fn>
Values each(const Values& a, Fn fn) {
  Values y(a.size());
  for (size_t i = 0; i < a.size(); ++i) y[i] = fn(static_cast<int64_t>(i));
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("unary table: values, derivatives, in place", T, float, bf16, f16) {
  for (const UnaryReference& ref : kUnary) {
    CAPTURE(unary_name(ref.f));
    for (int64_t n : {int64_t{0}, int64_t{33}, int64_t{2100}}) {
      const Values x = random_values<T>(n, 1, ref.low, ref.high), dy = random_values<T>(n, 2);
      const Values value = each(x, [&](int64_t i) { return ref.value(x[i]); });
      const Values gradient = each(x, [&](int64_t i) { return ref.derivative(x[i]) * dy[i]; });
      const int offset = n == 33;
      on_backends([&](const auto& ctx, SameBits& same) {
        Buffer<T> bx(x, offset), bdy(dy, offset), y(n, offset), dx(n);
        unary_forward(ctx, ref.f, y.p(), bx.p(), n);
        unary_backward(ctx, ref.f, dx.p(), bx.p(), bdy.p(), n);
        check_buffer("value", y, value, rounding<T>());
        check_buffer("gradient", dx, gradient, rounding<T>());
        unary_forward(ctx, ref.f, bx.p(), bx.p(), n);
        check_buffer("in place", bx, y.values(), kExact);
        same(y.values()), same(dx.values());
      });
    }
  }
}

TEST_CASE_TEMPLATE("binary operations, affine, fill", T, float, bf16, f16) {
  for (int64_t n : kSizes) {
    const Values a = random_values<T>(n, 3), b = random_values<T>(n, 4, 0.5, 2.0);
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<T> ba(a), bb(b, 1), y(n);
      const auto run = [&](Binary op, auto fn) {
        binary_forward(ctx, op, y.p(), ba.p(), bb.p(), n);
        check_buffer("binary", y, each(a, [&](int64_t i) { return fn(a[i], b[i]); }), rounding<T>());
      };
      run(Binary::add, [](double p, double q) { return p + q; });
      run(Binary::sub, [](double p, double q) { return p - q; });
      run(Binary::mul, [](double p, double q) { return p * q; });
      run(Binary::div, [](double p, double q) { return p / q; });
      binary_forward(ctx, Binary::add, ba.p(), ba.p(), bb.p(), n);
      check_buffer("a += b", ba, each(a, [&](int64_t i) { return a[i] + b[i]; }), rounding<T>());
      affine(ctx, bb.p(), bb.p(), -1.5f, 0.25f, n);
      check_buffer("affine", bb, each(b, [&](int64_t i) { return -1.5 * b[i] + 0.25; }), rounding<T>());
      fill(ctx, y.p(), 1.5f, n);
      check_buffer("fill", y, Values(n, 1.5), kExact);
      Buffer<float> half(Values{0.5});
      spread(ctx, y.p(), half.p(), 3.0f, n);
      check_buffer("spread", y, Values(n, 1.5), kExact);
    });
  }
}

TEST_CASE_TEMPLATE("bias_add and column_scale", T, float, bf16, f16) {
  for (const Shape& s : kShapes) {
    const int64_t n = s.rows * s.cols;
    const Values x = random_values<T>(n, 5), v = random_values<float>(s.cols, 6);
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<T> bx(x), y(n, 1), z(n);
      Buffer<float> bv(v);
      bias_add(ctx, y.p(), bx.p(), bv.p(), s.rows, s.cols);
      check_buffer("bias", y, each(x, [&](int64_t i) { return x[i] + v[i % s.cols]; }), rounding<T>());
      column_scale(ctx, z.p(), bx.p(), bv.p(), s.rows, s.cols);
      check_buffer("scale", z, each(x, [&](int64_t i) { return x[i] * v[i % s.cols]; }), rounding<T>());
      bias_add(ctx, bx.p(), bx.p(), bv.p(), s.rows, s.cols);
      check_buffer("in place", bx, y.values(), kExact);
    });
  }
}

TEST_CASE_TEMPLATE("casts round to nearest even and keep special values", T, bf16, f16) {
  for (int64_t n : kSizes) {
    Values x = random_values<float>(n, 7, -1e3, 1e3);
    const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.00390625f, 1.00146484375f, 3.4e38f, 1e-42f};
    for (int64_t i = 0; i < n && i < 9; ++i) x[i] = special[i];
    on_backends([&](const auto& ctx, SameBits&) {
      for (int offset : {0, 1}) {
        Buffer<float> wide(x, offset), back(n);
        Buffer<T> narrow(n, offset);
        cast_from_f32(ctx, narrow.p(), wide.p(), n);
        check_buffer(
            "narrow", narrow,
            each(x, [&](int64_t i) { return static_cast<double>(to_float(from_float<T>(static_cast<float>(x[i])))); }),
            kExact);
        cast_to_f32(ctx, back.p(), narrow.p(), n);
        check_buffer("widened", back, narrow.values(), kExact);
      }
    });
  }
}

TEST_CASE_TEMPLATE("accumulate", T, float, bf16, f16) {
  for (int64_t n : kSizes) {
    const Values x = random_values<T>(n, 8), y0 = random_values<float>(n, 9);
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<T> bx(x);
      Buffer<float> y(y0);
      accumulate(ctx, y.p(), bx.p(), 0.75f, n);
      check_buffer("y", y, each(x, [&](int64_t i) { return y0[i] + 0.75 * x[i]; }), rounding<float>());
    });
  }
}

TEST_CASE_TEMPLATE("dropout and random fills follow their addresses", T, float, bf16, f16) {
  const RandomKey key{42, 0x1234567890ull, 7};
  const auto word = [&](int64_t i) { return random_words(key, static_cast<uint64_t>(i) / 4).v[i % 4]; };
  for (int64_t n : kSizes) {
    for (int64_t first : {int64_t{0}, int64_t{3}, int64_t{4}, (int64_t{1} << 40) + 1}) {
      const Values x = random_values<T>(n, 10);
      for (float p : {0.0f, 0.3f}) {
        const Values kept =
            each(x, [&](int64_t i) { return word(first + i) >= drop_threshold(p) ? x[i] / (1.0 - p) : 0.0; });
        on_backends([&](const auto& ctx, SameBits&) {
          Buffer<T> bx(x), y(n), u(n), z(n);
          dropout(ctx, y.p(), bx.p(), n, p, key, first);
          check_buffer("dropout", y, kept, rounding<T>());
          dropout(ctx, bx.p(), bx.p(), n, p, key, first);
          check_buffer("in place", bx, y.values(), kExact);
          if (p > 0.0f) return;
          random_uniform(ctx, u.p(), n, -1.0f, 3.0f, key, first);
          check_buffer("uniform", u,
                       each(x, [&](int64_t i) { return -1.0 + 4.0 * ((word(first + i) >> 8) / 16777216.0); }),
                       rounding<T>());
          random_normal(ctx, z.p(), n, 0.5f, 2.0f, key, first);
          check_buffer("normal", z,
                       each(x,
                            [&](int64_t i) {
                              const double a = word(2 * (first + i)), b = word(2 * (first + i) + 1);
                              return 0.5 + 2.0 * std::sqrt(-2.0 * std::log((a + 1) * 0x1p-32)) *
                                               std::cos(2 * kPi * b * 0x1p-32);
                            }),
                       rounding<T>());
        });
      }
    }
  }
}

TEST_CASE("a mask does not depend on how the range is cut") {
  const RandomKey key{1, 2, 3};
  const Values x(1000, 1.0);
  on_backends([&](const auto& ctx, SameBits&) {
    Buffer<float> bx(x), whole(1000), pieces(1000);
    dropout(ctx, whole.p(), bx.p(), 1000, 0.5f, key, 11);
    int64_t begin = 0;
    for (int64_t size : {1, 6, 250, 743}) {
      dropout(ctx, pieces.p() + begin, bx.p() + begin, size, 0.5f, key, 11 + begin);
      begin += size;
    }
    check_buffer("pieces", pieces, whole.values(), kExact);
  });
}

TEST_CASE_TEMPLATE("sums over columns and rows", T, float, bf16, f16) {
  for (const Shape& s : kShapes) {
    const int64_t n = s.rows * s.cols;
    const Values a = random_values<T>(n, 11), b = random_values<T>(n, 12), start = random_values<float>(s.cols, 13);
    Values column(s.cols), product(s.cols), row(s.rows);
    for (int64_t i = 0; i < n; ++i) {
      column[i % s.cols] += a[i];
      product[i % s.cols] += a[i] * b[i];
      row[i / s.cols] += a[i];
    }
    const auto plus_start = [&](const Values& v) { return each(v, [&](int64_t i) { return v[i] + start[i]; }); };
    const Tolerance tol{1e-4, 1e-5};  // f32 sums of up to 5000 terms around 1
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<T> ba(a), bb(b, 1);
      Buffer<float> y(s.cols), r(s.rows), added(start);
      column_sum(ctx, y.p(), ba.p(), s.rows, s.cols, false);
      check_buffer("column_sum", y, column, tol);
      column_sum(ctx, added.p(), ba.p(), s.rows, s.cols, true);
      check_buffer("column_sum +=", added, plus_start(column), tol);
      column_dot(ctx, y.p(), ba.p(), bb.p(), s.rows, s.cols, false);
      check_buffer("column_dot", y, product, tol);
      row_sum(ctx, r.p(), ba.p(), s.rows, s.cols);
      check_buffer("row_sum", r, row, tol);
      same(y.values()), same(r.values()), same(added.values());
    });
  }
}

TEST_CASE_TEMPLATE("sums of everything", T, float, bf16, f16) {
  for (int64_t n : {int64_t{0}, int64_t{1}, int64_t{33}, int64_t{257}, int64_t{70001}}) {
    Values a = random_values<T>(n, 14);
    double total = 0, squares = 0;
    for (double v : a) total += v, squares += v * v;
    on_backends([&](const auto& ctx, SameBits& same) {
      for (int offset : {0, 1}) {
        Buffer<T> ba(a, offset);
        Buffer<float> out(1);
        sum(ctx, out.p(), ba.p(), n);
        check_buffer("sum", out, {total}, {2e-3, 1e-5});
        same(out.values());
        sum_of_squares(ctx, out.p(), ba.p(), n);
        check_buffer("sum_of_squares", out, {squares}, {1e-4, 1e-5});
        same(out.values());
        count_nonfinite(ctx, out.p(), ba.p(), n);
        check_buffer("none", out, {0.0}, kExact);
      }
      Values bad = a;
      double expected = 0;
      for (int64_t i = 0; i < n; i += 7) bad[i] = i % 2 ? NAN : i % 4 ? INFINITY : -INFINITY, ++expected;
      Buffer<T> bb(bad);
      Buffer<float> out(1);
      count_nonfinite(ctx, out.p(), bb.p(), n);
      check_buffer("count_nonfinite", out, {expected}, kExact);
    });
  }
}

TEST_CASE("dot") {
  for (int64_t n : kSizes) {
    const Values a = random_values<float>(n, 15), b = random_values<float>(n, 16);
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += a[i] * b[i];
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<float> ba(a), bb(b), out(1);
      dot(ctx, out.p(), ba.p(), bb.p(), n);
      check_buffer("dot", out, {total}, {1e-4, 1e-5});
      same(out.values());
    });
  }
}

TEST_CASE_TEMPLATE("transposes and copies move every element", T, float, bf16, f16) {
  const int64_t sizes[][4] = {{1, 1, 1, 1}, {2, 3, 5, 7}, {1, 33, 31, 8}, {3, 2, 65, 16}, {0, 3, 3, 3}, {2, 1, 40, 33}};
  for (const auto& size : sizes) {
    const int64_t A = size[0], B = size[1], C = size[2], D = size[3];
    const int64_t n = A * B * C * D;
    const Values x = random_values<T>(n, 17);
    Values turned(n), swapped(n);
    for (int64_t a = 0; a < A; ++a)
      for (int64_t b = 0; b < B; ++b)
        for (int64_t c = 0; c < C; ++c)
          for (int64_t d = 0; d < D; ++d) {
            const double v = x[((a * B + b) * C + c) * D + d];
            turned[((a * B + b) * D + d) * C + c] = v;
            swapped[((a * C + c) * B + b) * D + d] = v;
          }
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<T> bx(x), y(n), z(n);
      transpose(ctx, y.p(), bx.p(), A * B, C, D);
      check_buffer("transpose", y, turned, kExact);
      swap_middle(ctx, z.p(), bx.p(), A, B, C, D);
      check_buffer("swap_middle", z, swapped, kExact);
    });
  }
  for (int64_t cols : {1, 16, 33}) {
    const int64_t rows = 19, from = 48, to = 40;
    const Values x = random_values<T>(rows * from, 18);
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<T> bx(x), y(rows * to);
      Values want = y.values();
      for (int64_t i = 0; i < rows * cols; ++i) want[i / cols * to + i % cols] = x[i / cols * from + i % cols];
      copy_rows(ctx, y.p(), to, bx.p(), from, rows, cols);
      check_buffer("copy_rows", y, want, kExact);
      copy_rows(ctx, y.p(), to, bx.p(), from, 0, cols);
    });
  }
}

TEST_CASE_TEMPLATE("embedding", T, float, bf16, f16) {
  struct Case {
    int64_t N, tokens_per_seq, C, V, first;
  };
  for (const Case& s : {Case{0, 4, 8, 5, 0}, Case{1, 1, 1, 1, 0}, Case{70, 35, 33, 11, 0}, Case{96, 32, 264, 300, 3},
                        Case{10, 4, 16, 7, 1}, Case{2500, 50, 16, 90, 0}, Case{5003, 5003, 8, 3000, 0}}) {
    const Values tokens = random_values<T>(s.V * s.C, 19),
                 positions = random_values<T>((s.first + s.tokens_per_seq) * s.C, 20);
    const Values dy = random_values<T>(s.N * s.C, 21), start = random_values<float>(s.V * s.C, 22);
    Values ids = random_values<float>(s.N, 23, 0.0, static_cast<double>(s.V) * 0.7);
    for (double& id : ids) id = std::floor(id);
    Values y(s.N * s.C), without(s.N * s.C), d_tokens = start, d_positions(s.tokens_per_seq * s.C, 0.5);
    for (int64_t n = 0; n < s.N; ++n)
      for (int64_t c = 0; c < s.C; ++c) {
        const int64_t id = static_cast<int64_t>(ids[n]), t = n % s.tokens_per_seq;
        without[n * s.C + c] = tokens[id * s.C + c];
        y[n * s.C + c] = tokens[id * s.C + c] + positions[(s.first + t) * s.C + c];
        d_tokens[id * s.C + c] += dy[n * s.C + c];
        d_positions[t * s.C + c] += dy[n * s.C + c];
      }
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<T> bt(tokens), bp(positions), by(s.N * s.C), bdy(dy);
      Buffer<int32_t> bids(ids), scratch(embedding_scratch(s.N, s.V));
      embedding_forward(ctx, by.p(), bt.p(), bp.p(), bids.p(), s.N, s.tokens_per_seq, s.first, s.C, s.V);
      check_buffer("y", by, y, rounding<T>());
      embedding_forward(ctx, by.p(), bt.p(), static_cast<const T*>(nullptr), bids.p(), s.N, s.tokens_per_seq, s.first,
                        s.C, s.V);
      check_buffer("without positions", by, without, kExact);
      Buffer<float> dt(start), dp(Values(s.tokens_per_seq * s.C, 0.5)), only(start);
      embedding_backward(ctx, dt.p(), dp.p(), bdy.p(), bids.p(), scratch.p(), s.N, s.tokens_per_seq, s.C, s.V);
      check_buffer("d_tokens", dt, d_tokens, {1e-5, 1e-6});
      check_buffer("d_positions", dp, d_positions, {1e-5, 1e-6});
      CHECK(scratch.intact());
      embedding_backward(ctx, only.p(), static_cast<float*>(nullptr), bdy.p(), bids.p(), scratch.p(), s.N,
                         s.tokens_per_seq, s.C, s.V);
      check_buffer("d_tokens alone", only, dt.values(), kExact);
      same(dt.values()), same(dp.values());
    });
  }
}

// Beside the shapes of all tests: every team of row_registers.h in one of the two widths, and rows that do not fit.
const Shape kNormShapes[] = {{0, 5},    {1, 1},    {3, 31},   {33, 64},  {70, 33},  {5, 257},
                             {300, 40}, {75, 96},  {9, 264},  {13, 768}, {5, 1024}, {3, 1200},
                             {5, 1600}, {3, 3000}, {2, 4096}, {3, 8192}, {2, 8200}};

TEST_CASE_TEMPLATE("layernorm, forward, with residual, backward", T, float, bf16, f16) {
  const float eps = 1e-5f;
  for (const Shape& s : kNormShapes) {
    const int64_t N = s.rows, C = s.cols, n = N * C;
    const Values x = random_values<T>(n, 24, -1.0, 3.0), residual = random_values<T>(n, 25);
    const Values gamma = random_values<float>(C, 26, 0.5, 1.5), beta = random_values<float>(C, 27);
    const Values dy = random_values<T>(n, 28), dx_add = random_values<T>(n, 29);
    const Values start = random_values<float>(C, 30);
    const auto forward = [&](const Values& in, Values& mean, Values& rstd, bool with_beta) {
      mean.assign(N, 0), rstd.assign(N, 0);
      Values y(n);
      for (int64_t r = 0; r < N; ++r) {
        double m = 0, var = 0;
        for (int64_t c = 0; c < C; ++c) m += in[r * C + c] / C;
        for (int64_t c = 0; c < C; ++c) var += (in[r * C + c] - m) * (in[r * C + c] - m) / C;
        mean[r] = m, rstd[r] = 1 / std::sqrt(var + eps);
        for (int64_t c = 0; c < C; ++c)
          y[r * C + c] = (in[r * C + c] - m) * rstd[r] * gamma[c] + (with_beta ? beta[c] : 0);
      }
      return y;
    };
    Values mean, rstd, mean2, rstd2, dx(n), dgamma = start, dbeta = start;
    const Values y = forward(x, mean, rstd, true), plain = forward(x, mean, rstd, false);
    const Values sum = each(x, [&](int64_t i) {
      return static_cast<double>(to_float(from_float<T>(static_cast<float>(x[i] + residual[i]))));
    });
    const Values y2 = forward(sum, mean2, rstd2, true);
    for (int64_t r = 0; r < N; ++r) {
      double g = 0, gh = 0;
      const auto h = [&](int64_t c) { return (x[r * C + c] - mean[r]) * rstd[r]; };
      for (int64_t c = 0; c < C; ++c) {
        g += dy[r * C + c] * gamma[c] / C;
        gh += dy[r * C + c] * gamma[c] * h(c) / C;
        dgamma[c] += dy[r * C + c] * h(c);
        dbeta[c] += dy[r * C + c];
      }
      for (int64_t c = 0; c < C; ++c) dx[r * C + c] = rstd[r] * (dy[r * C + c] * gamma[c] - g - h(c) * gh);
    }
    // rstd reaches 316 where C = 1 (variance 0, so only cancellation is left); elsewhere it is about 1
    const Tolerance tol = rounding<T>(2e-5), sums{2e-4, 1e-5};
    const Values dx_plus = each(dx, [&](int64_t i) { return dx[i] + dx_add[i]; });
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<T> bx(x), by(n), bres(residual, 1), bsum(n), bdy(dy), bdx(n), badd(dx_add);
      Buffer<float> bgamma(gamma), bbeta(beta), bmean(N), brstd(N), bdgamma(start), bdbeta(start);
      layernorm_forward(ctx, by.p(), bmean.p(), brstd.p(), bx.p(), bgamma.p(), bbeta.p(), N, C, eps);
      check_buffer("y", by, y, tol), check_buffer("mean", bmean, mean, {1e-5, 1e-5});
      check_buffer("rstd", brstd, rstd, {1e-5, 1e-4});
      layernorm_backward(ctx, bdx.p(), bdgamma.p(), bdbeta.p(), static_cast<const T*>(nullptr), bdy.p(), bx.p(),
                         bgamma.p(), bmean.p(), brstd.p(), N, C);
      check_buffer("dx", bdx, dx, rounding<T>(C == 1 ? 2e-4 : 2e-5));
      check_buffer("dgamma", bdgamma, dgamma, sums), check_buffer("dbeta", bdbeta, dbeta, sums);
      same(by.values()), same(bdx.values()), same(bdgamma.values()), same(bdbeta.values());
      layernorm_backward(ctx, badd.p(), bdgamma.p(), static_cast<float*>(nullptr), badd.p(), bdy.p(), bx.p(),
                         bgamma.p(), bmean.p(), brstd.p(), N, C);
      check_buffer("dx + dx_add in place", badd, dx_plus, rounding<T>(C == 1 ? 2e-4 : 2e-5));
      layernorm_forward(ctx, by.p(), bmean.p(), brstd.p(), bx.p(), bgamma.p(), static_cast<const float*>(nullptr), N, C,
                        eps);
      check_buffer("without beta", by, plain, tol);
      residual_layernorm_forward(ctx, bsum.p(), by.p(), bmean.p(), brstd.p(), bx.p(), bres.p(), bgamma.p(), bbeta.p(),
                                 N, C, eps);
      check_buffer("sum", bsum, sum, kExact), check_buffer("y of sum", by, y2, tol);
      const Values before = by.values();
      residual_layernorm_forward(ctx, bx.p(), by.p(), bmean.p(), brstd.p(), bx.p(), bres.p(), bgamma.p(), bbeta.p(), N,
                                 C, eps);
      check_buffer("sum over x", bx, sum, kExact), check_buffer("y again", by, before, rounding<T>(1e-5));
    });
  }
}

TEST_CASE_TEMPLATE("softmax, plain and causal, forward and backward", T, float, bf16, f16) {
  for (const Shape& s : kShapes) {
    for (int64_t causal : {int64_t{0}, s.cols > 100 ? int64_t{0} : s.cols, int64_t{7}}) {
      const int64_t N = s.rows, C = s.cols, n = N * C;
      const Values x = random_values<T>(n, 31, -6, 6), dy = random_values<T>(n, 32);
      Values y(n);
      for (int64_t r = 0; r < N; ++r) {
        const int64_t visible = causal > 0 ? std::min(C, r % causal + C - causal + 1) : C;
        double total = 0;
        for (int64_t c = 0; c < visible; ++c) total += std::exp(x[r * C + c]);
        for (int64_t c = 0; c < visible; ++c) y[r * C + c] = std::exp(x[r * C + c]) / total;
      }
      on_backends([&](const auto& ctx, SameBits& same) {
        Buffer<T> bx(x), by(n, causal == 7), bdy(dy), bdx(n);
        softmax_forward(ctx, by.p(), bx.p(), N, C, causal);
        check_buffer("y", by, y, rounding<T>());
        const Values p = by.values();
        Values dx(n);
        for (int64_t r = 0; r < N; ++r) {
          double inner = 0;
          for (int64_t c = 0; c < C; ++c) inner += p[r * C + c] * dy[r * C + c];
          for (int64_t c = 0; c < C; ++c) dx[r * C + c] = p[r * C + c] * (dy[r * C + c] - inner);
        }
        softmax_backward(ctx, bdx.p(), by.p(), bdy.p(), N, C);
        check_buffer("dx", bdx, dx, rounding<T>());
        same(by.values()), same(bdx.values());
        softmax_backward(ctx, bdy.p(), by.p(), bdy.p(), N, C);
        check_buffer("dx over dy", bdy, bdx.values(), kExact);
        softmax_forward(ctx, bx.p(), bx.p(), N, C, causal);
        check_buffer("in place", bx, y, rounding<T>());
      });
    }
  }
}

TEST_CASE_TEMPLATE("cross-entropy with smoothing, padding and ignored rows", T, float, bf16, f16) {
  struct Case {
    int64_t N, V, stride;
  };
  for (const Case& s : {Case{0, 5, 5}, Case{1, 1, 1}, Case{9, 33, 40}, Case{17, 257, 264}, Case{3, 4999, 5000}}) {
    for (float smoothing : {0.0f, 0.1f}) {
      const Values x = random_values<T>(s.N * s.stride, 33, -5, 5);
      Values targets = random_values<float>(s.N, 34, 0.0, static_cast<double>(s.V));
      for (int64_t i = 0; i < s.N; ++i) targets[i] = i % 4 == 2 ? -1.0 : std::floor(targets[i]);
      const double scale = 0.37;
      Values loss(s.N), lse(s.N), dx(s.N * s.stride);
      for (int64_t r = 0; r < s.N; ++r) {
        const double* row = x.data() + r * s.stride;
        double total = 0, all = 0;
        for (int64_t v = 0; v < s.V; ++v) total += std::exp(row[v]), all += row[v];
        lse[r] = std::log(total);
        if (targets[r] < 0) continue;
        const int64_t t = static_cast<int64_t>(targets[r]);
        loss[r] = lse[r] - (1.0 - smoothing) * row[t] - smoothing / s.V * all;
        for (int64_t v = 0; v < s.V; ++v)
          dx[r * s.stride + v] = static_cast<float>(scale) *
                                 (std::exp(row[v] - lse[r]) - (v == t ? 1.0 - smoothing : 0.0) - smoothing / s.V);
      }
      on_backends([&](const auto& ctx, SameBits& same) {
        Buffer<T> bx(x), bdx(s.N * s.stride);
        Buffer<int32_t> bt(targets);
        Buffer<float> bloss(s.N), blse(s.N), bscale(Values{scale});
        cross_entropy_forward(ctx, bloss.p(), blse.p(), bx.p(), bt.p(), s.N, s.V, s.stride, smoothing);
        check_buffer("loss", bloss, loss, {1e-5, 2e-6}), check_buffer("lse", blse, lse, {1e-5, 2e-6});
        cross_entropy_backward(ctx, bdx.p(), bx.p(), blse.p(), bt.p(), bscale.p(), s.N, s.V, s.stride, smoothing);
        check_buffer("dlogits", bdx, dx, rounding<T>());
        same(bloss.values()), same(bdx.values());
        cross_entropy_backward(ctx, bx.p(), bx.p(), blse.p(), bt.p(), bscale.p(), s.N, s.V, s.stride, smoothing);
        check_buffer("in place", bx, bdx.values(), kExact);
      });
    }
  }
}

TEST_CASE("matrix products of the emulated device") {
  const int64_t M = 5, N = 7, K = 3;
  const Values a = random_values<float>(M * K, 35), b = random_values<float>(K * N, 36),
               bias = random_values<float>(N, 37);
  Values c(M * N);
  for (int64_t i = 0; i < M * N; ++i) {
    c[i] = bias[i % N];
    for (int64_t k = 0; k < K; ++k) c[i] += a[i / N * K + k] * b[k * N + i % N];
  }
  on_backends([&](const auto& ctx, SameBits&) {
    Buffer<float> ba(a), bb(b), bbias(bias), bc(M * N);
    GemmShape s;
    s.M = M, s.N = N, s.K = K;
    gemm<float, float>(ctx, bc.p(), ba.p(), bb.p(), bbias.p(), s);
    check_buffer("c", bc, c, {1e-5, 1e-5});
  });
}

TEST_CASE("targets and ids that name nothing give NaN and touch nothing else") {
  const int64_t N = 5, V = 37, C = 19;
  const std::vector<double> x = random_values<float>(N * V, 3), table = random_values<float>(V * C, 4),
                            dy = random_values<float>(N * C, 5);
  on_backends([&](const auto& ctx, SameBits&) {
    Buffer<int32_t> targets({3, -1, 37, 36, 1000}), ids({0, -1, 37, 36, 1000});
    Buffer<float> logits(x), loss(N), lse(N), counts(2), scale(std::vector<double>{2.0}), d(N * V), y(N * C),
        tokens(table), grads(N * C);
    count_targets(ctx, counts.p(), targets.p(), N);
    check_buffer("counts", counts, {4.0, 0.25}, kExact);
    count_targets(ctx, counts.p(), targets.p() + 1, 1);
    check_buffer("no target", counts, {0.0, 0.0}, kExact);
    cross_entropy_forward(ctx, loss.p(), lse.p(), logits.p(), targets.p(), N, V, V, 0.1f);
    cross_entropy_backward(ctx, d.p(), logits.p(), lse.p(), targets.p(), scale.p(), N, V, V, 0.1f);
    CHECK(d.intact());
    for (int64_t n = 0; n < N; ++n) {
      const bool named = n != 2 && n != 4;
      CHECK(std::isfinite(loss.values()[n]) == named);
      for (int64_t v = 0; v < V; ++v) CHECK(std::isfinite(d.values()[n * V + v]) == named);
    }
    embedding_forward(ctx, y.p(), tokens.p(), static_cast<const float*>(nullptr), ids.p(), N, N, 0, C, V);
    CHECK(y.intact());
    for (int64_t n = 0; n < N; ++n)
      for (int64_t c = 0; c < C; ++c) {
        if (n == 0 || n == 3)
          CHECK(y.values()[n * C + c] == table[(n == 0 ? 0 : 36) * C + c]);
        else
          CHECK(std::isnan(y.values()[n * C + c]));
      }
    Buffer<float> upstream(dy), d_tokens(std::vector<double>(V * C, 1.0));
    Buffer<int32_t> scratch(embedding_scratch(N, V));
    embedding_backward(ctx, d_tokens.p(), static_cast<float*>(nullptr), upstream.p(), ids.p(), scratch.p(), N, N, C, V);
    std::vector<double> want(V * C, 1.0);
    for (int64_t c = 0; c < C; ++c) want[c] += dy[c], want[36 * C + c] += dy[3 * C + c];
    check_buffer("d_tokens", d_tokens, want, {1e-6, 1e-6});
  });
}
