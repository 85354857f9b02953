// Where a program's MODEL argument becomes a model: all kinds of folders and files that hold weights, and the list of
// model families.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/nn/model.h"

namespace accrete {

// What a path is:
//   hugging_face   folder with config.json (transformers' "model_type", timm's "architecture") and
//                  model.safetensors[.index.json], or a .safetensors file
//   checkpoint     folder with state.json ("family", "model") and params.safetensors, finished when COMPLETE is there
//   run            folder with ckpt/NNNNNNNN/ or model/
//   llmc           a .bin file of llm.c
enum class ModelKind { hugging_face, checkpoint, run, llmc };

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

// Reads the model at `path`, ready to use.
std::unique_ptr<Model> load_model(const std::filesystem::path& path, DType compute, Device device);

// A model of the family from its config; values are not initialised. Error for unknown families.
std::unique_ptr<Model> make_model(const std::string& family, const nlohmann::ordered_json& config, DType compute,
                                  Device device);

// The folder with the tokenizer that belongs to the model at `path`; empty when none lies beside it.
std::filesystem::path find_tokenizer(const std::filesystem::path& path);

}  // namespace accrete
