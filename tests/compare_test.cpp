// compare: the program, on real tiny runs and on wrong input.
#include <doctest/doctest.h>

#include "tests/train_testing.h"

using namespace accrete;

TEST_CASE("two seeds against a shorter run: table, JSON, page") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder);
  for (const std::string seed : {"1", "2"})
    REQUIRE(run(train_command(folder, "base-s" + seed, "--seed " + seed)).exit_code == 0);
  REQUIRE(run(train_command(folder, "short", "duration=20st")).exit_code == 0);
  const std::string runs = "'" + (folder / "base-s1").string() + "' '" + (folder / "base-s2").string() + "' '" +
                           (folder / "short").string() + "'";
  const RunResult text = run("$APPS/compare " + runs);
  CAPTURE(text.err);
  REQUIRE(text.exit_code == 0);
  CHECK(text.out.find("not reached") != std::string::npos);
  const RunResult json = run("$APPS/compare --json --baseline '" + (folder / "base-s2").string() + "/' --out '" +
                             (folder / "page.html").string() + "' " + runs);
  REQUIRE(json.exit_code == 0);
  const Json result = Json::parse(json.out);
  CHECK(result["baseline"] == "base");
  REQUIRE(result["rows"].size() == 2);
  CHECK(result["rows"][0]["runs"] == Json({"base-s1", "base-s2"}));
  CHECK(result["rows"][0]["total"]["steps"] == 60);
  CHECK(result["rows"][1]["total"]["flops"].get<double>() ==
        doctest::Approx(result["rows"][0]["total"]["flops"].get<double>() / 3).epsilon(1e-6));
  CHECK(file_bytes(folder / "page.html").find("Cost to reach the final valid loss of base") != std::string::npos);
  // A baseline that is not in the list joins it.
  const RunResult alone = run("$APPS/compare --json --baseline '" + (folder / "base-s1").string() + "' '" +
                              (folder / "short").string() + "'");
  CHECK(Json::parse(alone.out)["rows"].size() == 2);
}

TEST_CASE("wrong input is one sentence") {
  const TempFolder folder;
  make_tiny_data(folder);
  put_recipe(folder, {{"duration", "5st"}});
  REQUIRE(run(train_command(folder, "a")).exit_code == 0);
  const std::string a = "'" + (folder / "a").string() + "'";
  const std::pair<std::string, std::string> cases[] = {
      {"", "runs"},
      {a + " " + a + "/", "given twice"},
      {a + " '" + (folder / "no").string() + "'", "not a run folder"},
      {a + " --metric top1", "no evaluation of \"top1\""},
      {a + " --out '" + (folder / "no/page.html").string() + "'", "no"}};
  for (const auto& [arguments, word] : cases) {
    const RunResult result = run("$APPS/compare " + arguments);
    CAPTURE(arguments);
    CAPTURE(result.err);
    CHECK(result.one_line_error());
    CHECK(result.err.find(word) != std::string::npos);
  }
}
