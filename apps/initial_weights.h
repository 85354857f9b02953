// Weights of another model as the beginning of a training (recipe.init).
#pragma once

#include <functional>

#include "training/recipe.h"
#include "training/snapshot.h"

namespace accrete {

// A function that gives recipe.init.from for a model with some config of the recipe's family: positions resampled where
// pictures have another grid, the output layer drawn anew where asked. Null when the recipe begins at random. Error
// when the two do not fit.
std::function<Snapshot(const Json& model)> initial_weights(const Recipe& recipe);

}  // namespace accrete
