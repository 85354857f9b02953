// The families of models by name, for programs that serve all of them.
#pragma once

#include "apps/family.h"

namespace accrete {

// Of recipe.family: "gpt", "vit" or "volo". Error for others.
Family family_of(const std::string& name);
// Of a recipe file, a run folder or its config.json.
Family family_of_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});
// The recipe of a published model ("gpt2", "deit-small", "volo-d1"), for random data.
Recipe recipe_of_preset(const std::string& name);

}  // namespace accrete
