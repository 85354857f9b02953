// The list of plans by name.
#include "training/stage.h"
#include "training/trainers/plain.h"

namespace accrete {
namespace {

struct PlanName {
  std::string name = "plain";
  template <class V>
  void fields(V& v) {
    v("name", name, "plan", one_of("plain"));
  }
};

}  // namespace

std::unique_ptr<Plan> make_plan(const Recipe& recipe) {
  PlanName plan;
  from_json(plan, recipe.plan, "plan");
  return std::make_unique<Plain>(recipe);
}

}  // namespace accrete
