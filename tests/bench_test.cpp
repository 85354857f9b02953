// The program bench: its JSON on tiny sizes, and that its figures fit together.
#include <doctest/doctest.h>

#include <set>

#include "engine/core/config.h"
#include "tests/image_testing.h"
#include "tests/train_testing.h"

using namespace accrete;

namespace {

Json bench(const std::string& arguments) {
  const RunResult r = run("$APPS/bench " + arguments + " --json --quiet");
  REQUIRE_MESSAGE(r.exit_code == 0, r.err);
  CHECK(r.err.empty());
  return Json::parse(r.out);
}

}  // namespace

TEST_CASE("bench step: figures of a step fit together") {
  const std::string sizes =
      "--depth 2 --embed-dim 32 --num-heads 2 --vocab 101 --batch 2 --length 16 --steps 3 --warmup 2";
  for (const char* precision : {"f32", "bf16"}) {
    const Json j = bench("step " + sizes + " --precision " + precision);
    const double seconds = j["step_seconds"]["median"].get<double>();
    CHECK(seconds > 0);
    CHECK(j["step_seconds"]["min"].get<double>() <= seconds);
    CHECK(j["step_seconds"]["max"].get<double>() >= seconds);
    // 2 blocks of 12 C^2 + 13 C, two embeddings (the context stays GPT-2's), the last norm
    CHECK(j["params"] == 2 * (12 * 32 * 32 + 13 * 32) + (101 + 1024) * 32 + 64);
    CHECK(j["tokens_per_second"].get<double>() == doctest::Approx(2 * 16 / seconds));
    const double rate = j["flops_per_step"].get<double>() / seconds;
    CHECK(j["flops_per_second"].get<double>() == doctest::Approx(rate));
    const std::string ceiling = std::string("gemm_") + precision + "_flops_per_second";
    CHECK(j["share_of_ceiling"].get<double>() == doctest::Approx(rate / j["ceilings"][ceiling].get<double>()));
    CHECK(j["allocations_after_warmup"] == 0);
    CHECK(j["peak_memory"].get<int64_t>() > 0);
    CHECK(j["time_to_first_step"].get<double>() > 0);
    CHECK(j["last_loss"].get<double>() < j["first_loss"].get<double>());  // it learns the one batch
  }
  // Every multiply-add of the products is two FLOPs, forward and twice backward; the rest is small.
  const Json j = bench("step " + sizes);
  const double products = 3.0 * 2 * 32 * (2 * 12 * 32 * 32 + 101 * 32);
  CHECK(j["flops_per_step"].get<double>() > products);
  CHECK(j["flops_per_step"].get<double>() < 1.3 * products);
}

TEST_CASE("bench gemm, ops, tokenizer and data") {
  const Json g = bench("gemm --tokens 64 --embed-dim 32 --vocab 100 --seconds 0.001");
  REQUIRE(g["products"].size() == 2 * 5 * 3);
  for (const Json& p : g["products"]) {
    const double flops = 2.0 * p["m"].get<double>() * p["n"].get<double>() * p["k"].get<double>();
    CHECK(p["flops_per_second"].get<double>() == doctest::Approx(flops / p["seconds"]["median"].get<double>()));
  }
  const Json o = bench("ops --only layernorm --seconds 0.001");
  std::set<std::string> names;
  for (const Json& row : o["ops"]) {
    names.insert(row["op"].get<std::string>());
    CHECK(row["forward"]["seconds"].get<double>() > 0);
    CHECK(row["backward"]["gb_per_s"].get<double>() > 0);
    CHECK(row["forward"]["bound"] == "memory");
  }
  CHECK(names == std::set<std::string>{"layernorm", "residual_layernorm"});

  const TempFolder folder;
  make_tiny_data(folder);
  const std::string text = (folder / "text.txt").string();
  const Json t = bench("tokenizer --tokenizer bytes --in '" + text + "' --seconds 0.001");
  CHECK(t["bytes"] == std::filesystem::file_size(text));
  CHECK(t["tokens"] == t["bytes"]);
  CHECK(t["encode_bytes_per_second"].get<double>() > 0);
  const Json d = bench("data --data '" + (folder / "data").string() + "' --length 16 --batch 4 --seconds 0.001");
  CHECK(d["tokens_per_second"].get<double>() == doctest::Approx(64 / d["batch_seconds"]["median"].get<double>()));
}

TEST_CASE("bench data: pictures from files of any folder, a data set, and shards") {
  const TempFolder folder;
  for (uint32_t i = 0; i < 6; ++i)
    put_picture(folder / ("set/train/" + std::to_string(i % 2) + "/" + std::to_string(i) + ".ppm"),
                make_pnm(make_picture(40, 30, 3, i)));
  put_picture(folder / "loose/a.ppm", make_pnm(make_picture(40, 30, 3, 1)));
  put_picture(folder / "loose/b.ppm", make_pnm(make_picture(50, 40, 3, 2)));
  put_picture(folder / "loose/broken.ppm", "P6 4 4");
  const auto path = [&](const char* name) { return "'" + (folder / name).string() + "'"; };
  REQUIRE(run("$APPS/prepare images --in " + path("set") + " --out " + path("shards")).exit_code == 0);
  const std::string small = " --size 16 --seconds 0.001 --loader-threads 2";
  const Json loose = bench("data --in " + path("loose") + small);
  CHECK(loose["pictures"] == 2);
  CHECK(loose["unreadable"] == 1);
  CHECK(loose["mean_pixels"] == 1600);
  const Json set = bench("data --in " + path("set") + " --shards " + path("shards") + small);
  CHECK(set["pictures"] == 6);
  for (const char* key :
       {"read", "read_shards", "decode", "basic", "basic_shards", "deit", "deit_loader", "evaluation"}) {
    CAPTURE(key);
    const Json& f = set[key];
    const double pictures = 6.0 * f["threads"].get<double>();
    CHECK(f["images_per_second"].get<double>() ==
          doctest::Approx(pictures / f["pass_seconds"]["median"].get<double>()));
    CHECK(f["images_per_core_second"].get<double>() > 0);
  }
  CHECK(set["deit_loader"]["threads"] == 2);
}

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("bench gemm and ops on a device whose work is queued") {
  const Json g = bench("gemm --device emu --tokens 64 --embed-dim 32 --vocab 100 --seconds 0.001");
  CHECK(g["ceilings"]["device"] == "emu");
  CHECK(g["ceilings"]["copy_bytes_per_second"].get<double>() > 0);
  REQUIRE(g["products"].size() == 2 * 5 * 3);
  for (const Json& p : g["products"]) CHECK(p["share_of_ceiling"].get<double>() > 0);
  // The table's 1024 rows doubled: begin, end and bytes follow.
  const Json one = bench("ops --device emu --only slice_rows --seconds 0.001 --tokens 1024"),
             two = bench("ops --device emu --only slice_rows --seconds 0.001 --tokens 2048");
  REQUIRE(one["ops"].size() == 2);
  for (size_t i = 0; i < 2; ++i)
    for (const char* direction : {"forward", "backward"}) {
      const Json &a = one["ops"][i][direction], &b = two["ops"][i][direction];
      CHECK(a["seconds"].get<double>() > 0);
      CHECK(b["bytes"].get<double>() == 2 * a["bytes"].get<double>());
    }
}
#endif

TEST_CASE("bench: bad input is refused in one sentence") {
  const auto refused = [](const std::string& arguments, const std::string& part) {
    const RunResult r = run("$APPS/bench " + arguments + " --quiet");
    CAPTURE(r.err);
    CHECK(r.one_line_error());
    CHECK_MESSAGE(r.err.find(part) != std::string::npos, part);
  };
  refused("", "subcommand");
  refused("step --model gpt5", "unknown model");
  refused("step --num-heads 7", "does not divide");
  refused("step --precision f8", "f8 not in");
  refused("step --device tpu", "unknown device");
  refused("ops --device cpu --tokens 1000", "multiple of 1024");
  refused("data", "expected --data or --in");
  refused("data --in nowhere", "nowhere");
  refused("data --in a --data b", "excludes");
  refused("step --batch 0", "--batch");
  refused("ops --only nothing-like-this", "no op has");
  refused("tokenizer --tokenizer nowhere --in nowhere", "nowhere");
  refused("data --data nowhere", "nowhere");
}
