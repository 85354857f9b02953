// Optimizer kernels on the emulator (three warp orders) and the CPU, three steps each, against the formulas of
// kernels/optimizer.h in double precision.
#include <functional>

#include "kernels/optimizer.h"
#include "tests/kernel_reference.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;
using Values = std::vector<double>;

namespace {

constexpr int kSteps = 3;
const int64_t kSizes[] = {0, 1, 33, 3000};
const Tolerance kClose{1e-6, 1e-5};  // f32 state over three steps
const double kClip = 0.7;            // the factor on the gradients

// What every optimizer test needs: parameters, two states, a gradient per step.
struct Problem {
  int64_t n;
  Values p, m, v, g[kSteps];
  explicit Problem(int64_t size) : n(size), p(random_values<float>(n, 50)), m(n), v(n) {
    for (int t = 0; t < kSteps; ++t) g[t] = random_values<float>(n, 51 + t);
    if (n > 0) g[0][0] = g[1][0] = g[2][0] = 0.0;  // sign(0) = 0, 0 / (0 + eps) = 0
  }
};

template <class T>
Values rounded_to(const Values& x) {
  Values y;
  for (double v : x) y.push_back(to_float(from_float<T>(static_cast<float>(v))));
  return y;
}

// Runs step(t, i, p, m, v, g) in double and `kernel` on every backend; compares p, its rounded
// copy, m and v.
template <class Kernel>
void compare(const std::function<void(int, double&, double&, double&, double)>& step, Kernel kernel) {
  for (int64_t n : kSizes) {
    const Problem start(n);
    Problem want = start;
    for (int t = 0; t < kSteps; ++t)
      for (int64_t i = 0; i < n; ++i)
        step(t + 1, want.p[i], want.m[i], want.v[i], static_cast<float>(kClip) * start.g[t][i]);
    on_backends([&](const auto& ctx, SameBits& same) {
      const auto run = [&]<class T>(T*, bool with_copy) {
        Buffer<float> p(start.p, !with_copy), m(start.m), v(start.v), clip(Values{kClip});
        Buffer<T> copy(n);
        for (int t = 0; t < kSteps; ++t) {
          Buffer<float> g(start.g[t]);
          kernel(ctx, t + 1, p.p(), with_copy ? copy.p() : nullptr, m.p(), v.p(), g.p(), clip.p(), n);
        }
        check_buffer("p", p, want.p, kClose);
        check_buffer("m", m, want.m, kClose);
        check_buffer("v", v, want.v, kClose);
        if (with_copy) check_buffer("copy", copy, rounded_to<T>(p.values()), kExact);
        same(p.values()), same(m.values());
      };
      run(static_cast<bf16*>(nullptr), true);
      run(static_cast<f16*>(nullptr), true);
      run(static_cast<bf16*>(nullptr), false);
    });
  }
}

// A table as the 32-bit words that a buffer of any device can hold.
template <class Row>
Values words_of(const std::vector<Row>& table) {
  std::vector<int32_t> words(table.size() * sizeof(Row) / 4);
  std::memcpy(words.data(), table.data(), words.size() * 4);
  return {words.begin(), words.end()};
}

AdamWSettings adam_settings(bool bias_correction, int64_t step) {
  AdamWSettings s;
  s.lr = 0.01f, s.beta1 = 0.9f, s.beta2 = 0.98f, s.eps = 1e-6f, s.weight_decay = 0.1f;
  s.bias_correction = bias_correction, s.step = step;
  return s;
}

double adam_direction(const AdamWSettings& s, double& m, double& v, double g) {
  m = s.beta1 * m + (1 - s.beta1) * g;
  v = s.beta2 * v + (1 - s.beta2) * g * g;
  const double c1 = s.bias_correction ? 1 - std::pow(s.beta1, s.step) : 1;
  const double c2 = s.bias_correction ? 1 - std::pow(s.beta2, s.step) : 1;
  return m / c1 / (std::sqrt(v / c2) + s.eps);
}

}  // namespace

TEST_CASE("AdamW in PyTorch's order and BERT's Adam") {
  for (bool correction : {true, false}) {
    compare(
        [&](int t, double& p, double& m, double& v, double g) {
          const AdamWSettings s = adam_settings(correction, t);
          const double u = adam_direction(s, m, v, g);
          p = correction ? p * (1 - s.lr * s.weight_decay) - s.lr * u : p - s.lr * (u + s.weight_decay * p);
        },
        [&](const auto& ctx, int t, float* p, auto* copy, float* m, float* v, const float* g, const float* clip,
            int64_t n) { adamw_step(ctx, p, copy, m, v, g, clip, n, adam_settings(correction, t)); });
  }
}

TEST_CASE("AdamW over parts: each with its own rate, decay and corrections; a part without a rate stays") {
  // 3 parts of a buffer with a gap between them, the first in three chunks, the last left out.
  const int64_t n = 2 * kStepChunk + 300;
  const std::vector<StepChunk> chunks = {{0, kStepChunk, 0},
                                         {kStepChunk, 2 * kStepChunk, 0},
                                         {2 * kStepChunk, 2 * kStepChunk + 64, 0},
                                         {2 * kStepChunk + 128, 2 * kStepChunk + 128 + 61, 1},
                                         {2 * kStepChunk + 192, n, 2}};
  const float none = std::numeric_limits<float>::quiet_NaN();
  const std::vector<StepPart> parts = {
      {0.01f, 0.1f, 5.0f, 20.0f}, {0.002f, 0.0f, 1.5f, 3.0f}, {none, 0.1f, 1.0f, 1.0f}};
  const auto part_of = [&](int64_t i) {
    for (const StepChunk& c : chunks)
      if (i >= c.begin && i < c.end) return static_cast<int>(c.part);
    return -1;
  };
  const Problem start(n);
  for (const bool correction : {true, false}) {
    Problem want = start;
    for (int64_t i = 0; i < n; ++i) {
      const int k = part_of(i);
      if (k < 0 || k == 2) continue;
      const StepPart& part = parts[static_cast<size_t>(k)];
      const double g = static_cast<float>(kClip) * start.g[0][i];
      want.m[i] = 0.9f * want.m[i] + (1 - 0.9f) * g;
      want.v[i] = 0.98f * want.v[i] + (1 - 0.98f) * g * g;
      const double u = want.m[i] * part.correction1 / (std::sqrt(want.v[i] * part.correction2) + 1e-6f);
      want.p[i] = correction ? want.p[i] * (1 - part.lr * part.weight_decay) - part.lr * u
                             : want.p[i] - part.lr * (u + part.weight_decay * want.p[i]);
    }
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<float> p(start.p), m(start.m), v(start.v), g(start.g[0]), clip(Values{kClip});
      Buffer<bf16> copy(n);
      Buffer<int32_t> where(words_of(chunks)), rates(words_of(parts));
      adamw_parts(ctx, p.p(), copy.p(), m.p(), v.p(), g.p(), clip.p(), reinterpret_cast<const StepChunk*>(where.p()),
                  static_cast<int64_t>(chunks.size()), reinterpret_cast<const StepPart*>(rates.p()),
                  adam_settings(correction, 1));
      check_buffer("p", p, want.p, kClose);
      check_buffer("m", m, want.m, kClose);
      check_buffer("v", v, want.v, kClose);
      const Values copied = copy.values(), rounded = rounded_to<bf16>(p.values());
      for (int64_t i = 0; i < n; ++i) {
        const bool stepped = part_of(i) == 0 || part_of(i) == 1;
        CHECK((stepped ? copied[i] == rounded[i] : std::isnan(copied[i])));
      }
      same(p.values()), same(m.values());
    });
  }
}

TEST_CASE("steps are counted part by part; one that does not happen is not") {
  const float none = std::numeric_limits<float>::quiet_NaN();
  const size_t n = 300;  // more than a block of threads
  std::vector<StepRate> rates;
  Values before;
  for (size_t k = 0; k < n; ++k) {
    rates.push_back({k % 3 == 2 ? none : 0.01f * static_cast<float>(k), 0.1f});
    before.push_back(static_cast<double>(k % 7));
  }
  for (const double scale : {1.0, 0.25, static_cast<double>(none)}) {
    for (const bool correction : {true, false}) {
      on_backends([&](const auto& ctx, SameBits&) {
        Buffer<int32_t> steps(before), given(words_of(rates));
        Buffer<float> parts(4 * n), factor(Values{scale});
        count_steps(ctx, reinterpret_cast<StepPart*>(parts.p()), steps.p(),
                    reinterpret_cast<const StepRate*>(given.p()), factor.p(), n, adam_settings(correction, 99));
        const Values counted = steps.values(), part = parts.values();
        for (size_t k = 0; k < n; ++k) {
          const bool counts = k % 3 != 2 && !std::isnan(scale);
          REQUIRE(counted[k] == before[k] + counts);
          if (!counts) continue;
          CHECK(part[4 * k] == rates[k].lr);
          CHECK(part[4 * k + 1] == 0.1f);
          const double c1 = correction ? 1 / (1 - std::pow(double{0.9f}, counted[k])) : 1;
          const double c2 = correction ? 1 / (1 - std::pow(double{0.98f}, counted[k])) : 1;
          CHECK(part[4 * k + 2] == doctest::Approx(c1).epsilon(1e-6));
          CHECK(part[4 * k + 3] == doctest::Approx(c2).epsilon(1e-6));
        }
      });
    }
  }
}

TEST_CASE("LAMB: direction and trust ratio") {
  for (bool adapt : {true, false}) {
    const double trust = adapt ? std::sqrt(9.0f) / std::sqrt(2.25f) : 1.0;
    compare(
        [&](int t, double& p, double& m, double& v, double g) {
          const AdamWSettings s = adam_settings(true, t);
          p -= s.lr * trust * (adam_direction(s, m, v, g) + s.weight_decay * p);
        },
        [&](const auto& ctx, int t, float* p, auto* copy, float* m, float* v, const float* g, const float* clip,
            int64_t n) {
          Buffer<float> u(n), p_norm2(Values{9.0}), u_norm2(Values{2.25});
          lamb_direction(ctx, u.p(), m, v, p, g, clip, n, adam_settings(true, t));
          lamb_apply(ctx, p, copy, u.p(), p_norm2.p(), u_norm2.p(), clip, 0.01f, adapt, n);
        });
  }
}

TEST_CASE("LARS: direction, trust ratio, momentum") {
  const float lr = 0.5f, momentum = 0.9f, decay = 0.1f;
  for (bool adapt : {true, false}) {
    const double q = adapt ? 0.01f * std::sqrt(9.0f) / std::sqrt(2.25f) : 1.0;
    compare(
        [&](int, double& p, double& m, double&, double g) {
          m = momentum * m + q * (g + decay * p);
          p -= lr * m;
        },
        [&](const auto& ctx, int, float* p, auto* copy, float* m, float*, const float* g, const float* clip,
            int64_t n) {
          Buffer<float> u(n), p_norm2(Values{9.0}), u_norm2(Values{2.25});
          lars_direction(ctx, u.p(), p, g, clip, n, decay);
          lars_apply(ctx, p, copy, m, u.p(), p_norm2.p(), u_norm2.p(), clip, lr, momentum, 0.01f, adapt, n);
        });
  }
}

TEST_CASE("LAMB's trust ratio is 1 when a norm is 0") {
  on_backends([&](const auto& ctx, SameBits&) {
    for (const auto& [a, b] : {std::pair{0.0, 4.0}, std::pair{4.0, 0.0}}) {
      Buffer<float> p(Values{1.0}), u(Values{0.5}), p_norm2(Values{a}), u_norm2(Values{b}), one(Values{1.0});
      lamb_apply(ctx, p.p(), static_cast<bf16*>(nullptr), u.p(), p_norm2.p(), u_norm2.p(), one.p(), 0.5f, true, 1);
      check_buffer("p", p, {0.75}, kExact);
    }
  });
}

TEST_CASE("SGD with momentum, plain and Nesterov") {
  for (bool nesterov : {false, true}) {
    const float lr = 0.05f, momentum = 0.9f, decay = 0.01f;
    compare(
        [&](int, double& p, double& m, double&, double g) {
          g += decay * p;
          m = momentum * m + g;
          p -= lr * (nesterov ? g + momentum * m : m);
        },
        [&](const auto& ctx, int, float* p, auto* copy, float* m, float*, const float* g, const float* clip,
            int64_t n) { sgd_step(ctx, p, copy, m, g, clip, n, lr, momentum, decay, nesterov); });
  }
}

TEST_CASE("Lion") {
  const float lr = 0.003f, beta1 = 0.9f, beta2 = 0.99f, decay = 0.1f;
  compare(
      [&](int, double& p, double& m, double&, double g) {
        const double c = beta1 * m + (1 - beta1) * g;
        p -= lr * ((c > 0) - (c < 0) + decay * p);
        m = beta2 * m + (1 - beta2) * g;
      },
      [&](const auto& ctx, int, float* p, auto* copy, float* m, float*, const float* g, const float* clip, int64_t n) {
        lion_step(ctx, p, copy, m, g, clip, n, lr, beta1, beta2, decay);
      });
}

TEST_CASE("Muon's momentum, followed by the decayed update") {
  for (bool nesterov : {false, true}) {
    const float lr = 0.02f, momentum = 0.95f, scale = 0.2f, decay = 0.1f;
    compare(
        [&](int, double& p, double& m, double&, double g) {
          m = momentum * m + g;
          p = p * (1 - lr * decay) - lr * scale * (nesterov ? g + momentum * m : m);
        },
        [&](const auto& ctx, int, float* p, auto* copy, float* m, float*, const float* g, const float* clip,
            int64_t n) {
          Buffer<float> u(n);
          muon_momentum(ctx, u.p(), m, g, clip, n, momentum, nesterov);
          decayed_axpy(ctx, p, copy, u.p(), clip, lr, scale, decay, n);
        });
  }
}

TEST_CASE("moving average") {
  for (int64_t n : kSizes) {
    const Values e = random_values<float>(n, 60), p = random_values<float>(n, 61);
    Values want(n);
    for (int64_t i = 0; i < n; ++i) want[i] = 0.75 * e[i] + 0.25 * p[i];
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<float> be(e), bp(p, 1), one(Values{1.0});
      ema_update(ctx, be.p(), bp.p(), one.p(), 0.75f, n);
      check_buffer("e", be, want, kClose);
    });
  }
}

TEST_CASE("clipping factor") {
  struct Case {
    double norm2;
    float max_norm;
    double factor;
  };
  for (const Case& c :
       {Case{4.0, 1.0f, 1.0 / (2.0 + 1e-6)}, Case{0.25, 1.0f, 1.0}, Case{0.0, 1.0f, 1.0}, Case{9.0, 0.0f, 1.0},
        Case{NAN, 1.0f, NAN}, Case{INFINITY, 1.0f, NAN}, Case{NAN, 0.0f, NAN}, Case{INFINITY, 0.0f, NAN}}) {
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<float> out(1), norm2(Values{c.norm2});
      clip_factor(ctx, out.p(), norm2.p(), c.max_norm);
      check_buffer("factor", out, {c.factor}, {0.0, 2e-7});
    });
  }
}

TEST_CASE("a step whose factor is NaN leaves everything as it is") {
  const int64_t n = 1037;
  const Values p0 = random_values<float>(n, 70), g0(n, NAN), a0 = random_values<float>(n, 71, 0.1, 1.0);
  on_backends([&](const auto& ctx, SameBits&) {
    for (int offset : {0, 1}) {  // wide accesses and single ones
      const Values narrow = rounded_to<bf16>(a0);
      Buffer<float> p(p0, offset), m(a0), v(a0), u(a0), g(g0), scale(Values{NAN}), norm(Values{NAN});
      Buffer<bf16> copy(narrow);
      adamw_step(ctx, p.p(), copy.p(), m.p(), v.p(), g.p(), scale.p(), n, adam_settings(true, 1));
      lamb_direction(ctx, u.p(), m.p(), v.p(), p.p(), g.p(), scale.p(), n, adam_settings(true, 1));
      lamb_apply(ctx, p.p(), copy.p(), g.p(), norm.p(), norm.p(), scale.p(), 0.1f, true, n);
      sgd_step(ctx, p.p(), copy.p(), m.p(), g.p(), scale.p(), n, 0.1f, 0.9f, 0.1f, true);
      lion_step(ctx, p.p(), copy.p(), m.p(), g.p(), scale.p(), n, 0.1f, 0.9f, 0.9f, 0.1f);
      muon_momentum(ctx, u.p(), m.p(), g.p(), scale.p(), n, 0.9f, true);
      decayed_axpy(ctx, p.p(), copy.p(), g.p(), scale.p(), 0.1f, 1.0f, 0.1f, n);
      ema_update(ctx, v.p(), g.p(), scale.p(), 0.9f, n);
      check_buffer("p", p, p0, kExact), check_buffer("copy", copy, narrow, kExact);
      check_buffer("m", m, a0, kExact), check_buffer("v", v, a0, kExact), check_buffer("u", u, a0, kExact);
    }
  });
}

TEST_CASE("scaling by the inverse of a norm in device memory, also in place") {
  for (int64_t n : kSizes) {
    const Values x = random_values<float>(n, 72);
    Values want;
    for (double v : x) want.push_back(v / (3.0 + 0.5));
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<float> bx(x), y(n, 1), norm2(Values{9.0});
      scale_by_inverse_norm(ctx, y.p(), bx.p(), norm2.p(), 0.5f, n);
      check_buffer("y", y, want, kClose);
      scale_by_inverse_norm(ctx, bx.p(), bx.p(), norm2.p(), 0.5f, n);
      check_buffer("in place", bx, y.values(), kExact);
      same(y.values());
    });
  }
}
