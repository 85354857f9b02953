#include "training/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/safetensors.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// One entry per parameter, taken from a flat buffer in host memory.
void add_entries(std::vector<SafetensorsEntry>& out, const std::vector<ParamEntry>& entries, const Tensor& flat,
                 const std::string& prefix) {
  for (const ParamEntry& e : entries) {
    SafetensorsEntry entry;
    entry.name = prefix + e.name;
    entry.dtype = "F32";
    entry.shape = e.shape.vector();
    entry.data = reinterpret_cast<const std::byte*>(flat.ptr<float>() + e.offset);
    out.push_back(std::move(entry));
  }
}

// Copies the tensors "<prefix><name>" of a file into a flat buffer; what does not fit goes into `problems`.
void read_entries(const Safetensors& file, const std::vector<ParamEntry>& entries, const Tensor& flat,
                  const std::string& prefix, std::vector<std::string>& problems, std::set<std::string>& used) {
  for (const ParamEntry& e : entries) {
    const std::string name = prefix + e.name;
    const SafetensorsEntry* found = file.find(name);
    if (!found) {
      problems.push_back("missing " + name);
      continue;
    }
    used.insert(name);
    if (found->dtype != "F32" || found->shape != e.shape.vector()) {
      std::ostringstream text;
      text << name << " is " << found->dtype << " " << Shape(found->shape) << " instead of F32 " << e.shape;
      problems.push_back(text.str());
      continue;
    }
    if (flat.data()) flat.flat(e.offset, e.count()).read(found->data);
  }
}

void report(const fs::path& file, const Safetensors& tensors, std::vector<std::string> problems,
            const std::set<std::string>& used) {
  for (const SafetensorsEntry& e : tensors.entries())
    if (!used.contains(e.name)) problems.push_back("unexpected " + e.name);
  if (problems.empty()) return;
  std::string list;
  for (size_t i = 0; i < problems.size() && i < 20; ++i) list += (i ? ", " : "") + problems[i];
  if (problems.size() > 20) list += ", and " + std::to_string(problems.size() - 20) + " more";
  fail("checkpoint", file.string(), " does not belong to this model: ", list);
}

bool is_step(const std::string& name) {
  return name.size() >= 8 && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

fs::path checkpoint_folder(const fs::path& run, int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "%08lld", static_cast<long long>(step));
  return run / "ckpt" / name;
}

fs::path stage_folder(const fs::path& run, int stage) {
  char name[32];
  std::snprintf(name, sizeof name, "%02d", stage);
  return run / "stages" / name;
}

fs::path snapshot_file(const fs::path& run, int stage, int i) {
  char name[48];
  std::snprintf(name, sizeof name, "%05d.safetensors", i);
  return run / "snapshots" / std::to_string(stage) / name;
}

void save_checkpoint(const fs::path& target, const ParamStore& store, const Stepper& stepper, const Json& state) {
  const fs::path folder = target.parent_path(), temporary = folder / (".writing-" + target.filename().string());
  if (fs::exists(target / "COMPLETE")) return;
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  fs::remove_all(target, ignored);  // incomplete: from a file system that lost the rename
  try {
    fs::create_directories(temporary);
    save_flat(temporary / "params.safetensors", store.entries(), store.values());
    std::vector<SafetensorsEntry> entries;
    const auto numbers = stepper.numbers();
    for (const auto& [name, list] : numbers)
      entries.push_back(
          {name, "F64", {static_cast<int64_t>(list.size())}, reinterpret_cast<const std::byte*>(list.data()), 0});
    std::vector<Tensor> kept;  // until the file is written
    for (const auto& [name, flat] : stepper.state())
      if (name != "ema") add_entries(entries, store.entries(), kept.emplace_back(flat.on_host()), name + ".");
    save_safetensors(temporary / "optim.safetensors", entries);
    if (const auto ema = stepper.state().find("ema"); ema != stepper.state().end())
      save_flat(temporary / "ema.safetensors", store.entries(), ema->second);
    write_text(temporary / "state.json", state.dump(2) + "\n");
    write_text(temporary / "COMPLETE", "");
    sync_folder(temporary);
    fs::rename(temporary, target);
    sync_folder(folder);
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(temporary, ignored);
    fail("checkpoint", "cannot save ", target.filename().string(), ": ", e.code().message(),
         "; earlier checkpoints are untouched");
  } catch (const Error& e) {
    fs::remove_all(temporary, ignored);
    fail("checkpoint", "cannot save ", target.filename().string(), ": ", e.what(),
         "; earlier checkpoints are untouched");
  }
}

void save_flat(const fs::path& file, const std::vector<ParamEntry>& list, const Tensor& flat) {
  std::error_code ignored;
  fs::create_directories(file.parent_path(), ignored);
  std::vector<SafetensorsEntry> entries;
  const Tensor host = flat.on_host();
  add_entries(entries, list, host, "");
  save_safetensors(file, entries);
}

void load_flat(const fs::path& file, const std::vector<ParamEntry>& entries, const Tensor& flat) {
  const Safetensors tensors = Safetensors::open(file);
  std::vector<std::string> problems;
  std::set<std::string> used;
  read_entries(tensors, entries, flat, "", problems, used);
  report(file, tensors, std::move(problems), used);
}

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run / "ckpt", error))
    if (is_step(entry.path().filename().string()) && fs::exists(entry.path() / "COMPLETE"))
      found.push_back(entry.path());
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    return std::stoll(a.filename().string()) < std::stoll(b.filename().string());
  });
  return found;
}

Json read_checkpoint_state(const fs::path& checkpoint) { return read_json(checkpoint / "state.json"); }

void load_checkpoint(const fs::path& checkpoint, ParamStore& store, Stepper& stepper) {
  load_flat(checkpoint / "params.safetensors", store.entries(), store.values());
  store.refresh();
  const fs::path file = checkpoint / "optim.safetensors";
  const Safetensors tensors = Safetensors::open(file);
  std::vector<std::string> problems;
  std::set<std::string> used;
  auto numbers = stepper.numbers();
  for (auto& [name, list] : numbers) {
    const SafetensorsEntry* found = tensors.find(name);
    used.insert(name);
    if (!found || found->dtype != "F64" || found->bytes != list.size() * sizeof(double))
      problems.push_back((found ? "not " + std::to_string(list.size()) + " numbers F64: " : "missing ") + name);
    else if (!list.empty())
      std::memcpy(list.data(), found->data, found->bytes);
  }
  for (const auto& [name, flat] : stepper.state())
    if (name != "ema") read_entries(tensors, store.entries(), flat, name + ".", problems, used);
  report(file, tensors, std::move(problems), used);
  stepper.set_numbers(numbers);
  if (const auto ema = stepper.state().find("ema"); ema != stepper.state().end())
    load_flat(checkpoint / "ema.safetensors", store.entries(), ema->second);
}

void prune_checkpoints(const fs::path& run, int64_t keep_last, const std::string& best) {
  const auto all = list_checkpoints(run);
  std::error_code ignored;
  for (size_t i = 0; i + static_cast<size_t>(keep_last) < all.size(); ++i) {
    if (all[i].filename() == best) continue;
    // COMPLETE goes first, so that an interrupted removal leaves something that readers ignore.
    fs::remove(all[i] / "COMPLETE", ignored);
    fs::remove_all(all[i], ignored);
  }
  for (const auto& entry : fs::directory_iterator(run / "ckpt", ignored)) {
    const std::string name = entry.path().filename().string();
    const bool unfinished = name.starts_with(".writing-") || (is_step(name) && !fs::exists(entry.path() / "COMPLETE"));
    if (unfinished) fs::remove_all(entry.path(), ignored);
  }
}

void keep_batch(const fs::path& file, const Batch& batch) {
  std::vector<SafetensorsEntry> entries;
  const auto add = [&](const std::string& name, const Tensor& t) {
    if (!t.defined() || !t.data()) return;
    const std::string dtype = t.dtype() == DType::i32    ? "I32"
                              : t.dtype() == DType::f32  ? "F32"
                              : t.dtype() == DType::bf16 ? "BF16"
                              : t.dtype() == DType::f16  ? "F16"
                                                         : "U8";
    entries.push_back({name, dtype, t.shape().vector(), static_cast<const std::byte*>(t.data()), 0});
  };
  add("inputs", batch.inputs);
  add("targets", batch.targets);
  for (const auto& [name, t] : batch.extra) add(name, t);
  save_safetensors(file, entries);
}

std::string checksum(const ParamStore& store) {
  Sha256 hash;
  const Tensor values = store.values().on_host();
  for (const ParamEntry& e : store.entries()) {
    const Tensor v = values.flat(e.offset, e.count());
    if (v.data()) hash.update(v.data(), static_cast<size_t>(v.bytes()));
  }
  return hash.hex();
}

}  // namespace accrete
