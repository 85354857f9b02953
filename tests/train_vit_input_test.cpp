// Wrong input of train_vit and evaluate on pictures: one sentence, exit 1, nothing begun. And what begins from other
// weights: another resolution, other classes, a probe, a teacher.
#include <doctest/doctest.h>

#include "tests/vision_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

void refused(const TempFolder& folder, const std::string& more, const std::string& words) {
  CAPTURE(more);
  const RunResult result = run(train_command(folder, "refused", more));
  CAPTURE(result.err);
  CHECK(result.one_line_error());
  CHECK(result.err.find(words) != std::string::npos);
  CHECK(!fs::exists(folder / "refused"));
}

Json last_event(const TempFolder& folder, const std::string& out) {
  return read_metrics(folder / out / "metrics.jsonl").back();
}

}  // namespace

TEST_CASE("settings that cannot be meant") {
  const TempFolder folder;
  make_tiny_pictures(folder);
  put_vision_recipe(folder, tiny_vit());
  refused(folder, "data.length=64", "is for texts");
  refused(folder, "data.resolution=18", "no multiple of 4");
  refused(folder, "model.classes=7", "\"model.classes\" is 7");
  refused(folder, "model.channels=1", "has 3");
  refused(folder, "model.num_heads=3", "num_heads");
  refused(folder, "model.patch=5", "patch");
  refused(folder, "model.deptth=3", "did you mean \"model.depth\"?");
  refused(folder, "data.augment.mix_token=true", "is for volo");
  refused(folder, "data.images.token_labels=labels", "is for volo");
  refused(folder, "data.augment.auto_augment=rand-q9", "rand-q9");
  refused(folder, "batch.size=3 batch.micro=3", "even");
  refused(folder, "model.loss=bce", "data.augment.smoothing=0");
  refused(folder, "data.path='" + (folder / "nowhere").string() + "'", "nowhere");
  refused(folder, "data.images.mean=[0.5]", "mean");
  refused(folder, "eval.split=held_out", "data.holdout is 0");
  refused(folder, "init.reset_head=true", "init.from=MODEL");
  refused(folder, "init.from='" + (folder / "nowhere").string() + "'", "does not exist");
  refused(folder, "--until loss=2", "top1=SHARE");
  refused(folder, "distill.teacher='" + (folder / "nowhere").string() + "'", "model.distilled=true");
  refused(folder, "model.preset=deit-gigantic", "deit-gigantic");
  refused(folder, "plan.name=autoprog plan.length_scale=0.5", "is for texts");
  put_vision_recipe(folder, tiny_volo());
  refused(folder, "data.resolution=18", "twice the patch");
  refused(folder, "model.depth=[2,1,1] plan.name=autoprog", "model.depth=[2,2]");
  // The text programs refuse what is for pictures, and the programs each other's recipes.
  put_file(folder / "gpt.json", R"({"family": "gpt"})");
  const RunResult other = run("$APPS/train_vit --recipe '" + (folder / "gpt.json").string() + "' --out x");
  CHECK(other.one_line_error());
  CHECK(other.err.find("train_vit trains \"vit\", \"volo\"") != std::string::npos);
}

TEST_CASE("a training begins from other weights: other resolution, other classes, a probe, layer-wise rates") {
  const TempFolder folder;
  make_tiny_pictures(folder);
  for (const Json& family : {tiny_vit(), tiny_deit(), tiny_volo()}) {
    CAPTURE(family["family"].dump());
    fs::remove_all(folder / "base");
    put_vision_recipe(folder, family);
    REQUIRE(run(train_command(folder, "base", "duration=6st")).exit_code == 0);
    const auto from = [&](const std::string& model) {
      return "duration=2st init.from='" + (folder / model).string() + "' ";
    };
    int n = 0;
    for (const std::string& model : {std::string("base"), std::string("base/model")}) {
      for (const std::string more : {"", "data.resolution=24 model.image_size=24", "init.reset_head=true",
                                     "init.trains=head", "optim.layer_decay=0.7", "'plan={\"name\":\"vcycle\"}'"}) {
        CAPTURE(model);
        CAPTURE(more);
        const RunResult result =
            run(train_command(folder, family["family"].get<std::string>() + std::to_string(n++), from(model) + more));
        CAPTURE(result.err);
        CHECK(result.exit_code == 0);
      }
    }
    if (family["family"] == "volo") continue;  // its running statistics move whatever the rate
    // A rate of 0 keeps the weights: both runs judge the same model.
    REQUIRE(run(train_command(folder, "same", from("base") + "optim.lr=0 optim.ema=0")).exit_code == 0);
    CHECK(last_event(folder, "same")["loss"] == last_event(folder, "base")["loss"]);
    fs::remove_all(folder / "same");
    for (int i = 0; i < n; ++i) fs::remove_all(folder / (family["family"].get<std::string>() + std::to_string(i)));
  }
}

TEST_CASE("a probe trains the output layer alone") {
  const TempFolder folder;
  make_tiny_pictures(folder);
  put_vision_recipe(folder, tiny_vit());
  REQUIRE(run(train_command(folder, "base", "duration=4st")).exit_code == 0);
  REQUIRE(run(train_command(folder, "probe",
                            "duration=4st init.trains=head init.from='" + (folder / "base").string() + "'"))
              .exit_code == 0);
  for (const Json& e : read_metrics(folder / "probe/metrics.jsonl"))
    if (e["event"] == "stage_start") CHECK(e["trainable"] == 10 * 32 + 10);
}

TEST_CASE("distillation from any model that fits, and refusals of those that do not") {
  const TempFolder folder;
  make_tiny_pictures(folder);
  for (const Json& teacher : {tiny_vit(), tiny_volo()}) {
    put_vision_recipe(folder, teacher);
    REQUIRE(run(train_command(folder, "teacher-" + teacher["family"].get<std::string>(), "duration=4st")).exit_code ==
            0);
  }
  put_vision_recipe(folder, tiny_vit());
  REQUIRE(run(train_command(folder, "teacher-24", "duration=2st data.resolution=24 model.image_size=24")).exit_code ==
          0);
  put_vision_recipe(folder, tiny_deit());
  const auto taught = [&](const std::string& teacher, const std::string& more) {
    return "duration=4st distill.teacher='" + (folder / teacher).string() + "' " + more;
  };
  std::vector<double> losses;
  int n = 0;
  for (const std::string& teacher :
       {std::string("teacher-vit"), std::string("teacher-vit/model"), std::string("teacher-volo")})
    for (const std::string more :
         {"distill.type=hard", "distill.type=soft distill.tau=3", "'plan={\"name\":\"incubation\",\"modules\":2}'"}) {
      const std::string out = "student" + std::to_string(n++);
      const RunResult result = run(train_command(folder, out, taught(teacher, more)));
      CAPTURE(result.err);
      REQUIRE(result.exit_code == 0);
      losses.push_back(last_event(folder, out)["loss"].get<double>());
    }
  CHECK(losses[0] == losses[3]);  // a run and its exported model teach the same
  CHECK(losses[0] != losses[1]);
  refused(folder, taught("teacher-24", ""), "made for pictures of 24 x 24");
  put_vision_recipe(folder, tiny_vit());
  refused(folder, taught("teacher-vit", ""), "model.distilled=true");
}
