#include "kernels/cuda/attention_graph.h"

#include <algorithm>
#include <limits>

namespace accrete::kernels::dnn {

namespace {

constexpr int64_t kAlignment = 16;  // bytes; served_by_mma has seen to it
constexpr size_t kMostNotes = 32;

}  // namespace

AttentionGraph::AttentionGraph(cudnnHandle_t handle, GemmType type, const AttentionShape& s, int64_t entries,
                               bool backward_pass)
    : handle_(handle),
      type_(type == GemmType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF),
      B_(entries),
      H_(s.heads),
      T_(s.q_len),
      D_(s.head_dim),
      packed_{s.q_batch, s.head_dim, s.q_row, 1},
      flipped_{s.q_batch, s.head_dim, 1, s.q_row},
      plain_{T_ * H_ * D_, D_, H_ * D_, 1},
      causal_(s.causal),
      backward_(backward_pass) {
  backward_pass ? backward() : forward();
  graph_.emplace(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph_->set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle_);
  graph_->set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations_);
  graph_->finalize();
}

// s = scale q k^T;  lse = max s + log sum exp(s - max s);  o = (exp(s - max s) / sum) v
void AttentionGraph::forward() {
  const Descriptor& product_qk = scores();
  product(stored(q, packed_), tensor(k, type_, {B_, H_, D_, T_}, flipped_), product_qk);
  const Descriptor* s = &of(CUDNN_POINTWISE_MUL, product_qk, &scalar(scale));
  if (causal_) s = &hide_later_keys(*s);
  const Descriptor &top = row_values(), &total = row_values(), &log_total = row_values();
  reduce(CUDNN_REDUCE_TENSOR_MAX, *s, top);
  const Descriptor& e = of(CUDNN_POINTWISE_EXP, of(CUDNN_POINTWISE_SUB, *s, &top));
  reduce(CUDNN_REDUCE_TENSOR_ADD, e, total);
  pointwise(CUDNN_POINTWISE_LOG, total, nullptr, log_total);
  pointwise(CUDNN_POINTWISE_ADD, top, &log_total, rows(lse));
  const Descriptor& p = scores(type_);
  pointwise(CUDNN_POINTWISE_DIV, e, &total, p);
  product(p, stored(v, packed_), stored(o, plain_));
}

// delta = rowsum(d_o o);  p = exp(scale q k^T - lse);  dv = p^T d_o;  ds = scale p (d_o v^T - delta);  dk = ds^T q;
// dq = ds k. As dq is a plain product, ds goes through scratch and every sum has its order; a graph that adds up dq in
// an f32 tensor of its own would be done by atomic additions.
void AttentionGraph::backward() {
  const Descriptor &queries = stored(q, packed_), &gradient = stored(d_o, plain_);
  const Descriptor& keys_across = tensor(k, type_, {B_, H_, D_, T_}, flipped_);
  const Descriptor& factor = scalar(scale);

  const Descriptor& weighted = tensor(names_++, CUDNN_DATA_FLOAT, {B_, H_, T_, D_}, {H_ * T_ * D_, T_ * D_, D_, 1});
  pointwise(CUDNN_POINTWISE_MUL, gradient, &stored(o, plain_), weighted);
  const Descriptor &weighted_sum = row_values(), &row_sum = rows(delta);
  reduce(CUDNN_REDUCE_TENSOR_ADD, weighted, weighted_sum);
  pointwise(CUDNN_POINTWISE_MUL, weighted_sum, &scalar(one), row_sum);

  const Descriptor& product_qk = scores();
  product(queries, keys_across, product_qk);
  const Descriptor* s = &of(CUDNN_POINTWISE_SUB, of(CUDNN_POINTWISE_MUL, product_qk, &factor), &rows(lse));
  if (causal_) s = &hide_later_keys(*s);
  const Descriptor& p = of(CUDNN_POINTWISE_EXP, *s);
  product(transposed(p), gradient, stored(dv, packed_));

  const Descriptor& dp = scores();
  product(gradient, tensor(v, type_, {B_, H_, D_, T_}, flipped_), dp);
  const Descriptor& ds =
      of(CUDNN_POINTWISE_MUL, of(CUDNN_POINTWISE_MUL, of(CUDNN_POINTWISE_SUB, dp, &row_sum), &p), &factor);
  product(transposed(ds), queries, stored(dk, packed_));

  const Descriptor& keys = tensor(names_++, type_, {B_, H_, T_, D_}, packed_);
  Descriptor& turn = operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  turn.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, keys_across);
  turn.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, keys);
  finalize(turn);
  product(ds, keys, stored(dq, packed_));
}

const Descriptor& AttentionGraph::tensor(int64_t name, cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  Descriptor& t = all_.emplace_back(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const bool by_value = name == scale || name == lowest || name == one;
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, name);
  t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
  t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, dims);
  t.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, strides);
  t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, by_value ? int64_t{sizeof(float)} : kAlignment);
  t.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, name >= inner);
  t.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, by_value);
  t.finalize();
  return t;
}
const Descriptor& AttentionGraph::stored(int64_t name, const Dims& strides) {
  return tensor(name, type_, {B_, H_, T_, D_}, strides);
}
const Descriptor& AttentionGraph::rows(int64_t name) {
  return tensor(name, CUDNN_DATA_FLOAT, {B_, H_, T_, 1}, {H_ * T_, T_, 1, 1});
}
const Descriptor& AttentionGraph::scalar(int64_t name) {
  return tensor(name, CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1});
}
const Descriptor& AttentionGraph::scores(cudnnDataType_t type) {
  return tensor(names_++, type, {B_, H_, T_, T_}, {H_ * T_ * T_, T_ * T_, T_, 1});
}
const Descriptor& AttentionGraph::row_values() { return rows(names_++); }

Descriptor& AttentionGraph::operation(cudnnBackendDescriptorType_t type) { return all_.emplace_back(type); }
void AttentionGraph::finalize(Descriptor& operation) {
  operation.finalize();
  operations_.push_back(operation.handle());
}

void AttentionGraph::product(const Descriptor& a, const Descriptor& b, const Descriptor& c) {
  Descriptor& kind = all_.emplace_back(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  kind.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  kind.finalize();
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, kind);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
  finalize(op);
}

void AttentionGraph::pointwise(cudnnPointwiseMode_t mode, const Descriptor& x, const Descriptor* b, const Descriptor& y,
                               const Descriptor* choice, cudnnDataType_t compute, int64_t axis) {
  Descriptor& kind = all_.emplace_back(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  kind.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, compute);
  if (axis >= 0) kind.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis);
  kind.finalize();
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (b) op.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  if (choice) op.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, *choice);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  finalize(op);
}
const Descriptor& AttentionGraph::of(cudnnPointwiseMode_t mode, const Descriptor& x, const Descriptor* b) {
  const Descriptor& y = scores();
  pointwise(mode, x, b, y);
  return y;
}

void AttentionGraph::reduce(cudnnReduceTensorOp_t sum_or_max, const Descriptor& x, const Descriptor& y) {
  Descriptor& kind = all_.emplace_back(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  kind.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  kind.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, sum_or_max);
  kind.finalize();
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  finalize(op);
}

const Descriptor& AttentionGraph::transposed(const Descriptor& x) {
  const Descriptor& y = tensor(names_++, type_, {B_, H_, T_, T_}, {H_ * T_ * T_, T_ * T_, 1, T_});
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
  finalize(op);
  return y;
}

// y = i >= j ? x : -inf, for query i and key j.
const Descriptor& AttentionGraph::hide_later_keys(const Descriptor& x) {
  const Descriptor &i = scores(CUDNN_DATA_INT32), &j = scores(CUDNN_DATA_INT32);
  const Descriptor &visible = scores(CUDNN_DATA_BOOLEAN), &y = scores();
  pointwise(CUDNN_POINTWISE_GEN_INDEX, x, nullptr, i, nullptr, CUDNN_DATA_INT32, 2);
  pointwise(CUDNN_POINTWISE_GEN_INDEX, x, nullptr, j, nullptr, CUDNN_DATA_INT32, 3);
  pointwise(CUDNN_POINTWISE_CMP_GE, i, &j, visible, nullptr, CUDNN_DATA_BOOLEAN);
  pointwise(CUDNN_POINTWISE_BINARY_SELECT, x, &scalar(lowest), y, &visible);
  return y;
}

std::optional<AttentionPlan> AttentionGraph::plan(uint64_t position) const {
  try {
    Descriptor search(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    search.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, *graph_);
    search.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A);
    search.finalize();
    std::vector<Descriptor> found;
    std::vector<cudnnBackendDescriptor_t> handles;
    for (uint64_t i = 0; i < position; ++i)
      handles.push_back(found.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).handle());
    if (search.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, handles) <
        static_cast<int64_t>(position))
      return std::nullopt;

    const Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    std::vector<cudnnBackendDescriptor_t> place(1, engine.handle());
    found.back().get(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, place);
    std::vector<cudnnBackendNumericalNote_t> notes(kMostNotes);
    notes.resize(static_cast<size_t>(engine.get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, notes)));
    if (std::count(notes.begin(), notes.end(), CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) > 0) return std::nullopt;

    AttentionPlan p{Descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)};
    p.plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle_);
    p.plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, found.back());
    p.plan.finalize();
    p.position = position;
    p.engine = static_cast<uint64_t>(engine.get_int(CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
    p.scratch = p.plan.get_int(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
    if (p.scratch > kAttentionScratch) return std::nullopt;
    return p;
  } catch (const Refusal&) {
    return std::nullopt;
  }
}

void AttentionGraph::run(cudaStream_t stream, const AttentionPlan& plan, const AttentionOperands& x, float scale_value,
                         void* scratch) const {
  float factor = scale_value, hidden = -std::numeric_limits<float>::infinity(), unit = 1.0f;
  std::vector<int64_t> names{q, k, v, o, lse, scale};
  std::vector<void*> pointers{
      const_cast<void*>(x.q), const_cast<void*>(x.k), const_cast<void*>(x.v), x.o, x.lse, &factor};
  const auto add = [&](int64_t name, void* pointer) {
    names.push_back(name);
    pointers.push_back(pointer);
  };
  if (causal_) add(lowest, &hidden);
  if (backward_) {
    add(d_o, const_cast<void*>(x.d_o));
    add(dq, x.dq), add(dk, x.dk), add(dv, x.dv);
    add(delta, x.delta), add(one, &unit);
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, names);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers);
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, scratch);
  pack.finalize();
  ACCRETE_DNN(cudnn()->SetStream(handle_, stream));
  ACCRETE_DNN(cudnn()->BackendExecute(handle_, plan.plan.handle(), pack.handle()));
}

}  // namespace accrete::kernels::dnn
