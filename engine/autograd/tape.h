// Define-by-run differentiation. A Tape records what happened: for backward(), and for looking at.
//
//   Tape tape;                      // active on this thread until it goes out of scope
//   Tensor loss = model.loss(...);  // ops record themselves
//   backward(loss);                 // walks the nodes by creation counter, newest first, each once; frees what they
//   saved
//
// Without an active tape, or inside NoGrad, ops compute and count their cost but keep nothing.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/tensor.h"

namespace accrete {

// What an op costs: arithmetic (2 per multiply-add) and memory traffic, forward and backward. Only products and
// attention count their FLOPs in the totals that runs report; elementwise ops count theirs too, honestly small.
struct Cost {
  double flops = 0, bytes = 0;                    // forward
  double backward_flops = 0, backward_bytes = 0;  // when gradients are computed
};

// Tensors that a backward function needs, with the version each had when it was saved.
class Saved {
 public:
  Saved() = default;
  Saved(std::initializer_list<Tensor> tensors);
  // The i-th tensor; Error naming the op that saved it and the op that wrote to it when its memory has changed since.
  const Tensor& operator[](size_t i) const;
  size_t size() const { return tensors_.size(); }
  int64_t bytes() const;
  void clear() { tensors_.clear(); }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  void set_owner(std::string_view op) { owner_ = op; }

 private:
  std::vector<Tensor> tensors_;
  std::vector<uint64_t> versions_;
  std::string owner_;
};

using Grads = std::vector<Tensor>;

struct Node;
// What a backward function sees: saved tensors, the gradients of the outputs, and the inputs' needs.
class BackwardContext {
 public:
  BackwardContext(Node& node, Grads& dy) : node_(node), dy_(dy) {}
  const Tensor& saved(size_t i) const;
  // Gradient of output i; undefined when nothing depended on it.
  const Tensor& dy(size_t i = 0) const { return dy_[i]; }
  // True when input i (or something it depends on) wants a gradient.
  bool needs(size_t i) const;
  // Takes the gradient that other consumers have already sent to input i (undefined if none): a backward function that
  // can add it while writing its own result saves a pass over memory. Its own result then stands for the sum.
  Tensor take_pending(size_t i) const;
  // f32 memory to add the gradient of input i to: the buffer of a leaf (return it as the gradient: nothing more is
  // added), otherwise fresh zeros.
  Tensor param_grad(size_t i) const;

 private:
  Node& node_;
  Grads& dy_;
};
// Returns one gradient per input; undefined entries mean "none", or "already accumulated" (param_grad).
using BackwardFn = std::function<Grads(const BackwardContext&)>;

// One recorded op.
struct Node {
  Node() = default;
  ~Node();  // frees the chain of producers in a loop: a deep graph must not recurse
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  uint64_t counter = 0;
  std::string name;            // of the op
  std::string module;          // path of the module that called it, e.g. "blocks.3.attn"
  std::vector<Tensor> inputs;  // stripped of their memory: what backward needs of it is in `saved`
  std::vector<Shape> output_shapes;
  DType dtype = DType::f32;
  Saved saved;
  BackwardFn backward;
  Cost cost;
  double seconds = 0, backward_seconds = 0;  // when the tape profiles
  int64_t saved_bytes = 0;
  // What `saved` holds, as long as somebody looks (keep_nodes). The memory is only an identity: two ops that keep the
  // same tensor keep it once.
  struct Kept {
    Shape shape;
    DType dtype = DType::f32;
    Segment segment = Segment::activations;
    const void* memory = nullptr;
  };
  std::vector<Kept> kept;
  std::vector<bool> present;  // with keep_nodes: false for an input that was left out (no bias)
  bool done = false;
  // Gradients of the outputs that have arrived so far.
  Grads grads;
};

using GradHook = std::function<Tensor(const Tensor&)>;

// The autograd side of a tensor.
struct GradMeta {
  std::shared_ptr<Node> node;  // producer; null for a leaf
  size_t output = 0;
  bool leaf_requires_grad = false;
  std::string name;  // of a parameter
  Tensor grad;       // leaf only: f32 gradient, accumulated
  std::vector<GradHook> hooks;
};

class Tape {
 public:
  struct Options {
    bool keep_nodes = false;    // keep finished nodes for graph export
    bool profile = false;       // time every op
    bool check_finite = false;  // look at every result and every gradient (slow; for finding a NaN)
  };
  Tape() : Tape(Options{}) {}
  explicit Tape(Options options);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // The innermost active tape of this thread, or null.
  static Tape* current();

  const Cost& cost() const { return cost_; }  // of everything that ran under this tape so far
  double total_flops() const { return cost_.flops + cost_.backward_flops; }
  double total_bytes() const { return cost_.bytes + cost_.backward_bytes; }
  const std::vector<std::shared_ptr<Node>>& nodes() const { return nodes_; }  // with keep_nodes, in order
  const Options& options() const { return options_; }
  // With check_finite: the first op whose result or gradient was not finite, in words; empty when there was none.
  const std::string& first_nonfinite() const { return first_nonfinite_; }

 private:
  friend class NoGrad;
  friend class BackwardPass;
  friend std::vector<Tensor> record(std::string_view, std::vector<Tensor>, std::vector<Tensor>, Saved, const Cost&,
                                    BackwardFn);
  friend bool grad_enabled();
  friend void backward(const Tensor&, const Tensor&);
  friend Tensor recompute(const std::function<Tensor(const Tensor&)>&, const Tensor&);

  Options options_;
  Tape* outer_;
  bool recording_ = true;
  bool met_leaf_ = false;  // an op had an input that wants a gradient, recording or not
  Cost cost_;
  double last_mark_ = 0;
  std::vector<std::shared_ptr<Node>> nodes_;
  void inspect(const char* what, std::string_view op, std::string_view module, const std::vector<Tensor>& tensors);
  std::string first_nonfinite_;
};

// In its scope ops keep nothing for backward (cost is still counted).
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Tape* tape_;
  bool before_;
};
// True when an op called now would be recorded if one of its inputs wants a gradient.
bool grad_enabled();

// Names the module whose ops run in this scope; paths nest: "blocks.3" / "attn".
class ModuleScope {
 public:
  explicit ModuleScope(std::string_view path);
  ~ModuleScope();
  ModuleScope(const ModuleScope&) = delete;
  ModuleScope& operator=(const ModuleScope&) = delete;
  static const std::string& path();

 private:
  size_t before_;
};

// Records one op that has run: outputs get a history if one of the inputs wants a gradient and recording is on. Counts
// the cost.
std::vector<Tensor> record(std::string_view name, std::vector<Tensor> outputs, std::vector<Tensor> inputs, Saved saved,
                           const Cost& cost, BackwardFn fn);
Tensor record(std::string_view name, Tensor output, std::vector<Tensor> inputs, Saved saved, const Cost& cost,
              BackwardFn fn);
// For an op without a derivative: the result has no history; where an input wants a gradient, backward through it
// raises `reason`.
Tensor no_gradient(std::string_view name, Tensor output, std::vector<Tensor> inputs, const Cost& cost,
                   std::string reason);

// Makes `t` a leaf that wants a gradient. `grad`: f32 memory of the same count to accumulate into, or undefined (made
// on demand).
Tensor require_grad(Tensor t, Tensor grad = {}, std::string name = {});
bool requires_grad(const Tensor& t);
// Gradient of a leaf after backward; undefined when none arrived.
Tensor grad_of(const Tensor& t);
// The hook sees (and may replace) the gradient that flows into t, once, when it is complete.
void add_hook(const Tensor& t, GradHook hook);

// Differentiates `y` with respect to all leaves. `dy`: gradient of y (default: 1, y then has one element).
void backward(const Tensor& y, const Tensor& dy = {});

// Runs fn(x) without keeping its inner tensors; backward runs it again. Bit-identical to fn(x) under the tape, because
// random numbers have addresses. fn may use parameters (leaves) freely.
Tensor recompute(const std::function<Tensor(const Tensor&)>& fn, const Tensor& x);

}  // namespace accrete
