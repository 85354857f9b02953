// What train_gpt and its siblings share: options, the run folder, resuming, --dry-run.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "training/loop.h"

namespace accrete {

// What a family of models adds to the common program.
struct Family {
  std::string name;    // of the program: "train_gpt"
  std::string family;  // recipe.family: "gpt"
  ModelFactory make_model;
  SourceFactory make_source;
  // Completes recipe.model: presets, sizes that follow from the data. The result is the model's whole configuration.
  std::function<void(Recipe&)> resolve_model;
  // Writes RUN/model, readable by the library the family comes from.
  std::function<void(const Model&, const Recipe&, const std::filesystem::path& folder)> export_model;
  // Files that go into RUN/model when the run begins (the tokenizer).
  std::function<void(const Recipe&, const std::filesystem::path& folder)> prepare_folder;
};

// The whole program; returns its exit code.
int run_train_program(int argc, char** argv, const Family& family);

}  // namespace accrete
