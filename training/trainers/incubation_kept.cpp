#include "training/trainers/incubation_kept.h"

#include <algorithm>
#include <map>
#include <optional>

#include "training/checkpoint.h"
#include "training/metrics.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

Kept open_kept(const fs::path& checkpoint) {
  Kept kept{checkpoint, fs::weakly_canonical(checkpoint).parent_path().parent_path(),
            read_checkpoint_state(checkpoint)};
  const std::string file = (checkpoint / "state.json").string();
  check(kept.state.is_object() && kept.state.contains("spent"), "checkpoint", file, " lacks \"spent\"");
  from_json(kept.spent, kept.state["spent"], "spent", file);
  const Json label = kept.state.value("label", Json::object());
  if (label.is_object() && label.contains("method") && label["method"] == "incubation")
    from_json(kept.label, label, "label", file);
  return kept;
}

// The run has written its last event.
bool has_ended(const fs::path& run) {
  if (!fs::exists(run / "metrics.jsonl")) return false;
  const auto events = read_metrics(run / "metrics.jsonl");
  return !events.empty() && events.back().value("event", "") == "run_end";
}

}  // namespace

std::vector<Kept> find_kept(const fs::path& path, const std::string& kind, const char* key) {
  if (fs::exists(path / "COMPLETE")) return {open_kept(path)};
  std::vector<fs::path> stages;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(path / "stages", none))
    if (fs::exists(entry.path() / "COMPLETE")) stages.push_back(entry.path());
  std::sort(stages.begin(), stages.end(), [](const fs::path& a, const fs::path& b) {
    const std::string x = a.filename().string(), y = b.filename().string();
    return x.size() != y.size() ? x.size() < y.size() : x < y;  // numbers: "99" before "100"
  });
  std::vector<Kept> found;
  for (const fs::path& stage : stages) {
    Kept kept = open_kept(stage);
    if (kept.label.part == kind) found.push_back(std::move(kept));
  }
  const auto checkpoints = list_checkpoints(path);
  if (found.empty() && kind == "meta" && !checkpoints.empty() && has_ended(path)) {
    Kept newest = open_kept(checkpoints.back());
    if (newest.label.part.empty()) found.push_back(std::move(newest));
  }
  check(!found.empty(), "plan", key, ": ", path.string(), " holds no finished ", kind,
        "; expected the folder of a run that has trained one (train_gpt --only ", kind == "meta" ? "meta" : "NUMBER",
        "), or a checkpoint");
  return found;
}

Gathered gather_modules(const std::vector<std::string>& paths, const PartLabel& plan, const char* key) {
  const size_t K = plan.depths.size();
  std::vector<std::optional<Kept>> modules(K);
  std::map<fs::path, Spent> runs, metas;
  std::optional<std::string> meta;
  for (const std::string& path : paths)
    for (const Kept& kept : find_kept(path, "module", key)) {
      const PartLabel& found = kept.label;
      const auto check_that = [&](bool right, const auto&... words) {
        check(right, "plan", key, ": ", kept.path.string(), " ", words...);
      };
      check_that(found.part == "module", "is not a trained module");
      // What must agree. How a module was trained does not matter, only what its network is: a hybrid or a whole model.
      PartLabel expected = plan;
      if ((found.strategy == "independent") == (plan.strategy == "independent")) expected.strategy = found.strategy;
      expected.module = found.module, expected.meta = found.meta, expected.meta_spent = found.meta_spent;
      const auto different = differences(found, expected);
      check_that(different.empty(), "was trained for another plan: ", to_text(different));
      check_that(found.module >= 0 && static_cast<size_t>(found.module) < K, "is module ", found.module, " of ", K);
      auto& place = modules[static_cast<size_t>(found.module)];
      check_that(!place, "is module ", found.module, ", which ", place ? place->path.string() : "", " brings already");
      check_that(!meta || *meta == found.meta, "was trained in another meta model than the modules before it");
      meta = found.meta;
      place = kept;
      Spent& run = runs[kept.run];
      if (kept.spent.flops >= run.flops) run = kept.spent;
      metas[kept.run] = found.meta_spent;
    }
  Gathered all;
  for (size_t k = 0; k < K; ++k) {
    check(modules[k].has_value(), "plan", key, ": module ", k, " of ", K,
          " is missing; expected runs that trained modules 0 to ", K - 1);
    all.modules.push_back(*modules[k]);
  }
  for (const auto& [run, spent] : runs) all.spent += spent - metas[run];
  all.spent += metas.begin()->second;
  return all;
}

}  // namespace accrete
