// inspect graph: one training step, really run, as a graph and as a list of where its time goes.
//
// The floor of an op is FLOPs / product ceiling + bytes / copy bandwidth, both measured in the same run; time beyond
// the floor is what an implementation could save at most.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>

#include "apps/ceilings.h"
#include "apps/inspect.h"
#include "engine/autograd/graph.h"
#include "engine/core/file.h"
#include "training/progress.h"
#include "training/recorders.h"

namespace accrete {
namespace {

// Memory traffic of an AdamW step per parameter: clearing the gradient, reading it for the norm, then value, gradient
// and two moments in, value and two moments out, and the rounded copy out.
double update_bytes(double params, bool copy) { return params * (4 + 4 + 16 + 12 + (copy ? 2 : 0)); }

// "blocks.3.attn" -> "blocks.*.attn"
std::string without_numbers(const std::string& path) {
  std::istringstream in(path);
  std::string part, out;
  while (std::getline(in, part, '.')) {
    const bool number =
        !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    out += (out.empty() ? "" : ".") + (number ? "*" : part);
  }
  return out;
}

bool inside(const std::string& module, const std::string& path) {
  return path.empty() || module == path || module.starts_with(path + ".");
}

// The weight an op uses, inside its module: "qkv" for blocks.3.attn.qkv.weight.
std::string weight_of(const Json& node) {
  const std::string module = node["module"].get<std::string>();
  for (const Json& input : node["inputs"]) {
    if (!input.is_object() || !input.contains("parameter")) continue;
    std::string name = input["parameter"].get<std::string>();
    if (!name.ends_with(".weight")) continue;
    name.resize(name.size() - 7);
    if (!module.empty() && name.starts_with(module + ".")) name = name.substr(module.size() + 1);
    return name;
  }
  return "";
}

struct Part {
  std::string where;
  int64_t count = 0;
  double seconds = 0, floor = 0, flops = 0, bytes = 0;
};

// Ops that are alike (the same place in every block) together, the largest gap first.
std::vector<Part> ranked(const Json& graph) {
  std::map<std::string, Part> parts;
  for (const Json& n : graph["nodes"]) {
    std::string where = without_numbers(n["module"].get<std::string>());
    where += (where.empty() ? "" : " ") + n["op"].get<std::string>();
    if (const std::string w = n["weight"].get<std::string>(); !w.empty()) where += " " + w;
    for (const char* direction : {"", "backward_"}) {
      Part& p = parts[where + (*direction ? " backward" : " forward")];
      ++p.count;
      p.seconds += n[std::string(direction) + "seconds"].get<double>();
      p.floor += n[std::string(direction) + "floor_seconds"].get<double>();
      p.flops += n[std::string(direction) + "flops"].get<double>();
      p.bytes += n[std::string(direction) + "bytes"].get<double>();
    }
  }
  std::vector<Part> out;
  for (auto& [where, p] : parts) {
    p.where = where;
    out.push_back(p);
  }
  const Json& s = graph["step"];
  out.push_back({"optimizer", 1, s["optimizer_seconds"].get<double>(), s["optimizer_floor_seconds"].get<double>(), 0,
                 s["optimizer_bytes"].get<double>()});
  std::sort(out.begin(), out.end(),
            [](const Part& a, const Part& b) { return a.seconds - a.floor > b.seconds - b.floor; });
  return out;
}

void print_parts(const Json& graph) {
  const Json& s = graph["step"];
  const double total = s["seconds"].get<double>();
  std::printf("step %s: forward %s, backward %s, optimizer %s; floor %s; %s\n\n", format_milliseconds(total).c_str(),
              format_milliseconds(s["forward_seconds"].get<double>()).c_str(),
              format_milliseconds(s["backward_seconds"].get<double>()).c_str(),
              format_milliseconds(s["optimizer_seconds"].get<double>()).c_str(),
              format_milliseconds(s["floor_seconds"].get<double>()).c_str(),
              format_flops(s["flops"].get<double>()).c_str());
  std::printf("%-52s %4s %9s %9s %9s %6s %9s %7s\n", "largest gaps to the floor", "ops", "ms", "floor", "gap", "step",
              "GFLOP/s", "GB/s");
  int rows = 0;
  for (const Json& p : graph["parts"]) {
    if (++rows > 20) break;
    const double seconds = p["seconds"].get<double>(), floor = p["floor_seconds"].get<double>();
    std::printf("%-52s %4lld %9.2f %9.2f %9.2f %5.1f%% %9.1f %7.1f\n", p["where"].get<std::string>().c_str(),
                static_cast<long long>(p["count"].get<int64_t>()), seconds * 1e3, floor * 1e3, (seconds - floor) * 1e3,
                100 * seconds / total, p["flops"].get<double>() / seconds / 1e9,
                p["bytes"].get<double>() / seconds / 1e9);
  }
}

// What runs again in the backward pass of recompute is in the sums of the step but in no node: the recompute nodes
// share it, and so do the modules around them.
void add_recomputed(Json& graph, double total_flops, double total_bytes) {
  double flops = total_flops, bytes = total_bytes, count = 0;
  for (const Json& n : graph["nodes"]) {
    flops -= n["flops"].get<double>() + n["backward_flops"].get<double>();
    bytes -= n["bytes"].get<double>() + n["backward_bytes"].get<double>();
    count += n["op"] == "recompute";
  }
  if (count == 0) return;
  const auto add = [&](Json& j) {
    j["backward_flops"] = j["backward_flops"].get<double>() + flops / count;
    j["backward_bytes"] = j["backward_bytes"].get<double>() + bytes / count;
  };
  for (Json& n : graph["nodes"]) {
    if (n["op"] != "recompute") continue;
    add(n);
    add(graph["totals"]);
    for (Json& m : graph["modules"])
      if (inside(n["module"].get<std::string>(), m["path"].get<std::string>())) add(m);
  }
}

// Adds weights and floors to the nodes, sums of the floors to modules and totals.
void add_floors(Json& graph, const Ceilings& c, DType dtype) {
  std::map<std::string, std::pair<double, double>> sums;
  for (Json& n : graph["nodes"]) {
    n["weight"] = weight_of(n);
    const double forward = c.floor_seconds(n["flops"].get<double>(), n["bytes"].get<double>(), dtype),
                 back = c.floor_seconds(n["backward_flops"].get<double>(), n["backward_bytes"].get<double>(), dtype);
    n["floor_seconds"] = forward;
    n["backward_floor_seconds"] = back;
    const std::string module = n["module"].get<std::string>();
    for (Json& m : graph["modules"]) {
      if (inside(module, m["path"].get<std::string>())) {
        m["floor_seconds"] = m.value("floor_seconds", 0.0) + forward;
        m["backward_floor_seconds"] = m.value("backward_floor_seconds", 0.0) + back;
      }
    }
  }
}

}  // namespace

std::string text_of(const Shape& shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

void inspect_graph(Recipe recipe, const Family& family, Device device, const GraphOptions& o) {
  const std::string kind = o.out.extension().string();
  check(kind == ".html" || kind == ".dot" || kind == ".json", "inspect",
        "--out must end in .html, .dot or .json; got \"", o.out.string(), "\"");
  const bool pictures = recipe.data.pictures();
  check(!pictures || o.length == 0, "inspect", "--length is for texts; pictures have data.resolution");
  if (o.length > 0) {
    recipe.data.length = o.length;
    const auto context = recipe.model.at("context").get<int64_t>();
    check(o.length <= context, "inspect", "--length ", o.length, " exceeds the model's context of ", context);
  }
  const Stage stage = first_stage(recipe);
  const int64_t rows = o.rows > 0 ? o.rows : stage.batch.micro_size();
  OneStep step(recipe, stage, family.make_model, device);
  const Batch batch = step_batch(recipe, stage, family, rows);
  step.run(batch, {});  // what is made on first use is not the step's

  Json graph;
  std::string dot;
  std::vector<std::pair<double, double>> best;
  StepSeconds fastest{1e30, 1e30, 1e30};
  for (int i = 0; i < o.repeats; ++i) {
    const StepSeconds s = step.run(batch, {.keep_nodes = true, .profile = true}, [&](const Tape& tape) {
      best.resize(tape.nodes().size(), {1e30, 1e30});
      for (size_t k = 0; k < best.size(); ++k) {
        Node& node = *tape.nodes()[k];
        node.seconds = best[k].first = std::min(best[k].first, node.seconds);
        node.backward_seconds = best[k].second = std::min(best[k].second, node.backward_seconds);
      }
      if (i + 1 == o.repeats) {
        graph = graph_json(tape);
        if (kind == ".dot") dot = graph_dot(tape);
      }
    });
    fastest = {std::min(fastest.forward, s.forward), std::min(fastest.backward, s.backward),
               std::min(fastest.optimizer, s.optimizer)};
  }
  const DType dtype = compute_type(recipe.precision);
  const Ceilings ceilings = measure_ceilings(device);
  add_recomputed(graph, step.flops(), step.bytes());
  add_floors(graph, ceilings, dtype);
  const double traffic = update_bytes(static_cast<double>(step.model().params().parameter_count()), is_half(dtype));
  Json s;
  s["title"] = recipe.family + ", " + stage_note(stage);
  s["model"] = recipe.model;
  s["params"] = step.model().params().parameter_count();
  s["batch"] = rows;
  s["length"] = pictures ? 1 : stage.data.length;
  s["rate_unit"] = pictures ? "img/s" : "tok/s";
  s["precision"] = recipe.precision;
  s["recompute"] = recipe.recompute;
  s["device"] = name_of(device);
  s["repeats"] = o.repeats;
  s["loss"] = step.loss();
  s["flops"] = step.flops();
  s["bytes"] = step.bytes();
  s["seconds"] = fastest.total();
  s["forward_seconds"] = fastest.forward;
  s["backward_seconds"] = fastest.backward;
  s["optimizer_seconds"] = fastest.optimizer;
  s["optimizer_bytes"] = traffic;
  s["optimizer_floor_seconds"] = traffic / ceilings.copy_all;
  s["floor_seconds"] = ceilings.floor_seconds(step.flops(), step.bytes() + traffic, dtype);
  s["ceiling_flops"] = ceilings.flops(dtype);
  s["ceiling_bytes"] = ceilings.copy_all;
  graph["step"] = s;
  graph["ceilings"] = to_json(ceilings);
  graph["parts"] = Json::array();
  for (const Part& p : ranked(graph))
    graph["parts"].push_back(Json{{"where", p.where},
                                  {"count", p.count},
                                  {"seconds", p.seconds},
                                  {"floor_seconds", p.floor},
                                  {"flops", p.flops},
                                  {"bytes", p.bytes}});
  write_text(o.out, kind == ".html" ? graph_page(graph) : kind == ".dot" ? dot : graph.dump(1) + "\n");
  if (o.json) {
    std::cout << Json{{"out", o.out.string()}, {"step", s}, {"ceilings", graph["ceilings"]}, {"parts", graph["parts"]}}
                     .dump(2)
              << "\n";
    return;
  }
  std::printf("%s\n", to_text(ceilings).c_str());
  print_parts(graph);
  std::printf("\nwritten to %s\n", o.out.string().c_str());
}

}  // namespace accrete
