#include "engine/autograd/graph.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <sstream>
#include <unordered_map>
#include <unordered_set>

namespace accrete {
namespace {

using Json = nlohmann::ordered_json;

struct Numbers {
  int64_t ops = 0;
  Cost cost;
  double seconds = 0, backward_seconds = 0;
  int64_t saved_bytes = 0;

  void add(const Node& node, int64_t saved) {
    ++ops;
    cost.flops += node.cost.flops;
    cost.bytes += node.cost.bytes;
    if (node.done) {
      cost.backward_flops += node.cost.backward_flops;
      cost.backward_bytes += node.cost.backward_bytes;
    }
    seconds += node.seconds;
    backward_seconds += node.backward_seconds;
    saved_bytes += saved;
  }
  void write(Json& out) const {
    out["flops"] = cost.flops;
    out["bytes"] = cost.bytes;
    out["backward_flops"] = cost.backward_flops;
    out["backward_bytes"] = cost.backward_bytes;
    out["seconds"] = seconds;
    out["backward_seconds"] = backward_seconds;
    out["saved_bytes"] = saved_bytes;
  }
};

int64_t bytes_of(const Node::Kept& kept) { return kept.shape.count() * size_of(kept.dtype); }

// For every node, which of its saved tensors are the first to keep their memory.
std::vector<std::vector<bool>> first_keepers(const Tape& tape) {
  std::unordered_set<const void*> seen;
  std::vector<std::vector<bool>> out;
  for (const auto& node : tape.nodes()) {
    out.emplace_back();
    for (const Node::Kept& k : node->kept) {
      const bool extra = k.segment == Segment::activations || k.segment == Segment::workspace;
      out.back().push_back(extra && seen.insert(k.memory).second);
    }
  }
  return out;
}

int64_t counted_bytes(const Node& node, const std::vector<bool>& first) {
  int64_t n = 0;
  for (size_t i = 0; i < node.kept.size(); ++i)
    if (first[i]) n += bytes_of(node.kept[i]);
  return n;
}

std::unordered_map<const Node*, size_t> ids_of(const Tape& tape) {
  std::unordered_map<const Node*, size_t> ids;
  for (const auto& node : tape.nodes()) ids.emplace(node.get(), ids.size());
  return ids;
}

// Path and its parents, the whole step ("") first.
std::vector<std::string> with_parents(const std::string& path) {
  std::vector<std::string> out{""};
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1))
    out.push_back(path.substr(0, dot));
  if (!path.empty()) out.push_back(path);
  return out;
}

std::string short_number(double n) {
  const char* units[] = {"", "k", "M", "G", "T", "P"};
  int unit = 0;
  while (n >= 1000 && unit < 5) n /= 1000, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, "%.3g %s", n, units[unit]);
  return text;
}

std::string in_quotes(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out + '"';
}

std::string text_of(const Shape& shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

}  // namespace

Json graph_json(const Tape& tape) {
  const auto ids = ids_of(tape);
  const auto first = first_keepers(tape);
  std::vector<std::string> order;  // of the modules, as they appear
  std::map<std::string, Numbers> modules;
  Json nodes = Json::array();
  for (size_t i = 0; i < tape.nodes().size(); ++i) {
    const Node& node = *tape.nodes()[i];
    const int64_t saved = counted_bytes(node, first[i]);
    for (const std::string& path : with_parents(node.module)) {
      if (!modules.count(path)) order.push_back(path);
      modules[path].add(node, saved);
    }
    Json n;
    n["id"] = i;
    n["op"] = node.name;
    n["module"] = node.module;
    n["dtype"] = name_of(node.dtype);
    n["inputs"] = Json::array();
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const Tensor& x = node.inputs[k];
      if (!node.present[k]) {
        n["inputs"].push_back(nullptr);
        continue;
      }
      Json input;
      input["shape"] = x.shape().vector();
      input["dtype"] = name_of(x.dtype());
      const auto& meta = x.grad_meta();
      const auto producer = meta && meta->node ? ids.find(meta->node.get()) : ids.end();
      if (producer != ids.end()) {
        input["node"] = producer->second;
        input["output"] = meta->output;
      } else if (meta && !meta->node) {
        input["parameter"] = meta->name;
      } else {
        input["constant"] = true;
      }
      n["inputs"].push_back(std::move(input));
    }
    n["outputs"] = Json::array();
    for (const Shape& s : node.output_shapes) n["outputs"].push_back(s.vector());
    Numbers numbers;
    numbers.add(node, saved);
    numbers.write(n);
    n["saved"] = Json::array();
    for (size_t k = 0; k < node.kept.size(); ++k) {
      const Node::Kept& kept = node.kept[k];
      n["saved"].push_back({{"shape", kept.shape.vector()},
                            {"dtype", name_of(kept.dtype)},
                            {"bytes", bytes_of(kept)},
                            {"segment", name_of(kept.segment)},
                            {"counted", static_cast<bool>(first[i][k])}});
    }
    nodes.push_back(std::move(n));
  }

  Json out;
  out["totals"]["ops"] = modules[""].ops;
  modules[""].write(out["totals"]);
  out["modules"] = Json::array();
  for (const std::string& path : order) {
    Json m;
    m["path"] = path;
    m["ops"] = modules[path].ops;
    modules[path].write(m);
    out["modules"].push_back(std::move(m));
  }
  out["nodes"] = std::move(nodes);
  return out;
}

std::string graph_dot(const Tape& tape) {
  const auto ids = ids_of(tape);
  const auto first = first_keepers(tape);
  // What each module holds itself, and its direct children.
  std::map<std::string, std::string> statements;
  std::map<std::string, std::vector<std::string>> children;
  std::ostringstream edges;
  std::unordered_map<const GradMeta*, size_t> leaves;
  for (size_t i = 0; i < tape.nodes().size(); ++i) {
    const Node& node = *tape.nodes()[i];
    const std::vector<std::string> parents = with_parents(node.module);
    for (size_t p = 1; p < parents.size(); ++p) {
      auto& list = children[parents[p - 1]];
      if (std::find(list.begin(), list.end(), parents[p]) == list.end()) list.push_back(parents[p]);
    }
    std::string label = node.name;
    for (const Shape& s : node.output_shapes) label += "\n" + text_of(s);
    label += " " + std::string(name_of(node.dtype));
    if (node.cost.flops > 0) label += "\n" + short_number(node.cost.flops) + "FLOP";
    if (const int64_t saved = counted_bytes(node, first[i]); saved > 0) label += "\nkeeps " + human_bytes(saved);
    if (tape.options().profile) label += "\n" + short_number(1e6 * (node.seconds + node.backward_seconds)) + "us";
    std::string& own = statements[node.module];
    own += "n" + std::to_string(i) + " [label=" + in_quotes(label) + "];\n";
    for (const Tensor& x : node.inputs) {
      const auto& meta = x.grad_meta();
      if (!meta) continue;
      std::string from;
      if (!meta->node) {
        const auto [leaf, is_new] = leaves.emplace(meta.get(), leaves.size());
        from = "p" + std::to_string(leaf->second);
        if (is_new)
          own += from + " [shape=ellipse, label=" + in_quotes(meta->name + "\n" + text_of(x.shape())) + "];\n";
      } else if (const auto producer = ids.find(meta->node.get()); producer != ids.end()) {
        from = "n" + std::to_string(producer->second);
      } else {
        continue;
      }
      edges << from << " -> n" << i << " [label=" << in_quotes(text_of(x.shape())) << "];\n";
    }
  }

  std::ostringstream out;
  out << "digraph step {\nnode [shape=box, fontname=\"sans-serif\"];\n";
  const std::function<void(const std::string&)> write_module = [&](const std::string& path) {
    if (!path.empty()) out << "subgraph " << in_quotes("cluster_" + path) << " {\nlabel=" << in_quotes(path) << ";\n";
    out << statements[path];
    for (const std::string& child : children[path]) write_module(child);
    if (!path.empty()) out << "}\n";
  };
  write_module("");
  out << edges.str() << "}\n";
  return out.str();
}

}  // namespace accrete
