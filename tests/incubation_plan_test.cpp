// Deep Incubation as a plan: its stages, and what it refuses before anything is trained.
#include <doctest/doctest.h>

#include <set>

#include "training/method.h"

using namespace accrete;

namespace {

Stage whole_stage(int64_t depth = 12) {
  Recipe recipe;
  recipe.model = {{"depth", depth}, {"embed_dim", 8}, {"num_heads", 2}};
  recipe.duration = "1000st";
  recipe.seed = 7;
  return stage_of(recipe, "train");
}

std::vector<Stage> stages_of(Json plan, const Stage& whole = whole_stage()) {
  plan["name"] = "incubation";
  return planned_stages(*make_plan(plan, whole));
}

void refused(const Json& plan, const std::string& words, const Stage& whole = whole_stage()) {
  CAPTURE(plan.dump());
  CHECK_THROWS_WITH_AS(stages_of(plan, whole), doctest::Contains(words.c_str()), Error);
}

}  // namespace

TEST_CASE("the stages of a plan") {
  const auto stages = stages_of({{"finetune", {{"lr_factor", 0.5}}}});
  REQUIRE(stages.size() == 6);
  const char* names[] = {"meta", "module 0", "module 1", "module 2", "module 3", "fine-tuning"};
  const int64_t depths[] = {4, 6, 6, 6, 6, 12};
  const char* lengths[] = {"300st", "200st", "200st", "200st", "200st", "500st"};
  std::set<int64_t> seeds;
  for (size_t i = 0; i < 6; ++i) {
    CHECK(stages[i].name == names[i]);
    CHECK(stages[i].model["depth"] == depths[i]);
    CHECK(stages[i].duration == lengths[i]);
    CHECK(stages[i].keep == (i < 5));
    CHECK(stages[i].evaluate_first == (i == 5));
    CHECK(static_cast<bool>(stages[i].trainable) == (i > 0 && i < 5));
    if (i > 0) seeds.insert(stages[i].seed.value());
  }
  CHECK(seeds.size() == 5);
  CHECK(!stages[0].seed);  // the run's own stream
  CHECK(stages[2].first_block == 1);
  CHECK(stages[2].last_block == 4);
  CHECK(stages[5].optim.lr == stages[0].optim.lr * 0.5);
  CHECK(stages[5].optim.clip == 1.0);
  CHECK(stages[5].schedule.warmup == "0st");

  const auto same_data = stages_of({{"own_data", false}});
  CHECK(same_data[1].seed == same_data[4].seed);
  const auto uneven = stages_of({{"depths", {4, 3, 5}}, {"meta_depths", {1, 2, 1}}});
  REQUIRE(uneven.size() == 5);
  CHECK(uneven[0].model["depth"] == 4);
  CHECK(uneven[2].model["depth"] == 5);
  CHECK(uneven[3].first_block == 3);
  CHECK(uneven[3].last_block == 8);

  CHECK(stages_of({{"strategy", "e2e"}}).size() == 1);
  const auto nets = stages_of({{"strategy", "independent"}});
  REQUIRE(nets.size() == 5);
  CHECK(nets[0].model["depth"] == 12);
  CHECK(!nets[0].trainable);
  CHECK(stages_of({{"strategy", "untrained_meta"}})[0].duration == "0st");
  CHECK(stages_of({{"only", "meta"}}).size() == 1);
  CHECK(stages_of({{"only", "2"}, {"strategy", "independent"}})[0].name == "module 2");
  // A seed of the whole stage (a part of another plan) gives the jobs others.
  Stage seeded = whole_stage();
  seeded.seed = 3;
  CHECK(stages_of({}, seeded)[1].seed != stages[1].seed);
}

TEST_CASE("impossible plans are refused") {
  refused({{"modules", 13}}, "the model has 12");
  refused({{"modules", 5}}, "e.g. [3,3,2,2,2]");
  refused({{"depths", {4, 4}}}, "make 8 blocks; the model has 12");
  refused({{"depths", {4, 8}}, {"modules", 3}}, "expected one of them");
  refused({{"depths", {12, 0}}}, "depths");
  refused({{"meta_depths", {1, 1}}}, "plan.meta_depths lists 2");
  refused({{"meta_depths", {4}}, {"target_init", "from_meta"}}, "expected smaller meta_depths");
  refused({{"embeddings", "own"}, {"strategy", "imitation"}}, "does not train an output layer");
  refused({{"strategy", "independent"}, {"own_data", false}}, "own_data=true");
  refused({{"strategy", "independent"}, {"only", "meta"}}, "has no meta model");
  refused({{"strategy", "independent"}, {"meta_from", "x"}}, "has no meta model");
  refused({{"strategy", "e2e"}, {"only", "0"}}, "e2e has no parts");
  refused({{"strategy", "imitation+task"}, {"task_weight", 0}}, "strategy=imitation");
  refused({{"only", "4"}}, "a module from 0 to 3");
  refused({{"only", "-1"}}, "a module from 0 to 3");
  refused({{"only", "head"}}, "expected meta");
  refused({{"only", "0"}}, "expected plan.meta_from");
  refused({{"only", "meta"}, {"meta_from", "x"}}, "expected one of them");
  refused({{"only", "0"}, {"modules_from", {"x"}}}, "must then be empty");
  refused({{"meta_from", "nowhere"}}, "nowhere holds no finished meta");
  refused({{"modules_from", {"nowhere"}}}, "nowhere holds no finished module");
  refused({{"modular", {{"duration", "5"}}}}, "plan.modular.duration");
  refused({{"finetune", {{"lr_factor", 0}}}}, "lr_factor");
  refused({{"meta", {{"plan", {{"name", "magic"}}}}}}, "magic");
  refused({{"modulo", 3}}, "did you mean \"plan.modules\"");
  Stage partly = whole_stage();
  partly.trainable = [](const ParamEntry&) { return true; };
  refused({}, "trains only a part", partly);
  Stage later = whole_stage();
  later.initialised_at_random = false;
  refused({}, "begins with weights", later);
  Stage stages_of_blocks = whole_stage();
  stages_of_blocks.model["depth"] = {2, 4};
  refused({{"depths", {3, 3}}}, "reaches from one group of blocks into the next", stages_of_blocks);
  refused({{"depths", {1, 2, 3}}}, "reaches from one group", stages_of_blocks);
}

TEST_CASE("several groups of blocks: each is a module, or modules lie within them") {
  Stage volo = whole_stage();
  volo.model["depth"] = {2, 4};
  const auto depths = [&](const Json& plan) {
    std::vector<Json> list;
    for (const Stage& s : stages_of(plan, volo)) list.push_back(s.model["depth"]);
    return list;
  };
  CHECK(depths(Json::object()) == std::vector<Json>{{1, 1}, {2, 1}, {1, 4}, {2, 4}});
  CHECK(depths({{"depths", {2, 1, 3}}}) == std::vector<Json>{{1, 2}, {2, 2}, {1, 2}, {1, 4}, {2, 4}});
  CHECK(depths({{"modules", 3}, {"meta_depths", {2, 1, 1}}}) ==
        std::vector<Json>{{2, 2}, {2, 2}, {2, 3}, {2, 3}, {2, 4}});
}
