// The list of plans by name.
#include "training/method.h"
#include "training/trainers/autoprog.h"
#include "training/trainers/incubation.h"
#include "training/trainers/plain.h"
#include "training/trainers/twa.h"
#include "training/trainers/vcycle.h"

namespace accrete {

std::unique_ptr<Plan> make_plan(const Json& plan, const Stage& stage) {
  check(plan.is_object() && plan.contains("name") && plan["name"].is_string(), "config",
        "\"plan\" needs a name; expected {\"name\": \"plain\"}; got ", plan.dump());
  const std::string name = plan["name"].get<std::string>();
  if (name == "plain") return std::make_unique<Plain>(plan, stage);
  if (name == "autoprog") return std::make_unique<Autoprog>(plan, stage);
  if (name == "incubation") return std::make_unique<Incubation>(plan, stage);
  if (name == "twa") return std::make_unique<Twa>(plan, stage);
  if (name == "vcycle") return std::make_unique<VCycle>(plan, stage);
  fail("config", "\"plan.name\": unknown plan \"", name, "\"; expected plain, vcycle, incubation, autoprog or twa");
}

std::unique_ptr<Plan> make_plan(const Recipe& recipe) { return make_plan(recipe.plan, stage_of(recipe, "train")); }

}  // namespace accrete
