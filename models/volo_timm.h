// VOLO models in the files of timm (Hugging Face: pytorch-image-models), in and out: config.json and model.safetensors
// with the names of the released checkpoints, which are ours. Convolutions are stored (out, in, row, column), the table
// of positions (1, g, g, C).
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "models/picture_info.h"
#include "models/volo.h"
#include "models/weights.h"

namespace accrete {

// Names, shapes and layout of all tensors of such a model. The counters of the batch norms ("num_batches_tracked") are
// not among them: PyTorch adds those that a file lacks, and nothing computes with them.
std::vector<TensorName> volo_timm_names(const Volo& model);
bool is_volo_head(std::string_view ours);      // head.weight, aux_head.bias, ...
bool has_volo_names(const Safetensors& file);  // whether the tensors are those of such a model, by their names

// config.json -> ours: an architecture ("volo_d1_224", "volo_d5_512", ..) and what "model_args" change of it. Options
// that would change the arithmetic and that we do not have are refused by name.
VoloConfig read_volo_timm_config(const std::filesystem::path& config_json);
// Ours -> config.json. A published size keeps its name, so that timm.create_model("local-dir:FOLDER") makes it; timm's
// functions take no other sizes, and such a model is timm.models.volo.VOLO(num_classes=.., **config["model_args"]).
// Error for another layer_norm_eps than timm's.
nlohmann::json volo_timm_config(const VoloConfig& config, const PictureInfo& info = {});

// Reads a model. `path`: a folder with model.safetensors[.index.json] and, as a rule, config.json, or a weight file.
// Without a config.json (the releases of the authors) sizes are read from the shapes, and the number of heads of the
// second stage is that of the published model of the same width. Names may have "module." and "state_dict." in front;
// counters of batch norms are ignored. Everything that does not fit is listed in one Error, before memory is allocated.
std::unique_ptr<Volo> read_volo_timm(const std::filesystem::path& path, DType compute, Device device,
                                     const LoadOptions& options = {});

// Writes config.json and model.safetensors (as f32, bf16 or f16) into the folder (made when missing).
void write_volo_timm(const std::filesystem::path& folder, const Volo& model, const PictureInfo& info = {},
                     DType dtype = DType::f32);

}  // namespace accrete
