// Attention, said as a graph of cuDNN's operations on (B, H, T, D) tensors with strides, and the plans cuDNN has for
// it. The graph spells attention out in products, pointwise operations and sums; cuDNN knows the pattern and runs it as
// one kernel (forward) or a few (backward). Its single operations for attention are no substitute: before 9.21 they
// know no causal mask, and for backward passes of Hopper it had no plan up to 9.26.
//
// Checked without a GPU on 9.19 and 9.26, by describing an H200 to the library (its descriptor of device properties):
// it has plans for all shapes that cudnn_may_serve, and their scratch is what entries_at_once supposes.
#pragma once

#include "kernels/attention_choice.h"
#include "kernels/cuda/cudnn.h"

#include <deque>
#include <optional>
#include <vector>

namespace accrete::kernels::dnn {

struct AttentionPlan {
  Descriptor plan;
  uint64_t position = 0;  // in cuDNN's list, from 1
  uint64_t engine = 0;
  int64_t scratch = 0;  // bytes
};

class AttentionGraph {
 public:
  // Of shapes that cudnn_may_serve, for `entries` of the batch at a time. Throws Refusal.
  AttentionGraph(cudnnHandle_t handle, GemmType type, const AttentionShape& s, int64_t entries, bool backward);

  // The plan at a position of cuDNN's list; nothing where the list is shorter, or the plan does not build, is not
  // deterministic by its own account, or wants more scratch than kAttentionScratch.
  std::optional<AttentionPlan> plan(uint64_t position) const;
  // Queues the plan on a stream, for the entries that x points to. Throws Refusal.
  void run(cudaStream_t stream, const AttentionPlan& plan, const AttentionOperands& x, float scale,
           void* scratch) const;

 private:
  // Names of tensors within the graph; virtual ones, which exist inside kernels only, count on from `inner`.
  enum Name : int64_t { q = 1, k, v, o, lse, d_o, dq, dk, dv, delta, scale, lowest, one, inner };
  using Dims = std::vector<int64_t>;  // 4

  const Descriptor& tensor(int64_t name, cudnnDataType_t type, const Dims& dims, const Dims& strides);
  const Descriptor& stored(int64_t name, const Dims& strides);  // 16-bit (B, H, T, D)
  const Descriptor& rows(int64_t name);                         // f32 (B, H, T, 1)
  const Descriptor& scalar(int64_t name);                       // f32, given by value
  const Descriptor& scores(cudnnDataType_t type = CUDNN_DATA_FLOAT);
  const Descriptor& row_values();
  Descriptor& operation(cudnnBackendDescriptorType_t type);
  void finalize(Descriptor& operation);
  void product(const Descriptor& a, const Descriptor& b, const Descriptor& c);
  void pointwise(cudnnPointwiseMode_t mode, const Descriptor& x, const Descriptor* b, const Descriptor& y,
                 const Descriptor* choice = nullptr, cudnnDataType_t compute = CUDNN_DATA_FLOAT, int64_t axis = -1);
  const Descriptor& of(cudnnPointwiseMode_t mode, const Descriptor& x, const Descriptor* b = nullptr);
  void reduce(cudnnReduceTensorOp_t sum_or_max, const Descriptor& x, const Descriptor& y);
  const Descriptor& transposed(const Descriptor& scores);
  const Descriptor& hide_later_keys(const Descriptor& scores);
  void forward();
  void backward();

  cudnnHandle_t handle_;
  cudnnDataType_t type_;
  int64_t B_, H_, T_, D_;
  Dims packed_, flipped_, plain_;  // strides of q, k, v; of k and v transposed; of o
  bool causal_, backward_;
  int64_t names_ = inner;
  std::deque<Descriptor> all_;  // whatever the graph refers to
  std::vector<cudnnBackendDescriptor_t> operations_;
  std::optional<Descriptor> graph_;
};

}  // namespace accrete::kernels::dnn
