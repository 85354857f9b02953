// ViT and DeiT in the files of the Hugging Face transformers library, in and out: ViTForImageClassification,
// DeiTForImageClassificationWithTeacher (distilled), DeiTForImageClassification (a DeiT whose distillation token is
// read by no head: one register, in our terms). models/README.md has the table of names.
#pragma once

#include <filesystem>
#include <memory>

#include "models/picture_info.h"
#include "models/vit_names.h"

namespace accrete {

// Reads a model. `path`: a folder with config.json and model.safetensors[.index.json], or such a weight file with
// config.json beside it. Also accepted: names without the model's prefix, with "module." or "_orig_mod." in front, the
// names of version 5; F64, F32, F16 and BF16. Everything that does not fit is listed in one Error.
std::unique_ptr<Vit> read_vit_hf(const std::filesystem::path& path, DType compute, Device device,
                                 const LoadOptions& options = {});

// Writes config.json, preprocessor_config.json and model.safetensors (as f32, bf16 or f16) into the folder (made when
// missing). Error for what the library's models do not have: LayerScale, mean pooling, positions for patches only, more
// than one register.
void write_vit_hf(const std::filesystem::path& folder, const Vit& model, const PictureInfo& info = {},
                  DType dtype = DType::f32);

}  // namespace accrete
