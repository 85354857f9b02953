// Wrong input of train_vit and evaluate on pictures: one sentence, exit 1, nothing begun. And what begins from other
// weights: another resolution, other classes, a probe, a teacher.
#include <doctest/doctest.h>

#include "apps/vit_family.h"
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
  refused(folder, "data.crop_resolution=12", "at least data.resolution (16)");
  refused(folder, "data.crop_resolution=24 data.images.resize=crop_direct", "data.images.resize=batch_bilinear");
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
  for (const auto& [family, heads] : {std::pair{tiny_vit(), 1}, {tiny_deit(), 2}, {tiny_volo(), 2}}) {
    for (const char* out : {"base", "probe"}) fs::remove_all(folder / out);
    put_vision_recipe(folder, family);
    REQUIRE(run(train_command(folder, "base", "duration=4st")).exit_code == 0);
    REQUIRE(run(train_command(folder, "probe",
                              "duration=4st init.trains=head init.from='" + (folder / "base").string() + "'"))
                .exit_code == 0);
    for (const Json& e : read_metrics(folder / "probe/metrics.jsonl"))
      if (e["event"] == "stage_start") CHECK(e["trainable"] == heads * (10 * 32 + 10));
  }
  // As MAE probes: a new head behind a batch norm, by LARS. The exported model has the norm in its head.
  fs::remove_all(folder / "base");
  fs::remove_all(folder / "probe");
  put_vision_recipe(folder, tiny_vit());
  REQUIRE(run(train_command(folder, "base", "duration=4st")).exit_code == 0);
  const std::string probe = "model.head_norm=true init.trains=head optim.name=lars optim.lr=0.1 init.from='" +
                            (folder / "base").string() + "' ";
  const RunResult kept = run(train_command(folder, "kept", probe));
  CHECK(kept.one_line_error());
  CAPTURE(kept.err);
  CHECK(kept.err.find("init.reset_head=true") != std::string::npos);
  const RunResult result = run(train_command(folder, "probe", probe + "init.reset_head=true duration=12st"));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const auto judged = [&](const std::string& model) {
    const RunResult r = run("$APPS/evaluate '" + (folder / model).string() + "' --data '" + (folder / "data").string() +
                            "' --split valid --json");
    CAPTURE(r.err);
    REQUIRE(r.exit_code == 0);
    return Json::parse(r.out);
  };
  const Json ours = judged("probe"), exported = judged("probe/model");
  CHECK(ours["loss"].get<double>() == doctest::Approx(exported["loss"].get<double>()).epsilon(1e-4));
}

TEST_CASE("held-out pictures are judged as they are: whole, in order, unmixed, an odd number too") {
  const TempFolder folder;
  make_tiny_pictures(folder);
  put_vision_recipe(folder, tiny_vit());
  const Family family = vit_family();
  Recipe recipe = load_recipe(folder / "recipe.json", {"data.holdout=0.33", "data.augment.repeats=3"}, {}, family);
  const auto judge = family.make_source(recipe.data, "held_out", 1, Purpose::judge);
  REQUIRE(judge->epoch_samples() == 53);  // of 160
  const Batch all = judge->get(0, 53);
  CHECK(all.samples == 53);
  CHECK(all.extra.empty());
  // The evaluation pipeline on the same pictures.
  const auto pictures = held_out_pictures(160, 0.33);
  recipe.data.holdout = 0;
  const auto plain = family.make_source(recipe.data, "train", 1, Purpose::judge);
  for (size_t i = 0; i < pictures.size(); ++i) {
    const Batch one = plain->get(pictures[i], 1);
    const auto want = one.inputs.to_vector<float>();
    const auto got = all.inputs.to_vector<float>();
    CHECK(std::equal(want.begin(), want.end(), got.begin() + static_cast<std::ptrdiff_t>(i * want.size())));
    CHECK(one.targets.to_vector<int32_t>()[0] == all.targets.to_vector<int32_t>()[i]);
  }
  // Variants of a supernet are scored on augmented, unmixed pictures.
  const Batch scored = family.make_source(recipe.data, "train", 1, Purpose::score)->get(0, 3);
  CHECK(scored.inputs.to_vector<float>() != plain->get(0, 3).inputs.to_vector<float>());
  REQUIRE(scored.extra.contains("soft_targets"));  // smoothing alone
  for (const float t : scored.extra.at("soft_targets").to_vector<float>())
    CHECK((t == doctest::Approx(0.91f) || t == doctest::Approx(0.01f)));

  const RunResult result =
      run(train_command(folder, "judged", "duration=4st data.holdout=0.33 eval.split=held_out eval.batches=0"));
  CAPTURE(result.err);
  CHECK(result.exit_code == 0);
  const RunResult soup = run(train_command(
      folder, "soup",
      "duration=8st data.holdout=0.33 "
      "'plan={\"name\":\"twa\",\"snapshots\":3,\"average\":{\"coefficients\":\"greedy\",\"data\":\"held_out\"}}'"));
  CAPTURE(soup.err);
  CHECK(soup.exit_code == 0);
}

TEST_CASE("evaluate: a checkpoint is judged as its run, whichever way its path is written") {
  const TempFolder folder;
  make_tiny_pictures(folder);
  put_vision_recipe(folder, tiny_vit());
  REQUIRE(run(train_command(folder, "run",
                            "duration=4st data.images.crop_pct=0.64 data.images.mean=[0.2,0.3,0.4] "
                            "data.images.stddev=[0.5,0.6,0.7]"))
              .exit_code == 0);
  const std::string data = " --data '" + (folder / "data").string() + "' --quiet --json";
  const auto evaluated = [&](const std::string& command) {
    const RunResult r = run("cd '" + folder.path().string() + "'; " + command + data);
    REQUIRE_MESSAGE(r.exit_code == 0, r.err);
    Json j = Json::parse(r.out);
    for (const char* key : {"seconds", "pictures_per_second", "model"}) j.erase(key);
    return j;
  };
  const Json want = evaluated("$APPS/evaluate run");
  CHECK(want["crop_pct"] == 0.64);
  CHECK(evaluated("$APPS/evaluate run/") == want);
  CHECK(evaluated("$APPS/evaluate run/ckpt/00000004") == want);
  CHECK(evaluated("$APPS/evaluate run/ckpt/00000004/") == want);
  CHECK(evaluated("cd run/ckpt; $APPS/evaluate 00000004") == want);
  CHECK(evaluated("cd run; $APPS/evaluate model") == want);

  const Json listed = evaluated("$APPS/evaluate run --task loss --per-class");
  CHECK(listed["classes"] == want["classes"]);
  CHECK(!listed.contains("top1"));
  const RunResult text = run("$APPS/evaluate '" + (folder / "run").string() + "' --data '" +
                             (folder / "data").string() + "' --quiet --task loss --per-class");
  CHECK(text.exit_code == 0);
  CHECK(text.out.find("precision") != std::string::npos);

  fs::rename(folder / "run/config.json", folder / "run/away.json");
  const RunResult lost = run("$APPS/evaluate '" + (folder / "run/ckpt/00000004").string() + "' --data '" +
                             (folder / "data").string() + "' --quiet");
  CHECK(lost.one_line_error());
  CHECK(lost.err.find("--crop-pct") != std::string::npos);
}

TEST_CASE("pictures that cannot be read are counted at the end, and in every evaluation") {
  const TempFolder folder;
  const auto put = [&](const std::string& split, const std::string& name, const std::string& bytes) {
    fs::create_directories(folder / "data" / split / name.substr(0, 1));
    put_file(folder / "data" / split / name.substr(0, 1) / (name + ".ppm"), bytes);
  };
  for (const char* split : {"train", "val"})
    for (int i = 0; i < 10; ++i)
      put(split, (i % 2 ? "a" : "b") + std::to_string(i),
          "P6\n20 20\n255\n" + std::string(3 * 20 * 20, static_cast<char>(20 * i)));
  put("train", "a-broken", "P6\n20 20\n255\nshort");
  put("val", "a-broken", "P6\n20 20\n255\nshort");
  put("val", "b-broken", "");
  put_vision_recipe(folder, tiny_vit());
  const RunResult r = run("$APPS/train_vit --recipe '" + (folder / "recipe.json").string() + "' --out '" +
                          (folder / "run").string() + "' --device cpu eval.batches=0 duration=6st");
  REQUIRE_MESSAGE(r.exit_code == 0, r.err);
  CHECK(r.err.find("pictures that could not be read: 1 for training, 2 of valid") != std::string::npos);
  for (const Json& e : read_metrics(folder / "run/metrics.jsonl"))
    if (e["event"] == "eval") CHECK(e["unreadable"] == 2);
}

TEST_CASE("evaluate: the same classes in another order are refused") {
  const TempFolder folder;
  make_tiny_pictures(folder);
  put_file(folder / "data/batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
  put_vision_recipe(folder, tiny_vit());
  REQUIRE(run(train_command(folder, "run", "duration=2st")).exit_code == 0);
  const std::string command =
      "$APPS/evaluate '" + (folder / "run").string() + "' --data '" + (folder / "data").string() + "' --quiet";
  CHECK(run(command).exit_code == 0);
  put_file(folder / "data/batches.meta.txt", "b\na\nc\nd\ne\nf\ng\nh\ni\nj\n");
  const RunResult swapped = run(command);
  CHECK(swapped.one_line_error());
  CHECK(swapped.err.find("class 0 of the model is \"a\"") != std::string::npos);
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
