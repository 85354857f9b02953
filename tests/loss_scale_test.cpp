// The dynamic loss scale: which scale each step gets, as a function of the outcomes before it.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "engine/core/error.h"
#include "tests/op_testing.h"
#include "training/loss_scale.h"

using namespace accrete;
using Outcome = LossScale::Outcome;

namespace {

// The scales of the steps whose outcomes are given: '.' finite, 'x' not.
std::vector<double> scales_of(LossScale& scale, const std::string& outcomes) {
  std::vector<double> out;
  for (const char c : outcomes) {
    out.push_back(scale.of(scale.recorded()));
    scale.record(c == '.');
  }
  return out;
}

LossScaleConfig quick() { return {.initial = 1024, .interval = 3, .floor = 1}; }

}  // namespace

TEST_CASE("defaults: 65536, halved by a bad step, doubled after 2000 good ones") {
  LossScale scale({});
  CHECK(scale.of(0) == 65536);
  CHECK(scale.of(1) == 65536);
  for (int i = 0; i < 1999; ++i) CHECK(scale.record(true) == Outcome::taken);
  CHECK(scale.of(2000) == 65536);
  scale.record(true);
  CHECK(scale.of(2000) == 65536);  // already on its way when the 2000th outcome is known
  CHECK(scale.of(2001) == 131072);
  CHECK(scale.record(false) == Outcome::skipped);
  CHECK(scale.skipped() == 1);
}

TEST_CASE("an outcome takes effect two steps later") {
  LossScale scale(quick());
  CHECK(scales_of(scale, "x....") == std::vector<double>{1024, 1024, 512, 512, 512});
}

TEST_CASE("a step that ran with the old scale neither halves twice nor counts as good") {
  LossScale twice(quick());
  CHECK(scales_of(twice, "xx..") == std::vector<double>{1024, 1024, 512, 512});
  CHECK(twice.skipped() == 2);
  // Good steps with 512 are the third to the fifth; the scale grows two steps after the fifth.
  LossScale grows(quick());
  CHECK(scales_of(grows, "x........") == std::vector<double>{1024, 1024, 512, 512, 512, 512, 1024, 1024, 1024});
}

TEST_CASE("a bad step starts the count of good ones anew") {
  LossScale scale(quick());
  scales_of(scale, "..x");
  CHECK(scales_of(scale, "......") == std::vector<double>{1024, 512, 512, 512, 512, 1024});
}

TEST_CASE("the floor: the scale stays there, and a bad step there is a failure") {
  LossScale scale({.initial = 2, .interval = 100, .floor = 1});
  CHECK(scale.record(false) == Outcome::skipped);  // 2 -> 1
  CHECK(scale.record(false) == Outcome::skipped);  // still with 2
  CHECK(scale.of(2) == 1);
  CHECK(scale.record(true) == Outcome::taken);
  CHECK(scale.record(false) == Outcome::failed);
  CHECK(scale.of(scale.recorded() + 1) == 1);
}

TEST_CASE("the scale does not grow without end, nor with growth 1") {
  LossScale scale({.initial = 0x1p59, .growth = 1024, .interval = 1});
  scales_of(scale, "......");
  CHECK(scale.of(scale.recorded() + 1) == 0x1p60);
  LossScale still({.growth = 1, .interval = 1});
  scales_of(still, "......");
  CHECK(still.of(6) == 65536);
}

TEST_CASE("a restored scale goes on with the same numbers") {
  const std::string outcomes = "..x....xx......x.......";
  for (size_t cut = 0; cut <= outcomes.size(); ++cut) {
    LossScale whole(quick()), before(quick()), after(quick());
    const std::vector<double> all = scales_of(whole, outcomes);
    std::vector<double> parts = scales_of(before, outcomes.substr(0, cut));
    after.restore(Json::parse(before.state().dump()));
    for (const double s : scales_of(after, outcomes.substr(cut))) parts.push_back(s);
    CHECK(parts == all);
    CHECK(after.state() == whole.state());
  }
}

TEST_CASE("wrong use and damaged checkpoints are refused") {
  LossScale scale(quick());
  CHECK(error_of([&] { scale.of(2); }) == "[loss scale] step 2 is asked for after 0 outcomes; expected 0 or 1");
  CHECK(error_of([] { LossScale({.initial = 2, .floor = 4}); }).find("initial is below floor") != std::string::npos);
  CHECK(error_of([&] { scale.restore(Json{{"now", 1}}); }) == "[checkpoint] the loss scale lacks the number \"next\"");
  Json bad = scale.state();
  bad["good"] = -1;
  CHECK(error_of([&] { scale.restore(bad); }).find("\"good\" is -1") != std::string::npos);
}

TEST_CASE("settings are read like all others") {
  LossScaleConfig config;
  from_json(config, Json{{"initial", 128}, {"interval", 7}}, "loss_scale", "recipe");
  CHECK(config.initial == 128);
  CHECK(config.interval == 7);
  CHECK(config.backoff == 0.5);
  CHECK(error_of([&] {
          from_json(config, Json{{"backof", 0.5}}, "loss_scale", "recipe");
        }).find("backoff") != std::string::npos);
}
