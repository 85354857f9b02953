// ViT, DeiT and DeiT III in the files of timm (pytorch-image-models), in and out; also plain state dicts without a
// config.json, such as those of the DeiT releases converted to safetensors.
#pragma once

#include <filesystem>
#include <memory>

#include "models/picture_info.h"
#include "models/vit_names.h"

namespace accrete {

// Whether the tensors are those of such a model, by their names (wrappers allowed).
bool has_timm_vit_names(const Safetensors& file);

// Reads a model. `path`: a folder with model.safetensors[.index.json] and, as a rule, timm's config.json, or a weight
// file. Sizes are read from the shapes, and must agree with config.json where that states them. What shapes do not tell
// comes from config.json ("architecture", "model_args"); without one the number of heads is that of the published model
// of the same width. Options that would change the arithmetic and that we do not have are refused by name.
std::unique_ptr<Vit> read_vit_timm(const std::filesystem::path& path, DType compute, Device device,
                                   const LoadOptions& options = {});

// Writes config.json and model.safetensors (as f32, bf16 or f16) into the folder (made when missing);
// timm.create_model("local-dir:FOLDER", pretrained=True) makes the model. Error for layer norms with another epsilon
// than timm's 1e-6 (1e-12, the default of transformers, passes: outputs differ by about 1e-5).
void write_vit_timm(const std::filesystem::path& folder, const Vit& model, const PictureInfo& info = {},
                    DType dtype = DType::f32);

}  // namespace accrete
