// Plans: how methods nest, and what a stage takes over from the one that it is a part of.
#include <doctest/doctest.h>

#include "training/method.h"

using namespace accrete;

namespace {

Stage whole() {
  Recipe recipe;
  recipe.model = {{"depth", 4}, {"embed_dim", 8}, {"num_heads", 2}, {"mlp_dim", 0}};
  recipe.duration = "100st";
  Stage stage = stage_of(recipe, "train");
  stage.notes = {{{"event", "choice"}}};
  stage.charged.flops = 7;
  return stage;
}

// Three parts; the number of the last stage of each earlier part is written into the name of the next.
class Three : public Method {
 public:
  explicit Three(Json inner = Json{{"name", "plain"}}) : inner_(std::move(inner)) {}

 protected:
  std::optional<Part> part(int number, Results before) const override {
    if (number == 3) return std::nullopt;
    std::string name = "part";
    for (const StageResult& r : before) name += " " + std::to_string(r.index);
    return Part{part_of(whole(), number, name), inner_};
  }

 private:
  Json inner_;
};

// Two parts that are Threes: nesting without a name in the list of plans.
class Nested : public Plan {
 public:
  std::optional<Stage> next(Results done) const override {
    const Three inner;
    size_t used = 0;
    for (int i = 0; i < 2; ++i) {
      size_t mine = 0;
      while (auto stage = inner.next(done.subspan(used, mine))) {
        if (used + mine == done.size()) return stage;
        ++mine;
      }
      used += mine;
    }
    return std::nullopt;
  }
};

}  // namespace

TEST_CASE("parts come in order, from the results alone") {
  const Three plan;
  const auto stages = planned_stages(plan);
  REQUIRE(stages.size() == 3);
  CHECK(stages[0].name == "part");
  CHECK(stages[1].name == "part 0");
  CHECK(stages[2].name == "part 0 1");
  // Asking again gives the same stage.
  std::vector<StageResult> done(2);
  done[1].index = 1;
  CHECK(plan.next(done)->name == "part 0 1");
  CHECK(plan.next(done)->name == "part 0 1");
  CHECK(planned_stages(Nested{}).size() == 6);
}

TEST_CASE("the first part begins as the whole does; later ones go on; seeds follow") {
  Stage stage = whole();
  const Stage first = part_of(stage, 0, "a"), second = part_of(stage, 1, "b");
  CHECK(first.charged.flops == 7);
  CHECK(first.notes.size() == 1);
  CHECK(first.initialised_at_random);
  CHECK(second.charged.flops == 0);
  CHECK(second.notes.empty());
  CHECK(!second.initialised_at_random);
  CHECK(!second.seed);
  stage.seed = 5;
  CHECK(part_of(stage, 0, "a").seed == 5);
  CHECK(part_of(stage, 1, "b").seed != part_of(stage, 2, "c").seed);
  CHECK(part_of(stage, 1, "b").seed == part_of(stage, 1, "c").seed);
}

TEST_CASE("shares of a duration") {
  CHECK(share_of("0.5run", "1000st", "key") == "500st");
  CHECK(share_of("0.3333run", "10st", "key") == "3st");
  CHECK(share_of("0.0001run", "10st", "key") == "1st");
  CHECK(share_of("0run", "10st", "key") == "0st");
  CHECK(share_of("0.5run", "3ep", "key") == "1.5ep");
  CHECK(share_of("0.5run", "3e6tok", "key") == "1500000tok");
  CHECK(share_of("7st", "1000st", "key") == "7st");
  CHECK_THROWS_AS(share_of("0.5", "1000st", "key"), Error);
}

TEST_CASE("model sizes are divided by name") {
  const Json model = whole().model;
  CHECK(divided(model, {"depth", "embed_dim", "mlp_dim"}, 2, "test") ==
        Json{{"depth", 2}, {"embed_dim", 4}, {"num_heads", 2}, {"mlp_dim", 0}});
  CHECK(divided(Json{{"depth", {4, 8}}}, {"depth"}, 4, "test") == Json{{"depth", {1, 2}}});
  CHECK_THROWS_WITH_AS(divided(model, {"num_heads"}, 4, "test"), doctest::Contains("not divisible by 4"), Error);
}

TEST_CASE("snapshots that a stage collects are equally spaced and end with it") {
  Collect c{.count = 3, .from = 0.4};
  std::vector<std::pair<int64_t, int64_t>> due;
  for (int64_t step = 1; step <= 100; ++step)
    if (const int64_t i = c.due(step, 100); i >= 0) due.push_back({step, i});
  CHECK(due == std::vector<std::pair<int64_t, int64_t>>{{60, 0}, {80, 1}, {100, 2}});
  c.include_start = true;
  CHECK(c.due(60, 100) == 1);
  CHECK(c.total() == 4);
  CHECK_THROWS_WITH_AS((Collect{.count = 5}.due(1, 4)), doctest::Contains("5 snapshots cannot be taken in 4 steps"),
                       Error);
}

TEST_CASE("a plan that does not exist, and one without a name") {
  CHECK_THROWS_WITH_AS(make_plan(Json{{"name", "magic"}}, whole()), doctest::Contains("plan.name"), Error);
  CHECK_THROWS_WITH_AS(make_plan(Json::object(), whole()), doctest::Contains("needs a name"), Error);
  CHECK_THROWS_WITH_AS(make_plan(Json{{"name", "plain"}, {"levels", 3}}, whole()), doctest::Contains("levels"), Error);
}
