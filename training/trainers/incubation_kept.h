// Parts of an incubation that other runs have trained: how their checkpoints say what they are, and how they are found,
// checked and charged.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "training/stage.h"

namespace accrete {

// What a checkpoint of a part says of itself (Stage::label): what assembly must know to refuse what does not fit.
struct PartLabel {
  std::string method, part, strategy, embeddings;
  int64_t module = -1;
  std::vector<int64_t> depths, meta_depths;
  Json model = Json::object();
  std::string meta;
  Spent meta_spent;

  template <class V>
  void fields(V& v) {
    v("method", method, "incubation");
    v("part", part, "meta or module");
    v("strategy", strategy, "of the plan");
    v("embeddings", embeddings, "of the plan");
    v("module", module, "number of the module; -1: none");
    v("depths", depths, "blocks of each module of the target");
    v("meta_depths", meta_depths, "blocks of each module of the meta model");
    v("model", model, "the target");
    v("meta", meta, "checksum of the meta model that a module was trained in; empty: none");
    v("meta_spent", meta_spent, "on the meta model, part of what the run spent");
  }
};

// A trained part that another run left: a checkpoint with its state.
struct Kept {
  std::filesystem::path path, run;  // of the checkpoint, of the run that it belongs to
  Json state;
  PartLabel label;  // empty when the run was none of incubation
  Spent spent;      // by its run so far
};
// All kept parts of this kind ("meta", "module") below a run folder, or the checkpoint itself. A run folder without
// them gives, for "meta", its newest checkpoint if it has ended: any training of that model will do.
std::vector<Kept> find_kept(const std::filesystem::path& path, const std::string& kind, const char* key);

// All modules of a target, in order, and what was spent on them: by each run once, and once on their meta model.
struct Gathered {
  std::vector<Kept> modules;
  Spent spent;
};
// `paths`: run folders and checkpoints that together hold every module of the plan that `expected` describes exactly
// once. Error for modules that are missing, twice there, of another plan or from inside another meta model.
Gathered gather_modules(const std::vector<std::string>& paths, const PartLabel& expected, const char* key);

}  // namespace accrete
