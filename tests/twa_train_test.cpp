// Trainable weight averaging in tiny runs of the real program: both variants and the fixed averages, their cost, kill
// -9, soups of finished runs, other methods inside and outside, bad input.
#include <doctest/doctest.h>

#include <numeric>

#include "engine/core/safetensors.h"
#include "tests/train_testing.h"
#include "training/checkpoint.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

Json merged(Json a, const Json& b) {
  a.merge_patch(b);
  return a;
}

// 40 steps with 4 snapshots, then 12 of averaging.
Json plan_of(const Json& more = Json::object()) {
  return merged(
      Json{{"name", "twa"}, {"snapshots", 4}, {"collect", {{"duration", "40st"}}}, {"average", {{"duration", "12st"}}}},
      more);
}
Json journal(const Json& average = Json::object()) {
  return plan_of({{"variant", "journal"}, {"average", merged({{"lr", 0.01}}, average)}});
}

struct World {
  TempFolder folder;
  explicit World(const Json& more = Json::object()) {
    make_tiny_data(folder);
    put_recipe(folder, merged({{"data", {{"holdout", 0.1}}}}, more));
  }
  std::string path(const std::string& run) const { return (folder / run).string(); }
  std::string with(const Json& plan) const { return "'plan=" + plan.dump() + "' "; }
  void train(const std::string& out, const std::string& more) const {
    const RunResult result = run(train_command(folder, out, more));
    CAPTURE(more);
    CAPTURE(result.err);
    REQUIRE(result.exit_code == 0);
  }
  Json events(const std::string& out, const std::string& kind, int stage = -1) const {
    Json found = Json::array();
    for (const Json& e : read_metrics(folder / out / "metrics.jsonl"))
      if (e["event"] == kind && (stage < 0 || e["stage"] == stage)) found.push_back(e);
    return found;
  }
  double loss(const std::string& out) const { return events(out, "run_end").at(0)["loss"]; }
  void check_prediction(const std::string& out, const std::string& more) const {
    const RunResult dry = run(train_command(folder, "none", "--dry-run --json " + more));
    CAPTURE(dry.err);
    REQUIRE(dry.exit_code == 0);
    CHECK(Json::parse(dry.out)["flops"].get<double>() ==
          doctest::Approx(events(out, "run_end").at(0)["flops"].get<double>()).epsilon(0.05));
  }
  void refused(const std::string& more, const std::string& words) const {
    for (const std::string dry : {"", "--dry-run "}) {
      const RunResult result = run(train_command(folder, "refused", dry + more));
      CAPTURE(more);
      CAPTURE(result.err);
      CHECK(result.one_line_error());
      CHECK(result.err.find(words) != std::string::npos);
      CHECK(!fs::exists(folder / "refused/config.json"));
    }
  }
};

// All weights of a file, in the order of the names.
std::vector<float> weights(const fs::path& file) {
  std::vector<float> all;
  const Safetensors tensors = Safetensors::open(file);
  for (const SafetensorsEntry& e : tensors.entries()) {
    const size_t at = all.size();
    all.resize(at + e.bytes / sizeof(float));
    std::memcpy(all.data() + at, e.data, e.bytes);
  }
  return all;
}

}  // namespace

TEST_CASE("every average: what it is made of, what it reports, what it costs") {
  const World w(Json{{"checkpoint", {{"keep_last", 100}}}});
  const std::vector<std::pair<std::string, Json>> plans = {
      {"iclr", plan_of()},
      {"cgs2", plan_of({{"basis", "cgs2"}, {"average", {{"precision", "q8"}}}})},
      {"journal", journal()},
      {"blocks", journal({{"blocks", "per_block"}, {"precision", "q4"}, {"data", "train"}, {"clip", 1}})},
      {"centred", plan_of({{"center", true}, {"average", {{"schedule", "linear"}, {"start", "last"}}}})},
      {"uniform", plan_of({{"average", {{"coefficients", "uniform"}}}})},
      {"last", plan_of({{"average", {{"coefficients", "last:2"}}}})},
      {"ema", plan_of({{"average", {{"coefficients", "ema"}, {"ema", "8st"}}}})},
      {"greedy", plan_of({{"average", {{"coefficients", "greedy"}, {"data", "held_out"}}}})}};
  for (const auto& [name, plan] : plans) {
    CAPTURE(name);
    w.train(name, w.with(plan));
    w.check_prediction(name, w.with(plan));
  }
  // The collecting stage is the same in all of them.
  const auto snapshot = [&](int i) { return weights(snapshot_file(w.folder / "iclr", 0, i)); };
  const std::vector<float> last = weights(checkpoint_folder(w.folder / "iclr", 40) / "params.safetensors");
  CHECK(snapshot(3) == last);
  for (int i = 0; i < 4; ++i) CHECK(weights(snapshot_file(w.folder / "greedy", 0, i)) == snapshot(i));
  const auto mean_of = [&](int first) {
    std::vector<double> sum(last.size(), 0.0);
    for (int i = first; i < 4; ++i) {
      const std::vector<float> s = snapshot(i);
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += static_cast<double>(s[k]);
    }
    std::vector<float> mean(sum.size());
    for (size_t k = 0; k < sum.size(); ++k) mean[k] = static_cast<float>(sum[k] / (4 - first));
    return mean;
  };
  const auto end_of = [&](const std::string& run) {
    return weights(list_checkpoints(w.folder / run).back() / "params.safetensors");
  };
  CHECK(end_of("uniform") == mean_of(0));
  CHECK(end_of("last") == mean_of(2));
  // Training begins at the plain average, whose loss is reported, and lowers it.
  for (const std::string name : {"iclr", "cgs2", "journal", "blocks"}) {
    CAPTURE(name);
    CHECK(w.events(name, "eval", 1).at(0)["loss"].get<double>() == doctest::Approx(w.loss("uniform")).epsilon(1e-12));
    CHECK(w.loss(name) < w.loss("uniform"));
    CHECK(w.events(name, "stage_end").at(1)["steps"] == 12);
  }
  CHECK(w.events("centred", "eval", 1).at(0)["loss"] == w.events("centred", "eval", 0).back()["loss"]);

  const Json basis = w.events("iclr", "basis").at(0);
  CHECK(basis["rank"] == 4);
  CHECK(basis["blocks"] == 1);
  CHECK(basis["orthogonality_error"].get<double>() < 1e-6);
  CHECK(basis["lambda_max"].get<double>() == doctest::Approx(1).epsilon(1e-6));
  CHECK(w.events("centred", "basis").at(0)["rank"] == 3);
  CHECK(w.events("journal", "basis").at(0)["blocks"].get<int>() > 20);  // tensors of two blocks
  CHECK(w.events("blocks", "basis").at(0)["blocks"] == 4);              // before, two blocks, after
  const Json average = w.events("journal", "average").at(0);
  CHECK(average["alpha_sum"].get<double>() == doctest::Approx(1).epsilon(1e-9));
  CHECK(average["furthest"].get<double>() > 0.01);
  CHECK(average["moved"].get<double>() > 0);

  // The greedy soup: the best one first, and never worse than it on the data that judges.
  const Json choice = w.events("greedy", "choice").at(0);
  const auto losses = choice["losses"].get<std::vector<double>>();
  REQUIRE(losses.size() == 4);
  const double best = *std::min_element(losses.begin(), losses.end());
  CHECK(losses[choice["kept"][0].get<size_t>()] == best);
  CHECK(choice["loss"].get<double>() <= best);
  // The running average lies nearer to the last weights than the mean of all, and is no snapshot.
  CHECK(end_of("ema") != last);
  CHECK(w.loss("ema") < w.loss("uniform"));
}

TEST_CASE("the collecting stage: its schedule, where snapshots begin, the first weights") {
  const World w;
  const auto rates = [&](const std::string& out) {
    std::vector<double> list;
    for (const Json& e : w.events(out, "step", 0)) list.push_back(e["lr"]);
    return list;
  };
  w.train("plain", "'plan={\"name\":\"plain\"}'");
  w.train("constant", w.with(plan_of({{"from", 0.75}, {"include_start", true}})));
  CHECK(rates("constant").back() == doctest::Approx(3e-3));
  int files = 0;
  for ([[maybe_unused]] const auto& f : fs::directory_iterator(w.folder / "constant/snapshots/0")) ++files;
  CHECK(files == 5);
  CHECK(w.events("constant", "basis").at(0)["snapshots"] == 5);
  // The recipe's own schedule, as far as two thirds of the run: the same steps as in the full run.
  w.train("cut",
          w.with(plan_of(
              {{"collect",
                {{"duration", "0.666666667run"}, {"schedule", Json::object()}, {"schedule_to", 0.666666667}}}})));
  const auto full = rates("plain"), cut = rates("cut");
  REQUIRE(cut.size() == 40);
  for (size_t s = 0; s < cut.size(); ++s) CHECK(cut[s] == doctest::Approx(full[s]).epsilon(1e-9));
}

TEST_CASE("soups: finished runs and checkpoints are averaged, and their cost is charged") {
  const World w(Json{{"duration", "20st"}});
  for (const std::string seed : {"1", "2", "3"}) w.train("run" + seed, "--seed " + seed);
  const Json models = {w.path("run1"), w.path("run2"), checkpoint_folder(w.folder / "run3", 20).string()};
  const Json soup = {{"name", "twa"}, {"models", models}, {"average", {{"duration", "10st"}, {"data", "held_out"}}}};
  double flops = 0;
  for (const char* name : {"run1", "run2", "run3"}) flops += w.events(name, "run_end").at(0)["flops"].get<double>();
  for (const std::string how : {"uniform", "greedy", "last:2", "trained"}) {
    CAPTURE(how);
    const std::string more = w.with(merged(soup, {{"average", {{"coefficients", how}}}}));
    const std::string out = "soup_" + how;
    w.train(out, more);
    w.check_prediction(out, more);
    CHECK(w.events(out, "run_end").at(0)["flops"].get<double>() > flops);
    CHECK(w.events(out, "run_end").at(0)["tokens"].get<int64_t>() >= 3 * 20 * 8 * 32);
  }
  // Random weights of three seeds have nothing in common: the greedy soup keeps the best alone.
  CHECK(w.events("soup_greedy", "choice").at(0)["kept"].size() == 1);
  CHECK(w.loss("soup_trained") < w.loss("soup_uniform"));

  w.refused(w.with({{"name", "twa"}, {"models", {w.path("run1")}}}), "at least two models");
  w.refused(w.with({{"name", "twa"}, {"models", {w.path("run1"), w.path("nothing")}}}),
            "is missing or holds no checkpoint");
  w.refused(w.with(merged(soup, {{"average", {{"coefficients", "ema"}}}})), "finished models have no running average");
  // Models of another size are named before anything is trained.
  w.train("other", "model.embed_dim=16");
  const Json mixed = merged(soup, {{"models", {w.path("run1"), w.path("other")}}});
  w.refused(w.with(mixed), "has embed_dim 16; expected 32, as in the recipe");
}

TEST_CASE("kill -9 in the middle of collecting and of averaging") {
  const Json held_out = {{"data", {{"holdout", 0.1}}}};
  check_kill_and_resume(
      merged(held_out, {{"model", {{"resid_dropout", 0.1}}}, {"plan", plan_of({{"include_start", true}})}}), 21);
  check_kill_and_resume(merged(held_out, {{"precision", "bf16"},
                                          {"optim", {{"ema", 0.9}}},
                                          {"plan", journal({{"precision", "q4"}, {"duration", "25st"}})}}),
                        22);
  check_kill_and_resume({{"plan", plan_of({{"average", {{"coefficients", "greedy"}}}})}}, 23);
  check_kill_and_resume({{"plan", plan_of({{"average", {{"coefficients", "ema"}}}})}}, 24);
}

TEST_CASE("with other methods: a V-cycle that ends in TWA, snapshots of a V-cycle's last level") {
  const World w(Json{{"duration", "80st"}});
  const Json inner = {{"name", "twa"}, {"snapshots", 3}, {"average", {{"duration", "10st"}}}};
  const Json outer = {{"name", "vcycle"}, {"final", {{"plan", inner}}}};
  const Json collects = plan_of({{"collect", {{"plan", {{"name", "vcycle"}}}, {"duration", "60st"}}}});
  int number = 0;
  for (const Json& plan : {outer, collects}) {
    const std::string out = "nested" + std::to_string(number++);
    w.train(out, w.with(plan));
    w.check_prediction(out, w.with(plan));
    CHECK(w.events(out, "basis").size() == 1);
    CHECK(w.events(out, "stage_end").size() == 4);
    CHECK(w.events(out, "eval", 3).back()["loss"] < w.events(out, "eval", 3).at(0)["loss"]);
    // Snapshots of one stage only.
    int stages = 0;
    for ([[maybe_unused]] const auto& f : fs::directory_iterator(w.folder / out / "snapshots")) ++stages;
    CHECK(stages == 1);
  }
  check_kill_and_resume({{"plan", collects}}, 25);
}

TEST_CASE("impossible plans: one sentence, also in --dry-run") {
  const World w;
  w.refused(w.with(plan_of({{"snapshots", 1}})), "at least two snapshots");
  w.refused(w.with(plan_of({{"snapshots", 41}})), "41 snapshots cannot be taken in 20 steps");
  w.refused(w.with(journal()) + "data.holdout=0", "expected data.holdout above 0");
  w.refused(w.with(plan_of({{"average", {{"precision", "q3"}}}})),
            "plan.average.precision: expected text (f32, bf16, q8, q4, q2, q1)");
  w.refused(w.with(plan_of({{"average", {{"blocks", "layers"}}}})), "unknown blocks \"layers\"");
  w.refused(w.with(plan_of({{"average", {{"coefficients", "last:9"}}}})), "K from 1 to 4");
  w.refused(w.with(plan_of({{"average", {{"start", "4"}}}})), "number of a snapshot below 4");
  w.refused(w.with(plan_of({{"average", {{"duration", "0st"}}}})), "plan.average.duration is 0");
  w.refused(w.with(plan_of({{"average", {{"optimizer", "lion"}}}})), "expected one of sgd, adamw");
  w.refused(w.with(plan_of({{"basis", "qr"}})), "orthonormal, unit, cgs2, cgs1_f32");
  w.refused(w.with(plan_of({{"varient", "iclr"}})), "did you mean \"plan.variant\"");
  w.refused(w.with(plan_of({{"collect", {{"plan", {{"name", "vcicle"}}}}}})), "unknown plan \"vcicle\"");
  w.refused(w.with(plan_of({{"collect", {{"schedule", {{"warmup", "41st"}}}}}})), "longer than the stage");
}

TEST_CASE("rates of the averaging stage: by epochs as in the papers' code, by shares otherwise") {
  const World w;
  const auto rates = [&](const std::string& out) {
    std::vector<double> list;
    for (const Json& e : w.events(out, "step", 1)) list.push_back(e["lr"]);
    return list;
  };
  w.train("shares", w.with(plan_of({{"average", {{"duration", "20st"}, {"lr", 2}}}})));
  const auto shares = rates("shares");
  REQUIRE(shares.size() == 20);
  for (const auto& [at, rate] : {std::pair{0, 2.0}, {9, 2.0}, {10, 0.2}, {14, 0.2}, {15, 0.02}, {19, 0.02}})
    CHECK(shares[static_cast<size_t>(at)] == doctest::Approx(rate));
  // Four epochs: cut after floor(2) and floor(0.75 * 4 + 0.9).
  w.train("epochs",
          w.with(plan_of({{"average", {{"duration", "4ep"}, {"lr", 2}}}})) + "data.length=128 model.context=128");
  const auto epochs = rates("epochs");
  const size_t n = epochs.size();
  for (const auto& [at, rate] : {std::pair{size_t{0}, 2.0}, {n / 2 - 1, 2.0}, {n / 2 + 1, 0.2}, {n - 1, 0.02}})
    CHECK(epochs[at] == doctest::Approx(rate));
  w.train("cosine", w.with(journal({{"duration", "20st"}})));
  CHECK(rates("cosine")[0] == doctest::Approx(0.01 / 4));
  CHECK(rates("cosine")[3] == doctest::Approx(0.01));
  CHECK(rates("cosine")[4] == doctest::Approx(0.01));
}
