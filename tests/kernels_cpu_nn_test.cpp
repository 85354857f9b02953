// Embedding, layer normalisation, softmax and cross-entropy on the CPU, each against double precision, in f32,
// bf16 and f16, on 1, 2 and 5 threads.
#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/layernorm.h"
#include "kernels/softmax.h"
#include "tests/kernel_testing.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::testing;

TEST_CASE_TEMPLATE("embedding", T, float, bf16, f16) {
  struct Size {
    int64_t batch, T_seq, C, V;
  };
  for (const Size& s : {Size{3, 5, 7, 11}, Size{4, 64, 130, 50}, Size{1, 3, 1, 2}, Size{0, 4, 8, 8}}) {
    const int64_t N = s.batch * s.T_seq;
    const auto tokens = random_values<T>(s.V * s.C, -2, 2, 1),
               positions = random_values<T>((s.T_seq + 2) * s.C, -2, 2, 2);
    const auto dy = random_values<T>(N * s.C, -2, 2, 3);
    const auto old = random_values<float>((s.V + s.T_seq) * s.C, -2, 2, 4);
    std::vector<int32_t> ids;
    for (int64_t n = 0; n < N; ++n) ids.push_back(static_cast<int32_t>((n * n + 3) % s.V));
    std::vector<double> want, plain, grads = widen(old);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t c = 0; c < s.C; ++c) {
        const double token = to_float(tokens[static_cast<size_t>(ids[static_cast<size_t>(n)] * s.C + c)]);
        plain.push_back(token);
        want.push_back(token + to_float(positions[static_cast<size_t>((2 + n % s.T_seq) * s.C + c)]));
        const double g = to_float(dy[static_cast<size_t>(n * s.C + c)]);
        grads[static_cast<size_t>(ids[static_cast<size_t>(n)] * s.C + c)] += g;
        grads[static_cast<size_t>((s.V + n % s.T_seq) * s.C + c)] += g;
      }
    const Results got = on_threads([&](const Cpu& dev) {
      Output<T> y(N * s.C), z(N * s.C);
      Output<float> d(old);
      std::vector<int32_t> scratch(static_cast<size_t>(embedding_scratch(N, s.V)), -1);
      embedding_forward(dev, y.ptr(), tokens.data(), positions.data(), ids.data(), N, s.T_seq, 2, s.C, s.V);
      embedding_forward<T>(dev, z.ptr(), tokens.data(), nullptr, ids.data(), N, s.T_seq, 0, s.C, s.V);
      embedding_backward(dev, d.ptr(), d.ptr() + s.V * s.C, dy.data(), ids.data(), scratch.data(), N, s.T_seq, s.C,
                         s.V);
      embedding_backward<T>(dev, nullptr, nullptr, dy.data(), ids.data(), scratch.data(), N, s.T_seq, s.C, s.V);
      return Results{y.values(), z.values(), d.values()};
    });
    check_close(got[0], want, kRounding<T>, 1e-6);
    check_close(got[1], plain, 0, 1e-30);
    check_close(got[2], grads, 1e-6, 1e-5);
  }
}

TEST_CASE_TEMPLATE("layernorm", T, float, bf16, f16) {
  for (const Matrix& m : kMatrices) {
    const int64_t N = m.rows, C = m.cols, n = N * C;
    const auto x = random_values<T>(n, -2, 3, 1), residual = random_values<T>(n, -2, 3, 2),
               dy = random_values<T>(n, -2, 2, 3);
    const auto gamma = random_values<float>(C, 0.5, 2, 4), beta = random_values<float>(C, -1, 1, 5);
    const auto old = random_values<float>(2 * C, -1, 1, 6);
    const float eps = 1e-2f;  // large, so that rows of one or few elements stay well conditioned
    const Results got = on_threads([&](const Cpu& dev) {
      Output<T> y(n), no_beta(n), sum(residual), y2(n), dx(n), dx_add(residual);
      Output<float> mean(N), rstd(N), mean2(N), rstd2(N), d(old);
      layernorm_forward<T>(dev, y.ptr(), mean.ptr(), rstd.ptr(), x.data(), gamma.data(), beta.data(), N, C, eps);
      layernorm_forward<T>(dev, no_beta.ptr(), mean.ptr(), rstd.ptr(), x.data(), gamma.data(), nullptr, N, C, eps);
      residual_layernorm_forward<T>(dev, sum.ptr(), y2.ptr(), mean2.ptr(), rstd2.ptr(), x.data(), sum.ptr(),
                                    gamma.data(), beta.data(), N, C, eps);
      layernorm_backward<T>(dev, dx.ptr(), d.ptr(), d.ptr() + C, nullptr, dy.data(), x.data(), gamma.data(), mean.ptr(),
                            rstd.ptr(), N, C);
      layernorm_backward<T>(dev, dx_add.ptr(), nullptr, nullptr, dx_add.ptr(), dy.data(), x.data(), gamma.data(),
                            mean.ptr(), rstd.ptr(), N, C);
      return Results{y.values(),    no_beta.values(), sum.values(),    y2.values(), mean.values(),
                     rstd.values(), dx.values(),      dx_add.values(), d.values(),  rstd2.values()};
    });
    std::vector<std::vector<double>> want(10);
    want[8] = widen(old);
    for (int64_t r = 0; r < N; ++r) {
      const size_t at = static_cast<size_t>(r * C);
      const auto statistics = [&](const auto& value) {
        double mean = 0, var = 0;
        for (int64_t c = 0; c < C; ++c) mean += value(c) / static_cast<double>(C);
        for (int64_t c = 0; c < C; ++c) var += (value(c) - mean) * (value(c) - mean) / static_cast<double>(C);
        return std::pair{mean, 1 / std::sqrt(var + eps)};
      };
      const auto in = [&](int64_t c) -> double { return to_float(x[at + static_cast<size_t>(c)]); };
      // The sum is stored as T and normalised as stored.
      const auto both = [&](int64_t c) -> double {
        return to_float(from_float<T>(static_cast<float>(in(c) + to_float(residual[at + static_cast<size_t>(c)]))));
      };
      const auto [mean, rstd] = statistics(in);
      const auto [mean2, rstd2] = statistics(both);
      want[4].push_back(mean);
      want[5].push_back(rstd);
      want[9].push_back(rstd2);
      double mean_g = 0, mean_gh = 0;
      for (int64_t c = 0; c < C; ++c) {
        const size_t i = static_cast<size_t>(c);
        const double h = (in(c)-mean) * rstd, g = double{to_float(dy[at + i])} * gamma[i];
        want[0].push_back(h * gamma[i] + beta[i]);
        want[1].push_back(h * gamma[i]);
        want[2].push_back(both(c));
        want[3].push_back((both(c) - mean2) * rstd2 * gamma[i] + beta[i]);
        mean_g += g / static_cast<double>(C);
        mean_gh += g * h / static_cast<double>(C);
        want[8][i] += h * to_float(dy[at + i]);
        want[8][static_cast<size_t>(C) + i] += to_float(dy[at + i]);
      }
      for (int64_t c = 0; c < C; ++c) {
        const size_t i = static_cast<size_t>(c);
        const double h = (in(c)-mean) * rstd, g = double{to_float(dy[at + i])} * gamma[i];
        const double dx = rstd * (g - mean_g - h * mean_gh);
        want[6].push_back(dx);
        want[7].push_back(dx + to_float(residual[at + i]));
      }
    }
    const double absolute[] = {4e-5, 4e-5, 1e-6, 4e-5, 1e-5, 1e-5, 2e-4, 2e-4, 2e-4, 1e-5};
    for (size_t j = 0; j < 10; ++j)
      check_close(got[j], want[j], j == 4 || j == 5 || j == 8 || j == 9 ? 4e-6 : kRounding<T> * 1.5, absolute[j]);
  }
}

TEST_CASE("layernorm: published example, and values far from zero") {
  const std::vector<float> x = {1, 2, 3, 4}, weight = {1, 0.5, 2, 1}, one(4, 1.0f), zero(4, 0.0f);
  Output<float> y(4), mean(1), rstd(1), dx(4), dw(zero), db(zero);
  layernorm_forward<float>(Cpu{1}, y.ptr(), mean.ptr(), rstd.ptr(), x.data(), one.data(), zero.data(), 1, 4, 1e-5f);
  check_close(y.values(), {-1.341635420, -0.447211807, 0.447211807, 1.341635420}, 0, 3e-7);
  layernorm_backward<float>(Cpu{1}, dx.ptr(), dw.ptr(), db.ptr(), nullptr, x.data(), x.data(), weight.data(),
                            mean.ptr(), rstd.ptr(), 1, 4);
  check_close(dx.values(), {0.0894273351, -1.1627557060, 2.0571793194, -0.9838509484}, 0, 1e-6);
  check_close(dw.values(), {-1.3416354200, -0.8944236133, 1.3416354200, 5.3665416799}, 0, 2e-6);
  check_close(db.values(), {1, 2, 3, 4}, 0, 0.0 + 1e-30);
  // The variance about the mean survives a large offset: x - mean is exact here.
  const std::vector<float> far = {4096 + 1, 4096 + 2, 4096 + 3, 4096 + 4};
  layernorm_forward<float>(Cpu{1}, y.ptr(), mean.ptr(), rstd.ptr(), far.data(), one.data(), zero.data(), 1, 4, 1e-5f);
  check_close(y.values(), {-1.341635420, -0.447211807, 0.447211807, 1.341635420}, 0, 3e-7);
}

TEST_CASE_TEMPLATE("softmax", T, float, bf16, f16) {
  for (const Matrix& m : kMatrices) {
    for (const int64_t causal : {int64_t{0}, std::min<int64_t>(m.cols, std::max<int64_t>(1, m.rows / 2))}) {
      const int64_t N = m.rows, C = m.cols, n = N * C;
      const auto x = random_values<T>(n, -20, 20, 1), dy = random_values<T>(n, -2, 2, 2);
      std::vector<double> want, want_dx;
      for (int64_t r = 0; r < N; ++r) {
        const int64_t visible = causal > 0 ? std::min(C, r % causal + C - causal + 1) : C;
        double total = 0;
        for (int64_t c = 0; c < visible; ++c) total += std::exp(double{to_float(x[static_cast<size_t>(r * C + c)])});
        for (int64_t c = 0; c < C; ++c)
          want.push_back(c < visible ? std::exp(double{to_float(x[static_cast<size_t>(r * C + c)])}) / total : 0);
      }
      std::vector<T> y_given(x.size());  // backward from exactly representable probabilities
      for (size_t i = 0; i < x.size(); ++i) y_given[i] = from_float<T>(static_cast<float>(want[i]));
      for (int64_t r = 0; r < N; ++r) {
        double inner = 0;
        const auto p = [&](int64_t c) -> double { return to_float(y_given[static_cast<size_t>(r * C + c)]); };
        const auto g = [&](int64_t c) -> double { return to_float(dy[static_cast<size_t>(r * C + c)]); };
        for (int64_t c = 0; c < C; ++c) inner += p(c) * g(c);
        for (int64_t c = 0; c < C; ++c) want_dx.push_back(p(c) * (g(c) - inner));
      }
      const Results got = on_threads([&](const Cpu& dev) {
        Output<T> y(n), in_place(x), dx(dy);
        softmax_forward(dev, y.ptr(), x.data(), N, C, causal);
        softmax_forward(dev, in_place.ptr(), in_place.ptr(), N, C, causal);
        softmax_backward(dev, dx.ptr(), y_given.data(), dx.ptr(), N, C);
        return Results{y.values(), in_place.values(), dx.values()};
      });
      const double least = std::is_same_v<T, f16> ? 0x1.01p-25 : 1e-30;  // f16 ends at 2^-24
      check_close(got[0], want, kRounding<T> + 4e-6, least);             // x - max, up to 40, is rounded to 2e-6
      CHECK(got[1] == got[0]);
      check_close(got[2], want_dx, kRounding<T> * 2, 2e-6);
    }
  }
}

TEST_CASE_TEMPLATE("cross-entropy", T, float, bf16, f16) {
  for (const Matrix& m : kMatrices) {
    for (const float smoothing : {0.0f, 0.1f}) {
      const int64_t N = m.rows, V = m.cols, stride = V + 3;
      const auto x = random_values<T>(N * stride, -20, 20, 1);
      std::vector<int32_t> targets;
      for (int64_t r = 0; r < N; ++r) targets.push_back(r % 5 == 3 ? -100 : static_cast<int32_t>((r * 7) % V));
      const float scale = 0.37f;
      std::vector<double> want_loss, want_lse, want_dx;
      for (int64_t r = 0; r < N; ++r) {
        const auto at = [&](int64_t v) -> double { return to_float(x[static_cast<size_t>(r * stride + v)]); };
        double total = 0, all = 0;
        for (int64_t v = 0; v < V; ++v) total += std::exp(at(v)), all += at(v);
        const double lse = std::log(total);
        const int32_t t = targets[static_cast<size_t>(r)];
        want_lse.push_back(lse);
        want_loss.push_back(t < 0 ? 0 : lse - (1.0 - smoothing) * at(t) - smoothing * all / static_cast<double>(V));
        for (int64_t v = 0; v < stride; ++v)
          want_dx.push_back(t < 0 || v >= V ? 0
                                            : scale * (std::exp(at(v) - lse) - (v == t ? 1.0 - smoothing : 0.0) -
                                                       smoothing / static_cast<double>(V)));
      }
      const Results got = on_threads([&](const Cpu& dev) {
        Output<float> loss(N), lse(N);
        Output<T> dx(N * stride), in_place(x);
        cross_entropy_forward(dev, loss.ptr(), lse.ptr(), x.data(), targets.data(), N, V, stride, smoothing);
        cross_entropy_backward(dev, dx.ptr(), x.data(), lse.ptr(), targets.data(), &scale, N, V, stride, smoothing);
        cross_entropy_backward(dev, in_place.ptr(), in_place.ptr(), lse.ptr(), targets.data(), &scale, N, V, stride,
                               smoothing);
        return Results{loss.values(), lse.values(), dx.values(), in_place.values()};
      });
      check_close(got[0], want_loss, 2e-6, 4e-6);
      check_close(got[1], want_lse, 1e-6, 1e-6);
      check_close(got[2], want_dx, kRounding<T> + 4e-6, 2e-7);  // the f32 lse is off by up to 1e-6: so is its exp
      CHECK(got[3] == got[2]);
    }
  }
  const std::vector<float> logits = {1, 2, 3, 0.5};
  const int32_t target = 2;
  for (const float smoothing : {0.0f, 0.1f}) {
    Output<float> loss(1), lse(1);
    cross_entropy_forward(Cpu{1}, loss.ptr(), lse.ptr(), logits.data(), &target, 1, 4, 4, smoothing);
    check_close(loss.values(), {smoothing == 0.0f ? 0.4607734892 : 0.5982734892}, 0, 3e-7);
  }
}
