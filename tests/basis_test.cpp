// The basis of snapshots: orthonormality on trajectories of every condition, coordinates, blocks, quantised rows,
// shares of several processes, bounded memory. Reference: plain loops in f64.
#include <doctest/doctest.h>

#include <malloc.h>

#include <atomic>
#include <barrier>
#include <new>
#include <thread>

#include "tests/twa_toy.h"
#include "training/basis.h"

using namespace accrete;

// All memory of this program that is not mapped, to prove how little a basis takes.
namespace {
std::atomic<int64_t> live{0}, peak{0};
void* counted(void* p) {
  if (!p) throw std::bad_alloc();
  const int64_t now = live += static_cast<int64_t>(malloc_usable_size(p));
  int64_t before = peak;
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
  return p;
}
void forgotten(void* p) noexcept {
  if (p) live -= static_cast<int64_t>(malloc_usable_size(p));
  std::free(p);
}
}  // namespace
void* operator new(size_t n) { return counted(std::malloc(n ? n : 1)); }
void operator delete(void* p) noexcept { forgotten(p); }
void operator delete(void* p, size_t) noexcept { forgotten(p); }

namespace {

using Vec = std::vector<double>;

double dot_of(const Vec& a, const Vec& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }
double length(const Vec& a) { return std::sqrt(dot_of(a, a)); }
double distance(const Vec& a, const Vec& b) {
  double s = 0;
  for (size_t k = 0; k < a.size(); ++k) s += (a[k] - b[k]) * (a[k] - b[k]);
  return std::sqrt(s);
}

// A well-conditioned trajectory (noise, constant rate) and an ill-conditioned one (converged, decayed rate).
const toy::Run& noisy() {
  static const toy::Run run(toy::draw(20000, 2.4, 0, 1), 40, 20, 0.05f);
  return run;
}
const toy::Run& converged() {
  static const toy::Run run(toy::draw(10000, 1.6, 0, 2), 60, 60, 0.1f);
  return run;
}

Vec snapshot_of(const SnapshotFiles& files, int i) {
  std::vector<float> w(toy::kCount);
  files.read(i, 0, toy::kCount, w.data());
  return {w.begin(), w.end()};
}

// Row q of block l: what a change of its coefficient by 1 does to zero weights.
Vec row_of(const Basis& basis, int number) {
  std::vector<float> zero(toy::kCount, 0.0f), out(zero);
  Vec change(static_cast<size_t>(basis.size()), 0.0);
  change[static_cast<size_t>(number)] = 1;
  basis.expand(out.data(), zero.data(), change);
  return {out.begin(), out.end()};
}

std::vector<Vec> rows_of(const Basis& basis) {
  std::vector<Vec> rows;
  for (int q = 0; q < basis.size(); ++q) rows.push_back(row_of(basis, q));
  return rows;
}

double orthogonality_error(const std::vector<Vec>& rows) {
  double most = 0;
  for (size_t i = 0; i < rows.size(); ++i)
    for (size_t j = 0; j <= i; ++j) most = std::max(most, std::fabs(dot_of(rows[i], rows[j]) - (i == j)));
  return most;
}

Vec projected(const std::vector<Vec>& rows, const Vec& v) {
  Vec out(v.size(), 0.0);
  for (const Vec& p : rows) {
    const double a = dot_of(p, v);
    for (size_t k = 0; k < v.size(); ++k) out[k] += a * p[k];
  }
  return out;
}

Vec combined(const SnapshotFiles& files, const Vec& alpha) {
  Vec w(toy::kCount, 0.0);
  for (int i = 0; i < files.count(); ++i) {
    const Vec x = snapshot_of(files, i);
    for (size_t k = 0; k < w.size(); ++k) w[k] += alpha[static_cast<size_t>(i)] * x[k];
  }
  return w;
}

Vec one_hot(int n, int i) {
  Vec v(static_cast<size_t>(n), 0.0);
  v[static_cast<size_t>(i)] = 1;
  return v;
}

}  // namespace

TEST_CASE("orthonormal rows on good and bad trajectories, and a span that holds every snapshot") {
  for (const bool good : {true, false}) {
    CAPTURE(good);
    const SnapshotFiles files = (good ? noisy() : converged()).snapshots();
    for (const std::string rows : {"orthonormal", "cgs2"}) {
      CAPTURE(rows);
      const TempFolder folder;
      const Basis basis(files, {.rows = rows}, folder.path());
      CHECK(basis.rank() == files.count());
      MESSAGE("snapshots ", files.count(), ", condition ", basis.report().cond, ", max |P^T P - I| ",
              basis.report().orthogonality_error);
      if (good)
        CHECK(basis.report().cond < 1e3);
      else
        CHECK(basis.report().cond > 1e5);
      const std::vector<Vec> p = rows_of(basis);
      CHECK(length(p[0]) == doctest::Approx(1).epsilon(1e-6));
      CHECK(orthogonality_error(p) <= 1e-6);
      CHECK(basis.report().orthogonality_error <= 1e-6);
      CHECK(basis.report().lambda_max <= 1 + 1e-6);
      for (int i = 0; i < files.count(); ++i) {
        const Vec w = snapshot_of(files, i);
        CHECK(distance(projected(p, w), w) <= 1e-5 * length(w));
      }
      toy::Random r{std::mt19937_64(4)};
      Vec v(toy::kCount);
      for (double& x : v) x = r.normal();
      const Vec once = projected(p, v);
      CHECK(distance(projected(p, once), once) <= 1e-6 * length(once));
    }
  }
}

TEST_CASE("Gram-Schmidt as released fails on the bad trajectory: the test above has teeth") {
  const TempFolder folder;
  const SnapshotFiles files = converged().snapshots();
  const Basis basis(files, {.rows = "cgs1_f32"}, folder.path());
  MESSAGE("max |P^T P - I| ", basis.report().orthogonality_error, ", largest eigenvalue ", basis.report().lambda_max);
  CHECK(basis.report().orthogonality_error > 0.1);
  CHECK(basis.report().lambda_max > 1.5);
  CHECK(orthogonality_error(rows_of(basis)) > 0.1);
  // The same code on the good trajectory is right.
  const TempFolder other;
  CHECK(Basis(noisy().snapshots(), {.rows = "cgs1_f32"}, other.path()).report().orthogonality_error < 1e-4);
}

TEST_CASE("coordinates: shares of snapshots to coefficients and back, with every kind of rows") {
  const SnapshotFiles files = noisy().snapshots();
  const int n = files.count();
  const Vec mean = combined(files, Vec(static_cast<size_t>(n), 1.0 / n));
  for (const bool center : {false, true}) {
    for (const std::string rows : {"orthonormal", "cgs2", "unit"}) {
      CAPTURE(center);
      CAPTURE(rows);
      const TempFolder folder;
      const Basis basis(files, {.center = center, .rows = rows}, folder.path());
      if (rows == "orthonormal") CHECK(basis.rank() == n - center);
      // From shares that sum to one to weights and back.
      Vec mixed(static_cast<size_t>(n), 0.4 / n);
      mixed[2] += 1.1, mixed[5] -= 0.5;
      for (const Vec& alpha : {Vec(static_cast<size_t>(n), 1.0 / n), one_hot(n, 0), one_hot(n, n - 1), mixed}) {
        const Vec x = basis.coefficients_of(alpha), back = basis.alpha_of(x);
        for (int i = 0; i < n; ++i)
          CHECK(std::fabs(back[static_cast<size_t>(i)] - alpha[static_cast<size_t>(i)]) < 1e-5);
        std::vector<float> start(toy::kCount, 0.0f), out(toy::kCount);
        if (center) std::copy(mean.begin(), mean.end(), start.begin());
        basis.expand(out.data(), start.data(), x);
        const Vec expected = combined(files, alpha);
        CHECK(distance({out.begin(), out.end()}, expected) <= 1e-5 * length(expected));
        // P^T w is the coefficients, where the rows are orthonormal.
        if (rows != "unit" && !center) {
          const std::vector<float> w(expected.begin(), expected.end());
          CHECK(distance(basis.project(w.data()), x) <= 1e-5 * length(x));
        }
      }
    }
  }
}

TEST_CASE("products against dense rows, in every precision; stored rows have length 1 and few bytes") {
  const SnapshotFiles files = noisy().snapshots();
  std::vector<float> g(toy::kCount);
  toy::Random r{std::mt19937_64(5)};
  for (float& v : g) v = static_cast<float>(r.normal());
  const Vec dense(g.begin(), g.end());
  for (const std::string precision : {"f32", "bf16", "q8", "q4", "q2", "q1"}) {
    CAPTURE(precision);
    const TempFolder folder;
    const Basis basis(files, {.center = true, .rows = "unit", .blocks = "per_tensor", .precision = precision},
                      folder.path());
    REQUIRE(basis.blocks() == 6);
    const Vec x = basis.project(g.data());
    for (int q = 0; q < basis.size(); q += 7) {
      const Vec p = row_of(basis, q);
      CHECK(length(p) == doctest::Approx(1).epsilon(1e-6));
      CHECK(std::fabs(x[static_cast<size_t>(q)] - dot_of(p, dense)) <= 2e-6 * length(dense));
    }
    const double bits = bits_of(precision_of(precision)) + (precision[0] == 'q' ? 0.5 : 0);
    CHECK(static_cast<double>(basis.report().bytes) ==
          doctest::Approx(bits / 8 * toy::kCount * files.count()).epsilon(0.02));
    if (precision == "q8") CHECK(basis.report().cosine >= 0.9999);
    if (precision == "q4") CHECK(basis.report().cosine >= 0.99);
    if (precision == "q1") CHECK(basis.report().cosine >= 0.6);  // of 10 biases
    // Step 0: no change leaves every bit, also of negative zeros and subnormal numbers.
    std::vector<float> start = g, out(g.size());
    start[3] = -0.0f, start[4] = 1e-42f;
    basis.expand(out.data(), start.data(), Vec(static_cast<size_t>(basis.size()), 0.0));
    CHECK(std::memcmp(out.data(), start.data(), toy::kCount * sizeof(float)) == 0);
  }
}

TEST_CASE("blocks: the rules, gaps of frozen parameters") {
  const auto store = toy::make_store();
  const auto sizes = [&](const std::string& rule) {
    std::vector<int64_t> list;
    for (const accrete::Run& r : cut_blocks(store->entries(), rule)) {
      if (r.block == static_cast<int>(list.size())) list.push_back(0);
      list.back() += r.count;
    }
    return list;
  };
  CHECK(sizes("single") == std::vector<int64_t>{toy::kCount});
  CHECK(sizes("per_tensor") == std::vector<int64_t>{6144, 96, 9216, 96, 960, 10});
  // A new block when the present one has more than N elements.
  CHECK(sizes("min_elements:0") == sizes("per_tensor"));
  CHECK(sizes("min_elements:96") == std::vector<int64_t>{6144, 96 + 9216, 96 + 960, 10});
  CHECK(sizes("min_elements:6144") == std::vector<int64_t>{6144 + 96, 9216, 96 + 960 + 10});
  store->set_trainable(2, false);
  CHECK(sizes("single") == std::vector<int64_t>{toy::kCount - 9216});
  CHECK(sizes("per_tensor") == std::vector<int64_t>{6144, 96, 96, 960, 10});
  for (const char* bad : {"", "layers", "min_elements:", "min_elements:-1", "min_elements:x", "per_tensor2"})
    CHECK_THROWS_WITH_AS(check_block_rule(bad), doctest::Contains("expected single, per_tensor, per_block"), Error);

  ParamStore deep(DType::f32, kCpu);  // embedding | block 0: two | block 1: two | norm
  const Scope root(deep);
  root.param("table", {40}, {kNone}, Init::zeros(), true);
  for (int i = 0; i < 2; ++i) {
    const Scope block = (root / "layers" / std::to_string(i)).in_block(i);
    block.param("a", {30}, {kNone}, Init::zeros(), true);
    block.param("b", {20}, {kNone}, Init::zeros(), true);
  }
  root.param("norm", {7}, {kNone}, Init::zeros(), true);
  deep.allocate();
  std::vector<int> blocks;
  for (const accrete::Run& r : cut_blocks(deep.entries(), "per_block")) blocks.push_back(r.block);
  CHECK(blocks == std::vector<int>{0, 1, 2, 3});
}

TEST_CASE("blocks tied over their rows are one block; shares sum to 1 in each") {
  const SnapshotFiles files = noisy().snapshots();
  const auto n = static_cast<size_t>(files.count());
  const TempFolder a, b;
  const Basis one(files, {.center = true, .rows = "unit"}, a.path());
  const Basis many(files, {.center = true, .rows = "unit", .blocks = "per_tensor"}, b.path());
  // Lengths of the rows: what coefficients_of puts before a share.
  Vec x(static_cast<size_t>(one.size())), y(static_cast<size_t>(many.size()));
  for (size_t i = 0; i < n; ++i) {
    const double z = 0.1 * static_cast<double>(i) - 0.7;
    const Vec e = one_hot(static_cast<int>(n), static_cast<int>(i));
    const double part = 1 - 1.0 / static_cast<double>(n);
    x[i] = z * one.coefficients_of(e)[i] / part;
    for (size_t l = 0; l < 6; ++l) y[l * n + i] = z * many.coefficients_of(e)[l * n + i] / part;
  }
  std::vector<float> zero(toy::kCount, 0.0f), u(zero), v(zero);
  one.expand(u.data(), zero.data(), x);
  many.expand(v.data(), zero.data(), y);
  const Vec du(u.begin(), u.end());
  CHECK(distance(du, {v.begin(), v.end()}) <= 1e-6 * length(du));
  toy::Random r{std::mt19937_64(6)};
  for (double& c : y) c = r.normal();
  const Vec alpha = many.alpha_of(y);
  for (size_t l = 0; l < 6; ++l)
    CHECK(std::accumulate(alpha.begin() + static_cast<ptrdiff_t>(l * n),
                          alpha.begin() + static_cast<ptrdiff_t>((l + 1) * n),
                          0.0) == doctest::Approx(1).epsilon(1e-5));
}

TEST_CASE("what is the same in all snapshots, one snapshot, equal snapshots: no row, no NaN, the same span") {
  const toy::Run& run = noisy();
  const auto store = toy::make_store();
  const TempFolder folder;
  std::vector<std::filesystem::path> files;
  for (int i = 0; i < 5; ++i) {  // b2 is frozen at 0.1, b3 is zero
    run.snapshots().read(i + 3, store->values());
    float* w = store->values().ptr<float>();
    std::fill(w + toy::kB2, w + toy::kW3, 0.1f);
    std::fill(w + toy::kB3, w + toy::kCount, 0.0f);
    files.push_back(folder / (std::to_string(i) + ".safetensors"));
    save_flat(files.back(), store->entries(), store->values());
  }
  const std::vector<float> g(toy::kCount, 1.0f);
  for (const std::string rows : {"unit", "orthonormal", "cgs2"}) {
    for (const std::string blocks : {"single", "per_tensor"}) {
      const TempFolder work;
      const Basis basis(SnapshotFiles(files, store->entries()), {.center = true, .rows = rows, .blocks = blocks},
                        work.path());
      const Vec x = basis.project(g.data());
      for (const double v : x) CHECK(std::isfinite(v));
      for (const double v : basis.alpha_of(x)) CHECK(std::isfinite(v));
      std::vector<float> out = g;
      basis.expand(out.data(), g.data(), x);
      for (int k = toy::kB2; k < toy::kW3; ++k) REQUIRE(out[static_cast<size_t>(k)] == 1.0f);
      for (int k = toy::kB3; k < toy::kCount; ++k) REQUIRE(out[static_cast<size_t>(k)] == 1.0f);
    }
  }
  // One snapshot: itself, or no direction at all.
  const TempFolder w1, w2, w3, w4;
  const SnapshotFiles one({files[0]}, store->entries());
  CHECK(orthonormal_basis(one, w1.path()).rank() == 1);
  const Basis none(one, {.center = true}, w2.path());
  CHECK(none.size() == 0);
  std::vector<float> out(toy::kCount);
  none.expand(out.data(), g.data(), none.project(g.data()));
  CHECK(out == g);
  // A snapshot again adds nothing.
  const Basis five(SnapshotFiles(files, store->entries()), {}, w3.path());
  files.push_back(files[2]);
  const Basis six(SnapshotFiles(files, store->entries()), {}, w4.path());
  CHECK(five.rank() == 5);
  CHECK(six.rank() == 5);
  const Vec v = snapshot_of(run.snapshots(), 9);
  CHECK(distance(projected(rows_of(five), v), projected(rows_of(six), v)) <= 1e-5 * length(v));
}

TEST_CASE("the same bits in every process and with any number of threads") {
  const SnapshotFiles files = noisy().snapshots();
  std::string first;
  Vec projection;
  std::vector<float> g(toy::kCount, 0.3f);
  for (const int threads : {1, 2, 3}) {
    set_threads(threads);
    const TempFolder folder;
    const Basis basis(files, {.precision = "q4"}, folder.path());
    const std::string bytes = file_bytes(folder / "basis.bin");
    if (first.empty()) first = bytes, projection = basis.project(g.data());
    CHECK(bytes == first);
    CHECK(basis.project(g.data()) == projection);
  }
  set_threads(1);
}

TEST_CASE("rows shared by processes: each holds its elements, and sums agree with one process") {
  for (const int64_t count : {0, 1, 2, 7, 100})
    for (const int ranks : {1, 2, 3, 8}) {
      int64_t smallest = count, largest = 0, sum = 0;
      for (int r = 0; r < ranks; ++r) {
        const int64_t share = share_begin(count, r + 1, ranks) - share_begin(count, r, ranks);
        smallest = std::min(smallest, share), largest = std::max(largest, share), sum += share;
      }
      CHECK(sum == count);
      CHECK(largest - smallest <= 1);
    }

  const SnapshotFiles files = noisy().snapshots();
  std::vector<float> g(toy::kCount), start(toy::kCount);
  toy::Random r{std::mt19937_64(8)};
  for (float& v : g) v = static_cast<float>(r.normal());
  for (float& v : start) v = static_cast<float>(r.normal());
  for (const std::string rows : {"orthonormal", "unit"}) {
    const BasisConfig config{.center = rows == "unit", .rows = rows, .blocks = "per_tensor", .precision = "q8"};
    const TempFolder alone;
    const Basis whole(files, config, alone.path());
    const Vec x = whole.project(g.data());
    std::vector<float> expected = start, out = start;
    whole.expand(expected.data(), start.data(), x);

    // Two threads stand for two processes: a sum waits until both have brought their part.
    constexpr int kRanks = 2;
    std::barrier meet(kRanks);
    std::vector<double> board;
    int64_t bytes[kRanks];
    const auto process = [&](int rank) {
      const TempFolder mine;
      const auto sum = [&](std::span<double> part) {
        if (rank == 0) board.assign(part.size(), 0.0);
        for (int turn = 0; turn < kRanks; ++turn) {
          meet.arrive_and_wait();
          if (turn == rank)
            for (size_t k = 0; k < part.size(); ++k) board[k] += part[k];
        }
        meet.arrive_and_wait();
        std::copy(board.begin(), board.end(), part.begin());
        meet.arrive_and_wait();
      };
      const Basis basis(files, config, mine.path(), {rank, kRanks, sum});
      bytes[rank] = basis.report().bytes;
      basis.expand(out.data(), start.data(), basis.project(g.data()));
    };
    std::thread second(process, 1);
    process(0);
    second.join();
    CHECK(bytes[0] + bytes[1] == whole.report().bytes);
    CHECK(bytes[0] > 0);
    CHECK(bytes[1] > 0);
    const Vec a(expected.begin(), expected.end()), b(out.begin(), out.end());
    CHECK(distance(a, b) <= 1e-6 * length(a));
  }
}

TEST_CASE("memory does not grow with the size of the model, and with the number of snapshots only by a tile") {
  const auto peak_of = [](int64_t elements, int count) {
    ParamStore store(DType::f32, kCpu);
    Scope(store).param("w", {elements}, {kNone}, Init::normal(1), true);
    store.allocate();
    const TempFolder folder;
    std::vector<std::filesystem::path> files;
    for (int i = 0; i < count; ++i) {
      store.initialise(static_cast<uint64_t>(i));
      files.push_back(folder / (std::to_string(i) + ".safetensors"));
      save_flat(files.back(), store.entries(), store.values());
    }
    const SnapshotFiles snapshots(files, store.entries());
    const int64_t before = live;
    peak = before;
    const int64_t tensors = memory_use(kCpu).now;
    reset_peak(kCpu);
    const Basis basis = orthonormal_basis(snapshots, folder / "work");
    CHECK(basis.rank() == count);
    CHECK(basis.report().bytes == elements * count * 4);
    return peak - before + memory_use(kCpu).peak - tensors;
  };
  const int64_t small = peak_of(1 << 16, 24), wide = peak_of(1 << 18, 24), many = peak_of(1 << 16, 48);
  MESSAGE("bytes: ", small, ", four times the parameters ", wide, ", twice the snapshots ", many);
  CHECK(wide < small + 100000);  // of 25 MB of snapshots
  CHECK(many < 2 * small + 100000);
  CHECK(many < (1 << 16) * 48 * 4 / 2);
}

TEST_CASE("snapshots that do not belong to the model are named") {
  const auto store = toy::make_store();
  const TempFolder folder;
  save_flat(folder / "a.safetensors", store->entries(), store->values());
  std::vector<ParamEntry> other = store->entries();
  other[1].name = "bias";
  other[2].shape = {96, 95};
  CHECK_THROWS_WITH_AS(SnapshotFiles({folder / "a.safetensors"}, other), doctest::Contains("lacks bias"), Error);
  CHECK_THROWS_WITH_AS(SnapshotFiles({folder / "a.safetensors"}, other), doctest::Contains("w2 of"), Error);
  CHECK_THROWS_AS(SnapshotFiles({folder / "b.safetensors"}, store->entries()), Error);
  CHECK_THROWS_WITH_AS(SnapshotFiles({folder / "a.safetensors"}, {store->entries()[0]}),
                       doctest::Contains("has 6 tensors instead of 1"), Error);
}
