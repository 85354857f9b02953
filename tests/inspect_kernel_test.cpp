// inspect kernel: the ladders in words, and what the emulator saw of each step.
#include <doctest/doctest.h>

#include "engine/core/config.h"
#include "kernels/ladder/ladder.h"
#include "tests/program_testing.h"

using namespace accrete;

namespace {

Json inspect(const std::string& arguments) {
  const RunResult r = run("$APPS/inspect kernel " + arguments + " --json");
  REQUIRE_MESSAGE(r.exit_code == 0, r.err);
  return Json::parse(r.out);
}

}  // namespace

TEST_CASE("all ladders are listed, and each is described with its bytes") {
  const Json all = inspect("")["ladders"];
  REQUIRE(all.size() == kernels::ladders().size());
  for (const kernels::Ladder& l : kernels::ladders()) {
    const Json j = inspect(l.name);
    CHECK(j["formula"] == l.formula);
    REQUIRE(j["steps"].size() == l.steps.size());
    for (size_t i = 0; i < l.steps.size(); ++i) {
      CHECK(j["steps"][i]["title"] == l.steps[i].title);
      CHECK(j["steps"][i]["bytes"].get<double>() == l.steps[i].bytes(l.large));
    }
    const RunResult text = run(std::string("$APPS/inspect kernel ") + l.name);
    CHECK(text.exit_code == 0);
    CHECK(text.out.find("not yet measured") != std::string::npos);
  }
}

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("emulated: launches, shared arrays, barriers and errors of every step") {
  for (const kernels::Ladder& l : kernels::ladders()) {
    const Json j = inspect(std::string(l.name) + " --emulate");
    CAPTURE(l.name);
    REQUIRE(j["steps"].size() == l.steps.size());
    for (const Json& s : j["steps"]) {
      CHECK(s["right"] == true);
      CHECK(s["error"].get<double>() <= s["tolerance"].get<double>());
      CHECK(s["kernels"].size() >= 1);
    }
  }

  // (67, 41) by (41, 75) in tiles of 16: 5 x 5 blocks, three tiles along K, two barriers each.
  const Json tiles = inspect("matmul --emulate --step 2")["steps"][0]["kernels"][0];
  CHECK(tiles["kernel"] == "tile_16");
  CHECK(tiles["launches"] == 1);
  CHECK(tiles["blocks"] == 25);
  CHECK(tiles["threads"] == 256);
  CHECK(tiles["shared"].dump() == R"([{"array":"a_tile","bytes":1024},{"array":"b_tile","bytes":1024}])");
  REQUIRE(tiles["barriers"].size() == 2);
  for (const Json& b : tiles["barriers"]) {
    CHECK(b["fewest"] == 3);
    CHECK(b["most"] == 3);
    CHECK(b["threads"] == 256);
  }
  CHECK(tiles["first_block"].size() == 2 + 6);

  // Four kernels for each of five tensors.
  const Json passes = inspect("adamw --emulate --step 1")["steps"][0]["kernels"];
  REQUIRE(passes.size() == 4);
  CHECK(passes[0]["kernel"] == "first_moment");
  CHECK(passes[3]["kernel"] == "round_copy");
  for (const Json& k : passes) CHECK(k["launches"] == 5);

  // The blocks of later queries see more keys.
  const Json attention = inspect("attention --emulate --step 3")["steps"][0]["kernels"][0]["barriers"][0];
  CHECK(attention["fewest"] == 2);
  CHECK(attention["most"] == 3);

  const RunResult text = run("$APPS/inspect kernel attention --emulate --step 3 --trace");
  CHECK(text.out.find("barrier attention.cu:") != std::string::npos);
  CHECK(text.out.find("3 orders of warps: right") != std::string::npos);
}
#endif

TEST_CASE("wrong names, steps and options are refused in a sentence") {
  const auto message = [](const std::string& arguments) {
    const RunResult r = run("$APPS/inspect kernel " + arguments);
    CHECK(r.exit_code == 1);
    return r.err;
  };
  CHECK(message("matmull").find("no ladder is named \"matmull\"; did you mean \"matmul\"?") != std::string::npos);
  CHECK(message("matmul --step 6").find("matmul has the steps 1 to 5; got 6") != std::string::npos);
  CHECK(message("matmul --trace").find("--trace needs --emulate") != std::string::npos);
}
