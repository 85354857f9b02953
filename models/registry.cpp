#include "models/registry.h"

#include <algorithm>
#include <charconv>

#include "engine/core/config.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "models/gpt.h"
#include "models/gpt_hf.h"
#include "models/gpt_llmc.h"
#include "models/hf_config.h"
#include "models/volo_timm.h"
#include "models/weights.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

// "00012000" -> 12000; -1 for other names.
int64_t step_of(const std::string& name) {
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  return error == std::errc() && end == name.data() + name.size() ? step : -1;
}

bool has_weights(const fs::path& folder) {
  return fs::exists(folder / "model.safetensors") || fs::exists(folder / "model.safetensors.index.json");
}

bool is_checkpoint(const fs::path& folder) {
  return fs::exists(folder / "params.safetensors") || fs::exists(folder / "state.json");
}

fs::path finished(const fs::path& checkpoint) {
  check(fs::exists(checkpoint / "COMPLETE"), "model", checkpoint.string(),
        " was not finished (no COMPLETE in it); take an older checkpoint");
  return checkpoint;
}

std::unique_ptr<Model> load_checkpoint(const fs::path& folder, DType compute, Device device) {
  const std::string where = (folder / "state.json").string();
  const Json state = read_json(folder / "state.json");
  check(state.is_object() && state.contains("family") && state["family"].is_string() && state.contains("model") &&
            state["model"].is_object(),
        where, "expected an object with \"family\" and \"model\"");
  auto model = make_model(state["family"].get<std::string>(), state["model"], compute, device);
  load_own(model->params(), folder / "params.safetensors");
  return model;
}

// "volo_d1_224": what the config.json of timm's files names; "" in those of other libraries.
std::string timm_architecture(const fs::path& weights) {
  const fs::path folder = fs::is_directory(weights) ? weights : weights.parent_path();
  return HfConfig(folder / "config.json").text("architecture", "");
}

}  // namespace

fs::path newest_checkpoint(const fs::path& run) {
  fs::path best;
  int64_t best_step = -1;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run / "ckpt", none)) {
    const int64_t step = step_of(entry.path().filename().string());
    if (step > best_step && fs::exists(entry.path() / "COMPLETE")) best = entry.path(), best_step = step;
  }
  return best;
}

ModelPlace find_model(const fs::path& path) {
  check(fs::exists(path), "model", path.string(), " does not exist");
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  if (path != folder) {
    if (path.extension() == ".bin" && is_llmc_model(path)) return {ModelKind::llmc, path};
    check(path.string().ends_with(".safetensors") || path.string().ends_with(".safetensors.index.json"), "model",
          path.string(), " is no model; expected a .safetensors file, a model of llm.c or a folder");
    if (path.filename() == "params.safetensors" && is_checkpoint(folder))
      return {ModelKind::checkpoint, finished(folder)};
    return {ModelKind::hugging_face, path};
  }
  if (has_weights(folder)) return {ModelKind::hugging_face, folder};
  if (is_checkpoint(folder)) return {ModelKind::checkpoint, finished(folder)};
  if (const fs::path newest = newest_checkpoint(folder); !newest.empty()) return {ModelKind::run, newest};
  if (has_weights(folder / "model")) return {ModelKind::run, folder / "model"};
  check(!fs::is_directory(folder / "ckpt"), "model", path.string(), " has no finished checkpoint yet");
  fail("model", path.string(), " is no model; expected a folder with config.json and model.safetensors, a checkpoint ",
       "with state.json and params.safetensors, or a run with ckpt/ or model/");
}

std::unique_ptr<Model> make_model(const std::string& family, const Json& config, DType compute, Device device) {
  if (family == "gpt") return make_gpt(config, compute, device);
  if (family == "volo") return make_volo(config, compute, device);
  fail("model", "unknown family \"", printable(family), "\"; expected gpt or volo");
}

std::unique_ptr<Model> load_model(const fs::path& path, DType compute, Device device) {
  const ModelPlace place = find_model(path);
  if (is_checkpoint(place.weights)) return load_checkpoint(place.weights, compute, device);
  if (place.kind == ModelKind::llmc) return read_llmc(place.weights, compute, device);
  if (timm_architecture(place.weights).starts_with("volo")) return read_volo_timm(place.weights, compute, device);
  return read_gpt_hf(place.weights, compute, device);
}

fs::path find_tokenizer(const fs::path& path) {
  const fs::path folder = fs::absolute(fs::is_directory(path) ? path : path.parent_path()).lexically_normal();
  const fs::path run = is_checkpoint(folder) ? folder.parent_path().parent_path() : folder;
  for (const fs::path& place : {folder, run / "model", run})
    for (const char* name : {"tokenizer.json", "vocab.json", "encoder.json"})
      if (fs::exists(place / name) || fs::exists(place / (std::string(name) + ".gz"))) return place;
  return {};
}

}  // namespace accrete
