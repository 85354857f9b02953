// What a family of models adds to the common programs, and how a recipe becomes a complete configuration.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "training/loop.h"

namespace accrete {

struct Family {
  std::string name;                   // of the training program: "train_gpt"
  std::vector<std::string> families;  // recipe.family: {"gpt"}
  Task task = Task::tokens;
  ModelFactory make_model;
  SourceFactory make_source;
  // Weights of recipe.init.from for the models of a run; null where the family has none.
  std::function<std::function<Snapshot(const Json& model)>(const Recipe&)> initial_weights;
  // Completes recipe.model: presets, sizes that follow from the data. The result is the model's whole configuration.
  std::function<void(Recipe&)> resolve_model;
  // Writes RUN/model, readable by the library the family comes from.
  std::function<void(const Model&, const Recipe&, const std::filesystem::path& folder)> export_model;
  // `rows` samples of random content, where no data is at hand.
  std::function<Batch(const Recipe&, const Stage&, int64_t rows)> random_batch;
  // Files that go into RUN/model when the run begins (the tokenizer).
  std::function<void(const Recipe&, const std::filesystem::path& folder)> prepare_folder;
};

// `path`: a recipe, a run folder or its config.json. Overrides ("optim.lr=3e-4") and the seed replace what it says.
// Error when it is for another family.
Recipe load_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                   std::optional<int64_t> seed, const Family& family);

}  // namespace accrete
