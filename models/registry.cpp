#include "models/registry.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "engine/core/config.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "models/gpt.h"
#include "models/gpt_hf.h"
#include "models/gpt_llmc.h"
#include "models/hf_config.h"
#include "models/vit_hf.h"
#include "models/vit_timm.h"
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

// Absolute and without a slash at the end, so that parent_path is the folder above.
fs::path named_folder(const fs::path& folder) {
  const fs::path full = fs::absolute(folder).lexically_normal();
  return full.has_filename() ? full : full.parent_path();
}

bool is_checkpoint(const fs::path& folder) {
  return fs::exists(folder / "params.safetensors") || fs::exists(folder / "state.json");
}

fs::path finished(const fs::path& checkpoint) {
  check(fs::exists(checkpoint / "COMPLETE"), "model", checkpoint.string(),
        " was not finished (no COMPLETE in it); take an older checkpoint");
  return checkpoint;
}

struct FamilyRow {
  const char* name;
  std::unique_ptr<Model> (*make)(const Json&, DType, Device);
};
constexpr FamilyRow kFamilies[] = {{"gpt", make_gpt}, {"vit", make_vit}, {"volo", make_volo}};

void refuse_new_head(const LoadOptions& options) {
  check(options.reset_head == 0, "model",
        "a new classifier was asked for and this model has none; expected a model of ", "pictures");
}

// Everything but the parts whose sizes are those of the classes.
void load_without_head(ParamStore& store, const fs::path& file_path) {
  const Safetensors file = Safetensors::open(file_path);
  std::set<std::string> heads;
  for (const ParamEntry& e : store.entries())
    if (e.marks.head) heads.insert(e.name);
  FoundTensors found;
  for (const SafetensorsEntry& e : file.entries())
    if (!heads.contains(e.name)) add_found(found, e.name, e, file_path.string());
  auto table = own_names(store);
  std::erase_if(table, [&](const TensorName& t) { return heads.contains(t.ours); });
  check_tensors(table, found, file_path.string());
  load_tensors(store, table, found);
}

// `description` names the family and the configuration of the model whose weights are in `weights`, in our names.
std::unique_ptr<Model> load_ours(const fs::path& description, const fs::path& weights, DType compute, Device device,
                                 const LoadOptions& options) {
  const std::string where = description.string();
  Json state = read_json(description);
  check(state.is_object() && state.contains("family") && state["family"].is_string() && state.contains("model") &&
            state["model"].is_object(),
        where, "expected an object with \"family\" and \"model\"");
  const bool new_head = options.reset_head > 0;
  if (new_head && !state["model"].contains("classes")) refuse_new_head(options);
  if (new_head) state["model"]["classes"] = options.reset_head;
  auto model = make_model(state["family"].get<std::string>(), state["model"], compute, device);
  if (new_head) {
    model->params().initialise(options.seed);
    load_without_head(model->params(), weights);
  } else {
    load_own(model->params(), weights);
  }
  return model;
}

// Files of other libraries, by what config.json or else the tensors' names say.
std::unique_ptr<Model> load_foreign(const fs::path& path, DType compute, Device device, const LoadOptions& options) {
  const fs::path config = (fs::is_directory(path) ? path : path.parent_path()) / "config.json";
  if (!fs::exists(config)) {
    const Safetensors file = Safetensors::open(path);
    if (has_volo_names(file)) return read_volo_timm(path, compute, device, options);
    if (has_timm_vit_names(file)) return read_vit_timm(path, compute, device, options);
  } else {
    const HfConfig hf(config);
    const std::string type = hf.text("model_type", "");
    if (type == "vit" || type == "deit") return read_vit_hf(path, compute, device, options);
    if (type.empty() && hf.text("architecture", "").starts_with("volo"))
      return read_volo_timm(path, compute, device, options);
    if (type.empty() && hf.has("architecture")) return read_vit_timm(path, compute, device, options);
  }
  refuse_new_head(options);
  return read_gpt_hf(path, compute, device);
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
    if (path.extension() == ".npz") return {ModelKind::npz, path};
    check(path.string().ends_with(".safetensors") || path.string().ends_with(".safetensors.index.json"), "model",
          path.string(), " is no model; expected a .safetensors file, a model of llm.c or a folder");
    if (path.filename() == "params.safetensors" && is_checkpoint(folder))
      return {ModelKind::checkpoint, finished(folder)};
    return {ModelKind::hugging_face, path};
  }
  if (has_weights(folder)) return {ModelKind::hugging_face, folder};
  if (fs::exists(folder / "model.npz")) return {ModelKind::npz, folder / "model.npz"};
  if (is_checkpoint(folder)) return {ModelKind::checkpoint, finished(folder)};
  if (const fs::path newest = newest_checkpoint(folder); !newest.empty()) return {ModelKind::run, newest};
  if (has_weights(folder / "model")) return {ModelKind::run, folder / "model"};
  check(!fs::is_directory(folder / "ckpt"), "model", path.string(), " has no finished checkpoint yet");
  fail("model", path.string(), " is no model; expected a folder with config.json and model.safetensors, a checkpoint ",
       "with state.json and params.safetensors, or a run with ckpt/ or model/");
}

const std::vector<std::string>& model_families() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const FamilyRow& row : kFamilies) list.emplace_back(row.name);
    return list;
  }();
  return names;
}

std::unique_ptr<Model> make_model(const std::string& family, const Json& config, DType compute, Device device) {
  for (const FamilyRow& row : kFamilies)
    if (family == row.name) return row.make(config, compute, device);
  std::string known;
  for (const std::string& name : model_families()) known += (known.empty() ? "" : ", ") + name;
  fail("model", "unknown family \"", printable(family), "\"; expected one of ", known);
}

std::unique_ptr<Model> load_model(const fs::path& path, DType compute, Device device, const LoadOptions& options) {
  const ModelPlace place = find_model(path);
  if (is_checkpoint(place.weights))
    return load_ours(place.weights / "state.json", place.weights / "params.safetensors", compute, device, options);
  if (place.kind == ModelKind::npz) {
    check(options.reset_head == 0, "model",
          "a new classifier is not drawn for npz files; expected a run or checkpoint");
    return load_ours(place.weights.parent_path() / "config.json", place.weights, compute, device, options);
  }
  if (place.kind == ModelKind::llmc) {
    refuse_new_head(options);
    return read_llmc(place.weights, compute, device);
  }
  return load_foreign(place.weights, compute, device, options);
}

void load_averaged(Model& model, const fs::path& path) {
  const fs::path averaged = find_model(path).weights / "ema.safetensors";
  check(fs::exists(averaged), "model", path.string(),
        " holds no averaged weights; expected a run or checkpoint of a training with optim.ema above 0");
  load_own(model.params(), averaged);
}

fs::path run_of(const ModelPlace& place) {
  return is_checkpoint(place.weights) ? named_folder(place.weights).parent_path().parent_path() : fs::path();
}

fs::path find_picture_info(const fs::path& path) {
  const ModelPlace place = find_model(path);
  const fs::path run = run_of(place);
  const fs::path own = fs::is_directory(place.weights) ? place.weights : fs::absolute(place.weights).parent_path();
  const fs::path folder = run.empty() ? own : run / "model";
  return fs::exists(folder / "config.json") ? folder : fs::path();
}

fs::path find_tokenizer(const fs::path& path) {
  const fs::path folder = named_folder(fs::is_directory(path) ? path : path.parent_path());
  const fs::path run = is_checkpoint(folder) ? folder.parent_path().parent_path() : folder;
  for (const fs::path& place : {folder, run / "model", run})
    for (const char* name : {"tokenizer.json", "vocab.json", "encoder.json"})
      if (fs::exists(place / name) || fs::exists(place / (std::string(name) + ".gz"))) return place;
  return {};
}

}  // namespace accrete
