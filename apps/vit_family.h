// ViT, DeiT and VOLO on pictures, for train_vit, inspect and bench.
#pragma once

#include "apps/family.h"
#include "data/image_source.h"

namespace accrete {

Family vit_family();

// What the settings of a recipe mean for the pictures of a split: "train" and "held_out" are augmented, others
// evaluated. `model`: the whole configuration of the recipe's model.
ImageOptions image_options(const std::string& family, const Json& model, const DataConfig& data,
                           const std::string& split, uint64_t seed, Purpose purpose);

}  // namespace accrete
