// Plans of matrix products: a plan is a product's descriptors, made once, and the algorithm that was chosen for it.
//
// The first use of a product chooses (kernels/gemm_plan.h says what makes two products the same):
//   1. the plan file has it (kernels/gemm_plan_file.h): that one;
//   2. outside of graph capture: up to 32 algorithms the library suggests for the workspace there is, each timed on the
//      real operands, the best four timed again by turns; and, where there is an epilogue, against the plain product
//      followed by our own kernels, since a fused kernel is not always the faster way. Split sums (large K, small C:
//      weight gradients) compete here like all others;
//   3. while capturing, when timing is off, or without memory for it: the library's first suggestion.
// Choices of 2 and 3 go into the file. Timing writes to the result, which the product that follows overwrites, or to a
// copy where the result's old contents count; it leaves no trace in any result.
//
// Algorithms that add partial sums in the result's own memory or type are not considered: f32 partial sums in the
// workspace, added in order, are exact enough for bf16 results and have the same bits every time.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/gemm_descriptors.h"
#include "kernels/gemm_plan_file.h"

namespace accrete::kernels::lt {

// The pointers of one product. `vector` is the bias, or receives the bias gradient.
struct Operands {
  void* C = nullptr;
  const void* A = nullptr;
  const void* B = nullptr;
  const void* vector = nullptr;
  void* aux = nullptr;
};

class Plan {
 public:
  Plan(const GemmKey& key, const Operands& operands);
  // False: this epilogue is to be done by separate kernels.
  bool fused() const { return record_.fused; }
  // Queues the product. `workspace` holds at least key.workspace bytes.
  void run(const Cuda& ctx, const Operands& operands, void* workspace) {
    ACCRETE_LT(run_with(ctx, operands, workspace, algorithm_));
  }

 private:
  friend class Plans;
  cublasStatus_t run_with(const Cuda& ctx, const Operands& operands, void* workspace,
                          const cublasLtMatmulAlgo_t& algorithm);
  void point_to(const Operands& operands);
  // The library's suggestions, best first; none when it has no kernel for this product.
  std::vector<cublasLtMatmulHeuristicResult_t> suggestions(cublasLtHandle_t blas, int at_most) const;
  // Takes a record over, if the library agrees that it can run here.
  bool accept(cublasLtHandle_t blas, const PlanRecord& record);
  void take(const cublasLtMatmulHeuristicResult_t& chosen);

  GemmKey key_;
  Operation operation_;
  Layout first_, second_, result_;
  PlanRecord record_;
  cublasLtMatmulAlgo_t algorithm_{};
};

// What a choice needs besides the operands: the way without the fused epilogue, run on a given result and vector (null:
// the real ones). Empty where there is no epilogue.
using Separately = std::function<void(void* C, void* vector)>;

// All plans of the process. Not locked: gemm holds mutex() from the search to the launch, because descriptors carry the
// pointers of one product at a time.
class Plans {
 public:
  static Plans& all();
  std::recursive_mutex& mutex() { return mutex_; }
  Plan* find(const GemmKey& key);  // null: not chosen yet
  // Throws when the library has nothing for a product without epilogue.
  Plan& choose(const Cuda& ctx, const GemmKey& key, const Operands& operands, void* workspace,
               const Separately& separately);

  // Attention keeps its choices here too (attention_cudnn.cpp).
  bool timing() const { return timing_; }  // false: ACCRETE_GEMM_TIMING=off, nothing is timed and there is no file
  PlanFile& file() { return file_; }
  const std::string& device_name(int device);

 private:
  Plans();
  void time_all(const Cuda& ctx, Plan& plan, const std::vector<cublasLtMatmulHeuristicResult_t>& candidates,
                const Operands& operands, void* workspace, const Separately& separately);

  std::recursive_mutex mutex_;
  std::unordered_map<GemmKey, std::unique_ptr<Plan>, GemmKeyHash> plans_;
  std::unordered_map<int, std::string> device_names_;
  bool timing_;
  PlanFile file_;
};

}  // namespace accrete::kernels::lt
