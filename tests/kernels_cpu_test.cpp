// Elementwise kernels, casts, reductions, data movement and random numbers on the CPU, each against double precision,
// in f32, bf16 and f16, on 1, 2 and 5 threads.
#include <algorithm>

#include "kernels/cast.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"
#include "kernels/permute.h"
#include "kernels/reduce.h"
#include "kernels/unary.h"
#include "tests/kernel_testing.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::testing;

namespace {

// {f, f'} in double
std::pair<double, double> unary_in_double(Unary f, double x) {
  const double pi = 3.14159265358979324;
  const double sig = 1 / (1 + std::exp(-x));
  const double phi = std::exp(-x * x / 2) / std::sqrt(2 * pi), Phi = 0.5 * std::erfc(-x / std::sqrt(2.0));
  const double u = std::sqrt(2 / pi) * (x + 0.044715 * x * x * x), t = std::tanh(u);
  const double du = std::sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
  switch (f) {
    case Unary::neg:
      return {-x, -1};
    case Unary::exp:
      return {std::exp(x), std::exp(x)};
    case Unary::log:
      return {std::log(x), 1 / x};
    case Unary::sqrt:
      return {std::sqrt(x), 0.5 / std::sqrt(x)};
    case Unary::square:
      return {x * x, 2 * x};
    case Unary::reciprocal:
      return {1 / x, -1 / (x * x)};
    case Unary::tanh:
      return {std::tanh(x), 1 - std::tanh(x) * std::tanh(x)};
    case Unary::sigmoid:
      return {sig, sig * (1 - sig)};
    case Unary::relu:
      return {std::max(x, 0.0), x > 0 ? 1 : 0};
    case Unary::silu:
      return {x * sig, sig * (1 + x * (1 - sig))};
    case Unary::gelu_tanh:
      return {0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du};
    case Unary::gelu_erf:
      return {x * Phi, Phi + x * phi};
  }
  return {};
}

const Unary kUnaries[] = {Unary::neg,  Unary::exp,     Unary::log,  Unary::sqrt, Unary::square,    Unary::reciprocal,
                          Unary::tanh, Unary::sigmoid, Unary::relu, Unary::silu, Unary::gelu_tanh, Unary::gelu_erf};

}  // namespace

TEST_CASE_TEMPLATE("unary functions and derivatives", T, float, bf16, f16) {
  for (Unary f : kUnaries) {
    INFO(unary_name(f));
    const bool positive = f == Unary::log || f == Unary::sqrt || f == Unary::reciprocal;
    for (int64_t n : kLengths) {
      const auto x = random_values<T>(n, positive ? 0.1 : -8, 8, 1), dy = random_values<T>(n, -2, 2, 2);
      std::vector<double> want_y, want_dx;
      for (size_t i = 0; i < x.size(); ++i) {
        const auto [value, derivative] = unary_in_double(f, to_float(x[i]));
        want_y.push_back(value);
        want_dx.push_back(derivative * to_float(dy[i]));
      }
      const Results got = on_threads([&](const Cpu& dev) {
        Output<T> y(n), dx(n), in_place(x);
        unary_forward(dev, f, y.ptr(), x.data(), n);
        unary_backward(dev, f, dx.ptr(), x.data(), dy.data(), n);
        unary_forward(dev, f, in_place.ptr(), in_place.ptr(), n);
        return Results{y.values(), dx.values(), in_place.values()};
      });
      check_close(got[0], want_y, kRounding<T>,
                  2e-6);  // gelu and its derivative: absolute, from 1.5e-7 of erf and tanh
      check_close(got[1], want_dx, kRounding<T>, 4e-6);
      CHECK(got[2] == got[0]);
    }
  }
}

TEST_CASE("unary functions: published GELU table and special values") {
  const std::vector<float> x = {-3, -2, -1, -0.5, 0.5, 1, 2, 3}, one(8, 1.0f);
  const auto both = [&](Unary f) {
    Output<float> y(8), dx(8);
    unary_forward(Cpu{1}, f, y.ptr(), x.data(), 8);
    unary_backward(Cpu{1}, f, dx.ptr(), x.data(), one.data(), 8);
    return Results{y.values(), dx.values()};
  };
  const Results erf = both(Unary::gelu_erf), tanh = both(Unary::gelu_tanh);
  check_close(
      erf[0],
      {-0.004049694, -0.045500264, -0.158655254, -0.154268769, 0.345731231, 0.841344746, 1.954499736, 2.995950306}, 0,
      5e-7);
  check_close(
      tanh[0],
      {-0.003637392, -0.045402306, -0.158808009, -0.154285990, 0.345714010, 0.841191991, 1.954597694, 2.996362608}, 0,
      5e-7);
  check_close(
      erf[1],
      {-0.011945647, -0.085231801, -0.083315471, 0.132504875, 0.867495125, 1.083315471, 1.085231801, 1.011945647}, 0,
      1e-6);
  check_close(
      tanh[1],
      {-0.011584167, -0.086099257, -0.082964084, 0.132630096, 0.867369904, 1.082964084, 1.086099257, 1.011584167}, 0,
      1e-6);

  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> special(40, 0.0f);  // long enough for whole vectors
  special[0] = inf, special[1] = -inf, special[2] = nan, special[3] = -0.0f, special[4] = 200, special[5] = -200;
  for (Unary f : {Unary::exp, Unary::tanh, Unary::sigmoid, Unary::relu}) {
    Output<float> y(40);
    unary_forward(Cpu{1}, f, y.ptr(), special.data(), 40);
    std::vector<double> want;
    for (float v : special) want.push_back(std::isnan(v) ? double{nan} : unary_in_double(f, v).first);
    if (f == Unary::exp) want[4] = double{inf};  // above the range of f32
    check_close(y.values(), want, 1e-6, 1e-37);
  }
}

TEST_CASE_TEMPLATE("binary, affine, bias, scale, fill, accumulate", T, float, bf16, f16) {
  for (int64_t n : kLengths) {
    const auto a = random_values<T>(n, -3, 3, 1), b = random_values<T>(n, 0.5, 3, 2);
    const auto f32 = random_values<float>(n, -3, 3, 3);
    std::vector<std::vector<double>> want(7);
    for (size_t i = 0; i < a.size(); ++i) {
      const double x = to_float(a[i]), y = to_float(b[i]);
      const double row[] = {x + y, x - y, x * y, x / y, 1.5 * x - 0.25, 2.5, f32[i] - 0.75 * x};
      for (size_t j = 0; j < 7; ++j) want[j].push_back(row[j]);
    }
    const Results got = on_threads([&](const Cpu& dev) {
      Results results;
      for (Binary op : {Binary::add, Binary::sub, Binary::mul, Binary::div}) {
        Output<T> y(n);
        binary_forward(dev, op, y.ptr(), a.data(), b.data(), n);
        results.push_back(y.values());
      }
      Output<T> y(a), z(n);
      affine(dev, y.ptr(), y.ptr(), 1.5f, -0.25f, n);
      fill(dev, z.ptr(), 2.5f, n);
      Output<float> sum(f32);
      accumulate(dev, sum.ptr(), a.data(), -0.75f, n);
      results.insert(results.end(), {y.values(), z.values(), sum.values()});
      return results;
    });
    for (size_t j = 0; j < 7; ++j) check_close(got[j], want[j], j == 6 ? 1e-6 : kRounding<T>, 1e-6);
  }
  for (const Matrix& m : kMatrices) {
    const auto x = random_values<T>(m.rows * m.cols, -3, 3, 1);
    const auto column = random_values<float>(m.cols, -3, 3, 2);
    std::vector<double> want_add, want_scale;
    for (size_t i = 0; i < x.size(); ++i) {
      want_add.push_back(double{to_float(x[i])} + column[i % column.size()]);
      want_scale.push_back(double{to_float(x[i])} * column[i % column.size()]);
    }
    const Results got = on_threads([&](const Cpu& dev) {
      Output<T> y(m.rows * m.cols), z(x);
      bias_add(dev, y.ptr(), x.data(), column.data(), m.rows, m.cols);
      column_scale(dev, z.ptr(), z.ptr(), column.data(), m.rows, m.cols);
      return Results{y.values(), z.values()};
    });
    check_close(got[0], want_add, kRounding<T>, 1e-6);
    check_close(got[1], want_scale, kRounding<T>, 1e-6);
  }
}

TEST_CASE_TEMPLATE("casts round to nearest even and keep NaN, infinity and subnormal numbers", T, bf16, f16) {
  const int64_t n = 65536 + 9;
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i)  // every upper half with lower halves around the tie
    x[i] = bits_to_float(static_cast<uint32_t>(i << 16) | (i % 5 == 0 ? 0x8000u : i % 5 == 1 ? 0x8001u : 0x7fffu));
  const Results got = on_threads([&](const Cpu& dev) {
    Output<T> y(n);
    cast_from_f32(dev, y.ptr(), x.data(), n);
    Output<float> back(n);
    cast_to_f32(dev, back.ptr(), y.ptr(), n);
    return Results{y.values(), back.values()};
  });
  int wrong = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float want = to_float(from_float<T>(x[i]));
    wrong += float_to_bits(got[0][i]) != float_to_bits(want) || float_to_bits(got[1][i]) != float_to_bits(want);
    const double step = std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-11, least = std::is_same_v<T, bf16> ? 1e-40 : 0x1p-25;
    if (!std::isnan(x[i]) && !std::isinf(want))
      wrong += std::fabs(double{want} - x[i]) > std::fabs(x[i]) * step + least;
    wrong += std::isnan(x[i]) != std::isnan(want);
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("reductions", T, float, bf16, f16) {
  for (const Matrix& m : kMatrices) {
    const int64_t n = m.rows * m.cols;
    const auto a = random_values<T>(n, -3, 3, 1), b = random_values<T>(n, -3, 3, 2);
    const auto old = random_values<float>(m.cols, -3, 3, 3);
    std::vector<double> columns(old.size(), 0.0), dots = widen(old), rows(static_cast<size_t>(m.rows), 0.0);
    double total = 0, squares = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double x = to_float(a[i]), y = to_float(b[i]);
      columns[i % old.size()] += x;
      dots[i % old.size()] += x * y;
      rows[i / old.size()] += x;
      total += x;
      squares += x * x;
    }
    const Results got = on_threads([&](const Cpu& dev) {
      Output<float> c(m.cols), d(old), r(m.rows), s(1), q(1), finite(1);
      column_sum(dev, c.ptr(), a.data(), m.rows, m.cols, false);
      column_dot(dev, d.ptr(), a.data(), b.data(), m.rows, m.cols, true);
      row_sum(dev, r.ptr(), a.data(), m.rows, m.cols);
      sum(dev, s.ptr(), a.data(), n);
      sum_of_squares(dev, q.ptr(), a.data(), n);
      count_nonfinite(dev, finite.ptr(), a.data(), n);
      return Results{c.values(), d.values(), r.values(), s.values(), q.values(), finite.values()};
    });
    check_close(got[0], columns, 1e-6, 3e-5);
    check_close(got[1], dots, 1e-6, 6e-5);
    check_close(got[2], rows, 1e-6, 2e-3);     // rows of 40001
    check_close(got[3], {total}, 1e-7, 1e-9);  // summed in double: one rounding
    check_close(got[4], {squares}, 1e-7, 1e-9);
    CHECK(got[5][0] == 0.0f);
  }
  auto x = random_values<T>(50021, -3, 3, 1);
  for (size_t i : {size_t{0}, size_t{16384}, size_t{50020}}) x[i] = from_float<T>(i == 0 ? NAN : -INFINITY);
  const Results got = on_threads([&](const Cpu& dev) {
    Output<float> count(1);
    count_nonfinite(dev, count.ptr(), x.data(), 50021);
    return Results{count.values()};
  });
  CHECK(got[0][0] == 3.0f);
}

TEST_CASE("sums of many values keep single precision; dot") {
  const std::vector<float> x(3000001, 0.1f);
  Output<float> s(1), d(1);
  sum(Cpu{2}, s.ptr(), x.data(), 3000001);
  dot(Cpu{2}, d.ptr(), x.data(), x.data(), 3000001);
  CHECK(s.values()[0] == static_cast<float>(3000001 * double{0.1f}));
  CHECK(d.values()[0] == static_cast<float>(3000001 * (double{0.1f} * 0.1f)));
}

TEST_CASE_TEMPLATE("transpose, swap_middle, copy_rows", T, float, bf16, f16) {
  for (const Matrix& m : kMatrices) {
    const int64_t batch = 2, n = batch * m.rows * m.cols;
    const auto x = random_values<T>(n, -3, 3, 1);
    const Results got = on_threads([&](const Cpu& dev) {
      Output<T> y(n), z(3 * n), w(n);
      transpose(dev, y.ptr(), x.data(), batch, m.rows, m.cols);
      std::vector<T> x3;
      for (int i = 0; i < 3; ++i) x3.insert(x3.end(), x.begin(), x.end());
      swap_middle(dev, z.ptr(), x3.data(), 3, batch, m.rows, m.cols);  // (3, 2, rows, cols) -> (3, rows, 2, cols)
      swap_middle(dev, w.ptr(), x.data(), batch, m.rows, m.cols, 1);   // (2, rows, cols, 1) -> (2, cols, rows, 1)
      return Results{y.values(), z.values(), w.values()};
    });
    int wrong = 0;
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t r = 0; r < m.rows; ++r)
        for (int64_t c = 0; c < m.cols; ++c) {
          const float want = to_float(x[static_cast<size_t>((b * m.rows + r) * m.cols + c)]);
          wrong += got[0][static_cast<size_t>((b * m.cols + c) * m.rows + r)] != want;
          wrong += got[1][static_cast<size_t>(((2 * m.rows + r) * batch + b) * m.cols + c)] != want;
        }
    CHECK(wrong == 0);
    CHECK(got[2] == got[0]);
    const int64_t x_stride = m.cols, y_stride = m.cols + 3;
    const Results copied = on_threads([&](const Cpu& dev) {
      Output<T> y(std::vector<T>(static_cast<size_t>(m.rows * y_stride), from_float<T>(9.0f)));
      copy_rows(dev, y.ptr(), y_stride, x.data(), x_stride, m.rows, m.cols);
      return Results{y.values()};
    });
    for (int64_t i = 0; i < m.rows * y_stride; ++i) {
      const int64_t r = i / y_stride, c = i % y_stride;
      wrong +=
          copied[0][static_cast<size_t>(i)] != (c < m.cols ? to_float(x[static_cast<size_t>(r * x_stride + c)]) : 9.0f);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("Philox: known answers of Random123") {
  const Philox4 zero = philox4x32(0, 0, 0, 0, 0, 0), ones = philox4x32(~0u, ~0u, ~0u, ~0u, ~0u, ~0u);
  const uint32_t want_zero[] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  const uint32_t want_ones[] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  for (int i = 0; i < 4; ++i) {
    CHECK(zero.v[i] == want_zero[i]);
    CHECK(ones.v[i] == want_ones[i]);
  }
}

TEST_CASE_TEMPLATE("dropout and random fills follow the address of each element", T, float, bf16, f16) {
  const RandomKey key{123456789012345ull, 987654321ull, 0x100000005ull};
  for (const int64_t first : {int64_t{0}, int64_t{3}, (int64_t{1} << 34) - 50}) {  // the last: block index passes 2^32
    for (int64_t n : kLengths) {
      const auto x = random_values<T>(n, -2, 2, 1);
      const float p = 0.3f;
      std::vector<double> dropped, uniform, normal;
      for (int64_t i = 0; i < n; ++i) {
        const auto word = [&](uint64_t e) { return random_words(key, e / 4).v[e % 4]; };
        const uint64_t e = static_cast<uint64_t>(first + i);
        dropped.push_back(word(e) < drop_threshold(p) ? 0.0 : to_float(x[static_cast<size_t>(i)]) / (1.0 - p));
        uniform.push_back(-1.0 + 3.0 * ((word(e) >> 8) / 16777216.0));
        const double u = (word(2 * e) + 1.0) / 4294967296.0, v = word(2 * e + 1) / 4294967296.0;
        normal.push_back(0.5 + 0.02 * std::sqrt(-2 * std::log(u)) * std::cos(2 * 3.14159265358979324 * v));
      }
      const Results got = on_threads([&](const Cpu& dev) {
        Output<T> a(n), b(x), u(n), g(n);
        dropout(dev, a.ptr(), x.data(), n, p, key, first);
        dropout(dev, b.ptr(), b.ptr(), n, p, key, first);
        random_uniform(dev, u.ptr(), n, -1.0f, 2.0f, key, first);
        random_normal(dev, g.ptr(), n, 0.5f, 0.02f, key, first);
        return Results{a.values(), b.values(), u.values(), g.values()};
      });
      check_close(got[0], dropped, kRounding<T>, 0.0 + 1e-30);
      CHECK(got[1] == got[0]);
      check_close(got[2], uniform, kRounding<T>, 2e-7);
      check_close(got[3], normal, kRounding<T>, 1e-7);
    }
  }
  const auto x = random_values<T>(100, -2, 2, 1);
  Output<T> y(100);
  dropout(Cpu{1}, y.ptr(), x.data(), 100, 0.0f, key, 0);  // p = 0 keeps everything
  check_close(y.values(), widen(x), 0, 1e-30);
}
