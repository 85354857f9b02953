// Export of a kept tape as JSON and DOT.
#include "engine/autograd/graph.h"

#include <doctest/doctest.h>

#include "engine/nn/layers.h"

using namespace accrete;
using Json = nlohmann::ordered_json;
namespace o = accrete::ops;

namespace {

// One pre-norm attention block and a loss, recorded under a tape that keeps its nodes.
struct Recorded {
  ParamStore store{DType::f32, kCpu};
  Tape tape{Tape::Options{.keep_nodes = true, .profile = true}};

  explicit Recorded(bool with_backward) {
    const Scope root(store);
    const Init init = Init::normal(0.1f);
    const Param tokens = root.param("tokens", Shape{7, 8}, {kVocab, kEmbed}, init, false);
    const Scope block = (root / "blocks" / "0").in_block(0);
    const nn::LayerNorm norm(block / "ln1", 8, 1e-5f);
    const nn::SelfAttention attention(block / "attn", 8, 2, true, 0.0f, init, init, false);
    store.allocate();
    store.initialise(1);
    store.zero_grads();
    Tensor ids;
    {
      const SegmentScope data(Segment::data);
      ids = Tensor::from<int32_t>({1, 2, 3, 4, 5, 6}, Shape{2, 3});
    }
    const Context ctx;
    Tensor x = o::embedding(ids, tokens(), Tensor());
    {
      const ModuleScope scope("blocks.0");
      x = o::add(x, attention(norm(x, ctx), ctx));
    }
    const Tensor loss = o::cross_entropy(o::linear(x, tokens(), Tensor()), ids);
    if (with_backward) backward(loss);
  }
};

const Json& node_named(const Json& graph, const std::string& op, int which = 0) {
  for (const Json& n : graph["nodes"])
    if (n["op"] == op && which-- == 0) return n;
  static const Json none;
  FAIL("no node " << op);
  return none;
}

}  // namespace

TEST_CASE("json: ops in order with producers, parameters, shapes and modules") {
  const Recorded r(true);
  const Json g = graph_json(r.tape);
  std::vector<std::string> names;
  for (const Json& n : g["nodes"]) names.push_back(n["op"]);
  CHECK(names == std::vector<std::string>{"embedding", "layernorm", "linear", "attention", "linear", "add", "linear",
                                          "cross_entropy"});
  const Json& norm = node_named(g, "layernorm");
  CHECK(norm["module"] == "blocks.0");
  CHECK(norm["inputs"][0]["node"] == 0);
  CHECK(norm["inputs"][0]["shape"] == Json({2, 3, 8}));
  CHECK(norm["inputs"][1]["parameter"] == "blocks.0.ln1.weight");
  CHECK(norm["inputs"][2]["parameter"] == "blocks.0.ln1.bias");
  const Json& qkv = node_named(g, "linear");
  CHECK(qkv["module"] == "blocks.0.attn");
  CHECK(qkv["inputs"][1]["parameter"] == "blocks.0.attn.qkv.weight");
  CHECK(qkv["inputs"][2].is_null());  // no bias
  CHECK(qkv["outputs"] == Json({{2, 3, 24}}));
  CHECK(qkv["flops"] == 2.0 * 6 * 8 * 24);
  CHECK(qkv["backward_flops"] == 4.0 * 6 * 8 * 24);
  CHECK(qkv["seconds"] > 0);
  CHECK(qkv["backward_seconds"] > 0);
  // Both uses of the tied table name the same parameter.
  CHECK(node_named(g, "embedding")["inputs"][0]["parameter"] == "tokens");
  CHECK(node_named(g, "linear", 2)["inputs"][1]["parameter"] == "tokens");
  CHECK(node_named(g, "add")["inputs"][0]["node"] == 0);
  CHECK(node_named(g, "add")["inputs"][1]["node"] == 4);
}

TEST_CASE("json: kept memory counts once, parameters and data not at all") {
  const Recorded r(true);
  const Json g = graph_json(r.tape);
  const Json& embedding = node_named(g, "embedding");
  CHECK(embedding["saved"][0]["segment"] == "data");
  CHECK(embedding["saved_bytes"] == 0);
  const Json& norm = node_named(g, "layernorm");  // x (2, 3, 8), gamma, mean (6), rstd (6)
  CHECK(norm["saved"].size() == 4);
  CHECK(norm["saved_bytes"] == 4 * (48 + 6 + 6));
  const Json& attention = node_named(g, "attention");  // qkv, o, lse
  CHECK(attention["saved_bytes"] == 4 * (144 + 48 + 12));
  const Json& proj = node_named(g, "linear", 1);  // its input is the output that attention keeps already
  CHECK(proj["saved"][0]["counted"] == false);
  CHECK(proj["saved"][1]["segment"] == "params");
  CHECK(proj["saved_bytes"] == 0);
  int64_t total = 0;
  for (const Json& n : g["nodes"]) total += n["saved_bytes"].get<int64_t>();
  CHECK(g["totals"]["saved_bytes"] == total);
}

TEST_CASE("json: totals and modules add up to the cost of the tape") {
  const Recorded r(true);
  const Json g = graph_json(r.tape);
  CHECK(g["totals"]["ops"] == 8);
  CHECK(g["totals"]["flops"] == r.tape.cost().flops);
  CHECK(g["totals"]["backward_flops"] == r.tape.cost().backward_flops);
  CHECK(g["totals"]["bytes"] == r.tape.cost().bytes);
  std::vector<std::string> paths;
  for (const Json& m : g["modules"]) paths.push_back(m["path"]);
  CHECK(paths == std::vector<std::string>{"", "blocks", "blocks.0", "blocks.0.attn"});
  CHECK(g["modules"][2]["ops"] == 5);
  CHECK(g["modules"][3]["ops"] == 3);
}

TEST_CASE("json: before backward nothing is charged for it; recompute hides what it does not keep") {
  const Recorded r(false);
  CHECK(graph_json(r.tape)["totals"]["backward_flops"] == 0);
  const Tensor x = require_grad(Tensor::zeros(Shape{4}));
  Tape tape(Tape::Options{.keep_nodes = true});
  const Tensor y = recompute([](const Tensor& t) { return o::unary(o::Unary::exp, o::scale(t, 2.0f)); }, x);
  const Json g = graph_json(tape);
  CHECK(node_named(g, "exp")["saved_bytes"] == 0);
  CHECK(node_named(g, "recompute")["saved_bytes"] == 16);
  CHECK(y.shape() == Shape{4});
}

TEST_CASE("dot: nested clusters, one statement for each op and edge, names quoted") {
  const Recorded r(true);
  const std::string dot = graph_dot(r.tape);
  const auto count = [&](const std::string& part) {
    int n = 0;
    for (size_t at = dot.find(part); at != std::string::npos; at = dot.find(part, at + 1)) ++n;
    return n;
  };
  CHECK(dot.rfind("digraph step {", 0) == 0);
  CHECK(count("subgraph ") == 3);
  CHECK(dot.find("subgraph \"cluster_blocks.0\"") < dot.find("subgraph \"cluster_blocks.0.attn\""));
  CHECK(count("{") == count("}"));
  CHECK(count("shape=ellipse") == 5);  // tokens, norm weight and bias, qkv, proj
  CHECK(count(" -> ") == 14);
  CHECK(count("n0 -> n1 [label=\"(2, 3, 8)\"]") == 1);
  CHECK(count("n0 -> n5 ") == 1);

  const Tensor x = require_grad(Tensor::zeros(Shape{}), {}, "a \"b\" \\c");
  Tape tape(Tape::Options{.keep_nodes = true});
  o::scale(x, 2.0f);
  CHECK(graph_dot(tape).find("a \\\"b\\\" \\\\c") != std::string::npos);
}

TEST_CASE("an empty tape") {
  Tape tape(Tape::Options{.keep_nodes = true});
  CHECK(graph_json(tape)["totals"]["ops"] == 0);
  CHECK(graph_json(tape)["nodes"].empty());
  CHECK(graph_dot(tape).find("->") == std::string::npos);
}
