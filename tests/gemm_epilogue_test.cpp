// Products with an epilogue against double precision, on Cpu and on Emu (three warp orders): bias, gelu with and
// without aux, its gradient, the bias gradient; every type, odd and empty sizes, gaps between rows, batches,
// accumulation.
#include <stdexcept>

#include "kernels/gemm_variants.h"
#include "tests/kernel_reference.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;

namespace {

double gelu(double x, bool erf_form) {
  if (erf_form) return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}
double gelu_derivative(double x, bool erf_form) {
  if (erf_form) return 0.5 * (1 + std::erf(x / std::sqrt(2.0))) + x * std::exp(-0.5 * x * x) * 0.3989422804014327;
  const double t = std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

// Half a unit of the stored type, as a part of the value, with a little room.
template <class T>
constexpr double kHalfUnit = std::is_same_v<T, float>  ? 1e-7
                             : std::is_same_v<T, bf16> ? 0x1.1p-8
                                                       : 0x1.1p-11;

struct Case {
  bool bias = false, aux = false, erf = false, bias_gradient = false;
  Then then = Then::nothing;
};

// Only elements of the M x N result; the gaps between rows must keep what they held.
template <class Out>
void check_result(const char* what, const Buffer<Out>& got, const std::vector<double>& want,
                  const std::vector<double>& allowed) {
  CHECK_MESSAGE(got.intact(), what << ": memory outside the result was written");
  const std::vector<double> values = got.values();
  REQUIRE(values.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::fabs(values[i] - want[i]) <= allowed[i]) continue;
    FAIL_CHECK(what << ": element " << i << ": got " << values[i] << ", expected " << want[i]);
    return;
  }
  CHECK(true);
}

template <class T, class Out, class Context>
void check_case(const Context& ctx, SameBits& same, const GemmShape& given, const Case& c) {
  const GemmShape s = complete(given);
  CAPTURE(s.M);
  CAPTURE(s.N);
  CAPTURE(s.K);
  CAPTURE(c.bias);
  CAPTURE(c.aux);
  CAPTURE(c.erf);
  CAPTURE(static_cast<int>(c.then));
  CAPTURE(s.accumulate);
  const auto a = random_values<T>(s.batch * s.batch_a, 1), b = random_values<T>(s.batch * s.batch_b, 2);
  const auto bias = random_values<float>(s.N, 3), old = random_values<Out>(s.batch * s.batch_c, 4);
  const auto given_aux = random_values<Out>(s.batch * s.batch_c, 5, -4, 4), old_sums = random_values<float>(s.M, 6);

  // An f32 sum of K terms errs by a few units of the sum of magnitudes.
  constexpr double kSum = 2e-6;
  std::vector<double> want = old, want_aux = given_aux, allowed(old.size(), 0.0), allowed_aux = allowed;
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t i = 0; i < s.M; ++i)
      for (int64_t j = 0; j < s.N; ++j) {
        const auto at = static_cast<size_t>(n * s.batch_c + i * s.ldc + j);
        double v = c.bias ? bias[static_cast<size_t>(j)] : 0.0;
        if (s.accumulate) v += old[at];
        double size = std::fabs(v);
        for (int64_t k = 0; k < s.K; ++k) {
          const double term = a[static_cast<size_t>(n * s.batch_a + (s.trans_a ? k * s.lda + i : i * s.lda + k))] *
                              b[static_cast<size_t>(n * s.batch_b + (s.trans_b ? j * s.ldb + k : k * s.ldb + j))];
          v += term;
          size += std::fabs(term);
        }
        // The separate kernels see v rounded to Out; gelu stretches an error by at most 1.13.
        const double error = kSum * size + kHalfUnit<Out> * std::fabs(v);
        double factor = 1.0;
        want[at] = v;
        if (c.then == Then::gelu) want[at] = gelu(v, c.erf), factor = 1.13;
        if (c.then == Then::gelu_gradient) {
          factor = gelu_derivative(given_aux[at], c.erf);
          want[at] = v * factor;
        }
        allowed[at] = error * std::fabs(factor) + kHalfUnit<Out> * std::fabs(want[at]) + 1e-6 * (1 + size);
        if (c.aux && c.then == Then::gelu) want_aux[at] = v, allowed_aux[at] = error + 1e-7;
      }
  std::vector<double> want_sums = old_sums, allowed_sums(old_sums.size(), 0.0);
  if (c.bias_gradient)
    for (int64_t i = 0; i < s.M; ++i) {
      const auto at = static_cast<size_t>(i);
      double sum = s.accumulate ? old_sums[at] : 0.0, size = std::fabs(sum);
      for (int64_t k = 0; k < s.K; ++k) {
        sum += a[static_cast<size_t>(k * s.lda + i)];
        size += std::fabs(a[static_cast<size_t>(k * s.lda + i)]);
      }
      want_sums[at] = sum;
      allowed_sums[at] = kSum * size;
    }

  Buffer<T> A(a), B(b);
  Buffer<float> bias_buffer(bias);
  Buffer<Out> C(old), aux(given_aux);
  Buffer<float> sums(old_sums);
  // What is only written begins as NaN, where there are no gaps that must keep their contents.
  if (!s.accumulate && s.ldc == s.N && s.batch_c == s.M * s.N) C = Buffer<Out>(C.size());
  Epilogue<Out> e{.then = c.then, .erf = c.erf};
  if (c.bias) e.bias = bias_buffer.p();
  if (c.aux) e.aux = aux.p();
  if (c.bias_gradient) e.bias_gradient = sums.p();
  gemm(ctx, C.p(), A.p(), B.p(), e, given);
  check_result("C", C, want, allowed);
  check_result("aux", aux, want_aux, allowed_aux);
  check_result("bias_gradient", sums, want_sums, allowed_sums);
  same(C.values());
  same(sums.values());
}

const GemmShape kShapes[] = {
    {.M = 1, .N = 1, .K = 1},
    {.M = 7, .N = 33, .K = 19, .trans_b = true},
    {.M = 31, .N = 16, .K = 65},
    {.M = 5, .N = 24, .K = 3, .trans_a = true, .lda = 9, .ldb = 29, .ldc = 32},
    {.M = 4, .N = 5, .K = 6, .trans_a = true, .trans_b = true, .batch = 3},
    {.M = 3, .N = 8, .K = 2, .ldc = 8, .batch = 2, .batch_c = 31},
    {.M = 3, .N = 5, .K = 0},
    {.M = 0, .N = 5, .K = 2},
    {.M = 3, .N = 0, .K = 2},
};

template <class T, class Out>
void check_types() {
  on_backends([](const auto& ctx, SameBits& same) {
    for (const GemmShape& s : kShapes)
      for (const bool bias : {false, true}) {
        for (const bool accumulate : {false, true}) {
          GemmShape shape = s;
          shape.accumulate = accumulate;
          check_case<T, Out>(ctx, same, shape, {.bias = bias});
        }
        for (const bool erf : {false, true}) {
          check_case<T, Out>(ctx, same, s, {.bias = bias, .erf = erf, .then = Then::gelu});
          check_case<T, Out>(ctx, same, s, {.bias = bias, .aux = true, .erf = erf, .then = Then::gelu});
          check_case<T, Out>(ctx, same, s, {.bias = bias, .aux = true, .erf = erf, .then = Then::gelu_gradient});
        }
      }
    // The weight gradient of a layer: dw (+)= dy^T x, db (+)= sum of the rows of dy.
    for (const GemmShape& s : {GemmShape{.M = 1, .N = 1, .K = 1},
                               {.M = 33, .N = 7, .K = 129},
                               {.M = 3, .N = 5, .K = 0},
                               {.M = 9, .N = 4, .K = 12, .ldb = 6, .ldc = 8},
                               {.M = 5, .N = 0, .K = 4}})
      for (const bool accumulate : {false, true}) {
        GemmShape shape = s;
        shape.trans_a = true;
        shape.accumulate = accumulate;
        check_case<T, Out>(ctx, same, shape, {.bias_gradient = true});
      }
  });
}

}  // namespace

TEST_CASE("epilogues of f32 products") { check_types<float, float>(); }
TEST_CASE("epilogues of bf16 products") { check_types<bf16, bf16>(); }
TEST_CASE("epilogues of f16 products") { check_types<f16, f16>(); }
TEST_CASE("epilogues of bf16 products with f32 results") { check_types<bf16, float>(); }
TEST_CASE("epilogues of f16 products with f32 results") { check_types<f16, float>(); }

TEST_CASE("an epilogue that makes no sense is refused in words") {
  float C[4] = {}, A[4] = {}, B[4] = {}, aux[4] = {}, sums[4] = {};
  const GemmShape s{.M = 2, .N = 2, .K = 2};
  GemmShape adding = s, gaps = s, batches = s;
  adding.accumulate = true;
  gaps.trans_a = true, gaps.lda = 3;
  batches.trans_a = true, batches.batch = 2;
  const auto refused = [&](const Epilogue<float>& e, const GemmShape& shape, const char* words) {
    CHECK_THROWS_WITH_AS(gemm(Cpu{}, C, A, B, e, shape), doctest::Contains(words), std::runtime_error);
#if defined(ACCRETE_WITH_EMULATOR)
    CHECK_THROWS_WITH_AS(gemm(Emu{}, C, A, B, e, shape), doctest::Contains(words), std::runtime_error);
#endif
  };
  refused({.then = Then::gelu}, adding, "old contents");
  refused({.then = Then::gelu_gradient, .aux = aux}, adding, "old contents");
  refused({.then = Then::gelu_gradient}, s, "needs aux");
  refused({.aux = aux}, s, "nothing reads or writes");
  refused({.bias_gradient = sums}, s, "(K, M)");
  refused({.bias_gradient = sums}, gaps, "without gaps");
  refused({.bias_gradient = sums}, batches, "batch 1");
}
