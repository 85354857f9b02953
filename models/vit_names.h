// Names, shapes and layout of vision transformers in files: timm (whose names are ours) and transformers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/vit.h"
#include "models/weights.h"

namespace accrete {

// timm: our names; tokens and positions are stored (1, T, C), the patch matrix as a convolution (C, channels, P, P).
std::vector<TensorName> vit_timm_names(const VitConfig& config);
// transformers, without the model's prefix ("vit.", "deit."): query, key and value apart.
std::vector<TensorName> vit_hf_names(const VitConfig& config);
bool is_vit_head(std::string_view ours);  // head.weight, head_dist.bias, ...

// A name of a file as the tables have it. timm: without wrappers ("module.", "model.", "state_dict.", ...), LayerScale
// of the DeiT III release (gamma_1) under timm's name. transformers: without wrappers and prefix, the names that its
// version 5 has in memory (layers.0.attention.q_proj) under those that it stores.
std::string vit_timm_name(std::string_view stored);
std::string vit_hf_name(std::string_view stored);

// A model with these weights: the table is checked against what was found, without the classifier where a new one was
// asked for, and loaded. Error that lists everything that does not fit, before memory is allocated.
std::unique_ptr<Vit> load_vit(VitConfig config, std::vector<TensorName> names, FoundTensors found,
                              const std::string& where, DType compute, Device device, const LoadOptions& options);

}  // namespace accrete
