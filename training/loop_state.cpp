// What the loop keeps in state.json, and how it comes back.
#include <cmath>

#include "training/checkpoint.h"
#include "training/loop.h"

namespace accrete {

Json Loop::checkpoint_state() const {
  const RunState& s = view_.state;
  Json j;
  j["format"] = 3;
  j["family"] = model_->family();
  j["model"] = model_->config();
  j["stage"] = s.stage;
  j["stage_name"] = view_.stage->name;
  j["step"] = s.step;
  j["stage_step"] = s.stage_step;
  j["spent"] = to_json(s.spent);
  j["stage_begin"] = to_json(stage_begin_);
  j["results"] = Json::array();
  for (const StageResult& r : s.results) j["results"].push_back(to_json(r));
  if (view_.stage->elastic)
    j["elastic"] = Json{
        {"scores", s.scores}, {"scorings", s.scorings}, {"seconds", s.variant_seconds}, {"steps", s.variant_steps}};
  // Infinity (nothing evaluated yet) is not JSON.
  j["best_score"] = std::isfinite(best_score_) ? Json(best_score_) : Json();
  j["best"] = best_;
  j["eval"] = Json::object();
  add_measures(j["eval"], view_.eval);
  if (!label_.is_null()) j["label"] = label_;
  if (loss_scale_) j["loss_scale"] = loss_scale_->state();
  j["metrics_position"] = metrics_position ? metrics_position() : 0;
  return j;
}

void Loop::restore(const Json& j) {
  const auto need = [&](const char* key) -> const Json& {
    check(j.contains(key), "checkpoint", "state.json lacks \"", key, "\"");
    return j.at(key);
  };
  try {
    RunState& s = view_.state;
    s.stage = need("stage").get<int>();
    s.step = need("step").get<int64_t>();
    s.stage_step = need("stage_step").get<int64_t>();
    from_json(s.spent, need("spent"), "spent", "state.json");
    from_json(stage_begin_, need("stage_begin"), "stage_begin", "state.json");
    for (const Json& r : need("results")) {
      StageResult result;
      from_json(result, r, "results", "state.json");
      s.results.push_back(result);
    }
    check(static_cast<size_t>(s.stage) == s.results.size(), "checkpoint", "state.json: stage ", s.stage, " after ",
          s.results.size(), " results");
    if (j.contains("elastic")) {
      const Json& e = j.at("elastic");
      s.scores = e.at("scores").get<std::vector<double>>();
      s.scorings = e.at("scorings").get<int64_t>();
      s.variant_seconds = e.at("seconds").get<std::vector<double>>();
      s.variant_steps = e.at("steps").get<std::vector<int64_t>>();
    }
    if (loss_scale_) loss_scale_->restore(need("loss_scale"));
    if (need("best_score").is_number()) best_score_ = j["best_score"].get<double>();
    best_ = need("best").get<std::string>();
    const Json& eval = need("eval");
    view_.eval.loss = eval.at("loss").get<double>();
    if (eval.contains("top1")) {
      view_.eval.task = Task::classes;
      view_.eval.top1 = eval["top1"].get<double>();
      view_.eval.top5 = eval.at("top5").get<double>();
    }
  } catch (const nlohmann::json::exception& e) {
    fail("checkpoint", "state.json is not as this program writes it: ", e.what());
  }
}

void Loop::save() {
  settle();
  const std::filesystem::path folder = checkpoint_folder(settings_.run, view_.state.step);
  if (best_ == "this") best_ = folder.filename().string();
  save_checkpoint(folder, model_->params(), *stepper_, checkpoint_state());
  prune_checkpoints(settings_.run, settings_.recipe.checkpoint.keep_last,
                    settings_.recipe.checkpoint.keep_best ? best_ : "");
  charge_time();
  emit(Event::checkpoint);
}

Snapshot Loop::load_stage(int index) const {
  const StageResult& result = view_.state.results.at(static_cast<size_t>(index));
  const auto model = settings_.make_model(result.model, compute(), kDry);
  const std::filesystem::path folder = stage_folder(settings_.run, index);
  check(std::filesystem::exists(folder / "COMPLETE"), "plan", "the weights of stage ", index + 1, " (\"", result.name,
        "\") are missing; expected them in ", folder.string());
  return read_snapshot(folder, model->params().entries());
}

}  // namespace accrete
