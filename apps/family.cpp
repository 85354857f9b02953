#include "apps/family.h"

#include <algorithm>

namespace accrete {
namespace fs = std::filesystem;

Recipe load_recipe(const fs::path& path, const std::vector<std::string>& overrides, std::optional<int64_t> seed,
                   const Family& family) {
  const fs::path file = fs::is_directory(path) ? path / "config.json" : path;
  check(!fs::is_directory(path) || fs::exists(file), "recipe", path.string(),
        " is a folder without config.json; expected a recipe file or a run folder");
  Json json = read_json(file);
  if (json.is_object() && json.contains("recipe") && json.contains("accrete")) json = Json(json["recipe"]);
  Recipe recipe;
  from_json(recipe, json, "", file.string());
  for (const std::string& assignment : overrides) apply_override(recipe, assignment);
  if (seed) recipe.seed = *seed;
  std::string known;
  for (const std::string& f : family.families) known += (known.empty() ? "\"" : ", \"") + f + "\"";
  check(std::find(family.families.begin(), family.families.end(), recipe.family) != family.families.end(), "recipe",
        "is for family \"", recipe.family, "\"; ", family.name, " trains ", known);
  if (family.resolve_model) family.resolve_model(recipe);
  return recipe;
}

}  // namespace accrete
