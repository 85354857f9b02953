#include "engine/autograd/tape.h"

#include <chrono>
#include <queue>
#include <unordered_map>
#include <utility>

#include "kernels/cast.h"
#include "kernels/elementwise.h"
#include "kernels/reduce.h"

namespace accrete {
namespace {

thread_local Tape* current_tape = nullptr;
thread_local uint64_t next_counter = 1;
thread_local std::string module_path;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Memory from outside the allocator (a mapped file) counts as data.
Segment segment_of(const Tensor& t) { return t.storage()->block ? t.storage()->block->segment : Segment::data; }

// Adds gradient b to a. Reuses a's memory when nobody else holds it.
Tensor add_grads(Tensor a, const Tensor& b) {
  check(a.shape() == b.shape() && a.dtype() == b.dtype(), "backward", "two gradients of one tensor differ; ", a.shape(),
        " ", name_of(a.dtype()), " and ", b.shape(), " ", name_of(b.dtype()));
  Tensor out = a.unique() ? a : like(a);
  on(a, [&]<class T>(const auto& dev) {
    kernels::binary_forward<T>(dev, kernels::Binary::add, out.ptr<T>(), a.ptr<T>(), b.ptr<T>(), a.count());
  });
  return out;
}

}  // namespace

// ---- Saved
// ------------------------------------------------------------------------------------------------------------

Saved::Saved(std::initializer_list<Tensor> tensors) {
  for (const Tensor& t : tensors) {
    tensors_.push_back(t.detach());
    versions_.push_back(t.version());
  }
}

const Tensor& Saved::operator[](size_t i) const {
  const Tensor& t = tensors_.at(i);
  check(t.version() == versions_[i], "backward", "a tensor saved by op \"", owner_, "\" was overwritten by \"",
        t.last_writer(), "\" before backward");
  return t;
}

int64_t Saved::bytes() const {
  int64_t n = 0;
  for (const Tensor& t : tensors_)
    if (t.defined()) n += t.bytes();
  return n;
}

const Tensor& BackwardContext::saved(size_t i) const { return node_.saved[i]; }
bool BackwardContext::needs(size_t i) const { return requires_grad(node_.inputs[i]); }

Tensor BackwardContext::take_pending(size_t i) const {
  const auto& meta = node_.inputs[i].grad_meta();
  if (!meta || !meta->node || meta->node->grads.empty()) return {};
  return std::exchange(meta->node->grads[meta->output], Tensor());
}

Node::~Node() {
  // The inputs of a node own their producers. The outermost destructor empties a list that the inner ones only add to.
  thread_local std::vector<std::vector<Tensor>>* list = nullptr;
  if (list) {
    list->push_back(std::move(inputs));
    return;
  }
  std::vector<std::vector<Tensor>> todo;
  list = &todo;
  todo.push_back(std::move(inputs));
  while (!todo.empty()) {
    const std::vector<Tensor> next = std::move(todo.back());
    todo.pop_back();
  }
  list = nullptr;
}

// ---- Tape, scopes
// -----------------------------------------------------------------------------------------------------

Tape::Tape(Options options) : options_(options), outer_(current_tape), last_mark_(options.profile ? now_seconds() : 0) {
  current_tape = this;
}

Tape::~Tape() {
  current_tape = outer_;
  // A tape inside another (recompute) is part of what the outer one spends.
  if (outer_) {
    outer_->cost_.flops += cost_.flops;
    outer_->cost_.bytes += cost_.bytes;
    outer_->cost_.backward_flops += cost_.backward_flops;
    outer_->cost_.backward_bytes += cost_.backward_bytes;
    if (outer_->first_nonfinite_.empty()) outer_->first_nonfinite_ = std::move(first_nonfinite_);
  }
}

void Tape::inspect(const char* what, std::string_view op, std::string_view module, const std::vector<Tensor>& tensors) {
  if (!first_nonfinite_.empty()) return;
  for (const Tensor& t : tensors) {
    if (!t.defined() || !t.data() || !is_float(t.dtype())) continue;
    Tensor n = Tensor::zeros(Shape{1}, DType::f32, t.device());
    on(t, [&]<class T>(const auto& dev) { kernels::count_nonfinite<T>(dev, n.ptr<float>(), t.ptr<T>(), t.count()); });
    if (n.item() == 0) continue;
    std::ostringstream text;
    text << what << " of op \"" << op << "\" in module \"" << module << "\", " << n.item() << " of " << t.count()
         << " elements";
    first_nonfinite_ = text.str();
    return;
  }
}

Tape* Tape::current() { return current_tape; }

NoGrad::NoGrad() : tape_(current_tape), before_(tape_ && tape_->recording_) {
  if (tape_) tape_->recording_ = false;
}
NoGrad::~NoGrad() {
  if (tape_) tape_->recording_ = before_;
}

bool grad_enabled() { return current_tape && current_tape->recording_; }

ModuleScope::ModuleScope(std::string_view path) : before_(module_path.size()) {
  if (!module_path.empty()) module_path += '.';
  module_path += path;
}
ModuleScope::~ModuleScope() { module_path.resize(before_); }
const std::string& ModuleScope::path() { return module_path; }

// ---- recording
// --------------------------------------------------------------------------------------------------------

std::vector<Tensor> record(std::string_view name, std::vector<Tensor> outputs, std::vector<Tensor> inputs, Saved saved,
                           const Cost& cost, BackwardFn fn) {
  for (Tensor& y : outputs) y = y.detach();
  Tape* tape = current_tape;
  if (!tape) return outputs;
  tape->cost_.flops += cost.flops;
  tape->cost_.bytes += cost.bytes;
  if (tape->options_.check_finite) tape->inspect("result", name, module_path, outputs);

  bool wanted = false;
  for (const Tensor& x : inputs) wanted = wanted || requires_grad(x);
  tape->met_leaf_ = tape->met_leaf_ || wanted;
  wanted = wanted && tape->recording_;
  if (!wanted && !tape->options_.keep_nodes) return outputs;

  auto node = std::make_shared<Node>();
  node->counter = next_counter++;
  node->name = name;
  node->module = module_path;
  node->cost = cost;
  node->dtype = outputs[0].dtype();
  for (const Tensor& y : outputs) node->output_shapes.push_back(y.shape());
  if (tape->options_.profile) {
    synchronize(outputs[0].device());
    const double t = now_seconds();
    node->seconds = t - tape->last_mark_;
    tape->last_mark_ = t;
  }
  for (const Tensor& x : inputs) {
    if (tape->options_.keep_nodes) node->present.push_back(x.defined());
    node->inputs.push_back(x.stripped());
  }
  if (wanted) {
    node->saved_bytes = saved.bytes();
    if (tape->options_.keep_nodes)
      for (const Tensor& t : saved.tensors())
        if (t.defined()) node->kept.push_back({t.shape(), t.dtype(), segment_of(t), t.storage()});
    node->saved = std::move(saved);
    node->saved.set_owner(name);
    node->backward = std::move(fn);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    auto meta = std::make_shared<GradMeta>();
    meta->node = node;
    meta->output = i;
    meta->leaf_requires_grad = false;
    outputs[i].set_grad_meta(std::move(meta));
  }
  if (tape->options_.keep_nodes) tape->nodes_.push_back(node);
  return outputs;
}

Tensor record(std::string_view name, Tensor output, std::vector<Tensor> inputs, Saved saved, const Cost& cost,
              BackwardFn fn) {
  std::vector<Tensor> outputs{std::move(output)};
  return record(name, std::move(outputs), std::move(inputs), std::move(saved), cost, std::move(fn))[0];
}

Tensor no_gradient(std::string_view name, Tensor output, std::vector<Tensor> inputs, const Cost& cost,
                   std::string reason) {
  return record(name, std::move(output), std::move(inputs), {}, cost,
                [name = std::string(name), reason = std::move(reason)](const BackwardContext&) -> Grads {
                  fail(name, "has no gradient: ", reason);
                });
}

// ---- leaves
// -----------------------------------------------------------------------------------------------------------

Tensor require_grad(Tensor t, Tensor grad, std::string name) {
  if (grad.defined())
    check(grad.count() == t.count() && grad.dtype() == DType::f32, "autograd",
          "gradient memory does not fit; expected ", t.count(), " f32; got ", grad.shape(), " ", name_of(grad.dtype()));
  auto meta = std::make_shared<GradMeta>();
  meta->leaf_requires_grad = true;
  meta->grad = std::move(grad);
  meta->name = std::move(name);
  t.set_grad_meta(std::move(meta));
  return t;
}

bool requires_grad(const Tensor& t) {
  const auto& meta = t.grad_meta();
  if (!meta) return false;
  return meta->node ? static_cast<bool>(meta->node->backward) || meta->node->done : meta->leaf_requires_grad;
}

Tensor grad_of(const Tensor& t) { return t.grad_meta() ? t.grad_meta()->grad : Tensor(); }

void add_hook(const Tensor& t, GradHook hook) {
  check(requires_grad(t), "autograd", "a hook needs a tensor that wants a gradient");
  t.grad_meta()->hooks.push_back(std::move(hook));
}

Tensor BackwardContext::param_grad(size_t i) const {
  const Tensor& w = node_.inputs[i];
  const auto& meta = w.grad_meta();
  check(meta != nullptr, "autograd", "param_grad of a tensor that wants no gradient");
  if (meta->node || !meta->hooks.empty()) return Tensor::zeros(w.shape(), DType::f32, w.device());
  if (!meta->grad.defined()) {
    const SegmentScope segment(Segment::grads);
    meta->grad = Tensor::zeros(w.shape(), DType::f32, w.device());
  }
  return meta->grad;
}

// ---- backward
// ---------------------------------------------------------------------------------------------------------

namespace {

// Adds g to the gradient of a leaf, in f32.
void accumulate_leaf(GradMeta& meta, const Tensor& leaf, Tensor g) {
  for (const GradHook& hook : meta.hooks) g = hook(g);
  if (meta.grad.defined() && meta.grad.same_storage(g) && meta.grad.data() == g.data())
    return;  // param_grad: already there
  if (!meta.grad.defined()) {
    const SegmentScope segment(Segment::grads);
    meta.grad = Tensor::zeros(leaf.shape(), DType::f32, leaf.device());
  }
  check(g.count() == meta.grad.count(), "backward", "gradient of ", meta.name, " has shape ", g.shape(), "; expected ",
        leaf.shape());
  on(g, [&]<class T>(const auto& dev) {
    kernels::accumulate<T>(dev, meta.grad.ptr<float>(), g.ptr<T>(), 1.0f, g.count());
  });
  meta.grad.bump_version("backward");
}

// What runs in backward belongs to the module of the op it differentiates.
class ModuleRestored {
 public:
  explicit ModuleRestored(const std::string& path) : before_(std::exchange(module_path, path)) {}
  ~ModuleRestored() { module_path = std::move(before_); }
  ModuleRestored(const ModuleRestored&) = delete;
  ModuleRestored& operator=(const ModuleRestored&) = delete;

 private:
  std::string before_;
};

struct Newest {
  bool operator()(const std::shared_ptr<Node>& a, const std::shared_ptr<Node>& b) const {
    return a->counter < b->counter;
  }
};

}  // namespace

// One walk over the graph; a class only to be a friend of Tape.
class BackwardPass {
 public:
  BackwardPass(Tape* tape, Device device) : tape_(tape), device_(device) {}

  void seed(const Tensor& y, Tensor dy) {
    send(y, std::move(dy));
    const NoGrad quiet;
    while (!queue_.empty()) {
      const std::shared_ptr<Node> node = queue_.top();
      queue_.pop();
      run(*node);
    }
    if (tape_ && tape_->options_.profile) tape_->last_mark_ = now_seconds();  // the next op is not charged for this
  }

 private:
  void send(const Tensor& x, Tensor g) {
    const auto& meta = x.grad_meta();
    if (!meta || !g.defined()) return;
    if (!meta->node) {
      if (meta->leaf_requires_grad) accumulate_leaf(*meta, x, std::move(g));
      return;
    }
    Node& node = *meta->node;
    if (!node.backward && !node.done) return;  // kept for looking at only
    check(!node.done, "backward", "a second walk through op \"", node.name,
          "\"; its saved tensors are freed; run forward again");
    if (g.shape() != node.output_shapes[meta->output]) g = g.view(node.output_shapes[meta->output]);
    if (node.grads.empty()) {
      node.grads.resize(node.output_shapes.size());
      queue_.push(meta->node);
      metas_of(node).resize(node.output_shapes.size());
    }
    metas_of(node)[meta->output] = meta;
    Tensor& slot = node.grads[meta->output];
    slot = slot.defined() ? add_grads(std::move(slot), g) : std::move(g);
  }

  void run(Node& node) {
    const ModuleRestored module(node.module);
    Grads dy = std::move(node.grads);
    node.grads.clear();
    for (size_t i = 0; i < dy.size(); ++i) {
      const auto& meta = metas_of(node)[i];
      if (meta && dy[i].defined())
        for (const GradHook& hook : meta->hooks) dy[i] = hook(dy[i]);
    }
    metas_.erase(&node);
    const bool profile = tape_ && tape_->options_.profile;
    if (profile) synchronize(device_);
    const double begin = profile ? now_seconds() : 0;
    Grads dx = node.backward(BackwardContext(node, dy));
    if (tape_) {
      tape_->cost_.backward_flops += node.cost.backward_flops;
      tape_->cost_.backward_bytes += node.cost.backward_bytes;
      if (profile) {
        synchronize(device_);
        node.backward_seconds = now_seconds() - begin;
      }
    }
    check(dx.size() == node.inputs.size(), "backward", "op \"", node.name, "\" returned ", dx.size(),
          " gradients; expected ", node.inputs.size());
    if (tape_ && tape_->options_.check_finite) tape_->inspect("gradient", node.name, node.module, dx);
    node.saved.clear();
    node.done = true;
    node.backward = nullptr;
    dy.clear();  // so that a gradient nobody else holds can be added to in place
    for (size_t i = 0; i < dx.size(); ++i) send(node.inputs[i], std::move(dx[i]));
    if (!tape_ || !tape_->options_.keep_nodes) node.inputs.clear();
  }

  std::vector<std::shared_ptr<GradMeta>>& metas_of(Node& node) { return metas_[&node]; }

  Tape* tape_;
  Device device_;
  std::priority_queue<std::shared_ptr<Node>, std::vector<std::shared_ptr<Node>>, Newest> queue_;
  std::unordered_map<Node*, std::vector<std::shared_ptr<GradMeta>>> metas_;
};

void backward(const Tensor& y, const Tensor& dy) {
  check(requires_grad(y), "backward", "nothing to differentiate: the tensor depends on no leaf that wants a gradient");
  Tensor seed = dy;
  if (!seed.defined()) {
    check(y.count() == 1, "backward", "needs dy for a tensor of shape ", y.shape());
    seed = like(y);
    on(seed, [&]<class T>(const auto& dev) { kernels::fill<T>(dev, seed.ptr<T>(), 1.0f, 1); });
  }
  check(seed.shape() == y.shape() && seed.dtype() == y.dtype(), "backward", "dy does not fit; expected ", y.shape(),
        " ", name_of(y.dtype()), "; got ", seed.shape(), " ", name_of(seed.dtype()));
  BackwardPass(Tape::current(), y.device()).seed(y, seed);
}

Tensor recompute(const std::function<Tensor(const Tensor&)>& fn, const Tensor& x) {
  Tensor y;
  Tape* const tape = current_tape;
  const bool met_before = tape && std::exchange(tape->met_leaf_, false);
  {
    const NoGrad quiet;
    y = fn(x.detach());
  }
  // Recorded when x wants a gradient or a parameter inside fn does; frozen layers on data keep nothing.
  const bool x_wants = requires_grad(x), inside_wants = tape && tape->met_leaf_;
  if (tape) tape->met_leaf_ = tape->met_leaf_ || met_before || x_wants;
  if (!grad_enabled() || (!x_wants && !inside_wants)) return y.detach();
  const Tensor input = x_wants ? x : require_grad(x.detach());
  return record("recompute", y, {input}, Saved{x}, Cost{}, [fn, x_wants](const BackwardContext& ctx) -> Grads {
    Tape inner({.check_finite = current_tape && current_tape->options().check_finite});
    // The input is the output of an op, not a leaf, so that its gradients meet exactly as they would without recompute.
    Tensor dx;
    const Tensor again = record("recompute_input", ctx.saved(0), {require_grad(ctx.saved(0))}, {}, Cost{},
                                [&dx](const BackwardContext& c) -> Grads {
                                  dx = c.dy();
                                  return {Tensor()};
                                });
    const Tensor y2 = fn(again);
    if (requires_grad(y2)) backward(y2, ctx.dy());
    return {x_wants ? dx : Tensor()};
  });
}

}  // namespace accrete
