// Matrix products on the CPU: the library's, our own, and half types by way of f32, against double precision.
#include <string>

#include "kernels/gemm_variants.h"
#include "tests/kernel_testing.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::testing;

namespace {

struct Size {
  int64_t M, N, K;
};

// C in double, and for every element the sum of |a b|, to which rounding errors of the sum are proportional.
template <class T, class Out>
void reference(std::vector<double>& C, std::vector<double>& magnitude, const std::vector<T>& A, const std::vector<T>& B,
               const float* bias, const std::vector<Out>& old, const GemmShape& given) {
  const GemmShape s = complete(given);
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t i = 0; i < s.M; ++i) {
      for (int64_t j = 0; j < s.N; ++j) {
        const size_t c = static_cast<size_t>(n * s.batch_c + i * s.ldc + j);
        double sum = bias ? bias[j] : 0.0;
        if (s.accumulate) sum += to_float(old[c]);
        double size = std::fabs(sum);
        for (int64_t k = 0; k < s.K; ++k) {
          const double a =
              to_float(A[static_cast<size_t>(n * s.batch_a + (s.trans_a ? k * s.lda + i : i * s.lda + k))]);
          const double b =
              to_float(B[static_cast<size_t>(n * s.batch_b + (s.trans_b ? j * s.ldb + k : k * s.ldb + j))]);
          sum += a * b;
          size += std::fabs(a * b);
        }
        C[c] = sum;
        magnitude[c] = size;
      }
    }
  }
}

template <class T, class Out, class Product>
void check_product(const GemmShape& given, bool with_bias, uint64_t seed, const Product& product) {
  const GemmShape s = complete(given);
  const auto A = random_values<T>(s.batch * s.batch_a, -1, 1, seed);
  const auto B = random_values<T>(s.batch * s.batch_b, -1, 1, seed + 1);
  const auto bias = random_values<float>(s.N, -1, 1, seed + 2);
  const auto old = random_values<Out>(s.batch * s.batch_c, -1, 1, seed + 3);
  std::vector<double> want = widen(old), magnitude(old.size(), 0.0);  // gaps between rows keep their old contents
  reference(want, magnitude, A, B, with_bias ? bias.data() : nullptr, old, s);
  Output<Out> C(old);
  product(C.ptr(), A.data(), B.data(), with_bias ? bias.data() : nullptr, given);
  const std::vector<float> got = C.values();
  // f32 sums: error of about sqrt(K) roundings of 6e-8 at random, K at worst; 4e-6 of the magnitude is ample to 4096.
  double worst = 0.0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double allowed = 4e-6 * magnitude[i] + (sizeof(Out) == 2 ? std::fabs(want[i]) / 250 : 1e-7);
    const double excess = magnitude[i] == 0.0 && got[i] == want[i] ? 0.0 : std::fabs(got[i] - want[i]) / allowed;
    if (!(excess <= worst)) worst = excess;
  }
  const std::string name = "M " + std::to_string(s.M) + " N " + std::to_string(s.N) + " K " + std::to_string(s.K) +
                           " ta " + std::to_string(s.trans_a) + " tb " + std::to_string(s.trans_b) + " acc " +
                           std::to_string(s.accumulate) + " bias " + std::to_string(with_bias) + " batch " +
                           std::to_string(s.batch);
  CHECK_MESSAGE(worst <= 1.0, name);
}

template <class T, class Out, class Product>
void check_all(const Product& product) {
  const Size sizes[] = {{1, 1, 1},   {1, 50, 33},  {5, 1, 7},      {7, 13, 5},   {6, 64, 16},    {33, 65, 129},
                        {97, 33, 1}, {64, 64, 64}, {130, 70, 300}, {2, 600, 40}, {100, 520, 270}};
  uint64_t seed = 1;
  for (const Size& size : sizes) {
    for (int flags = 0; flags < 16; ++flags) {
      GemmShape s{.M = size.M, .N = size.N, .K = size.K};
      s.trans_a = flags & 1;
      s.trans_b = flags & 2;
      s.accumulate = flags & 4;
      check_product<T, Out>(s, flags & 8, seed += 10, product);
    }
  }
  for (int flags = 0; flags < 8; ++flags) {  // rows with gaps, batches, batches with gaps
    GemmShape s{.M = 9, .N = 21, .K = 35};
    s.trans_a = flags & 1;
    s.trans_b = flags & 2;
    s.accumulate = flags & 4;
    s.lda = 40, s.ldb = 41, s.ldc = 23;
    check_product<T, Out>(s, false, seed += 10, product);
    s.batch = 3;
    check_product<T, Out>(s, flags & 1, seed += 10, product);
    s.batch_a = 2000, s.batch_b = 3000, s.batch_c = 250;
    check_product<T, Out>(s, false, seed += 10, product);
  }
  for (const bool accumulate : {false, true}) {  // empty sums and empty results
    check_product<T, Out>({.M = 3, .N = 5, .K = 0, .accumulate = accumulate}, true, 5, product);
    check_product<T, Out>({.M = 3, .N = 5, .K = 0, .accumulate = accumulate}, false, 5, product);
    check_product<T, Out>({.M = 0, .N = 5, .K = 4, .accumulate = accumulate}, false, 5, product);
    check_product<T, Out>({.M = 3, .N = 0, .K = 4, .accumulate = accumulate}, false, 5, product);
  }
}

// The same bits on every number of threads (ours), or in every run on one number of threads (the library's).
template <class T, class Out>
void check_repeatable() {
  for (const Size& size : {Size{67, 300, 190}, Size{3, 2000, 100}, Size{200, 40, 700}}) {
    for (const bool trans : {false, true}) {
      const GemmShape s{.M = size.M, .N = size.N, .K = size.K, .trans_a = trans, .trans_b = trans};
      const auto A = random_values<T>(size.M * size.K, -1, 1, 1);
      const auto B = random_values<T>(size.N * size.K, -1, 1, 2);
      on_threads([&](const Cpu& dev) {
        Output<Out> C(size.M * size.N);
        gemm_portable(dev, C.ptr(), A.data(), B.data(), nullptr, s);
        return Results{C.values()};
      });
      for (const int threads : {1, 2, 5}) {
        Output<Out> C(size.M * size.N), again(size.M * size.N);
        gemm(Cpu{threads}, C.ptr(), A.data(), B.data(), nullptr, s);
        gemm(Cpu{threads}, again.ptr(), A.data(), B.data(), nullptr, s);
        CHECK(C.values() == again.values());
      }
    }
  }
}

const Cpu kDev{2};

}  // namespace

TEST_CASE("gemm: every transposition, accumulation, bias, stride and batch against double precision") {
  INFO(gemm_backend());
  check_all<float, float>([](auto... args) { gemm(kDev, args...); });
  check_all<bf16, bf16>([](auto... args) { gemm(kDev, args...); });
  check_all<f16, f16>([](auto... args) { gemm(kDev, args...); });
  check_all<bf16, float>([](auto... args) { gemm(kDev, args...); });
  check_all<f16, float>([](auto... args) { gemm(kDev, args...); });
}

TEST_CASE("gemm_portable against double precision") {
  check_all<float, float>([](auto... args) { gemm_portable(kDev, args...); });
  check_all<bf16, bf16>([](auto... args) { gemm_portable(kDev, args...); });
  check_all<f16, f16>([](auto... args) { gemm_portable(kDev, args...); });
  check_all<bf16, float>([](auto... args) { gemm_portable(kDev, args...); });
}

TEST_CASE("gemm_widened: half types on processors without such products") {
  check_all<bf16, bf16>([](auto... args) { gemm_widened(kDev, args...); });
  check_all<bf16, float>([](auto... args) { gemm_widened(kDev, args...); });
  check_all<f16, float>([](auto... args) { gemm_widened(kDev, args...); });
}

TEST_CASE("products are repeatable") {
  check_repeatable<float, float>();
  check_repeatable<bf16, bf16>();
  check_repeatable<f16, f16>();
  check_repeatable<bf16, float>();
}
