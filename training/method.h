// A method carries out one stage ("train this model on this data for so long") by other means: several stages that end
// with that model trained. Because every method takes a stage and gives stages, methods nest: each part of a method may
// itself be carried out by a method.
#pragma once

#include "training/stage.h"

namespace accrete {

// A part of a method: a stage, and the plan that carries it out ({"name": "plain"}: as it is).
struct Part {
  Stage stage;
  Json plan = Json{{"name", "plain"}};
};

class Method : public Plan {
 public:
  std::optional<Stage> next(Results done) const final;

 protected:
  // Part number `number`, given how the parts before it ended (the result of the last stage of each, with what the
  // whole part spent); nothing when the method is complete. The last part must take over `keep` of the stage that the
  // method carries out.
  virtual std::optional<Part> part(int number, Results before) const = 0;
};

// A plan that carries out `stage` as `plan` says.
std::unique_ptr<Plan> make_plan(const Json& plan, const Stage& stage);

// The stage that a recipe describes: its own settings, random weights from the run's seed.
Stage stage_of(const Recipe& recipe, std::string name);

// "0.5run" of a stage that lasts "2400st" is "1200st"; durations in st, ep and tok stay. `key` names it in errors.
std::string share_of(const std::string& duration, const std::string& of, const std::string& key);

// Part `number` of a method that carries out `whole`: a copy of it under another name. The first part takes over how
// the stage begins; a stage with a seed of its own gives each part one.
Stage part_of(const Stage& whole, int number, std::string name);

// Initialisers: random values from the seed; weights of another model (recipe.init); the weights of the stage before;
// the same with its running averages and moments, as if it had not ended.
void begin_at_random(StageStart& start);
void begin_pretrained(StageStart& start);
void continue_weights(StageStart& start);
void continue_all(StageStart& start);

// Error unless the stage trains the whole model: for methods that rebuild all of it.
void check_whole(const Stage& stage, const char* method);

// A model config with its sizes changed: depth, embed_dim, num_heads and mlp_dim (numbers, or lists with one number for
// each stage of the model) divided by `ratio`. Error when it does not divide, naming the key.
Json divided(Json model, const std::vector<std::string>& keys, int64_t ratio, const char* method);

}  // namespace accrete
