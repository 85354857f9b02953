// Training in the span of snapshots: every form of a step against plain loops in f64, and what the method does on toy
// problems (their definition: twa_toy.h).
#include <doctest/doctest.h>

#include "tests/twa_toy.h"
#include "training/subspace.h"
#include "training/trainers/twa.h"

using namespace accrete;

namespace {

using Vec = std::vector<double>;
using Shuffle = std::function<const int*(int step)>;

const toy::Data& noisy_data() {
  static const toy::Data data = toy::draw(60000, 2.4, 0, 1);
  return data;
}
const toy::Run& noisy() {
  static const toy::Run run(noisy_data(), 40, 20, 0.05f);
  return run;
}

double dot_of(const Vec& a, const Vec& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }
double difference(const Vec& a, const Vec& b) {
  double s = 0;
  for (size_t k = 0; k < a.size(); ++k) s += (a[k] - b[k]) * (a[k] - b[k]);
  return std::sqrt(s / dot_of(b, b));
}
Vec uniform(int n) { return Vec(static_cast<size_t>(n), 1.0 / n); }
Vec only(int n, int i) {
  Vec v(static_cast<size_t>(n), 0.0);
  v[static_cast<size_t>(i)] = 1;
  return v;
}

OptimConfig sgd(double weight_decay = 0) {
  OptimConfig c;
  c.name = "sgd", c.weight_decay = weight_decay, c.clip = 0;
  return c;
}
OptimConfig adamw() {
  OptimConfig c;
  c.weight_decay = 0, c.clip = 0, c.beta2 = 0.999;
  return c;
}

// A store at sum_i alpha_i w_i with a stepper over the span.
struct Trainer {
  TempFolder folder;
  std::unique_ptr<ParamStore> store = toy::make_store();
  std::unique_ptr<Subspace> stepper;

  Trainer(const SnapshotFiles& files, const OptimConfig& optim, const Vec& alpha, const BasisConfig& rows = {},
          double reach = 0) {
    const int n = files.count();
    Vec sum(toy::kCount, 0.0);
    std::vector<float> w(toy::kCount);
    for (int i = 0; i < n; ++i) {
      if (alpha[static_cast<size_t>(i)] == 0) continue;
      files.read(i, 0, toy::kCount, w.data());
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += alpha[static_cast<size_t>(i)] * static_cast<double>(w[k]);
    }
    std::copy(sum.begin(), sum.end(), values());
    stepper = std::make_unique<Subspace>(optim, *store, Basis(files, rows, folder.path()), alpha, reach);
  }
  float* values() const { return store->values().ptr<float>(); }
  Vec weights() const { return {values(), values() + toy::kCount}; }

  double step(const toy::Data& data, const int* samples, double lr) {
    const double loss = toy::loss(values(), store->grads().ptr<float>(), data, samples, toy::kBatch);
    stepper->gradient_norm();
    stepper->step(lr, BlockSet{});
    return loss;
  }
  // Epochs with the rate cut to a tenth at `cuts` (epochs); returns the loss over all the data.
  double train(const toy::Data& data, int epochs, double lr, std::vector<int> cuts) {
    for (int epoch = 0; epoch < epochs; ++epoch) {
      const auto order = toy::shuffled(data.count(), 77 + static_cast<uint64_t>(epoch));
      double rate = lr;
      for (const int cut : cuts) rate *= epoch >= cut ? 0.1 : 1;
      for (int first = 0; first + toy::kBatch <= data.count(); first += toy::kBatch)
        step(data, order.data() + first, rate);
    }
    return toy::mean_loss(values(), data);
  }
};

Vec gradient(const Vec& w, const toy::Data& data, const int* samples, int count = toy::kBatch) {
  Vec g(w.size());
  toy::loss(w.data(), g.data(), data, samples, count);
  return g;
}

std::vector<Vec> rows_of(const Basis& basis) {
  std::vector<Vec> rows;
  for (int q = 0; q < basis.size(); ++q) {
    std::vector<float> zero(toy::kCount, 0.0f), out(zero);
    Vec change(static_cast<size_t>(basis.size()), 0.0);
    change[static_cast<size_t>(q)] = 1;
    basis.expand(out.data(), zero.data(), change);
    rows.emplace_back(out.begin(), out.end());
  }
  return rows;
}

// K x = b by elimination; K symmetric positive.
Vec solve(std::vector<Vec> k, Vec b) {
  const size_t n = b.size();
  for (size_t p = 0; p < n; ++p)
    for (size_t i = p + 1; i < n; ++i) {
      const double f = k[i][p] / k[p][p];
      for (size_t j = p; j < n; ++j) k[i][j] -= f * k[p][j];
      b[i] -= f * b[p];
    }
  for (size_t p = n; p-- > 0;) {
    for (size_t j = p + 1; j < n; ++j) b[p] -= k[p][j] * b[j];
    b[p] /= k[p][p];
  }
  return b;
}

}  // namespace

TEST_CASE("the projected gradient is the slope along each row") {
  const SnapshotFiles files = noisy().snapshots();
  const Trainer t(files, sgd(), uniform(files.count()));
  const auto samples = toy::numbers(400);
  const Vec w = t.weights(), g = gradient(w, noisy_data(), samples.data(), 400);
  const std::vector<Vec> rows = rows_of(t.stepper->basis());
  const std::vector<float> gf(g.begin(), g.end());
  const Vec x = t.stepper->basis().project(gf.data());
  for (size_t q = 0; q < 10; ++q) {
    // Small enough that hardly any unit crosses the kink of its activation.
    const double h = 1e-6;
    Vec up = w, down = w;
    for (size_t k = 0; k < w.size(); ++k) up[k] += h * rows[q][k], down[k] -= h * rows[q][k];
    const double slope = (toy::loss<double>(up.data(), nullptr, noisy_data(), samples.data(), 400) -
                          toy::loss<double>(down.data(), nullptr, noisy_data(), samples.data(), 400)) /
                         (2 * h);
    CHECK(std::fabs(slope - x[q]) <= 1e-5 * std::max(std::fabs(x[q]), 0.1));
  }
}

TEST_CASE("coordinates, the whole space and the Gram matrix give the same training") {
  const SnapshotFiles files = noisy().snapshots();
  const auto n = static_cast<size_t>(files.count());
  const double lr = 0.3, decay = 1e-3, mu = 0.9;
  Trainer t(files, sgd(decay), uniform(files.count()));
  const std::vector<Vec> rows = rows_of(t.stepper->basis());
  std::vector<Vec> snapshots, gram(n, Vec(n));
  for (size_t i = 0; i < n; ++i) {
    std::vector<float> w(toy::kCount);
    files.read(static_cast<int>(i), 0, toy::kCount, w.data());
    snapshots.emplace_back(w.begin(), w.end());
  }
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) gram[i][j] = dot_of(snapshots[i], snapshots[j]);

  Vec w = t.weights(), momentum(w.size(), 0.0);                // whole space, projected gradient
  Vec alpha = uniform(files.count()), m(n, 0.0), v(w.size());  // shares of the snapshots
  const auto order = toy::shuffled(noisy_data().count(), 3);
  for (int s = 0; s < 100; ++s) {
    const int* samples = order.data() + s * toy::kBatch;
    t.step(noisy_data(), samples, lr);

    const Vec g = gradient(w, noisy_data(), samples);
    Vec along(w.size(), 0.0);
    for (const Vec& p : rows) {
      const double a = dot_of(p, g);
      for (size_t k = 0; k < w.size(); ++k) along[k] += a * p[k];
    }
    for (size_t k = 0; k < w.size(); ++k) {
      momentum[k] = mu * momentum[k] + along[k] + decay * w[k];
      w[k] -= lr * momentum[k];
    }

    std::fill(v.begin(), v.end(), 0.0);
    for (size_t i = 0; i < n; ++i)
      for (size_t k = 0; k < v.size(); ++k) v[k] += alpha[i] * snapshots[i][k];
    const Vec h = gradient(v, noisy_data(), samples);
    Vec b(n);
    for (size_t i = 0; i < n; ++i) b[i] = dot_of(snapshots[i], h);
    const Vec d = solve(gram, b);
    for (size_t i = 0; i < n; ++i) m[i] = mu * m[i] + d[i] + decay * alpha[i], alpha[i] -= lr * m[i];
  }
  std::fill(v.begin(), v.end(), 0.0);
  for (size_t i = 0; i < n; ++i)
    for (size_t k = 0; k < v.size(); ++k) v[k] += alpha[i] * snapshots[i][k];
  CHECK(difference(t.weights(), w) <= 1e-5);
  CHECK(difference(t.weights(), v) <= 1e-5);
  const Vec found = t.stepper->basis().alpha_of(t.stepper->coefficients());
  for (size_t i = 0; i < n; ++i) CHECK(std::fabs(found[i] - alpha[i]) < 1e-5);
}

TEST_CASE("sgd sees the span only, adamw sees the rows") {
  const SnapshotFiles files = noisy().snapshots();
  const int n = files.count();
  // The same span: snapshots in the other order, each a multiple of what it was.
  const TempFolder folder;
  const auto store = toy::make_store();
  std::vector<std::filesystem::path> paths;
  Vec alpha;
  for (int i = 0; i < n; ++i) {
    files.read(n - 1 - i, store->values());
    const float scale = i % 2 ? -0.5f : 2.0f + static_cast<float>(i);
    for (int k = 0; k < toy::kCount; ++k) store->values().ptr<float>()[k] *= scale;
    alpha.push_back(1.0 / n / scale);
    paths.push_back(folder / (std::to_string(i) + ".safetensors"));
    save_flat(paths.back(), store->entries(), store->values());
  }
  const SnapshotFiles other(paths, store->entries());
  const auto order = toy::shuffled(noisy_data().count(), 4);
  const auto run = [&](const SnapshotFiles& f, const OptimConfig& optim, const Vec& a, double lr) {
    Trainer t(f, optim, a);
    for (int s = 0; s < 50; ++s) t.step(noisy_data(), order.data() + s * toy::kBatch, lr);
    return t.weights();
  };
  CHECK(difference(run(other, sgd(1e-3), alpha, 0.3), run(files, sgd(1e-3), uniform(n), 0.3)) <= 1e-5);
  CHECK(difference(run(other, adamw(), alpha, 0.02), run(files, adamw(), uniform(n), 0.02)) > 1e-4);
}

TEST_CASE("the first snapshot twice changes nothing") {
  const toy::Run& run = noisy();
  const SnapshotFiles files = run.snapshots();
  std::vector<std::filesystem::path> paths = run.files;
  paths.push_back(run.files[4]);
  const SnapshotFiles more(paths, files.entries());
  Vec alpha = uniform(files.count());
  const auto order = toy::shuffled(noisy_data().count(), 5);
  Trainer a(files, sgd(1e-3), alpha);
  alpha.push_back(0);
  Trainer b(more, sgd(1e-3), alpha);
  REQUIRE(b.stepper->basis().rank() == files.count());
  for (int s = 0; s < 50; ++s) {
    a.step(noisy_data(), order.data() + s * toy::kBatch, 0.3);
    b.step(noisy_data(), order.data() + s * toy::kBatch, 0.3);
  }
  CHECK(difference(b.weights(), a.weights()) <= 1e-5);
}

TEST_CASE("a rate of 0 keeps every bit; two snapshots span a line; training stays in the span") {
  const SnapshotFiles files = noisy().snapshots();
  const auto order = toy::shuffled(noisy_data().count(), 6);
  for (const std::string precision : {"f32", "bf16", "q8", "q4", "q2", "q1"}) {
    for (const bool center : {false, true}) {
      Trainer t(files, center ? adamw() : sgd(1e-3), uniform(files.count()),
                {.center = center,
                 .rows = center ? "unit" : "orthonormal",
                 .blocks = center ? "per_tensor" : "single",
                 .precision = precision});
      const Vec before = t.weights();
      t.step(noisy_data(), order.data(), 0.0);
      CHECK(t.weights() == before);
    }
  }
  const SnapshotFiles two = noisy().snapshots(2);
  Trainer line(two, adamw(), uniform(2), {.center = true, .rows = "unit"});
  for (int s = 0; s < 20; ++s) line.step(noisy_data(), order.data() + s * toy::kBatch, 0.01);
  Vec a(toy::kCount), d(toy::kCount), moved = line.weights();
  {
    std::vector<float> u(toy::kCount), v(toy::kCount);
    two.read(0, 0, toy::kCount, u.data()), two.read(1, 0, toy::kCount, v.data());
    for (size_t k = 0; k < a.size(); ++k) {
      d[k] = static_cast<double>(v[k]) - u[k];
      moved[k] -= 0.5 * (static_cast<double>(u[k]) + v[k]);
    }
  }
  const double along = dot_of(moved, d) / std::sqrt(dot_of(d, d)), whole = std::sqrt(dot_of(moved, moved));
  CHECK(whole > 1e-3);
  CHECK(std::fabs(along) == doctest::Approx(whole).epsilon(1e-4));

  Trainer t(files, sgd(1e-5), uniform(files.count()));
  for (int s = 0; s < 400; ++s) t.step(noisy_data(), order.data() + s % 200 * toy::kBatch, 0.5);
  const Vec w = t.weights();
  Vec rest = w;
  for (const Vec& p : rows_of(t.stepper->basis())) {
    const double c = dot_of(p, w);
    for (size_t k = 0; k < rest.size(); ++k) rest[k] -= c * p[k];
  }
  CHECK(std::sqrt(dot_of(rest, rest) / dot_of(w, w)) <= 1e-6);
}

TEST_CASE("continued from its numbers: the same bits; clipping before the projection") {
  const SnapshotFiles files = noisy().snapshots();
  const auto order = toy::shuffled(noisy_data().count(), 7);
  for (const OptimConfig& optim : {sgd(1e-3), adamw()}) {
    Trainer a(files, optim, uniform(files.count())), b(files, optim, uniform(files.count()));
    const double lr = optim.name == "sgd" ? 0.3 : 0.01;
    for (int s = 0; s < 10; ++s) a.step(noisy_data(), order.data() + s * toy::kBatch, lr);
    b.stepper->set_numbers(a.stepper->numbers());
    b.store->values().copy_from(a.store->values());
    for (int s = 10; s < 20; ++s) {
      a.step(noisy_data(), order.data() + s * toy::kBatch, lr);
      b.step(noisy_data(), order.data() + s * toy::kBatch, lr);
    }
    CHECK(a.weights() == b.weights());
    CHECK(a.stepper->numbers() == b.stepper->numbers());
  }
  OptimConfig clipped = sgd();
  clipped.clip = 0.01;
  Trainer a(files, sgd(), uniform(files.count())), b(files, clipped, uniform(files.count()));
  const Vec x0 = a.stepper->coefficients();
  a.step(noisy_data(), order.data(), 0.1);
  const double norm = a.stepper->gradient_norm();
  REQUIRE(norm > 0.01);
  b.step(noisy_data(), order.data(), 0.1);
  for (size_t i = 0; i < x0.size(); ++i)
    CHECK(b.stepper->coefficients()[i] - x0[i] ==
          doctest::Approx((a.stepper->coefficients()[i] - x0[i]) * 0.01 / norm).epsilon(1e-4));
}

TEST_CASE("reach: a good rate does not notice it, a senseless one stays finite") {
  const SnapshotFiles files = noisy().snapshots();
  const int n = files.count();
  const auto order = toy::shuffled(noisy_data().count(), 10);
  // The spread, by plain loops.
  std::vector<Vec> w;
  Vec mean(toy::kCount, 0.0);
  for (int i = 0; i < n; ++i) {
    std::vector<float> x(toy::kCount);
    files.read(i, 0, toy::kCount, x.data());
    w.emplace_back(x.begin(), x.end());
    for (size_t k = 0; k < mean.size(); ++k) mean[k] += w.back()[k] / n;
  }
  double spread2 = 0;
  for (const Vec& x : w)
    for (size_t k = 0; k < mean.size(); ++k) spread2 += (x[k] - mean[k]) * (x[k] - mean[k]) / n;
  const auto run = [&](double lr, double reach, bool center) {
    Trainer t(files, sgd(), uniform(n), {.center = center}, reach);
    CHECK(t.stepper->basis().report().spread == doctest::Approx(std::sqrt(spread2)).epsilon(1e-6));
    Vec before = t.stepper->coefficients();
    for (int s = 0; s < 40; ++s) {
      t.step(noisy_data(), order.data() + s * toy::kBatch, lr);
      const Vec now = t.stepper->coefficients();
      double length2 = 0;
      for (size_t i = 0; i < now.size(); ++i) length2 += (now[i] - before[i]) * (now[i] - before[i]);
      if (reach > 0) CHECK(std::sqrt(length2) <= reach * std::sqrt(spread2) * (1 + 1e-6));
      before = now;
    }
    return std::pair(t.weights(), t.stepper->numbers().at("limited")[0]);
  };
  const auto free = run(0.1, 0, false), held = run(0.1, 0.2, false);
  CHECK(held.second == 0);
  CHECK(held.first == free.first);
  const auto wild = run(1e4, 0.2, true);
  CHECK(wild.second > 0);
  for (const double x : wild.first) REQUIRE(std::isfinite(x));
}

TEST_CASE("adamw on coefficients: ten steps by the formula") {
  const SnapshotFiles files = noisy().snapshots();
  OptimConfig optim = adamw();
  optim.weight_decay = 0.02;
  Trainer t(files, optim, uniform(files.count()), {.center = true, .rows = "unit"});
  const auto order = toy::shuffled(noisy_data().count(), 8);
  Vec x = t.stepper->coefficients(), m(x.size(), 0.0), v(x.size(), 0.0);
  for (int s = 1; s <= 10; ++s) {
    std::vector<float> g(toy::kCount);
    toy::loss(t.values(), g.data(), noisy_data(), order.data() + s * toy::kBatch, toy::kBatch);
    const Vec p = t.stepper->basis().project(g.data());
    for (size_t i = 0; i < x.size(); ++i) {
      m[i] = 0.9 * m[i] + 0.1 * p[i];
      v[i] = 0.999 * v[i] + 0.001 * p[i] * p[i];
      x[i] -= 0.01 * 0.02 * x[i];
      x[i] -= 0.01 * (m[i] / (1 - std::pow(0.9, s))) / (std::sqrt(v[i] / (1 - std::pow(0.999, s))) + 1e-8);
    }
    // beta1 is 0.9 as everywhere.
    t.step(noisy_data(), order.data() + s * toy::kBatch, 0.01);
    for (size_t i = 0; i < x.size(); ++i) REQUIRE(t.stepper->coefficients()[i] == doctest::Approx(x[i]).epsilon(1e-9));
  }
}

TEST_CASE("noise-dominated toy problem: below SWA, LAWA and EMA, whatever the rate and the start") {
  const toy::Data& data = noisy_data();
  const toy::Run& run = noisy();
  const SnapshotFiles files = run.snapshots();
  const int n = files.count();
  const Tensor mean = Tensor::zeros(Shape{files.flat_count()});
  const auto loss_of = [&](const std::vector<int>& which) {
    files.mean(which, mean);
    return toy::mean_loss(mean.ptr<float>(), data);
  };
  const std::vector<int> all = toy::numbers(n);
  const double swa = loss_of(all), lawa = loss_of({all.end() - 10, all.end()});
  const double ema = toy::mean_loss(run.ema.data(), data);
  const auto train = [&](double lr, const Vec& start, bool center) {
    Trainer t(files, sgd(1e-5), start, {.center = center});
    return t.train(data, 10, lr, {5, 8});
  };
  const double slow = train(0.1, uniform(n), false), fast = train(2, uniform(n), false);
  const double from_last = train(2, only(n, n - 1), false), centred = train(2, uniform(n), true);
  MESSAGE("training loss: SWA ", swa, ", LAWA ", lawa, ", EMA ", ema, ", trained at rate 0.1 ", slow, ", 2 ", fast,
          ", from the last ", from_last, ", centred ", centred);
  for (const double loss : {slow, fast}) {
    CHECK(loss <= 0.9 * swa);
    CHECK(loss <= lawa);
    CHECK(loss <= ema + 0.01);
  }
  CHECK(std::fabs(slow - fast) < 0.005);
  CHECK(std::fabs(from_last - fast) < 0.005);
  CHECK(fast <= centred + 0.002);  // the larger span
}

TEST_CASE("ill-conditioned toy problem at the paper's rate: finite and low with a basis that is orthonormal") {
  const toy::Data data = toy::draw(10000, 2.2, 0.2, 3);
  const toy::Run run(data, 60, 60, 0.1f);
  const SnapshotFiles files = run.snapshots();
  Trainer t(files, sgd(), uniform(files.count()));
  CHECK(t.stepper->basis().report().cond > 1e4);
  CHECK(t.stepper->basis().report().lambda_max <= 1 + 1e-5);
  const double before = toy::mean_loss(t.values(), data), after = t.train(data, 10, 2, {5, 8});
  MESSAGE("training loss ", before, " -> ", after, ", condition ", t.stepper->basis().report().cond);
  CHECK(std::isfinite(after));
  CHECK(after <= 0.06);
}

TEST_CASE("noisy labels: shares trained on held-out data beat the plain average, on training data they do not") {
  const toy::Data data = toy::draw(20000, 2.2, 0.2, 4), held_out = toy::draw(1000, 2.2, 0, 5),
                  test = toy::draw(20000, 2.2, 0, 6);
  const toy::Run run(data, 60, 30, 0.1f);
  const SnapshotFiles files = run.snapshots();
  const auto accuracy = [&](const Trainer& t) {
    int correct = 0;
    toy::loss<float>(t.values(), nullptr, test, toy::numbers(test.count()).data(), test.count(), &correct);
    return 100.0 * correct / test.count();
  };
  Trainer v(files, sgd(1e-5), uniform(files.count())), t(files, sgd(1e-5), uniform(files.count()));
  const double before = toy::mean_loss(v.values(), held_out), swa = accuracy(v);
  const double after = v.train(held_out, 50, 0.5, {25, 38});
  t.train(data, 10, 0.5, {5, 8});
  MESSAGE("held-out loss ", before, " -> ", after, "; test accuracy: SWA ", swa, ", shares trained on held-out data ",
          accuracy(v), ", on training data ", accuracy(t));
  CHECK(after <= 0.85 * before);
  CHECK(accuracy(v) >= swa + 1);
  CHECK(accuracy(t) < swa);
}

TEST_CASE("more snapshots never worsen what is optimised by more than noise") {
  const toy::Run& run = noisy();
  double before = 1e9;
  for (const int n : {5, 10, 20}) {  // nested: the last n
    const SnapshotFiles files({run.files.end() - n, run.files.end()}, toy::make_store()->entries());
    Trainer t(files, sgd(1e-5), uniform(n));
    const double loss = t.train(noisy_data(), 2, 1, {1});
    CHECK(loss <= before + 0.003);
    before = loss;
  }
}

TEST_CASE("a small rate lowers the loss of a fixed batch at every step") {
  const SnapshotFiles files = noisy().snapshots();
  OptimConfig optim = sgd();
  optim.momentum = 0;
  Trainer t(files, optim, uniform(files.count()));
  const auto order = toy::shuffled(noisy_data().count(), 9);
  double before = 1e9;
  for (int s = 0; s < 20; ++s) {
    const double loss = t.step(noisy_data(), order.data(), 0.1);
    CHECK(loss < before);
    before = loss;
  }
}
