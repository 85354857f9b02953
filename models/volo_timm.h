// VOLO models in the files of timm (Hugging Face: pytorch-image-models), in and out: config.json and model.safetensors
// with the names of the released checkpoints, which are ours. Convolutions are stored (out, in, row, column), the table
// of positions (1, g, g, C).
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "models/volo.h"
#include "models/weights.h"

namespace accrete {

// Names, shapes and layout of all tensors of such a model. The counters of the batch norms ("num_batches_tracked") are
// not among them: PyTorch adds those that a file lacks, and nothing computes with them.
std::vector<TensorName> volo_timm_names(const Volo& model);

// config.json -> ours: an architecture ("volo_d1_224", "volo_d5_512", ..) and what "model_args" change of it. Options
// that would change the arithmetic and that we do not have are refused by name.
VoloConfig read_volo_timm_config(const std::filesystem::path& config_json);

struct VoloTimmOptions {
  DType dtype = DType::f32;       // of the weights in the file: f32, bf16 or f16
  std::vector<double> mean, std;  // of the channels, with which images were normalised; empty: not in the file
};
// Ours -> config.json. A published size keeps its name, so that timm.create_model("local-dir:FOLDER") makes it; timm's
// functions take no other sizes, and such a model is timm.models.volo.VOLO(num_classes=.., **config["model_args"]).
// Error for another layer_norm_eps than timm's.
nlohmann::json volo_timm_config(const VoloConfig& config, const VoloTimmOptions& options = {});

// Reads a model. `path`: a folder with config.json and model.safetensors[.index.json], or such a weight file with
// config.json beside it. Names may have "module." in front; counters of batch norms are ignored. Everything that does
// not fit is listed in one Error, before memory is allocated.
std::unique_ptr<Volo> read_volo_timm(const std::filesystem::path& path, DType compute, Device device);

// Writes config.json and model.safetensors into the folder (made when missing).
void write_volo_timm(const std::filesystem::path& folder, const Volo& model, const VoloTimmOptions& options = {});

}  // namespace accrete
