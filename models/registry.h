// Where a program's MODEL argument becomes a model: all kinds of folders and files that hold weights, and the list of
// model families.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/nn/model.h"
#include "models/weights.h"

namespace accrete {

// What a path is:
//   hugging_face   folder with config.json ("model_type", or timm's "architecture") and model.safetensors[.index.json],
//                  or a .safetensors file
//   checkpoint     folder with state.json ("family", "model") and params.safetensors, finished when COMPLETE is there
//   run            folder with ckpt/NNNNNNNN/ or model/
//   llmc           a .bin file of llm.c
//   npz            folder with config.json ("family", "model") and model.npz, or that file, as `convert --to npz`
//   writes
enum class ModelKind { hugging_face, checkpoint, run, llmc, npz };

struct ModelPlace {
  ModelKind kind;
  std::filesystem::path
      weights;  // where the weights are read: a Hugging Face folder, a weight file, or a checkpoint folder
};

// A run stands for its newest finished checkpoint, or for model/ where it has none. Error when the path is nothing of
// this.
ModelPlace find_model(const std::filesystem::path& path);

// The newest finished checkpoint below RUN/ckpt; empty when there is none.
std::filesystem::path newest_checkpoint(const std::filesystem::path& run);

// Reads the model at `path`, ready to use. The family of foreign files follows from config.json, or without one from
// the names of the tensors. Error when a new classifier is asked for and the family has none.
std::unique_ptr<Model> load_model(const std::filesystem::path& path, DType compute, Device device,
                                  const LoadOptions& options = {});

// RUN of a checkpoint RUN/ckpt/NNNNNNNN, whichever way its path was written; empty for other places.
std::filesystem::path run_of(const ModelPlace& place);

// Puts the averaged weights of the run or checkpoint at `path` in place of the model's. Error when it holds none.
void load_averaged(Model& model, const std::filesystem::path& path);

// The families that make_model knows.
const std::vector<std::string>& model_families();
// A model of the family from its config; values are not initialised. Error for unknown families.
std::unique_ptr<Model> make_model(const std::string& family, const nlohmann::ordered_json& config, DType compute,
                                  Device device);

// The folder with config.json that tells names of classes and how pictures are prepared (read_picture_info): the
// model's own, or RUN/model of a run's checkpoint; empty when there is none.
std::filesystem::path find_picture_info(const std::filesystem::path& path);

// The folder with the tokenizer that belongs to the model at `path`; empty when none lies beside it.
std::filesystem::path find_tokenizer(const std::filesystem::path& path);

}  // namespace accrete
