#include "kernels/cuda/gemm_plans.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "kernels/cuda/stopwatch.h"
#include "kernels/runtime.h"

namespace accrete::kernels::lt {

namespace {

constexpr int kSuggestions = 32;
constexpr size_t kFinalists = 4;
constexpr float kClearlyFaster = 0.98f;  // below this share of the time, a later candidate replaces an earlier one
constexpr size_t kMaxPlans = 8192;

bool timing_wanted() {
  const char* value = std::getenv("ACCRETE_GEMM_TIMING");
  return !value || std::string_view(value) != "off";
}

size_t bytes_of(GemmType t) { return t == GemmType::f32 ? 4 : 2; }

// The result that timing writes to: C itself, or a copy of it when its old contents are still needed.
class TrialResult {
 public:
  TrialResult(const Cuda& ctx, const GemmKey& key, void* C) : ctx_(ctx), p_(C) {
    if (!key.shape.accumulate) return;
    bytes_ = extent_of_c(key.shape) * static_cast<int64_t>(bytes_of(key.out));
    p_ = copy_ = device_allocate(ctx, bytes_);
    if (copy_) copy_within(ctx, copy_, C, bytes_);
  }
  ~TrialResult() {
    if (!copy_) return;
    try {
      device_release(ctx_, copy_, bytes_);
    } catch (const std::exception&) {  // a broken device reports itself at the next call
    }
  }
  TrialResult(const TrialResult&) = delete;
  TrialResult& operator=(const TrialResult&) = delete;
  void* get() const { return p_; }  // null: no memory

 private:
  const Cuda& ctx_;
  void *p_, *copy_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace

Plan::Plan(const GemmKey& key, const Operands& operands)
    : key_(key),
      operation_(key.tf32 && key.in == GemmType::f32),
      first_(key.in, in_columns(key.shape).first, key.shape.batch),
      second_(key.in, in_columns(key.shape).second, key.shape.batch),
      result_(key.out, in_columns(key.shape).result, key.shape.batch) {
  const ColumnProduct product = in_columns(key.shape);
  operation_.set(CUBLASLT_MATMUL_DESC_TRANSA, product.trans_first ? CUBLAS_OP_T : CUBLAS_OP_N);
  operation_.set(CUBLASLT_MATMUL_DESC_TRANSB, product.trans_second ? CUBLAS_OP_T : CUBLAS_OP_N);
  operation_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, library_name(key.epilogue));
  if (has_bias(key.epilogue) || key.epilogue == LibraryEpilogue::bias_gradient)
    operation_.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(data_type(key.out)));
  if (has_aux(key.epilogue)) {
    operation_.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, key.shape.ldc);
    operation_.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, static_cast<int32_t>(data_type(key.out)));
  }
  point_to(operands);  // the search reads the alignment of these pointers
}

void Plan::point_to(const Operands& operands) {
  if (has_bias(key_.epilogue) || key_.epilogue == LibraryEpilogue::bias_gradient)
    operation_.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.vector);
  if (has_aux(key_.epilogue)) operation_.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.aux);
}

cublasStatus_t Plan::run_with(const Cuda& ctx, const Operands& o, void* workspace,
                              const cublasLtMatmulAlgo_t& algorithm) {
  point_to(o);
  const float alpha = 1.0f, beta = key_.shape.accumulate ? 1.0f : 0.0f;
  return cublaslt().Matmul(static_cast<cublasLtHandle_t>(ctx.blas), operation_.handle(), &alpha, o.B, first_.handle(),
                           o.A, second_.handle(), &beta, o.C, result_.handle(), o.C, result_.handle(), &algorithm,
                           workspace, static_cast<size_t>(key_.workspace), static_cast<cudaStream_t>(ctx.stream));
}

std::vector<cublasLtMatmulHeuristicResult_t> Plan::suggestions(cublasLtHandle_t blas, int at_most) const {
  Preference preference;
  preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(key_.workspace));
  const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key_.align_b);  // B goes first
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key_.align_a);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key_.align_c);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key_.align_c);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(at_most));
  int count = 0;
  const cublasStatus_t status =
      cublaslt().MatmulAlgoGetHeuristic(blas, operation_.handle(), first_.handle(), second_.handle(), result_.handle(),
                                        result_.handle(), preference.handle(), at_most, found.data(), &count);
  // With an epilogue, "cannot do that" is an answer: the separate kernels then do it.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return {};
  ACCRETE_LT(status);
  found.resize(static_cast<size_t>(count));
  std::erase_if(found, [&](const auto& f) {
    return f.state != CUBLAS_STATUS_SUCCESS || f.workspaceSize > static_cast<size_t>(key_.workspace);
  });
  return found;
}

void Plan::take(const cublasLtMatmulHeuristicResult_t& chosen) {
  static_assert(sizeof(chosen.algo) == sizeof(record_.algorithm));
  record_.fused = true;
  record_.workspace = chosen.workspaceSize;
  std::memcpy(record_.algorithm.data(), &chosen.algo, sizeof chosen.algo);
  algorithm_ = chosen.algo;
}

bool Plan::accept(cublasLtHandle_t blas, const PlanRecord& record) {
  if (!record.fused) {
    record_ = record;
    return key_.epilogue != LibraryEpilogue::none;
  }
  cublasLtMatmulAlgo_t algorithm;
  std::memcpy(&algorithm, record.algorithm.data(), sizeof algorithm);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = cublaslt().MatmulAlgoCheck(blas, operation_.handle(), first_.handle(), second_.handle(),
                                                           result_.handle(), result_.handle(), &algorithm, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > static_cast<size_t>(key_.workspace)) return false;
  record_ = record;
  algorithm_ = algorithm;
  return true;
}

Plans& Plans::all() {
  static Plans* one = new Plans;  // never destroyed: the library may be gone before static objects are
  return *one;
}

Plans::Plans() : timing_(timing_wanted()), file_(timing_ ? default_plan_path() : std::string()) {}

Plan* Plans::find(const GemmKey& key) {
  const auto found = plans_.find(key);
  return found == plans_.end() ? nullptr : found->second.get();
}

const std::string& Plans::device_name(int device) {
  std::string& name = device_names_[device];
  if (name.empty()) {
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties", __FILE__, __LINE__);
    name = std::string(properties.name) + "/" + std::to_string(properties.multiProcessorCount);
  }
  return name;
}

Plan& Plans::choose(const Cuda& ctx, const GemmKey& key, const Operands& operands, void* workspace,
                    const Separately& separately) {
  if (!ctx.blas) throw std::runtime_error("[gemm] the CUDA context has no cuBLASLt handle");
  const auto blas = static_cast<cublasLtHandle_t>(ctx.blas);
  const std::string name = key.text(device_name(key.device), static_cast<int64_t>(cublaslt().GetVersion()));
  auto plan = std::make_unique<Plan>(key, operands);
  const PlanRecord* known = file_.find(name);
  if (!known || !plan->accept(blas, *known)) {
    const bool time = timing_ && !ctx.capturing;
    const auto candidates = plan->suggestions(blas, time ? kSuggestions : 1);
    if (candidates.empty() && key.epilogue == LibraryEpilogue::none)
      throw std::runtime_error("[gemm] cuBLASLt has no algorithm for " + name);
    if (candidates.empty())
      plan->record_ = PlanRecord{.fused = false};
    else
      plan->take(candidates[0]);
    if (time && !candidates.empty()) time_all(ctx, *plan, candidates, operands, workspace, separately);
    file_.add(name, plan->record_);
    // Another process may have chosen meanwhile. The file keeps its choice, which a resumed run will find: so take it.
    if (const PlanRecord* kept = file_.find(name)) plan->accept(blas, *kept);
  }
  if (plans_.size() >= kMaxPlans) plans_.clear();
  return *plans_.insert_or_assign(key, std::move(plan)).first->second;
}

void Plans::time_all(const Cuda& ctx, Plan& plan, const std::vector<cublasLtMatmulHeuristicResult_t>& candidates,
                     const Operands& operands, void* workspace, const Separately& separately) {
  const TrialResult trial(ctx, plan.key_, operands.C);
  if (!trial.get()) return;  // the first suggestion stands
  Operands o = operands;
  o.C = trial.get();
  const Stopwatch watch(ctx);
  struct Entry {
    const cublasLtMatmulHeuristicResult_t* candidate;  // null: separate kernels
    float best_ms;
  };
  const auto run = [&](const Entry& e) {
    if (!e.candidate) return separately(o.C, const_cast<void*>(o.vector)), true;
    return plan.run_with(ctx, o, workspace, e.candidate->algo) == CUBLAS_STATUS_SUCCESS;
  };
  // Once each, after a run that loads the kernel. What cannot run after all drops out.
  std::vector<Entry> entries;
  for (const auto& c : candidates) {
    Entry e{&c, 0};
    if (!run(e)) continue;
    e.best_ms = watch.milliseconds([&] { run(e); });
    entries.push_back(e);
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.best_ms < b.best_ms; });
  if (entries.size() > kFinalists) entries.resize(kFinalists);
  if (separately) {
    Entry e{nullptr, 0};
    run(e);
    e.best_ms = watch.milliseconds([&] { run(e); });
    entries.push_back(e);
  }
  std::vector<float> ms;
  for (const Entry& e : entries) ms.push_back(e.best_ms);
  ms = race(watch, ms, [&](size_t i) { run(entries[i]); });
  for (size_t i = 0; i < entries.size(); ++i) entries[i].best_ms = ms[i];
  const Entry* best = nullptr;
  for (const Entry& e : entries)
    if (!best || e.best_ms < kClearlyFaster * best->best_ms) best = &e;
  if (!best) return;
  if (best->candidate)
    plan.take(*best->candidate);
  else
    plan.record_ = PlanRecord{.fused = false};
  plan.record_.timed = true;
  plan.record_.microseconds = 1e3 * static_cast<double>(best->best_ms);
}

}  // namespace accrete::kernels::lt
