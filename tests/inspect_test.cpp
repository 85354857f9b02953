// The program inspect on tiny models: its figures against the weights, the allocator and the files.
#include <doctest/doctest.h>

#include "apps/gpt_family.h"
#include "apps/one_step.h"
#include "engine/ops/op_cases.h"
#include "tests/gpt_testing.h"
#include "tests/train_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

Json inspect(const std::string& arguments) {
  const RunResult r = run("$APPS/inspect " + arguments + " --json");
  REQUIRE_MESSAGE(r.exit_code == 0, r.err);
  return Json::parse(r.out);
}

// A recipe that needs no data.
void put_model_recipe(const TempFolder& folder) {
  put_recipe(folder, Json{{"data", {{"path", ""}}}, {"model", {{"vocab_size", 101}}}});
}

}  // namespace

TEST_CASE("inspect params: statistics of the real weights; two models side by side") {
  const fs::path a = golden("gpt2_a");
  const auto model = read_gpt_hf(a, DType::f32, kCpu);
  const ParamStore& store = model->params();
  const Json j = inspect("params " + quoted(a));
  CHECK(j["parameters"] == store.parameter_count());
  REQUIRE(j["params"].size() == store.entries().size());
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const Json& p = j["params"][i];
    const auto v = store.value(static_cast<int>(i)).to_vector<float>();
    double sum = 0, squares = 0, zeros = 0, count = 0;
    for (const float x : v) sum += x, squares += static_cast<double>(x) * x, zeros += x == 0;
    const double n = static_cast<double>(v.size()), mean = sum / n;
    CHECK(p["name"] == store.entries()[i].name);
    CHECK(p["shape"] == store.entries()[i].shape.vector());
    CHECK(p["min"].get<double>() == static_cast<double>(*std::min_element(v.begin(), v.end())));
    CHECK(p["max"].get<double>() == static_cast<double>(*std::max_element(v.begin(), v.end())));
    CHECK(p["mean"].get<double>() == doctest::Approx(mean).epsilon(1e-9));
    // The textbook formula cancels; six digits are left.
    CHECK(p["std"].get<double>() == doctest::Approx(std::sqrt(std::max(0.0, squares / n - mean * mean))).epsilon(1e-6));
    CHECK(p["zeros"].get<double>() == doctest::Approx(zeros / n));
    for (const Json& bin : p["histogram"]) count += bin.get<double>();
    CHECK(count == n);
  }

  const Json same = inspect("params " + quoted(a) + " " + quoted(a));
  CHECK(same["different"] == 0);
  CHECK(same["equal"] == store.entries().size());
  const Json other = inspect("params " + quoted(a) + " " + quoted(golden("gpt2_b")));
  CHECK(other["equal"].get<size_t>() + other["different"].get<size_t>() <= store.entries().size());
  CHECK(other["apart"].size() > 0);  // another width

  const TempFolder folder;
  put_model_recipe(folder);
  const Json fresh = inspect("params " + quoted(folder / "recipe.json") + " model.depth=1");
  for (const Json& p : fresh["params"]) {
    CHECK(p["name"].get<std::string>().find("blocks.1") == std::string::npos);
    if (p["name"] == "tokens.weight") CHECK(p["std"].get<double>() == doctest::Approx(0.02).epsilon(0.05));
    if (p["name"] == "norm.weight") CHECK(p["min"] == 1.0);
  }
}

TEST_CASE("inspect memory: the prediction is what a real step takes") {
  const TempFolder folder;
  put_model_recipe(folder);
  const std::string recipe_path = quoted(folder / "recipe.json");
  const Json j = inspect("memory " + recipe_path)["stages"][0];
  CHECK(j["micro_batch"] == 4);
  CHECK(j["largest_micro_batch"] == 8);

  const Family family = gpt_family();
  const Recipe recipe = load_recipe(folder / "recipe.json", {}, std::nullopt, family);
  const Stage stage = first_stage(recipe);
  release_cache(kCpu);
  reset_peak(kCpu);
  OneStep step(recipe, stage, family.make_model, kCpu);
  step.run(step_batch(recipe, stage, family, 4), {});
  const MemoryUse real = memory_use(kCpu);
  for (const Segment s : {Segment::params, Segment::grads, Segment::optimizer})
    CHECK(j["segments"][name_of(s)]["now"] == real.segment[static_cast<int>(s)].now);
  CHECK(j["segments"]["activations"]["peak"] == real.segment[static_cast<int>(Segment::activations)].peak);
  CHECK(j["segments"]["activations"]["now"] == 0);

  int64_t params = 0;
  for (const Json& l : j["layers"]) params += l["params"].get<int64_t>();
  CHECK(params == j["params"].get<int64_t>());
  CHECK(params == step.model().params().parameter_count());
  int64_t before = 0;
  for (const Json& m : j["micro_batches"]) {
    CHECK(m["peak"].get<int64_t>() > before);
    before = m["peak"].get<int64_t>();
  }
  const Json tight = inspect("memory --limit 1 " + recipe_path)["stages"][0];
  CHECK(tight["limit"] == 1 << 20);
  CHECK(tight["largest_micro_batch"].get<int64_t>() < 8);
  for (const Json& m : tight["micro_batches"]) CHECK(m["fits"] == (m["peak"].get<int64_t>() <= 1 << 20));
  // Recompute keeps less.
  const Json less = inspect("memory " + recipe_path + " recompute=true")["stages"][0];
  CHECK(less["peak"].get<int64_t>() < j["peak"].get<int64_t>());
}

TEST_CASE("inspect ops: every row of the table, run on every device of the build") {
  const Json j = inspect("ops --threads 1");
  REQUIRE(j["ops"].size() == ops::op_table().size());
  for (size_t i = 0; i < ops::op_table().size(); ++i) {
    const ops::OpRow& row = ops::op_table()[i];
    const Json& o = j["ops"][i];
    CAPTURE(row.name);
    CHECK(o["op"] == row.name);
    CHECK(o["gradient"] == row.no_gradient.empty());
    for (const auto& [device, types] : o["devices"].items())
      for (const auto& [type, cell] : types.items()) CHECK_MESSAGE(cell["value"] == true, device << ' ' << type);
  }
}

TEST_CASE("inspect graph: one step as JSON, DOT and a page") {
  const TempFolder folder;
  put_model_recipe(folder);
  const std::string recipe = quoted(folder / "recipe.json");
  const Json said =
      inspect("graph " + recipe + " --repeats 1 --batch 2 --length 16 --out " + quoted(folder / "g.json"));
  const Json g = Json::parse(file_bytes(folder / "g.json"));
  CHECK(said["step"] == g["step"]);
  CHECK(g["step"]["batch"] == 2);
  CHECK(g["step"]["length"] == 16);
  // One step from fresh weights, which know nothing: a little below the entropy of 101 equal chances.
  CHECK(g["step"]["loss"].get<double>() < std::log(101.0));
  CHECK(g["step"]["loss"].get<double>() > 0.8 * std::log(101.0));
  std::map<std::string, int> ops;
  double flops = 0, seconds = 0;
  for (const Json& n : g["nodes"]) {
    ++ops[n["op"].get<std::string>()];
    flops += n["flops"].get<double>() + n["backward_flops"].get<double>();
    seconds += n["seconds"].get<double>() + n["backward_seconds"].get<double>();
    CHECK(n["floor_seconds"].get<double>() > 0);
  }
  CHECK(ops["attention"] == 2);
  CHECK(ops["mlp"] == 2);
  CHECK(ops["linear"] == 4);  // qkv and proj in each block
  CHECK(ops["linear_cross_entropy"] == 1);
  CHECK(flops == doctest::Approx(g["step"]["flops"].get<double>()));
  CHECK(seconds > 0);
  CHECK(seconds <= g["step"]["seconds"].get<double>() * 1.01);
  const Json* block = nullptr;
  for (const Json& m : g["modules"])
    if (m["path"] == "blocks.1") block = &m;
  REQUIRE(block);
  CHECK((*block)["ops"] == 6);  // two norms with their sums, qkv, attention, proj, mlp
  CHECK((*block)["floor_seconds"].get<double>() > 0);

#if defined(ACCRETE_WITH_EMULATOR)
  inspect("graph " + recipe + " --device emu --repeats 1 --batch 1 --length 4 --out " + quoted(folder / "e.json"));
#endif
  // With recompute the ops of a block run twice; the graph still accounts for all of it.
  inspect("graph " + recipe + " recompute=true --repeats 1 --batch 2 --length 16 --out " + quoted(folder / "r.json"));
  const Json again = Json::parse(file_bytes(folder / "r.json"));
  double all = 0;
  for (const Json& n : again["nodes"]) all += n["flops"].get<double>() + n["backward_flops"].get<double>();
  CHECK(all == doctest::Approx(again["step"]["flops"].get<double>()));
  CHECK(all > 1.15 * flops);

  REQUIRE(run("$APPS/inspect graph " + recipe + " --repeats 1 --batch 1 --out " + quoted(folder / "g.dot")).exit_code ==
          0);
  CHECK(file_bytes(folder / "g.dot").starts_with("digraph"));
  const RunResult page =
      run("$APPS/inspect graph " + recipe + " --repeats 1 --batch 1 --out " + quoted(folder / "g.html"));
  REQUIRE(page.exit_code == 0);
  CHECK(page.out.find("largest gaps") != std::string::npos);
  const std::string html = file_bytes(folder / "g.html");
  CHECK(html.find("blocks.1.mlp.fc1.weight") != std::string::npos);
  CHECK(html.find("src=") == std::string::npos);  // nothing is loaded
  CHECK(html.find("@import") == std::string::npos);
}

TEST_CASE("inspect checkpoint: what a run has saved") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, Json{{"duration", "20st"}, {"eval", {{"every", "10st"}, {"batches", 1}}}});
  REQUIRE(run(train_command(folder, "run")).exit_code == 0);
  const Json j = inspect("checkpoint " + quoted(folder / "run"));
  const Json& last = j["checkpoints"].back();
  CHECK(last["step"] == 20);
  CHECK(last["complete"] == true);
  CHECK(last["stage_name"] == "train");
  CHECK(last["spent"]["tokens"] == 20 * 8 * 32);
  std::map<std::string, int64_t> sizes;
  for (const Json& f : last["files"]) sizes[f["name"].get<std::string>()] = f["bytes"].get<int64_t>();
  const fs::path ckpt = last["path"].get<std::string>();
  CHECK(sizes.size() == 4);
  for (const char* name : {"params.safetensors", "optim.safetensors", "state.json", "COMPLETE"})
    CHECK(sizes.at(name) == static_cast<int64_t>(fs::file_size(ckpt / name)));
  int best = 0;
  for (const Json& c : j["checkpoints"]) best += c["is_best"].get<bool>();
  CHECK(best == 1);
  CHECK(inspect("checkpoint " + quoted(ckpt))["checkpoints"].size() == 1);

  fs::remove(ckpt / "COMPLETE");
  const RunResult r = run("$APPS/inspect checkpoint " + quoted(folder / "run"));
  CHECK(r.exit_code == 0);
  CHECK(r.out.find("NOT COMPLETE") != std::string::npos);
  // A run stands for its recipe.
  CHECK(inspect("memory " + quoted(folder / "run"))["stages"][0]["micro_batch"] == 4);
}

TEST_CASE("inspect: bad input is refused in one sentence") {
  const TempFolder folder;
  put_model_recipe(folder);
  const std::string recipe = quoted(folder / "recipe.json");
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const RunResult r = run("$APPS/inspect " + arguments);
    CAPTURE(r.err);
    CHECK(r.one_line_error());
    CHECK_MESSAGE(r.err.find(part) != std::string::npos, part);
  };
  refused("params nowhere", "nowhere does not exist");
  refused("params", "models");
  refused("params " + quoted(golden("gpt2_a")) + " model.depth=1", "are for recipes");
  refused("memory nowhere.json", "nowhere.json");
  refused("memory " + quoted(folder.path()), "without config.json");
  refused("memory " + recipe + " model.dept=1", "did you mean");
  refused("memory " + recipe + " model.vocab_size=0", "\"data.path\" is missing");
  refused("graph " + recipe + " --out g.png", ".html, .dot or .json");
  refused("graph " + recipe + " --out " + quoted(folder / "g.json") + " --length 33", "exceeds the model's context");
  refused("graph " + recipe + " --out " + quoted(folder / "missing" / "g.json") + " --batch 1 --repeats 1", "missing");
  refused("checkpoint nowhere", "nowhere is no folder");
  refused("checkpoint " + quoted(folder.path()), "has no checkpoints");
  refused("attention", "subcommand");
}
