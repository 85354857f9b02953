// Plain training: one stage, all parameters, from random values.
#pragma once

#include "training/stage.h"

namespace accrete {

class Plain : public Plan {
 public:
  explicit Plain(const Recipe& recipe) : recipe_(recipe) {}
  std::optional<Stage> next(const RunState& state) override;
  int stages() const override { return 1; }

 private:
  Recipe recipe_;
};

// A stage with the recipe's own settings, initialised at random from the run's seed: what most plans start from.
Stage stage_of(const Recipe& recipe, std::string name);

}  // namespace accrete
