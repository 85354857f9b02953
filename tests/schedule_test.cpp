// Durations and learning-rate schedules, against published values and closed forms.
#include <doctest/doctest.h>

#include <cmath>

#include "engine/core/error.h"
#include "training/duration.h"
#include "training/schedule.h"

using namespace accrete;

namespace {

Schedule make(const std::string& name, int64_t total, const std::string& warmup, double final_factor) {
  ScheduleConfig c;
  c.name = name;
  c.warmup = warmup;
  c.final_factor = final_factor;
  return Schedule(c, Clock{.steps_per_epoch = 100, .tokens_per_step = 1000, .run_steps = total});
}

}  // namespace

TEST_CASE("durations: units, rounding, and what is refused") {
  const Clock clock{.steps_per_epoch = 12.5, .tokens_per_step = 2048, .run_steps = 1000};
  CHECK(to_steps("500st", clock, "d") == 500);
  CHECK(to_steps("2ep", clock, "d") == 25);
  CHECK(to_steps("0.01ep", clock, "d") == 1);  // above 0 is at least one step
  CHECK(to_steps("0ep", clock, "d") == 0);
  CHECK(to_steps("0.25run", clock, "d") == 250);
  CHECK(to_steps("2e6tok", clock, "d") == 977);
  for (const char* bad : {"", "5", "st", "5 st", "-1st", "5steps", "1e400st", "nanst", "0x5st", "5st "}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_duration(bad, "duration"), Error);
  }
  CHECK_THROWS_WITH_AS(to_steps("0.5run", Clock{.steps_per_epoch = 1}, "duration"),
                       doctest::Contains("\"duration\" cannot be a share of the run"), Error);
  CHECK_THROWS_WITH_AS(to_steps("5tok", Clock{.steps_per_epoch = 1}, "duration"), doctest::Contains("tokens"), Error);
}

TEST_CASE("cosine with warm-up: the rates of nanoGPT's GPT-2 run") {
  // 6e-4 to 6e-5, warm-up 2000, 600000 steps; values computed from its published formula.
  const Schedule s = make("cosine", 600000, "2000st", 0.1);
  const std::pair<int64_t, double> expected[] = {{0, 2.99850075e-7}, {1000, 3.00149925e-4},   {1999, 5.99700150e-4},
                                                 {2000, 6e-4},       {100000, 5.64999918e-4}, {301000, 3.3e-4},
                                                 {600000, 6e-5}};
  for (const auto& [step, rate] : expected) CHECK(6e-4 * s.factor(step) == doctest::Approx(rate).epsilon(1e-8));
}

TEST_CASE("the other shapes") {
  CHECK(make("constant", 100, "0st", 0.1).factor(99) == 1.0);
  CHECK(make("linear", 100, "0st", 0.0).factor(25) == doctest::Approx(0.75));
  CHECK(make("linear", 110, "10st", 0.2).factor(60) == doctest::Approx(0.6));
  CHECK(make("linear", 110, "10st", 0.2).factor(4) == doctest::Approx(5.0 / 11.0));
  ScheduleConfig poly;
  poly.name = "poly";
  poly.power = 2;
  poly.final_factor = 0;
  CHECK(Schedule(poly, Clock{.run_steps = 100}).factor(50) == doctest::Approx(0.25));
  ScheduleConfig wsd;
  wsd.name = "wsd";
  wsd.decay = "0.2run";
  wsd.final_factor = 0;
  const Schedule w(wsd, Clock{.run_steps = 100});
  CHECK(w.factor(79) == 1.0);
  CHECK(w.factor(85) == doctest::Approx(1 - std::sqrt(0.25)));
  ScheduleConfig step;
  step.name = "step";
  step.milestones = {"30st", "0.6run"};
  step.gamma = 0.5;
  const Schedule drops(step, Clock{.run_steps = 100});
  CHECK(drops.factor(29) == 1.0);
  CHECK(drops.factor(30) == 0.5);
  CHECK(drops.factor(60) == 0.25);
}

TEST_CASE("every schedule stays in [0, 1] and ends at its final factor") {
  for (const char* name : {"constant", "cosine", "linear", "poly", "wsd", "step"}) {
    CAPTURE(name);
    const Schedule s = make(name, 137, "0.1run", 0.05);
    for (int64_t t = 0; t < 200; ++t) {
      CHECK(s.factor(t) > 0.0);
      CHECK(s.factor(t) <= 1.0);
    }
    const bool falls = std::string(name) != "constant" && std::string(name) != "step";
    if (falls) CHECK(s.factor(137) == doctest::Approx(0.05));
  }
}

TEST_CASE("schedules that do not fit are refused") {
  CHECK_THROWS_WITH_AS(make("cosine", 10, "11st", 0.1), doctest::Contains("longer than the stage"), Error);
  ScheduleConfig wsd;
  wsd.name = "wsd";
  wsd.warmup = "0.5run";
  wsd.decay = "0.6run";
  CHECK_THROWS_WITH_AS(Schedule(wsd, Clock{.run_steps = 100}), doctest::Contains("schedule.decay"), Error);
}

TEST_CASE("schedules of weight averaging: the rates of the papers' code at the first, last and turning steps") {
  const Clock clock{.steps_per_epoch = 100, .tokens_per_step = 1000, .run_steps = 1000};
  ScheduleConfig c;  // a fifth of warm-up to the peak, then cosine to 0
  c.warmup = "0.2run";
  c.warmup_to_peak = true;
  c.final_factor = 0;
  const Schedule cosine(c, clock);
  CHECK(cosine.factor(0) == doctest::Approx(1.0 / 200));
  CHECK(cosine.factor(199) == 1.0);
  CHECK(cosine.factor(200) == 1.0);
  CHECK(cosine.factor(999) == doctest::Approx(0.5 * (1 + std::cos(3.14159265358979 * 799 / 800))).epsilon(1e-9));
  CHECK(make("linear", 1000, "0st", 0).factor(0) == 1.0);
  CHECK(make("linear", 1000, "0st", 0).factor(999) == doctest::Approx(1.0 / 1000));
  ScheduleConfig step;  // ten epochs: cut at the fifth and the eighth
  step.name = "step";
  step.milestones = {"5ep", "8ep"};
  const Schedule s(step, clock);
  for (const auto& [at, factor] : {std::pair{0, 1.0}, {499, 1.0}, {500, 0.1}, {799, 0.1}, {800, 0.01}, {999, 0.01}})
    CHECK(s.factor(at) == doctest::Approx(factor));
}

TEST_CASE("per epoch: the epoch at which the warm-up ends has the rate of the cosine, wherever its steps begin") {
  for (const double steps_per_epoch : {1251.1396, 1250.6, 1251.0}) {  // 20 epochs are 25022.8, 25012 and 25020 steps
    CAPTURE(steps_per_epoch);
    ScheduleConfig c;
    c.warmup = "20ep";
    c.warmup_start = 1e-3;
    c.decay_from_start = true;
    c.final_factor = 0;
    c.unit = "epoch";
    const Clock clock{.steps_per_epoch = steps_per_epoch,
                      .tokens_per_step = 1,
                      .run_steps = static_cast<int64_t>(std::llround(100 * steps_per_epoch))};
    const Schedule schedule(c, clock);
    const auto at = [&](int64_t epoch) {
      return schedule.factor(static_cast<int64_t>(std::ceil(static_cast<double>(epoch) * steps_per_epoch)));
    };
    CHECK(at(19) == doctest::Approx(1e-3 + 0.999 * 0.95).epsilon(1e-4));
    CHECK(at(20) == doctest::Approx(0.5 * (1 + std::cos(3.14159265358979 * 0.2))).epsilon(1e-4));
  }
}

TEST_CASE("DeiT's rates as its code runs them, and per step") {
  // 300 epochs of 10 steps, peak 1e-3, warm-up of 5 epochs from 1e-6, floor 1e-5 (vectors spec 11).
  ScheduleConfig c;
  c.warmup = "5ep";
  c.warmup_start = 1e-3;
  c.decay_from_start = true;
  c.final_factor = 0.01;
  c.unit = "deit";
  const Clock clock{.steps_per_epoch = 10, .tokens_per_step = 1, .run_steps = 3000};
  const Schedule deit(c, clock);
  const auto rate = [](const Schedule& s, int64_t epoch, int64_t step) { return 1e-3 * s.factor(10 * epoch + step); };
  for (const auto& [epoch, lr] : std::vector<std::pair<int64_t, double>>{{0, 1e-6},
                                                                         {1, 1e-6},
                                                                         {2, 2.008e-4},
                                                                         {3, 4.006e-4},
                                                                         {5, 8.002e-4},
                                                                         {6, 9.99321620e-4},
                                                                         {7, 9.99023231e-4},
                                                                         {100, 7.56975501e-4},
                                                                         {150, 5.10183533e-4},
                                                                         {200, 2.62002642e-4},
                                                                         {299, 1.01085617e-5}}) {
    CAPTURE(epoch);
    for (const int64_t step : {0, 9}) CHECK(rate(deit, epoch, step) == doctest::Approx(lr).epsilon(1e-8));
  }
  c.unit = "epoch";  // without the lag
  const Schedule epochs(c, clock);
  CHECK(rate(epochs, 1, 0) == doctest::Approx(2.008e-4));
  CHECK(rate(epochs, 1, 9) == rate(epochs, 1, 0));
  CHECK(rate(epochs, 299, 5) == doctest::Approx(1e-5 + 0.5 * 0.99e-3 * (1 + std::cos(3.14159265358979 * 299 / 300))));
  c.unit = "step";
  const Schedule steps(c, clock);
  CHECK(rate(steps, 2, 5) == doctest::Approx(1e-6 + 0.5 * 0.999e-3));
  CHECK(rate(steps, 5, 0) < 1e-3);  // the cosine has begun at the first step
}
