#include "apps/families.h"

#include "apps/gpt_family.h"
#include "apps/vit_family.h"
#include "models/gpt.h"
#include "models/vit.h"
#include "models/volo.h"

namespace accrete {
namespace fs = std::filesystem;

Family family_of(const std::string& name) {
  if (name == "gpt") return gpt_family();
  if (name == "vit" || name == "volo") return vit_family();
  fail("recipe", "unknown family \"", name, "\"; expected gpt, vit or volo");
}

Family family_of_recipe(const fs::path& path, const std::vector<std::string>& overrides) {
  const fs::path file = fs::is_directory(path) ? path / "config.json" : path;
  check(fs::exists(file), "recipe", path.string(),
        fs::is_directory(path) ? " is a folder without config.json" : " does not exist",
        "; expected a recipe file or a run folder");
  Json json = read_json(file);
  if (json.is_object() && json.contains("recipe")) json = Json(json["recipe"]);
  std::string name = json.is_object() && json.contains("family") && json["family"].is_string()
                         ? json["family"].get<std::string>()
                         : Recipe{}.family;
  for (const std::string& o : overrides)
    if (o.starts_with("family=")) name = o.substr(7);
  return family_of(name);
}

Recipe recipe_of_preset(const std::string& name) {
  Recipe recipe;
  if (name.starts_with("gpt")) {
    recipe.model = to_json(gpt_preset(name));
  } else if (name.starts_with("volo")) {
    recipe.family = "volo";
    recipe.model = to_json(volo_preset(name));
  } else {
    recipe.family = "vit";
    recipe.model = to_json(vit_preset(name));
  }
  if (recipe.family != "gpt") recipe.data.resolution = recipe.model.at("image_size").get<int64_t>();
  return recipe;
}

}  // namespace accrete
