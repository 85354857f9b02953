// Optimizers over a whole store: groups, clipping, averages, frozen parameters, and every rule against double
// precision.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <vector>

#include "engine/core/random.h"
#include "kernels/dropout.h"
#include "training/optimizer.h"

using namespace accrete;

namespace {

using Values = std::vector<double>;

// Two matrices in blocks (one of them wide, one tall), an embedding outside, and vectors without decay.
void declare(ParamStore& store) {
  const Scope root(store);
  (root / "tokens").param("weight", Shape{11, 6}, {kVocab, kEmbed}, Init::normal(0.5f), true);
  (root / "blocks" / "0").in_block(0).param("wide", Shape{4, 9}, {kMlp, kEmbed}, Init::normal(0.5f), true);
  (root / "blocks" / "0").in_block(0).param("bias", Shape{7}, {kMlp}, Init::normal(0.5f), false);
  (root / "blocks" / "0").in_block(0).param("tall", Shape{10, 3}, {kMlp, kEmbed}, Init::normal(0.5f), true);
  (root / "norm").param("weight", Shape{6}, {kEmbed}, Init::ones(), false);
  store.allocate();
  store.initialise(5);
  store.zero_grads();
}

void draw_gradients(ParamStore& store, uint64_t step) {
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const Tensor g = store.grad(static_cast<int>(i));
    kernels::random_normal<float>(cpu_context(), g.ptr<float>(), g.count(), 0.0f, 0.3f,
                                  random_key(9, store.entries()[i].name, step), 0);
  }
}

Values doubles(const Tensor& t) {
  const auto v = t.to_vector<float>();
  return {v.begin(), v.end()};
}

double norm_of(const Values& v) {
  double s = 0;
  for (const double x : v) s += x * x;
  return std::sqrt(s);
}

// One parameter of the reference.
struct Reference {
  Values p, m, v;
};

// c = a b^T or a b for row-major (n, k), (m, k) or (k, m).
Values product(const Values& a, const Values& b, size_t n, size_t k, size_t m, bool transposed) {
  Values c(n * m, 0.0);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < m; ++j)
      for (size_t l = 0; l < k; ++l) c[i * m + j] += a[i * k + l] * (transposed ? b[j * k + l] : b[l * m + j]);
  return c;
}

// The five quintic iterations on the matrix with rows <= cols.
Values orthogonalised(Values u, size_t rows, size_t cols, int64_t iterations) {
  const bool tall = rows > cols;
  if (tall) {
    Values t(u.size());
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < cols; ++c) t[c * rows + r] = u[r * cols + c];
    std::swap(u, t);
    std::swap(rows, cols);
  }
  const double n = norm_of(u) + 1e-7;
  for (double& x : u) x /= n;
  for (int64_t i = 0; i < iterations; ++i) {
    const Values a = product(u, u, rows, cols, rows, true), aa = product(a, a, rows, rows, rows, false);
    Values b(a.size());
    for (size_t j = 0; j < a.size(); ++j) b[j] = -4.7750 * a[j] + 2.0315 * aa[j];
    const Values bu = product(b, u, rows, rows, cols, false);
    for (size_t j = 0; j < u.size(); ++j) u[j] = 3.4445 * u[j] + bu[j];
  }
  if (tall) {
    Values t(u.size());
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < cols; ++c) t[c * rows + r] = u[r * cols + c];
    u = t;
  }
  return u;
}

// One step of the rule on one parameter, as the papers write it.
void reference_step(const OptimConfig& c, const ParamEntry& e, Reference& r, Values g, double lr, double t,
                    double clip) {
  const double wd = e.decay ? c.weight_decay : 0.0;
  for (double& x : g) x *= clip;
  const size_t n = g.size();
  const bool matrix = e.shape.rank() == 2 && e.block >= 0;
  if (c.name == "sgd") {
    for (size_t i = 0; i < n; ++i) {
      const double d = g[i] + wd * r.p[i];
      r.m[i] = c.momentum * r.m[i] + d;
      r.p[i] -= lr * (c.nesterov ? d + c.momentum * r.m[i] : r.m[i]);
    }
  } else if (c.name == "lars") {
    for (size_t i = 0; i < n; ++i) g[i] += wd * r.p[i];
    const double pn = norm_of(r.p), gn = norm_of(g);
    const double q = (c.trust_all || e.decay) && pn > 0 && gn > 0 ? c.trust * pn / gn : 1.0;
    for (size_t i = 0; i < n; ++i) {
      r.m[i] = c.momentum * r.m[i] + q * g[i];
      r.p[i] -= lr * r.m[i];
    }
  } else if (c.name == "lion") {
    for (size_t i = 0; i < n; ++i) {
      const double u = c.beta1 * r.m[i] + (1 - c.beta1) * g[i];
      r.m[i] = c.beta2 * r.m[i] + (1 - c.beta2) * g[i];
      r.p[i] -= lr * ((u > 0) - (u < 0) + wd * r.p[i]);
    }
  } else if (c.name == "muon" && matrix) {
    Values u(n);
    for (size_t i = 0; i < n; ++i) {
      r.m[i] = c.momentum * r.m[i] + g[i];
      u[i] = c.nesterov ? g[i] + c.momentum * r.m[i] : r.m[i];
    }
    const auto rows = static_cast<size_t>(e.shape[0]), cols = static_cast<size_t>(e.shape[1]);
    u = orthogonalised(u, rows, cols, c.newton_schulz_steps);
    const double size = 0.2 * std::sqrt(static_cast<double>(std::max(rows, cols)));
    for (size_t i = 0; i < n; ++i) r.p[i] = r.p[i] * (1 - lr * wd) - lr * size * u[i];
  } else {
    if (c.name == "muon" && c.adam_lr > 0) lr *= c.adam_lr / c.lr;
    Values u(n);
    for (size_t i = 0; i < n; ++i) {
      r.m[i] = c.beta1 * r.m[i] + (1 - c.beta1) * g[i];
      r.v[i] = c.beta2 * r.v[i] + (1 - c.beta2) * g[i] * g[i];
      const double mh = r.m[i] / (1 - std::pow(c.beta1, t)), vh = r.v[i] / (1 - std::pow(c.beta2, t));
      u[i] = mh / (std::sqrt(vh) + c.eps);
    }
    if (c.name == "lamb") {
      for (size_t i = 0; i < n; ++i) u[i] += wd * r.p[i];
      const double pn = norm_of(r.p), un = norm_of(u);
      const double trust = (c.trust_all || wd > 0) && pn > 0 && un > 0 ? pn / un : 1.0;
      for (size_t i = 0; i < n; ++i) r.p[i] -= lr * trust * u[i];
    } else {
      for (size_t i = 0; i < n; ++i) r.p[i] = r.p[i] * (1 - lr * wd) - lr * u[i];
    }
  }
}

void check_rule(OptimConfig config, DType compute) {
  CAPTURE(config.name);
  ParamStore store(compute, kCpu);
  declare(store);
  Optimizer optimizer(config, store);
  std::vector<Reference> reference;
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const Values p = doubles(store.value(static_cast<int>(i)));
    reference.push_back({p, Values(p.size(), 0.0), Values(p.size(), 0.0)});
  }
  for (int t = 1; t <= 6; ++t) {
    draw_gradients(store, static_cast<uint64_t>(t));
    double norm2 = 0;
    for (size_t i = 0; i < reference.size(); ++i)
      norm2 += std::pow(norm_of(doubles(store.grad(static_cast<int>(i)))), 2);
    const double norm = std::sqrt(norm2);
    CHECK(optimizer.gradient_norm() == doctest::Approx(norm).epsilon(1e-6));
    const double clip = config.clip > 0 ? std::min(1.0, config.clip / (norm + 1e-6)) : 1.0;
    const double lr = config.lr / t;
    for (size_t i = 0; i < reference.size(); ++i)
      reference_step(config, store.entries()[i], reference[i], doubles(store.grad(static_cast<int>(i))), lr, t, clip);
    optimizer.step(lr);
  }
  for (size_t i = 0; i < reference.size(); ++i) {
    CAPTURE(store.entries()[i].name);
    const Values p = doubles(store.value(static_cast<int>(i)));
    // f32 rounding of six steps; Newton-Schulz multiplies rounding errors by 3.4 in each of five iterations.
    const double tolerance = config.name == "muon" ? 3e-5 : 3e-6;
    for (size_t j = 0; j < p.size(); ++j)
      CHECK(p[j] == doctest::Approx(reference[i].p[j]).epsilon(tolerance).scale(1.0));
  }
  if (compute == DType::bf16)
    for (int64_t i = 0; i < store.flat_count(); ++i)
      CHECK(store.copy().ptr<bf16>()[i].bits == from_float<bf16>(store.values().ptr<float>()[i]).bits);
  // The gaps between entries stay zero.
  for (size_t i = 0; i + 1 < store.entries().size(); ++i)
    for (int64_t j = store.entries()[i].offset + store.entries()[i].count(); j < store.entries()[i + 1].offset; ++j)
      CHECK(store.values().ptr<float>()[j] == 0.0f);
}

OptimConfig rule(const std::string& name, double lr) {
  OptimConfig c;
  c.name = name;
  c.lr = lr;
  return c;
}

}  // namespace

TEST_CASE("every rule agrees with double precision, with decay groups and clipping") {
  for (const DType compute : {DType::f32, DType::bf16}) {
    check_rule(rule("adamw", 0.01), compute);
    check_rule(rule("lamb", 0.01), compute);
    check_rule(rule("lars", 2.0), compute);
    check_rule(rule("lion", 0.003), compute);
    check_rule(rule("sgd", 0.05), compute);
    OptimConfig muon = rule("muon", 0.02);
    muon.nesterov = true;
    muon.adam_lr = 0.005;
    check_rule(muon, compute);
    OptimConfig open = rule("sgd", 0.05);
    open.nesterov = true;
    open.clip = 0;
    check_rule(open, compute);
    OptimConfig trust = rule("lamb", 0.01);
    trust.trust_all = true;
    check_rule(trust, compute);
    trust.name = "lars", trust.lr = 0.5, trust.trust = 0.02, trust.weight_decay = 0;
    check_rule(trust, compute);
  }
}

TEST_CASE("Muon's update is nearly orthogonal: singular values near 1 (times its scale)") {
  ParamStore store(DType::f32, kCpu);
  declare(store);
  OptimConfig config = rule("muon", 1.0);
  config.weight_decay = 0;
  config.clip = 0;
  Optimizer optimizer(config, store);
  const int wide = store.find("blocks.0.wide");
  const Values before = doubles(store.value(wide));
  draw_gradients(store, 3);
  optimizer.gradient_norm();
  optimizer.step(1.0);
  Values u = doubles(store.value(wide));
  for (size_t i = 0; i < u.size(); ++i) u[i] = (before[i] - u[i]) / (0.2 * std::sqrt(9.0));
  const Values gram = product(u, u, 4, 9, 4, true);
  // The published coefficients bring singular values into about [0.7, 1.2]: squares on the diagonal up to 1.5.
  for (size_t i = 0; i < 4; ++i) {
    CHECK(gram[i * 4 + i] > 0.4);
    CHECK(gram[i * 4 + i] < 1.5);
    for (size_t j = 0; j < i; ++j) CHECK(std::abs(gram[i * 4 + j]) < 0.4);
  }
}

TEST_CASE("frozen parameters do not move and do not count in the norm") {
  for (const char* name : {"adamw", "lamb", "lars", "lion", "sgd", "muon"}) {
    CAPTURE(name);
    ParamStore store(DType::f32, kCpu);
    declare(store);
    const int frozen = store.find("blocks.0.wide");
    store.set_trainable(frozen, false);
    Optimizer optimizer(rule(name, 0.01), store);
    draw_gradients(store, 1);
    store.grad(frozen).zero();  // backward leaves it alone
    const auto before = store.value(frozen).to_vector<float>();
    const auto others = store.value(0).to_vector<float>();
    optimizer.gradient_norm();
    optimizer.step(0.01);
    CHECK(store.value(frozen).to_vector<float>() == before);
    CHECK(store.value(0).to_vector<float>() != others);
  }
}

TEST_CASE("the moving average starts at the weights and follows them") {
  ParamStore store(DType::f32, kCpu);
  declare(store);
  OptimConfig config = rule("sgd", 0.1);
  config.ema = 0.75;
  Optimizer optimizer(config, store);
  Values average = doubles(store.values());
  for (int t = 1; t <= 4; ++t) {
    draw_gradients(store, static_cast<uint64_t>(t));
    optimizer.gradient_norm();
    optimizer.step(0.1);
    const Values p = doubles(store.values());
    for (size_t i = 0; i < p.size(); ++i) average[i] = 0.75 * average[i] + 0.25 * p[i];
  }
  const Values e = doubles(optimizer.ema());
  for (size_t i = 0; i < e.size(); ++i) CHECK(e[i] == doctest::Approx(average[i]).epsilon(1e-6).scale(1.0));
  optimizer.reset_averages();
  CHECK(optimizer.ema().to_vector<float>() == store.values().to_vector<float>());
}

TEST_CASE("a gradient that is not finite shows in the norm") {
  ParamStore store(DType::f32, kCpu);
  declare(store);
  Optimizer optimizer(rule("adamw", 0.01), store);
  draw_gradients(store, 1);
  store.grad(1).ptr<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(!std::isfinite(optimizer.gradient_norm()));
  store.grad(1).ptr<float>()[3] = std::numeric_limits<float>::infinity();
  CHECK(!std::isfinite(optimizer.gradient_norm()));
}

TEST_CASE("AdamW does not count a step whose gradients are not finite: the next ones are those of a run without it") {
  const auto train = [](bool bad_step) {
    ParamStore store(DType::f32, kCpu);
    declare(store);
    Optimizer optimizer(rule("adamw", 0.01), store);
    for (uint64_t t = 1; t <= 4; ++t) {
      if (bad_step && t == 2) {
        draw_gradients(store, 77);
        store.grad(1).ptr<float>()[3] = std::numeric_limits<float>::infinity();
        optimizer.gradient_norm();
        optimizer.step(0.01);
      }
      draw_gradients(store, t);
      optimizer.gradient_norm();
      optimizer.step(0.01);
    }
    CHECK(optimizer.numbers().at("steps") == std::vector<double>(store.entries().size(), 4.0));
    return store.values().to_vector<float>();
  };
  CHECK(train(true) == train(false));
}

TEST_CASE("a count of steps that no run has taken is refused") {
  ParamStore store(DType::f32, kCpu);
  declare(store);
  Optimizer optimizer(rule("adamw", 0.01), store);
  for (const double steps : {-1.0, 1e300, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_WITH_AS(optimizer.set_numbers({{"steps", std::vector<double>(store.entries().size(), steps)}}),
                         doctest::Contains("expected 0 to 2^31 - 1"), Error);
}

TEST_CASE("layer-wise decay: the rate of a block is a share of that of the block above") {
  ParamStore store(DType::f32, kCpu);
  const Scope root(store);
  const auto declare = [](const Scope& s) { return s.param("weight", Shape{3}, {kNone}, Init::ones(), true); };
  declare(root / "stem");
  for (int i = 0; i < 3; ++i) declare((root / "blocks" / std::to_string(i)).in_block(i));
  declare(root / "between");  // two groups of blocks, as VOLO has: it goes with the block before it
  for (int i = 0; i < 2; ++i) declare((root / "upper" / std::to_string(i)).in_block(i));
  declare(root / "head");
  store.allocate();
  store.initialise(1);
  store.zero_grads();
  OptimConfig config;
  config.name = "sgd";
  config.momentum = 0;
  config.weight_decay = 0;
  config.clip = 0;
  config.layer_decay = 0.5;
  Optimizer optimizer(config, store);
  update::fill(store.grads(), 1.0f);
  optimizer.gradient_norm();
  optimizer.step(0.1);
  // 0.5^(L + 1 - k): the stem has k = 0, block i has i + 1, the head L + 1.
  const std::vector<double> scales = {1.0 / 64, 1.0 / 32, 1.0 / 16, 1.0 / 8, 1.0 / 8, 1.0 / 4, 1.0 / 2, 1};
  for (size_t i = 0; i < scales.size(); ++i) {
    CAPTURE(store.entries()[i].name);
    for (const float v : store.value(static_cast<int>(i)).to_vector<float>())
      CHECK(v == doctest::Approx(1 - 0.1 * scales[i]).epsilon(1e-6));
  }
}
