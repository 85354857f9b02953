// inspect checkpoint: what a run has saved.
#include <algorithm>
#include <cstdio>
#include <iostream>

#include "apps/inspect.h"
#include "engine/core/safetensors.h"
#include "training/checkpoint.h"
#include "training/progress.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// Key of state.json, or null.
Json field(const Json& state, const char* key) {
  return state.is_object() && state.contains(key) ? state.at(key) : Json();
}

Json describe_checkpoint(const fs::path& folder) {
  Json j{{"path", folder.string()}, {"complete", fs::exists(folder / "COMPLETE")}};
  j["files"] = Json::array();
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  int64_t bytes = 0;
  for (const fs::path& file : files) {
    Json f{{"name", file.filename().string()}, {"bytes", fs::file_size(file)}};
    bytes += f["bytes"].get<int64_t>();
    if (file.extension() == ".safetensors") {
      try {
        f["tensors"] = Safetensors::open(file).entries().size();
      } catch (const Error& e) {
        f["problem"] = e.what();
      }
    }
    j["files"].push_back(std::move(f));
  }
  j["bytes"] = bytes;
  Json state;
  if (fs::exists(folder / "state.json")) state = read_checkpoint_state(folder);
  for (const char* key :
       {"family", "step", "stage", "stage_name", "stage_step", "spent", "eval", "best_score", "best", "model", "plan"})
    j[key] = field(state, key);
  return j;
}

template <class T>
T value_or(const Json& j, const char* key, T absent) {
  return j.is_object() && j.contains(key) && !j[key].is_null() ? j[key].get<T>() : absent;
}

void print_checkpoint(const Json& c, bool is_best) {
  std::printf("%s: %s%s\n", c["path"].get<std::string>().c_str(),
              c["complete"].get<bool>() ? "complete" : "NOT COMPLETE (ignored by all programs)",
              is_best ? ", best so far" : "");
  if (!c["step"].is_null()) {
    const Json& spent = c["spent"];
    std::printf(
        "  step %lld, stage %lld \"%s\" (its step %lld)\n", static_cast<long long>(value_or<int64_t>(c, "step", 0)),
        static_cast<long long>(value_or<int64_t>(c, "stage", 0)), value_or<std::string>(c, "stage_name", "").c_str(),
        static_cast<long long>(value_or<int64_t>(c, "stage_step", 0)));
    std::printf("  spent: %s tokens, %s (evaluation %s), %s\n",
                format_count(value_or<double>(spent, "tokens", 0)).c_str(),
                format_flops(value_or<double>(spent, "flops", 0)).c_str(),
                format_flops(value_or<double>(spent, "eval_flops", 0)).c_str(),
                format_duration(value_or<double>(spent, "seconds", 0)).c_str());
    const Json& eval = c["eval"];
    const bool classes = eval.is_object() && eval.contains("top1");
    const double best = value_or<double>(c, "best_score", kUnknown);
    std::printf("  evaluated loss %s", format_loss(value_or<double>(eval, "loss", kUnknown)).c_str());
    if (classes)
      std::printf(", top-1 %.2f %%, best %.2f %%", 100 * value_or<double>(eval, "top1", 0), 100 * (1 - best));
    else
      std::printf(", best %s", format_loss(best).c_str());
    const auto name = value_or<std::string>(c, "best", "");
    std::printf("%s\n", name.empty() ? "" : (" (checkpoint " + name + ")").c_str());
  }
  for (const Json& f : c["files"])
    std::printf("  %-22s %12s%s%s\n", f["name"].get<std::string>().c_str(),
                human_bytes(f["bytes"].get<int64_t>()).c_str(),
                f.contains("tensors") ? ("  " + std::to_string(f["tensors"].get<int64_t>()) + " tensors").c_str() : "",
                f.contains("problem") ? ("  " + f["problem"].get<std::string>()).c_str() : "");
  std::printf("  %-22s %12s\n", "total", human_bytes(c["bytes"].get<int64_t>()).c_str());
}

}  // namespace

void inspect_checkpoint(const fs::path& path, bool json) {
  check(fs::is_directory(path), "inspect", path.string(), " is no folder; expected a run or a checkpoint");
  std::vector<fs::path> folders;
  if (fs::exists(path / "params.safetensors") || fs::exists(path / "state.json")) {
    folders.push_back(path);
  } else {
    check(fs::is_directory(path / "ckpt"), "inspect", path.string(), " has no checkpoints; expected RUN/ckpt/NNNNNNNN");
    for (const auto& entry : fs::directory_iterator(path / "ckpt"))
      if (entry.is_directory()) folders.push_back(entry.path());
    std::sort(folders.begin(), folders.end());
  }
  Json list = Json::array();
  for (const fs::path& folder : folders) list.push_back(describe_checkpoint(folder));
  std::string best;  // as the newest complete checkpoint says
  for (const Json& c : list)
    if (c["complete"].get<bool>()) best = value_or<std::string>(c, "best", "");
  for (Json& c : list) c["is_best"] = !best.empty() && fs::path(c["path"].get<std::string>()).filename() == best;
  if (json) {
    std::cout << Json{{"checkpoints", list}}.dump(2) << "\n";
    return;
  }
  for (const Json& c : list) print_checkpoint(c, c["is_best"].get<bool>());
  if (list.empty()) std::printf("%s: no checkpoint yet\n", path.string().c_str());
}

}  // namespace accrete
