#include "training/trainers/plain.h"

namespace accrete {

std::optional<Stage> Plain::next(const RunState& state) {
  if (state.stage > 0) return std::nullopt;
  return stage_of(recipe_, "train");
}

Stage stage_of(const Recipe& recipe, std::string name) {
  Stage stage;
  stage.name = std::move(name);
  stage.model = recipe.model;
  stage.data = recipe.data;
  stage.batch = recipe.batch;
  stage.optim = recipe.optim;
  stage.schedule = recipe.schedule;
  stage.duration = recipe.duration;
  stage.initialise = [seed = static_cast<uint64_t>(recipe.seed)](ParamStore& store, const ParamStore*) {
    store.initialise(seed);
  };
  return stage;
}

}  // namespace accrete
