// A run that is killed and resumed ends with the same bits as one that was not. Real processes are killed with SIGKILL
// at arbitrary moments: during start-up, steps, evaluation and saving.
#include <doctest/doctest.h>

#include "tests/train_testing.h"
#include "training/checkpoint.h"

using namespace accrete;

TEST_CASE("kill -9 at any moment: AdamW, bf16, dropout, averaged weights") {
  check_kill_and_resume({{"precision", "bf16"},
                         {"model", {{"resid_dropout", 0.1}, {"attn_dropout", 0.1}, {"embed_dropout", 0.1}}},
                         {"optim", {{"ema", 0.9}}}},
                        1);
}

TEST_CASE("kill -9 at any moment: other optimizers, schedules and samplings") {
  check_kill_and_resume({{"optim", {{"name", "muon"}, {"momentum", 0.95}, {"nesterov", true}}},
                         {"recompute", true},
                         {"schedule", {{"name", "wsd"}}}},
                        2);
  check_kill_and_resume(
      {{"optim", {{"name", "lion"}, {"lr", 3e-4}}}, {"data", {{"sampling", "random"}, {"loader_threads", 2}}}}, 3);
  check_kill_and_resume(
      {{"optim", {{"name", "lamb"}}}, {"eval", {{"every", "7st"}}}, {"checkpoint", {{"keep_last", 1}}}}, 4);
  check_kill_and_resume({{"optim", {{"name", "sgd"}, {"lr", 0.1}}},
                         {"schedule", {{"name", "linear"}}},
                         {"checkpoint", {{"keep_best", false}}}},
                        5);
}

TEST_CASE(
    "SIGTERM and SIGINT: the step is finished, everything is saved, exit 0, and --resume goes on to the same bits") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, {{"duration", "300st"}, {"checkpoint", {{"every", "0st"}}}});
  REQUIRE(run(train_command(folder, "whole")).exit_code == 0);
  for (const std::string signal : {"TERM", "INT"}) {
    CAPTURE(signal);
    const std::string out = "by_" + signal;
    // Once the first step is written, however long the start takes on a busy machine. A shell's background jobs ignore
    // SIGINT, a child of `env` with its default does not.
    const std::string begun = "'" + (folder / out / "metrics.jsonl").string() + "'";
    const RunResult stopped = run("env --default-signal=INT " + train_command(folder, out) +
                                  " & pid=$!; until grep -qs '\"event\":\"step\"' " + begun +
                                  "; do sleep 0.005; done; kill -" + signal + " $pid; wait $pid");
    REQUIRE(stopped.exit_code == 0);
    REQUIRE(list_checkpoints(folder / out).size() >= 1);
    REQUIRE(run(train_command(folder, out, "--resume")).exit_code == 0);
    CHECK(final_checksum(folder / out) == final_checksum(folder / "whole"));
    CHECK(lasting_events(folder / out) == lasting_events(folder / "whole"));
  }
}

TEST_CASE(
    "--hours that are over at once: every start takes a step, also from the end of a stage, and the bits are the "
    "same") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, {{"duration", "9st"}, {"plan", {{"name", "vcycle"}}}});
  REQUIRE(run(train_command(folder, "whole")).exit_code == 0);
  int starts = 0;
  do {
    const std::string how = std::string("--hours 1e-9") + (starts > 0 ? " --resume" : "");
    const RunResult r = run(train_command(folder, "pieces", how));
    CAPTURE(r.err);
    REQUIRE(r.exit_code == 0);
  } while (final_checksum(folder / "pieces") == "unfinished" && ++starts < 40);
  CHECK(starts > 9);
  CHECK(final_checksum(folder / "pieces") == final_checksum(folder / "whole"));
  CHECK(lasting_events(folder / "pieces") == lasting_events(folder / "whole"));
}

TEST_CASE("a second signal leaves at once and keeps what was saved") {
  const TempFolder folder;
  make_tiny_data(folder);
  // Long steps: the first signal waits for the end of one.
  put_recipe(folder,
             {{"batch", {{"size", 512}, {"micro", 4}}}, {"model", {{"embed_dim", 128}}}, {"duration", "1000st"}});
  const RunResult result = run(train_command(folder, "out") +
                               " & pid=$!; sleep 0.5; kill -TERM $pid; sleep 0.05; kill -TERM $pid; wait $pid");
  CHECK((result.exit_code == 143 || result.exit_code == 0));  // 0: the step ended between the two
  for (const auto& checkpoint : list_checkpoints(folder / "out")) CHECK_NOTHROW(read_checkpoint_state(checkpoint));
}

TEST_CASE(
    "settings that must not change a bit: recompute, loader threads, number of compute threads of elementwise "
    "kernels") {
  const TempFolder folder;
  make_tiny_data(folder);
  for (const std::string precision : {"f32", "bf16"}) {
    put_recipe(
        folder,
        {{"precision", precision}, {"duration", "15st"}, {"model", {{"resid_dropout", 0.1}, {"attn_dropout", 0.1}}}});
    const std::string plain = precision + "plain";
    REQUIRE(run(train_command(folder, plain)).exit_code == 0);
    for (const std::string change : {"recompute=true", "data.loader_threads=0", "data.loader_threads=3"}) {
      CAPTURE(change);
      const std::string out = precision + change;
      REQUIRE(run(train_command(folder, out, change)).exit_code == 0);
      CHECK(final_checksum(folder / out) == final_checksum(folder / plain));
    }
  }
}

TEST_CASE("cutting a step into other micro-batches changes only rounding") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, {{"duration", "15st"},
                      {"model", {{"resid_dropout", 0.1}, {"attn_dropout", 0.1}, {"embed_dropout", 0.1}}}});
  std::vector<double> losses[3];
  const char* micros[] = {"batch.micro=8", "batch.micro=4", "batch.micro=1"};
  for (int i = 0; i < 3; ++i) {
    REQUIRE(run(train_command(folder, micros[i], micros[i])).exit_code == 0);
    for (const Json& event : read_metrics(folder / micros[i] / "metrics.jsonl"))
      if (event["event"] == "step") losses[i].push_back(event["loss"].get<double>());
  }
  REQUIRE(losses[0].size() == 15);
  // f32 sums in another order, over 15 steps of AdamW whose first steps divide tiny gradients by their own size.
  for (int i = 1; i < 3; ++i)
    for (size_t s = 0; s < 15; ++s) CHECK(losses[i][s] == doctest::Approx(losses[0][s]).epsilon(2e-4));
}
