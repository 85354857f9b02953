// Optimizer kernels on the CPU against double precision and published sequences.
#include <algorithm>

#include "kernels/optimizer.h"
#include "tests/kernel_testing.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::testing;

namespace {

// One optimizer in double; state m, v holds momentum buffers.
struct Slow {
  double p, m, v;
};
const AdamWSettings kAdam{.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .weight_decay = 0.1f, .step = 3};
const AdamWSettings kBertAdam{
    .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .weight_decay = 0.1f, .bias_correction = false};
const float kNorms[] = {4.0f, 9.0f, 0.0f};  // squared norms

double adam_direction(Slow& s, double g, const AdamWSettings& a) {
  s.m = a.beta1 * s.m + (1.0 - a.beta1) * g;
  s.v = a.beta2 * s.v + (1.0 - a.beta2) * g * g;
  const double t = static_cast<double>(a.step);
  const double c1 = a.bias_correction ? 1 - std::pow(double{a.beta1}, t) : 1;
  const double c2 = a.bias_correction ? 1 - std::pow(double{a.beta2}, t) : 1;
  return s.m / c1 / (std::sqrt(s.v / c2) + a.eps);
}

}  // namespace

TEST_CASE_TEMPLATE("optimizers against double precision", T, bf16, f16) {
  const float scale = 0.5f;
  using Step = void (*)(const Cpu&, float*, T*, float*, float*, float*, const float*, const float*, int64_t);
  struct Case {
    const char* name;
    bool copies;
    Step step;  // (dev, p, copy, m, v, u, g, scale, n)
    void (*slow)(Slow&, double g, double& u);
  };
  const Case cases[] = {
      {"adamw", true,
       [](auto& d, auto p, auto c, auto m, auto v, auto, auto g, auto s, auto n) {
         adamw_step(d, p, c, m, v, g, s, n, kAdam);
       },
       [](Slow& s, double g, double&) {
         const double u = adam_direction(s, g, kAdam);
         s.p = s.p * (1 - 0.001) - 0.01 * u;
       }},
      {"bert adam", true,
       [](auto& d, auto p, auto c, auto m, auto v, auto, auto g, auto s, auto n) {
         adamw_step(d, p, c, m, v, g, s, n, kBertAdam);
       },
       [](Slow& s, double g, double&) { s.p -= 0.01 * (adam_direction(s, g, kBertAdam) + 0.1 * s.p); }},
      {"lamb", true,
       [](auto& d, auto p, auto c, auto m, auto v, auto u, auto g, auto s, auto n) {
         lamb_direction(d, u, m, v, p, g, s, n, kAdam);
         lamb_apply(d, p, c, u, kNorms, kNorms + 1, s, 0.01f, true, n);
       },
       [](Slow& s, double g, double& u) {
         u = adam_direction(s, g, kAdam) + 0.1 * s.p;
         s.p -= 0.01 * 2.0 / 3.0 * u;
       }},
      {"lamb, zero norm", true,
       [](auto& d, auto p, auto c, auto, auto, auto u, auto g, auto s, auto n) {
         std::copy(g, g + n, u);
         lamb_apply(d, p, c, u, kNorms, kNorms + 2, s, 0.01f, true, n);
       },
       [](Slow& s, double g, double& u) {
         u = 2 * g;
         s.p -= 0.01 * u;
       }},
      {"lamb, not adaptive", true,
       [](auto& d, auto p, auto c, auto, auto, auto u, auto g, auto s, auto n) {
         std::copy(g, g + n, u);
         lamb_apply(d, p, c, u, kNorms, kNorms + 1, s, 0.01f, false, n);
       },
       [](Slow& s, double g, double& u) {
         u = 2 * g;
         s.p -= 0.01 * u;
       }},
      {"sgd", true,
       [](auto& d, auto p, auto c, auto m, auto, auto, auto g, auto s, auto n) {
         sgd_step(d, p, c, m, g, s, n, 0.1f, 0.9f, 0.01f, false);
       },
       [](Slow& s, double g, double&) {
         s.m = 0.9 * s.m + g + 0.01 * s.p;
         s.p -= 0.1 * s.m;
       }},
      {"sgd nesterov", true,
       [](auto& d, auto p, auto c, auto m, auto, auto, auto g, auto s, auto n) {
         sgd_step(d, p, c, m, g, s, n, 0.1f, 0.9f, 0.01f, true);
       },
       [](Slow& s, double g, double&) {
         const double d = g + 0.01 * s.p;
         s.m = 0.9 * s.m + d;
         s.p -= 0.1 * (d + 0.9 * s.m);
       }},
      {"lars", true,
       [](auto& d, auto p, auto c, auto m, auto, auto u, auto g, auto s, auto n) {
         lars_direction(d, u, p, g, s, n, 0.1f);
         lars_apply(d, p, c, m, u, kNorms, kNorms + 1, s, 0.5f, 0.9f, 0.01f, true, n);
       },
       [](Slow& s, double g, double& u) {
         u = g + 0.1 * s.p;
         s.m = 0.9 * s.m + 0.01 * 2.0 / 3.0 * u;
         s.p -= 0.5 * s.m;
       }},
      {"lars, zero norm", true,
       [](auto& d, auto p, auto c, auto m, auto, auto u, auto g, auto s, auto n) {
         lars_direction(d, u, p, g, s, n, 0);
         lars_apply(d, p, c, m, u, kNorms, kNorms + 2, s, 0.5f, 0.9f, 0.01f, true, n);
       },
       [](Slow& s, double g, double& u) {
         u = g;
         s.m = 0.9 * s.m + u;
         s.p -= 0.5 * s.m;
       }},
      {"lion", true,
       [](auto& d, auto p, auto c, auto m, auto, auto, auto g, auto s, auto n) {
         lion_step(d, p, c, m, g, s, n, 0.01f, 0.9f, 0.99f, 0.1f);
       },
       [](Slow& s, double g, double&) {
         const double d = 0.9 * s.m + 0.1 * g;
         s.m = 0.99 * s.m + 0.01 * g;
         s.p -= 0.01 * ((d > 0) - (d < 0) + 0.1 * s.p);
       }},
      {"muon", false,
       [](auto& d, auto, auto, auto m, auto, auto u, auto g, auto s, auto n) {
         muon_momentum(d, u, m, g, s, n, 0.95f, true);
       },
       [](Slow& s, double g, double& u) {
         s.m = 0.95 * s.m + g;
         u = g + 0.95 * s.m;
       }},
      {"muon, plain", false,
       [](auto& d, auto, auto, auto m, auto, auto u, auto g, auto s, auto n) {
         muon_momentum(d, u, m, g, s, n, 0.95f, false);
       },
       [](Slow& s, double g, double& u) { u = s.m = 0.95 * s.m + g; }},
      {"decayed axpy", true,
       [](auto& d, auto p, auto c, auto, auto, auto, auto g, auto s, auto n) {
         decayed_axpy(d, p, c, g, s, 0.1f, 0.5f, 0.2f, n);
       },
       [](Slow& s, double g, double&) { s.p = s.p * (1 - 0.02) - 0.05 * 2 * g; }},
      {"ema", false,
       [](auto& d, auto p, auto, auto, auto, auto, auto g, auto s, auto n) { ema_update(d, p, g, s, 0.75f, n); },
       [](Slow& s, double g, double&) { s.p = 0.75 * s.p + 0.25 * 2 * g; }},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    for (int64_t n : kLengths) {
      const auto p = random_values<float>(n, -2, 2, 1), m = random_values<float>(n, -1, 1, 2);
      const auto v = random_values<float>(n, 0.01, 1, 3), g = random_values<float>(n, -2, 2, 4);
      const auto u = random_values<float>(n, -1, 1, 5);
      const Results got = on_threads([&](const Cpu& dev) {
        Output<float> p1(p), m1(m), v1(v), u1(u), p2(p), m2(m), v2(v), u2(u);
        Output<T> copy(n);
        c.step(dev, p1.ptr(), c.copies ? copy.ptr() : nullptr, m1.ptr(), v1.ptr(), u1.ptr(), g.data(), &scale, n);
        c.step(dev, p2.ptr(), nullptr, m2.ptr(), v2.ptr(), u2.ptr(), g.data(), &scale, n);
        CHECK(p1.values() == p2.values());
        if (c.copies) {
          std::vector<float> rounded = p1.values();
          for (float& x : rounded) x = to_float(from_float<T>(x));
          CHECK(copy.values() == rounded);
        }
        return Results{p1.values(), m1.values(), v1.values(), u1.values()};
      });
      std::vector<std::vector<double>> want(4);
      for (size_t i = 0; i < p.size(); ++i) {
        Slow s{p[i], m[i], v[i]};
        double direction = u[i];
        c.slow(s, 0.5 * double{g[i]}, direction);
        want[0].push_back(s.p);
        want[1].push_back(s.m);
        want[2].push_back(s.v);
        want[3].push_back(direction);
      }
      for (size_t j = 0; j < 4; ++j) check_close(got[j], want[j], 2e-6, 4e-7);
    }
  }
}

TEST_CASE("optimizers: published AdamW and BERT Adam sequences; clipping factor") {
  const double decoupled[] = {0.9890000010, 0.9916720360, 0.9872479534};
  const double bert[] = {0.9682872202, 0.9837460964, 0.9666579168};
  const float gradients[] = {0.1f, -0.2f, 0.3f}, one = 1.0f;
  for (const bool correction : {true, false}) {
    std::vector<float> p = {1.0f}, m = {0.0f}, v = {0.0f};
    for (int64_t t = 0; t < 3; ++t) {
      const AdamWSettings s{.lr = 0.01f,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = correction ? 1e-8f : 1e-6f,
                            .weight_decay = correction ? 0.1f : 0.01f,
                            .bias_correction = correction,
                            .step = t + 1};
      adamw_step(Cpu{1}, p.data(), static_cast<bf16*>(nullptr), m.data(), v.data(), &gradients[t], &one, 1, s);
      check_close(p, {correction ? decoupled[t] : bert[t]}, 0, 3e-7);
    }
  }
  const auto factor = [](float norm2, float max_norm) {
    float out = -1.0f;
    clip_factor(Cpu{1}, &out, &norm2, max_norm);
    return out;
  };
  CHECK(factor(16.0f, 1.0f) == doctest::Approx(1.0 / (4.0 + 1e-6)));
  CHECK(factor(16.0f, 8.0f) == 1.0f);
  CHECK(factor(16.0f, 0.0f) == 1.0f);
  CHECK(factor(0.0f, 1.0f) == 1.0f);
  CHECK(std::isnan(factor(NAN, 1.0f)));  // there will be no step
  CHECK(std::isnan(factor(INFINITY, 0.0f)));
}
