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

// One entry per parameter, taken from a flat buffer with the store's offsets.
void add_entries(std::vector<SafetensorsEntry>& out, const ParamStore& store, const Tensor& flat,
                 const std::string& prefix) {
  for (const ParamEntry& e : store.entries()) {
    SafetensorsEntry entry;
    entry.name = prefix + e.name;
    entry.dtype = "F32";
    entry.shape = e.shape.vector();
    entry.data = reinterpret_cast<const std::byte*>(flat.ptr<float>() + e.offset);
    out.push_back(std::move(entry));
  }
}

// Copies the tensors "<prefix><name>" of a file into a flat buffer; what does not fit goes into `problems`.
void read_entries(const Safetensors& file, const ParamStore& store, const Tensor& flat, const std::string& prefix,
                  std::vector<std::string>& problems, std::set<std::string>& used) {
  for (const ParamEntry& e : store.entries()) {
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
    if (flat.data() && found->bytes > 0) std::memcpy(flat.ptr<float>() + e.offset, found->data, found->bytes);
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

std::string folder_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "%08lld", static_cast<long long>(step));
  return name;
}

bool is_step(const std::string& name) {
  return name.size() >= 8 && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

fs::path save_checkpoint(const fs::path& run, int64_t step, const ParamStore& store, const Optimizer& optimizer,
                         const Json& state) {
  const fs::path folder = run / "ckpt", target = folder / folder_name(step),
                 temporary = folder / (".writing-" + folder_name(step));
  if (fs::exists(target / "COMPLETE")) return target;
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  fs::remove_all(target, ignored);  // incomplete: from a file system that lost the rename
  try {
    fs::create_directories(temporary);
    std::vector<SafetensorsEntry> entries;
    add_entries(entries, store, store.values(), "");
    save_safetensors(temporary / "params.safetensors", entries);
    entries.clear();
    for (const auto& [name, flat] : optimizer.state())
      if (name != "ema") add_entries(entries, store, flat, name + ".");
    save_safetensors(temporary / "optim.safetensors", entries);
    if (const Tensor ema = optimizer.ema(); ema.defined()) {
      entries.clear();
      add_entries(entries, store, ema, "");
      save_safetensors(temporary / "ema.safetensors", entries);
    }
    write_text(temporary / "state.json", state.dump(2) + "\n");
    write_text(temporary / "COMPLETE", "");
    sync_folder(temporary);
    fs::rename(temporary, target);
    sync_folder(folder);
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(temporary, ignored);
    fail("checkpoint", "cannot save step ", step, ": ", e.code().message(), "; earlier checkpoints are untouched");
  } catch (const Error& e) {
    fs::remove_all(temporary, ignored);
    fail("checkpoint", "cannot save step ", step, ": ", e.what(), "; earlier checkpoints are untouched");
  }
  return target;
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

void load_params(const fs::path& file, ParamStore& store) {
  const Safetensors tensors = Safetensors::open(file);
  std::vector<std::string> problems;
  std::set<std::string> used;
  read_entries(tensors, store, store.values(), "", problems, used);
  report(file, tensors, std::move(problems), used);
  store.refresh();
}

void load_checkpoint(const fs::path& checkpoint, ParamStore& store, Optimizer* optimizer) {
  load_params(checkpoint / "params.safetensors", store);
  if (!optimizer) return;
  const Safetensors tensors = Safetensors::open(checkpoint / "optim.safetensors");
  std::vector<std::string> problems;
  std::set<std::string> used;
  for (const auto& [name, flat] : optimizer->state())
    if (name != "ema") read_entries(tensors, store, flat, name + ".", problems, used);
  report(checkpoint / "optim.safetensors", tensors, std::move(problems), used);
  if (const Tensor ema = optimizer->ema(); ema.defined()) {
    const Safetensors averaged = Safetensors::open(checkpoint / "ema.safetensors");
    std::vector<std::string> missing;
    std::set<std::string> seen;
    read_entries(averaged, store, ema, "", missing, seen);
    report(checkpoint / "ema.safetensors", averaged, std::move(missing), seen);
  }
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
  for (size_t i = 0; i < store.entries().size(); ++i) {
    const Tensor v = store.value(static_cast<int>(i));
    if (v.data()) hash.update(v.data(), static_cast<size_t>(v.bytes()));
  }
  return hash.hex();
}

}  // namespace accrete
