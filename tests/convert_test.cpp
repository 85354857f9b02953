// convert: what it writes has the same bits when it is read again, whichever way round.
#include <doctest/doctest.h>

#include <filesystem>

#include "engine/core/config.h"
#include "models/picture_info.h"
#include "models/registry.h"
#include "tests/model_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

std::vector<float> values(const fs::path& path) { return all_values(*load_model(path, DType::f32, kCpu)); }

RunResult convert(const fs::path& from, const std::string& arguments) {
  return run("$APPS/convert '" + from.string() + "' --quiet " + arguments);
}

std::string out(const fs::path& folder) { return " --out '" + folder.string() + "'"; }

// A finished run's newest checkpoint, whose averaged weights are `averaged`.
void make_run(const fs::path& run, const Model& last, const Model& averaged) {
  const fs::path folder = run / "ckpt" / "00000007";
  fs::create_directories(folder);
  save_tensors(folder / "params.safetensors", last.params(), own_names(last.params()), DType::f32);
  save_tensors(folder / "ema.safetensors", averaged.params(), own_names(averaged.params()), DType::f32);
  write_text(folder / "state.json", Json({{"family", last.family()}, {"model", last.config()}, {"step", 7}}).dump());
  write_text(folder / "COMPLETE", "");
}

}  // namespace

TEST_CASE("to timm, to transformers and back: the same weights, classes and normalisation") {
  for (const char* name : {"vit_hf", "deit_hf", "vit_timm", "vit_distilled"}) {
    CAPTURE(name);
    const TempFolder work;
    REQUIRE(convert(golden(name), "--to timm" + out(work / "timm")).exit_code == 0);
    REQUIRE(convert(work / "timm", "--to hf" + out(work / "hf")).exit_code == 0);
    REQUIRE(convert(work / "hf", "--to timm" + out(work / "again")).exit_code == 0);
    for (const char* folder : {"timm", "hf", "again"}) CHECK(same_bits(values(work / folder), values(golden(name))));
    // transformers states the crop in whole pixels, which for 16 pixels is not 0.875.
    const PictureInfo hf = read_picture_info(work / "hf"), timm = read_picture_info(work / "timm");
    CHECK(hf.class_names == timm.class_names);
    CHECK(hf.mean == timm.mean);
    CHECK(hf.stddev == timm.stddev);
    CHECK(hf.interpolation == timm.interpolation);
    CHECK(file_bytes(work / "again" / "model.safetensors") == file_bytes(work / "timm" / "model.safetensors"));
    CHECK(read_json(work / "timm" / "config.json").contains("architecture"));
    CHECK(read_json(work / "hf" / "config.json").contains("model_type"));
  }
}

TEST_CASE("VOLO for timm; GPT for transformers in half the bytes") {
  const TempFolder work;
  REQUIRE(convert(golden("volo_a"), "--to timm" + out(work / "volo")).exit_code == 0);
  CHECK(same_bits(values(work / "volo"), values(golden("volo_a"))));
  REQUIRE(convert(golden("gpt2_b"), "--to hf --precision bf16" + out(work / "gpt")).exit_code == 0);
  CHECK(relative_error(values(work / "gpt"), values(golden("gpt2_b"))) < 1.0 / 256);
  CHECK(Safetensors::open(work / "gpt").entries()[0].dtype == "BF16");
}

TEST_CASE("numpy's archives hold every model, and are read like any other") {
  for (const char* name : {"vit_deit3", "volo_a", "gpt2_b"}) {
    CAPTURE(name);
    const TempFolder work;
    REQUIRE(convert(golden(name), "--to npz" + out(work / "npz")).exit_code == 0);
    CHECK(same_bits(values(work / "npz"), values(golden(name))));
    CHECK(same_bits(values(work / "npz" / "model.npz"), values(golden(name))));
    REQUIRE(convert(work / "npz", "--to npz --precision f16" + out(work / "half")).exit_code == 0);
    CHECK(relative_error(values(work / "half"), values(golden(name))) < 1.0 / 1024);
  }
}

TEST_CASE("a run: its newest checkpoint, or its averaged weights") {
  const TempFolder work;
  const auto last = load_model(golden("vit_hf"), DType::f32, kCpu);
  const auto averaged = load_model(golden("vit_hf"), DType::f32, kCpu);
  for (size_t i = 0; i < averaged->params().entries().size(); ++i)
    averaged->params().value(static_cast<int>(i)).ptr<float>()[0] += 1;
  make_run(work / "run", *last, *averaged);
  REQUIRE(convert(work / "run", "--to hf" + out(work / "last")).exit_code == 0);
  REQUIRE(convert(work / "run", "--to hf --ema" + out(work / "averaged")).exit_code == 0);
  CHECK(same_bits(values(work / "last"), all_values(*last)));
  CHECK(same_bits(values(work / "averaged"), all_values(*averaged)));
  CHECK(read_picture_info(work / "last").class_names.empty());

  // Names of classes come from RUN/model.
  fs::copy(golden("vit_hf"), work / "run" / "model");
  Json config = read_json(work / "run" / "model" / "config.json");
  for (const auto& [id, label] : config["id2label"].items()) label = "class " + id;
  write_text(work / "run" / "model" / "config.json", config.dump());
  REQUIRE(convert(work / "run", "--to timm" + out(work / "named")).exit_code == 0);
  CHECK(read_picture_info(work / "named").class_names[1] == "class 1");
}

TEST_CASE("what convert refuses, in one sentence, without touching anything") {
  const TempFolder work;
  const auto refusal = [&](const fs::path& from, const std::string& arguments) {
    const RunResult r = convert(from, arguments);
    CHECK_MESSAGE(r.one_line_error(), r.err);
    return r.err;
  };
  CHECK(refusal(golden("gpt2_b"), "--to timm" + out(work / "a")).find("expected --to hf") != std::string::npos);
  CHECK(refusal(golden("volo_a"), "--to hf" + out(work / "a")).find("expected --to timm") != std::string::npos);
  CHECK(refusal(golden("vit_hf"), "--to hf --ema" + out(work / "a")).find("no averaged weights") != std::string::npos);
  CHECK(refusal(golden("vit_deit3"), "--to hf" + out(work / "a")).find("LayerScale") != std::string::npos);
  CHECK(refusal(golden("vit_hf"), "--to npz --precision bf16" + out(work / "a")).find("numpy has no bf16") !=
        std::string::npos);
  CHECK(refusal(work / "nothing", "--to hf" + out(work / "a")).find("does not exist") != std::string::npos);
  CHECK(refusal(golden("vit_hf"), "--to onnx" + out(work / "a")).find("onnx") != std::string::npos);
  CHECK_FALSE(fs::exists(work / "a"));
  fs::create_directories(work / "full");
  write_text(work / "full" / "note.txt", "mine");
  CHECK(refusal(golden("vit_hf"), "--to hf" + out(work / "full")).find("not an empty folder") != std::string::npos);
  CHECK(file_bytes(work / "full" / "note.txt") == "mine");
}
