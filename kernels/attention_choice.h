// Attention by our kernels or by cuDNN's, whichever is faster for a shape: what of it needs no GPU. The rest is in
// cuda/attention_cudnn.cpp; tests/attention_choice_test.cpp tests this part everywhere.
//
// The first use of a shape, forward and backward apart, settles it for good (the plan file, gemm_plan_file.h):
//   1. cuDNN is asked for plans. Of a plan's numerical notes none may say that it is not deterministic.
//   2. Results are filled with NaN, the plan runs on the real operands, and a sample of what it wrote must agree with
//      ours. Then it runs again, twice, and must write the same bits: the notes alone are no proof, for they say
//      nothing of the atomic additions of some backward graphs.
//   3. What is left races with ours by turns. Only who needs less than 97 % of our time takes our place.
// Whatever cuDNN refuses, gets wrong or fails at leaves the shape with our kernels.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/gemm_plan.h"
#include "kernels/gemm_plan_file.h"

namespace accrete::kernels {

// The tensors of one attention, as in attention.h. Forward writes o and lse and has no d_o; backward reads them and
// writes the gradients, and delta (batch, heads, q_len).
struct AttentionOperands {
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  void* o = nullptr;
  float* lse = nullptr;
  const void* d_o = nullptr;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
  float* delta = nullptr;
  bool backward() const { return d_o != nullptr; }
};

// The same from batch entry `first` on, for 16-bit types.
AttentionOperands entries_from(const AttentionOperands& x, const AttentionShape& s, int64_t first);

// Whether cuDNN is asked at all: 16-bit, q, k and v (and the gradients) side by side in one packed (B, T, 3, H, D), no
// dropout (its random numbers are ours), and so much to do that a choice, which takes seconds, can pay.
bool cudnn_may_serve(GemmType type, const AttentionShape& s, const AttentionOperands& x);

// Scratch is one block for each GPU, made when a plan first needs it: it never moves, so recorded launches may keep its
// address. Most of it is for scores.
inline constexpr int64_t kAttentionScores = int64_t{256} << 20, kAttentionScratch = int64_t{257} << 20;  // bytes
// Batch entries that go into one launch of cuDNN: all of them forward; backward, whose scores take 2 bytes each of
// scratch in tiles of 128, the largest divisor of the batch whose scores fit. 0: not even one entry fits.
int64_t entries_at_once(const AttentionShape& s, bool backward);

// Key of the plan file.
std::string attention_key(const std::string& device_name, int64_t cudnn_version, GemmType type, const AttentionShape& s,
                          bool backward);

// A sample of one result, in rows that belong together (a head of a token; 1: each value for itself).
struct ResultSample {
  std::vector<float> values;
  int64_t row = 1;
  float tolerance = 0;
};
// 16-bit results of the same sums in another order differ by half a percent at most; log-sum-exps, f32, by far less.
inline constexpr float kResultTolerance = 1.0f / 64, kLseTolerance = 1.0f / 512;

// Whether there is nothing to compare: a model whose head begins with zeros has no gradient in its first step. Such a
// choice is then made with o in the place of d_o.
inline bool only_zeros(const std::vector<ResultSample>& results) {
  return std::all_of(results.begin(), results.end(), [](const ResultSample& r) {
    return std::all_of(r.values.begin(), r.values.end(), [](float x) { return x == 0.0f; });
  });
}

// The root mean square of the differences is at most `tolerance` of ours over all, and in each row at most four times
// that share of the row and a sixteenth of it of all. NaN never agrees, and only zeros prove nothing.
bool samples_agree(const std::vector<ResultSample>& ours, const std::vector<ResultSample>& theirs);

// What a choice runs. Way 0 is ours, the others are plans of cuDNN.
class AttentionTrial {
 public:
  virtual ~AttentionTrial() = default;
  virtual int ways() const = 0;   // with ours
  virtual bool run(int way) = 0;  // queues it; false: cuDNN refuses
  virtual void spoil() = 0;       // fills the results with NaN
  virtual std::vector<ResultSample> results() = 0;
  virtual std::vector<float> race(const std::vector<int>& ways) = 0;  // microseconds of each
};

struct AttentionChoice {
  int way = 0;
  double ours_us = 0, theirs_us = 0;  // 0: nothing of cuDNN's came as far as the race
};
AttentionChoice choose_attention(AttentionTrial& trial);

// In the plan file `fused` says cuDNN. The opaque words are: position of the plan in cuDNN's list (from 1), its engine,
// our time and cuDNN's in tenths of a microsecond.
PlanRecord attention_record(const AttentionChoice& choice, uint64_t position, uint64_t engine, uint64_t workspace);

// Our kernels: queues them with this d_o (forward: not looked at) and otherwise the call's operands.
using OurAttention = std::function<void(const void* d_o)>;
// Queues the attention through cuDNN where that is the choice. False, and nothing queued, where `ours` is to run; a
// choice runs it too, and what it leaves in the results is overwritten.
inline bool attention_by_cudnn(const Emu&, GemmType, const AttentionShape&, const AttentionOperands&,
                               const OurAttention&) {
  return false;
}
#ifdef ACCRETE_WITH_CUDNN
bool attention_by_cudnn(const Cuda& ctx, GemmType type, const AttentionShape& s, const AttentionOperands& x,
                        const OurAttention& ours);
#else
inline bool attention_by_cudnn(const Cuda&, GemmType, const AttentionShape&, const AttentionOperands&,
                               const OurAttention&) {
  return false;
}
#endif

}  // namespace accrete::kernels
