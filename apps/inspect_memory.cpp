// inspect memory: the account of one training step, before any of it is allocated.
#include <cstdio>
#include <iostream>
#include <map>

#include "apps/inspect.h"
#include "engine/autograd/graph.h"
#include "training/extent.h"
#include "training/recorders.h"

namespace accrete {
namespace {

struct Layer {
  int64_t params = 0;  // count
  int64_t saved = 0;   // bytes kept for backward
};

struct DryStep {
  MemoryUse after, peak;  // after the step; peaks of the whole step
  int64_t params = 0;
  double flops = 0;
  std::vector<std::pair<std::string, Layer>> layers;  // in the order of the model
};

// "blocks.3.attn.qkv.weight" -> "blocks.3"; "network.2.5.norm1.bias" -> "network.2.5"; "tokens.weight" -> "tokens"
std::string layer_of(const std::string& path) {
  const size_t first = path.find('.');
  if (first == std::string::npos) return path;
  // A name and the numbers behind it.
  size_t end = first;
  while (end != std::string::npos && end + 1 < path.size() && path[end + 1] >= '0' && path[end + 1] <= '9')
    end = path.find('.', end + 1);
  return path.substr(0, end);
}

DryStep dry_step(const Recipe& recipe, const Stage& stage, const Family& family, int64_t rows) {
  release_cache(kDry);
  reset_peak(kDry);
  DryStep d;
  OneStep step(recipe, stage, family.make_model, kDry);
  Stage no_data = stage;  // shapes are enough
  no_data.data.path.clear();
  const Batch batch = step_batch(recipe, no_data, family, rows);
  std::map<std::string, Layer> layers;
  std::vector<std::string> order;
  const auto layer = [&](const std::string& name) -> Layer& {
    if (!layers.count(name)) order.push_back(name);
    return layers[name];
  };
  for (const ParamEntry& e : step.model().params().entries()) {
    layer(layer_of(e.name)).params += e.count();
    d.params += e.count();
  }
  step.run(batch, {.keep_nodes = true}, [&](const Tape& tape) {
    const Json graph = graph_json(tape);
    for (const Json& node : graph["nodes"]) {
      const std::string module = node["module"].get<std::string>();
      layer(module.empty() ? node["op"].get<std::string>() : layer_of(module)).saved +=
          node["saved_bytes"].get<int64_t>();
    }
  });
  d.after = d.peak = memory_use(kDry);
  d.flops = step.flops();
  for (const std::string& name : order) d.layers.emplace_back(name, layers[name]);
  return d;
}

// Micro-batches that divide the batch, small to large.
std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> out;
  for (int64_t i = 1; i <= n; ++i)
    if (n % i == 0) out.push_back(i);
  return out;
}

Json report(const Recipe& recipe, const Stage& stage, const Family& family, int64_t limit, bool json) {
  const int64_t micro = stage.batch.micro_size();
  check(stage.batch.size % micro == 0, "config", "batch.micro (", micro, ") does not divide batch.size (",
        stage.batch.size, ")");
  const DryStep d = dry_step(recipe, stage, family, micro);
  // Values, gradients, optimizer state and the rounded copy of one parameter.
  int64_t fixed = 0;
  for (const Segment s : {Segment::params, Segment::grads, Segment::optimizer})
    fixed += d.after.segment[static_cast<int>(s)].now;
  const double per_param = static_cast<double>(fixed) / static_cast<double>(std::max<int64_t>(1, d.params));

  Json j{{"stage", stage.name},
         {"micro_batch", micro},
         {stage.data.pictures() ? "resolution" : "length", extent(stage.data)},
         {"params", d.params},
         {"flops_per_micro_batch", d.flops}};
  j["segments"] = Json::object();
  for (int i = 0; i < kSegments; ++i)
    j["segments"][name_of(static_cast<Segment>(i))] =
        Json{{"now", d.after.segment[i].now}, {"peak", d.after.segment[i].peak}};
  j["now"] = d.after.now;
  j["peak"] = d.after.peak;
  j["layers"] = Json::array();
  for (const auto& [name, layer] : d.layers)
    j["layers"].push_back(Json{{"name", name},
                               {"params", layer.params},
                               {"param_bytes", static_cast<int64_t>(static_cast<double>(layer.params) * per_param)},
                               {"saved_bytes", layer.saved}});
  j["limit"] = limit;
  j["micro_batches"] = Json::array();
  int64_t fits = 0;
  for (const int64_t rows : divisors(stage.batch.size)) {
    const int64_t peak = rows == micro ? d.after.peak : dry_step(recipe, stage, family, rows).after.peak;
    j["micro_batches"].push_back(Json{{"micro_batch", rows}, {"peak", peak}, {"fits", peak <= limit}});
    if (peak <= limit) fits = rows;
  }
  j["largest_micro_batch"] = fits;
  if (json) return j;

  std::printf("stage \"%s\": %s; micro-batch %lld, %s, recompute %s\n", stage.name.c_str(), stage_note(stage).c_str(),
              static_cast<long long>(micro), recipe.precision.c_str(), recipe.recompute ? "on" : "off");
  std::printf("\n%-14s %12s %12s\n", "segment", "after step", "peak");
  for (const auto& [name, use] : j["segments"].items())
    std::printf("%-14s %12s %12s\n", name.c_str(), human_bytes(use["now"].get<int64_t>()).c_str(),
                human_bytes(use["peak"].get<int64_t>()).c_str());
  std::printf("%-14s %12s %12s\n", "total", human_bytes(d.after.now).c_str(), human_bytes(d.after.peak).c_str());
  std::printf("\n%-14s %12s %14s %18s\n", "layer", "parameters", "their memory*", "kept for backward");
  for (const Json& l : j["layers"])
    std::printf("%-14s %12lld %14s %18s\n", l["name"].get<std::string>().c_str(),
                static_cast<long long>(l["params"].get<int64_t>()),
                human_bytes(l["param_bytes"].get<int64_t>()).c_str(),
                human_bytes(l["saved_bytes"].get<int64_t>()).c_str());
  std::printf("* values, gradients and optimizer state: %.1f bytes per parameter\n", per_param);
  std::printf("\n%-14s %12s   limit %s\n", "micro-batch", "peak", human_bytes(limit).c_str());
  for (const Json& m : j["micro_batches"])
    std::printf("%-14lld %12s   %s\n", static_cast<long long>(m["micro_batch"].get<int64_t>()),
                human_bytes(m["peak"].get<int64_t>()).c_str(), m["fits"].get<bool>() ? "fits" : "does not fit");
  if (fits == 0) std::printf("Nothing fits: try recompute=true, smaller samples or a smaller model.\n");
  std::printf("\n");
  return j;
}

}  // namespace

void inspect_memory(const Recipe& recipe, const Family& family, int64_t limit, bool json) {
  Json stages = Json::array();
  const auto plan = make_plan(recipe);
  for (const Stage& stage : planned_stages(*plan)) stages.push_back(report(recipe, stage, family, limit, json));
  if (json) std::cout << Json{{"stages", stages}}.dump(2) << "\n";
}

}  // namespace accrete
