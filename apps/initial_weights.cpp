#include "apps/initial_weights.h"

#include "models/registry.h"
#include "models/vit.h"
#include "models/volo.h"
#include "training/grow.h"

namespace accrete {
namespace {

// Where a model of pictures has its table of positions; nothing: it has none.
std::optional<Grid> grid_of(const Model& model) {
  if (const auto* vit = dynamic_cast<const Vit*>(&model)) {
    const VitConfig& c = vit->settings();
    return Grid{c.position_extra(), c.grid(), c.grid()};
  }
  if (const auto* volo = dynamic_cast<const Volo*>(&model))
    return Grid{0, volo->settings().grid(), volo->settings().grid()};
  return std::nullopt;
}

bool is_head(const ParamEntry& e) { return e.marks.head; }

}  // namespace

std::function<Snapshot(const Json& model)> initial_weights(const Recipe& recipe) {
  if (recipe.init.from.empty()) {
    check(!recipe.init.reset_head && recipe.init.trains == "all", "recipe",
          "\"init.reset_head\" and \"init.trains\" need weights to begin with; expected init.from=MODEL");
    return nullptr;
  }
  if (recipe.init.reset_head || recipe.init.trains == "head") {
    const auto model = make_model(recipe.family, recipe.model, DType::f32, kDry);
    const std::vector<ParamEntry>& entries = model->params().entries();
    check(std::any_of(entries.begin(), entries.end(), is_head), "recipe",
          "\"init.reset_head\" and \"init.trains=head\" are for models with an output layer of their own; this ",
          recipe.family, " reads its token table out; expected another model, or neither");
  }
  return [init = recipe.init, family = recipe.family,
          seed = static_cast<uint64_t>(recipe.seed)](const Json& config) -> Snapshot {
    const auto source = load_model(init.from, DType::f32, kCpu);
    check(source->family() == family, "init", init.from, " is of family \"", source->family(), "\"; expected \"",
          family, "\", which the recipe trains");
    const auto target = make_model(family, config, DType::f32, init.reset_head ? kCpu : kDry);
    Snapshot weights = snapshot(source->params());
    const auto before = grid_of(*source), after = grid_of(*target);
    const bool tables = std::any_of(weights.entries.begin(), weights.entries.end(), [](const ParamEntry& e) {
      return std::any_of(e.axes.begin(), e.axes.end(), [](const Axis& a) { return a.role == Role::grid; });
    });
    if (before && after && tables) weights = resize_grid(weights, *before, *after);
    if (!init.reset_head) {
      for (const ParamEntry& e : target->params().entries())
        check(!e.marks.head || source->params().find(e.name) >= 0, "init", init.from, " has no ", e.name,
              ", which belongs to the output layer; expected init.reset_head=true");
      return weights;
    }
    target->params().initialise(seed);
    const Snapshot body = take(weights, [](const ParamEntry& e) { return !is_head(e); });
    const Snapshot head = take(snapshot(target->params()), is_head);
    return assemble(std::vector<Snapshot>{body, head}, target->params().entries());
  };
}

}  // namespace accrete
