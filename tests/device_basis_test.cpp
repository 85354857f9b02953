// A basis whose rows lie on a device, against the same basis on the host: both products in every precision, shares of
// several processes, steps, and what happens where there is no room.
#include <doctest/doctest.h>

#include <numeric>

#include "tests/gpu_testing.h"
#include "tests/program_testing.h"
#include "training/checkpoint.h"
#include "training/subspace.h"

using namespace accrete;

namespace {

using Vec = std::vector<double>;

constexpr int kSnapshots = 11;  // a full turn of a kernel's rows and a begun one

// Parameters of odd sizes, the second frozen.
std::unique_ptr<ParamStore> make_store(Device device, DType compute = DType::f32) {
  auto store = std::make_unique<ParamStore>(compute, device);
  const Scope root(*store);
  root.param("a", {130, 70}, {kNone, kNone}, Init::normal(1), true);
  root.param("frozen", {50}, {kNone}, Init::normal(1), true);
  root.param("b", {33}, {kNone}, Init::normal(1), true);
  root.param("c", {4000}, {kNone}, Init::normal(1), true);
  store->set_trainable(1, false);
  store->allocate();
  store->zero_grads();
  return store;
}

struct World {
  TempFolder folder;
  std::vector<std::filesystem::path> files;
  std::unique_ptr<ParamStore> host = make_store(kCpu);

  World() {
    for (int i = 0; i < kSnapshots; ++i) {
      host->initialise(static_cast<uint64_t>(i + 1));
      files.push_back(folder / (std::to_string(i) + ".safetensors"));
      save_flat(files.back(), host->entries(), host->values());
    }
  }
  Basis basis(const BasisConfig& config, const std::string& name, RowShare share = {}) const {
    return {SnapshotFiles(files, host->entries()), config, folder / name, std::move(share)};
  }
};

Tensor on(Device device, const Tensor& host) { return device == kCpu ? host : host.to(device); }

Vec drawn(int count, double size) {
  Vec x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = size * std::sin(1 + 3.7 * static_cast<double>(i));
  return x;
}

double length(const std::vector<float>& x) { return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)); }

}  // namespace

TEST_CASE("both products agree with the host's in every precision; what does not train stays") {
  const World w;
  auto source = make_store(kCpu);
  source->initialise(99);
  const Tensor g = source->values().clone();
  source->initialise(98);
  const Tensor start = source->values().clone();
  const double norm = length(g.to_vector<float>());
  int number = 0;
  for (const char* precision : {"f32", "bf16", "q8", "q4", "q2", "q1"})
    for (const bool unit : {false, true}) {
      CAPTURE(precision);
      const Basis basis = w.basis({.center = unit,
                                   .rows = unit ? "unit" : "orthonormal",
                                   .blocks = unit ? "per_tensor" : "single",
                                   .precision = precision},
                                  std::to_string(number++));
      const Vec want = project(basis, g), change = drawn(basis.size(), 3);
      const Tensor moved = start.clone();
      expand(basis, moved, start, change);
      const std::vector<float> expected = moved.to_vector<float>(), before = start.to_vector<float>();
      for (const Device device : queued_devices()) {
        DeviceBasis there(basis, device);
        CHECK(DeviceBasis::bytes(basis) >= basis.report().bytes);
        const Tensor factor = Tensor::from(std::vector<float>{0.25f}, Shape{1}, device);
        const auto p = there.project(on(device, g), factor);
        CHECK(p.factor == 0.25);
        REQUIRE(p.gradient.size() == want.size());
        for (size_t i = 0; i < want.size(); ++i) CHECK(std::fabs(p.gradient[i] - want[i]) <= 1e-7 * norm);
        const auto again = there.project(on(device, g), factor);
        CHECK(again.gradient == p.gradient);
        const Tensor none = Tensor::from(std::vector<float>{std::nanf("")}, Shape{1}, device);
        CHECK(std::isnan(there.project(on(device, g), none).factor));

        const Tensor from = on(device, start), out = from.clone();
        there.expand(out, from, change);
        const std::vector<float> got = out.to_vector<float>();
        double furthest = 0;
        for (size_t k = 0; k < got.size(); ++k)
          furthest = std::max(furthest, std::fabs(static_cast<double>(got[k]) - expected[k]) /
                                            (std::fabs(static_cast<double>(expected[k])) + 1));
        CHECK(furthest <= 2.5e-7);  // rounding of the result, and of sums of changes up to its size
        there.expand(out, from, Vec(change.size(), 0.0));
        CHECK(out.to_vector<float>() == before);
      }
    }
}

TEST_CASE("shares of the rows: sums over two processes give the whole") {
  const World w;
  auto source = make_store(kCpu);
  source->initialise(97);
  const Tensor g = source->values().clone();
  const BasisConfig config{.center = true, .rows = "unit", .precision = "q8"};  // one block, cut between its tiles
  const Basis whole = w.basis(config, "whole");
  const Vec want = project(whole, g), change = drawn(whole.size(), 1);
  for (const Device device : queued_devices()) {
    // The processes take turns: what the other one brings to a sum is what it brought in the turn before. A process
    // makes four sums, so the fifth turn is that of processes that run side by side.
    std::vector<Vec> brought[2];
    for (int turn = 0; turn < 5; ++turn) {
      std::vector<Vec> brings[2];
      for (int rank = 0; rank < 2; ++rank) {
        const auto sum = [&](std::span<double> part) {
          const size_t i = brings[rank].size();
          brings[rank].emplace_back(part.begin(), part.end());
          for (size_t k = 0; i < brought[1 - rank].size() && k < part.size(); ++k) part[k] += brought[1 - rank][i][k];
        };
        const Basis share = w.basis(config, std::to_string(rank) + std::to_string(turn), {rank, 2, sum});
        DeviceBasis there(share, device);
        const auto p = there.project(on(device, g), Tensor::from(std::vector<float>{1}, Shape{1}, device));
        if (turn < 4) continue;
        REQUIRE(brings[rank].size() == 4);
        CHECK(share.report().bytes < whole.report().bytes);
        for (size_t i = 0; i < want.size(); ++i)
          CHECK(std::fabs(p.gradient[i] - want[i]) <= 1e-7 * length(g.to_vector<float>()));
        const Tensor from = on(device, g), out = from.clone(), expected = g.clone();
        there.expand(out, from, change);
        expand(share, expected, g, change);
        const std::vector<float> a = out.to_vector<float>(), b = expected.to_vector<float>();
        for (size_t k = 0; k < a.size(); ++k) REQUIRE(a[k] == doctest::Approx(b[k]).epsilon(1e-6));
      }
      for (int rank = 0; rank < 2; ++rank) brought[rank] = std::move(brings[rank]);
    }
  }
}

TEST_CASE("steps on a device: those of the host within rounding, with rows on either side; NaN steps nowhere") {
  const World w;
  const Vec alpha(kSnapshots, 1.0 / kSnapshots);
  OptimConfig sgd;
  sgd.name = "sgd", sgd.weight_decay = 1e-3, sgd.clip = 1;
  auto source = make_store(kCpu);
  int number = 0;
  const auto train = [&](Device device, int64_t room) {
    auto store = make_store(device, DType::bf16);
    const SnapshotFiles files(w.files, store->entries());
    const Tensor mean = Tensor::zeros(store->values().shape());
    std::vector<int> all(kSnapshots);
    std::iota(all.begin(), all.end(), 0);
    files.mean(all, mean);
    store->values().copy_from(mean);
    store->refresh();
    Subspace stepper(sgd, *store, w.basis({.precision = "q4"}, "steps" + std::to_string(number++)), alpha, 0.2, room);
    CHECK(stepper.on_device() == (device != kCpu && room > 1000));
    int64_t allocations = 0;
    for (int s = 0; s < 6; ++s) {
      source->initialise(static_cast<uint64_t>(200 + s));
      if (s == 3) source->values().ptr<float>()[5] = std::nanf("");
      store->grads().copy_from(source->values());
      stepper.measure_gradients();
      stepper.step(0.3);
      if (s == 1) allocations = device_allocations(device);
    }
    if (device != kCpu) CHECK(device_allocations(device) == allocations);
    CHECK(stepper.numbers().at("count")[0] == 5);
    CHECK(store->copy().to_vector<float>()[7] == to_float(from_float<bf16>(store->values().to_vector<float>()[7])));
    return std::pair(store->values().to_vector<float>(), stepper.coefficients());
  };
  constexpr int64_t kMuch = int64_t{1} << 40;
  const auto [weights, x] = train(kCpu, kMuch);
  for (const Device device : queued_devices())
    for (const int64_t room : {kMuch, int64_t{1000}}) {
      CAPTURE(room);
      const auto [there, y] = train(device, room);
      for (size_t i = 0; i < x.size(); ++i) CHECK(std::fabs(y[i] - x[i]) <= 1e-6 * (std::fabs(x[i]) + 1));
      for (size_t k = 0; k < weights.size(); ++k)
        CHECK(std::fabs(there[k] - weights[k]) <= 1e-6 * (std::fabs(weights[k]) + 1));
    }
}

TEST_CASE("no memory: the error of the allocator, nothing kept, and a stepper that goes over the host") {
  const World w;
  const Basis basis = w.basis({}, "large");
  for (const Device device : queued_devices()) {
    auto store = make_store(device);
    store->initialise(1);
    release_cache(device);
    const int64_t before = memory_use(device).now;
    set_memory_limit(memory_use(device).reserved + basis.report().bytes / 2);
    CHECK_THROWS_AS(DeviceBasis(basis, device), OutOfMemory);
    CHECK(memory_use(device).now == before);
    {
      const Subspace stepper(OptimConfig{}, *store, w.basis({}, "again"), Vec(kSnapshots, 1.0 / kSnapshots));
      CHECK(!stepper.on_device());
    }
    set_memory_limit(0);
  }
}
