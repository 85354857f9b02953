// Wrong input to train_gpt: one clear sentence, exit 1, and nothing that was saved is lost.
#include <doctest/doctest.h>

#include "tests/train_testing.h"
#include "training/checkpoint.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

// The command fails with one line on stderr that holds all `words`.
void refused(const std::string& command, const std::vector<std::string>& words) {
  const RunResult result = run(command);
  CAPTURE(command);
  CAPTURE(result.err);
  CAPTURE(result.out);
  CHECK(result.one_line_error());
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(result.err.find(word) != std::string::npos);
  }
}

struct TinyRun {
  TempFolder folder;
  TinyRun() {
    make_tiny_data(folder);
    put_recipe(folder, {{"duration", "8st"}, {"checkpoint", {{"every", "4st"}}}});
  }
  std::string train(const std::string& more = "", const std::string& out = "out") const {
    return train_command(folder, out, more);
  }
};

}  // namespace

TEST_CASE("settings that are wrong") {
  const TinyRun t;
  refused(t.train("optim.lrr=1"), {"unknown key \"optim.lrr\"", "did you mean \"optim.lr\""});
  refused(t.train("optim.lr=fast"), {"optim.lr", "number"});
  refused(t.train("optim.lr=-1"), {"optim.lr", "at least 0"});
  refused(t.train("optim.name=adam"), {"optim.name", "adamw"});
  refused(t.train("duration=100"), {"duration", "unit", "5000st"});
  refused(t.train("duration=0.5run"), {"duration", "share of the run"});
  refused(t.train("schedule.warmup=100st"), {"schedule.warmup", "longer"});
  refused(t.train("batch.micro=3"), {"batch.micro", "does not divide"});
  refused(t.train("model.num_heads=3"), {"num_heads", "32"});
  refused(t.train("model.context=16"), {"data.length", "model.context"});
  refused(t.train("model.preset=gpt3"), {"gpt3", "gpt2-xl"});
  refused(t.train("model.width=4"), {"unknown key \"model.width\""});
  refused(t.train("family=bert"), {"family", "gpt"});
  refused(t.train("plan.name=magic"), {"plan.name", "plain"});
  refused(t.train("data.length=100000"), {"100000"});
  refused(t.train("model.vocab_size=100"), {"outside the vocabulary", "0..99"});
  refused(t.train("no_equals_sign"), {"no_equals_sign"});
  CHECK(!fs::exists(t.folder / "out/ckpt"));
}

TEST_CASE("options and files that are wrong") {
  const TinyRun t;
  refused("$APPS/train_gpt --out " + (t.folder / "out").string(), {"--recipe"});
  refused("$APPS/train_gpt --recipe " + (t.folder / "none.json").string() + " --out x", {"none.json"});
  put_file(t.folder / "broken.json", "{\"family\": \"gpt\",\n \"optim\": {\"lr\": }");
  refused("$APPS/train_gpt --recipe " + (t.folder / "broken.json").string() + " --out x", {"broken.json", "line 2"});
  put_file(t.folder / "twice.json", R"({"seed": 1, "seed": 2})");
  refused("$APPS/train_gpt --recipe " + (t.folder / "twice.json").string() + " --out x", {"seed"});
  refused(t.train("--device cuda"), {"cuda"});
  refused(t.train("--device tpu"), {"tpu", "cpu"});
  refused(t.train("--until speed=3"), {"--until", "loss=VALUE"});
  refused(t.train("--until loss=soon"), {"--until", "soon"});
  refused(t.train("--memory-limit lots"), {"--memory-limit", "lots"});
  refused(t.train("--hours -1"), {"--hours"});
  refused(t.train("--threads 0"), {"--threads"});
  refused(t.train("--resume"), {"holds no run"});
  refused(t.train("data.path=" + (t.folder / "nowhere").string()), {"nowhere"});
  fs::create_directories(t.folder / "empty");
  refused(t.train("data.path=" + (t.folder / "empty").string()), {"empty"});
  put_file(t.folder / "plainfile", "x");
  refused(train_command(t.folder, "plainfile/run"), {"plainfile"});
}

TEST_CASE("token files that do not fit: ids beyond the vocabulary, odd sizes") {
  const TinyRun t;
  std::string bytes = file_bytes(t.folder / "data/train.bin");
  bytes[200] = static_cast<char>(0xff), bytes[201] = static_cast<char>(0xff);
  put_file(t.folder / "data/train.bin", bytes);
  refused(t.train(), {"65535", "100"});  // the id and its position
  put_file(t.folder / "data/train.bin", bytes.substr(0, 1001));
  refused(t.train(), {"train.bin"});
  put_file(t.folder / "data/train.bin", "");
  refused(t.train(), {"train.bin"});
}

TEST_CASE("a run folder is never overwritten, and --resume refuses another recipe and another model") {
  const TinyRun t;
  REQUIRE(run(t.train()).exit_code == 0);
  const std::string before = final_checksum(t.folder / "out");
  refused(t.train(), {"already holds a run", "--resume"});
  refused(t.train("--resume optim.lr=0.5 batch.size=4"), {"optim.lr: 0.003 -> 0.5", "batch.size: 8 -> 4"});
  // Resuming a finished run changes nothing: its last events are written again, the same.
  const auto events = lasting_events(t.folder / "out");
  CHECK(run(t.train("--resume")).exit_code == 0);
  CHECK(lasting_events(t.folder / "out") == events);
  CHECK(final_checksum(t.folder / "out") == before);
  // The run's own recipe is enough.
  CHECK(run("$APPS/train_gpt --quiet --resume --out " + (t.folder / "out").string()).exit_code == 0);

  // A checkpoint of another model.
  put_recipe(t.folder, {{"duration", "8st"}, {"model", {{"depth", 3}}}});
  REQUIRE(run(train_command(t.folder, "deeper")).exit_code == 0);
  const auto mine = list_checkpoints(t.folder / "out").back(), other = list_checkpoints(t.folder / "deeper").back();
  fs::remove(mine / "params.safetensors");
  fs::copy_file(other / "params.safetensors", mine / "params.safetensors");
  refused("$APPS/train_gpt --quiet --resume --out " + (t.folder / "out").string(),
          {"does not belong to this model", "unexpected blocks.2"});
}

TEST_CASE("damaged checkpoints: an unfinished one is ignored, a cut one is named") {
  const TinyRun t;
  REQUIRE(run(t.train()).exit_code == 0);
  const std::string whole = final_checksum(t.folder / "out");
  auto checkpoints = list_checkpoints(t.folder / "out");
  REQUIRE(checkpoints.size() == 2);
  // Without COMPLETE the newest does not count; the one before leads to the same bits.
  fs::remove(checkpoints.back() / "COMPLETE");
  REQUIRE(run(t.train("--resume")).exit_code == 0);
  CHECK(final_checksum(t.folder / "out") == whole);
  checkpoints = list_checkpoints(t.folder / "out");
  const fs::path params = checkpoints.back() / "params.safetensors";
  put_file(params, file_bytes(params).substr(0, 5000));
  refused(t.train("--resume"), {"params.safetensors"});
  put_file(checkpoints.back() / "state.json", "{}");
  refused(t.train("--resume"), {"state.json"});
}

TEST_CASE("a full disk while saving: the error names it and earlier checkpoints survive") {
  const TinyRun t;
  put_recipe(t.folder,
             {{"duration", "12st"}, {"checkpoint", {{"every", "4st"}, {"keep_last", 9}, {"keep_best", false}}}});
  REQUIRE(run(t.train("--until loss=1000 eval.every=4st")).exit_code == 0);  // ends at step 4
  const auto before = list_checkpoints(t.folder / "out");
  REQUIRE(before.size() == 1);
  const std::string kept = file_bytes(before[0] / "params.safetensors");
  // Files may grow to 60 kB only: smaller than the weights. The signal is ignored, so that write() fails as on a full
  // disk.
  const RunResult full =
      run("trap '' XFSZ; ulimit -f 60; $APPS/train_gpt --quiet --resume --out " + (t.folder / "out").string() +
          " --recipe " + (t.folder / "recipe.json").string() + " eval.every=4st");
  CAPTURE(full.err);
  CHECK(full.exit_code == 1);
  CHECK(full.err.find("earlier checkpoints are untouched") != std::string::npos);
  CHECK(list_checkpoints(t.folder / "out") == before);
  CHECK(file_bytes(before[0] / "params.safetensors") == kept);
  for (const auto& entry : fs::directory_iterator(t.folder / "out/ckpt")) CHECK(fs::exists(entry.path() / "COMPLETE"));
  // With room again the run goes on.
  CHECK(run(t.train("--resume eval.every=4st")).exit_code == 0);
  CHECK(final_checksum(t.folder / "out") != "unfinished");
}

TEST_CASE("out of memory: the segments and the batch that would fit") {
  const TinyRun t;
  put_recipe(t.folder, {{"batch", {{"size", 64}, {"micro", 64}}},
                        {"model", {{"embed_dim", 64}}},
                        {"schedule", {{"warmup", "1st"}}},
                        {"duration", "2st"}});
  refused(t.train("--memory-limit 9M"), {"out of memory", "activations", "params", "would fit"});
  const RunResult result = run(t.train("--memory-limit 9M", "again"));
  const size_t at = result.err.find("batch.micro=");
  REQUIRE(at != std::string::npos);
  const std::string advice = result.err.substr(at, result.err.find(' ', at) - at);
  CAPTURE(advice);
  CHECK(run(t.train("--memory-limit 9M " + advice, "advised")).exit_code == 0);
  refused(t.train("--memory-limit 1M", "tiny"), {"out of memory", "not even batch.micro=1 fits"});
}

TEST_CASE("the NaN guard names the first bad op, keeps the batch and the checkpoints") {
  const TinyRun t;
  REQUIRE(run(t.train("optim.clip=0 optim.lr=1e30 schedule.warmup=0st schedule.name=constant duration=50st", "out"))
              .exit_code == 1);
  refused(t.train("optim.clip=0 optim.lr=1e30 schedule.warmup=0st schedule.name=constant duration=50st", "again"),
          {"step ", "first non-finite result", "of op \"", "in module \"", "bad_batch_", "optim.lr"});
  bool kept = false;
  for (const auto& entry : fs::directory_iterator(t.folder / "again"))
    kept = kept || entry.path().filename().string().starts_with("bad_batch_");
  CHECK(kept);
}

TEST_CASE("--print-config is a recipe that gives itself; --dry-run trains nothing and predicts the counted FLOPs") {
  const TinyRun t;
  const RunResult config = run(t.train("--print-config optim.lr=0.004"));
  REQUIRE(config.exit_code == 0);
  put_file(t.folder / "printed.json", config.out);
  CHECK(run("$APPS/train_gpt --print-config --recipe " + (t.folder / "printed.json").string()).out == config.out);
  CHECK(parse_json<Json>(config.out, "config")["optim"]["lr"] == 0.004);
  const RunResult dry = run(t.train("--dry-run --json"));
  REQUIRE(dry.exit_code == 0);
  CHECK(!fs::exists(t.folder / "out"));
  REQUIRE(run(t.train()).exit_code == 0);
  const Json prediction = parse_json<Json>(dry.out, "dry-run");
  const Json end = read_metrics(t.folder / "out/metrics.jsonl").back();
  CHECK(prediction["flops"].get<double>() == doctest::Approx(end["flops"].get<double>()).epsilon(1e-9));
  CHECK(prediction["tokens"] == end["tokens"]);
  // Memory: the account of the dry device against the real one; batches and evaluation come on top.
  CHECK(prediction["stages"][0]["peak_memory"].get<double>() ==
        doctest::Approx(end["peak_memory"].get<double>()).epsilon(0.15));
}

TEST_CASE("after the second step the engine takes no more memory from the system") {
  const TinyRun t;
  put_recipe(t.folder, {{"duration", "40st"}, {"eval", {{"every", "0st"}}}, {"checkpoint", {{"every", "0st"}}}});
  REQUIRE(run(t.train()).exit_code == 0);
  std::vector<int64_t> allocations;
  for (const Json& event : read_metrics(t.folder / "out/metrics.jsonl"))
    if (event["event"] == "step") allocations.push_back(event["allocations"].get<int64_t>());
  REQUIRE(allocations.size() == 40);
  for (size_t i = 2; i < allocations.size(); ++i) CHECK(allocations[i] == allocations[1]);
}

TEST_CASE("the CUDA kernels train a tiny model under the block emulator, as the CPU does") {
  const TinyRun t;
  put_recipe(t.folder, {{"model", {{"embed_dim", 16}, {"depth", 1}, {"num_heads", 1}}},
                        {"data", {{"length", 8}}},
                        {"batch", {{"size", 2}, {"micro", 2}}},
                        {"duration", "4st"},
                        {"schedule", {{"warmup", "1st"}}},
                        {"eval", {{"every", "0st"}, {"batches", 1}}}});
  REQUIRE(run(t.train("", "cpu")).exit_code == 0);
  const RunResult emulated = run(t.train("--device emu", "emu"));
  if (emulated.err.find("no block emulator") != std::string::npos) {
    MESSAGE("skipped: this build has no emulator");
    return;
  }
  CAPTURE(emulated.err);
  REQUIRE(emulated.exit_code == 0);
  const auto a = read_metrics(t.folder / "cpu/metrics.jsonl"), b = read_metrics(t.folder / "emu/metrics.jsonl");
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i]["event"] == "step")
      CHECK(b[i]["loss"].get<double>() == doctest::Approx(a[i]["loss"].get<double>()).epsilon(1e-4));
}

TEST_CASE("a GPT that reads its token table out has no output layer to train alone or to draw anew; others have") {
  const TinyRun t;
  for (const bool tied : {true, false}) {
    const std::string base = tied ? "tied" : "untied";
    const std::string size = "duration=6st model.tied=" + std::string(tied ? "true" : "false") + " ";
    const RunResult begun = run(t.train(size, base));
    REQUIRE_MESSAGE(begun.exit_code == 0, begun.err);
    const std::string from = size + "init.from='" + (t.folder / base).string() + "' ";
    for (const std::string more : {"init.trains=head", "init.reset_head=true"}) {
      CAPTURE(more);
      const RunResult r = run(t.train(from + more, base + "-" + more.substr(5, 4)));
      CAPTURE(r.err);
      CHECK(r.exit_code == (tied ? 1 : 0));
      if (tied) CHECK(r.one_line_error());
      if (tied) CHECK(r.err.find("output layer of their own") != std::string::npos);
    }
  }
}
