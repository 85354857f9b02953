// Matrix products through cuBLASLt: what the library does in one kernel (kernels/gemm_plan.h), by the plan that was
// chosen for it (gemm_plans.h); the rest by kernels of our own that follow. A bias of a bf16 or f16 result is rounded
// to that type on the way, since the library reads it so.
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/cast.h"
#include "kernels/cuda/gemm_plans.h"
#include "kernels/cuda/stopwatch.h"
#include "kernels/gemm_compose.h"

namespace accrete::kernels {

namespace {

constexpr int64_t kScratchUnit = 256;  // bytes; the workspace behind the scratch stays as aligned as this

template <class T, class Out>
struct Call {
  const Cuda& ctx;
  Out* C;
  const T* A;
  const T* B;
  const Epilogue<Out>& e;
  const GemmShape& s;  // complete()
};

template <class T, class Out>
void separately(const Call<T, Out>& c);

// Queues the product with `fused` as its epilogue. False, and nothing queued, when it is better done separately.
template <class T, class Out>
bool in_library(const Call<T, Out>& c, LibraryEpilogue fused) {
  const Cuda& ctx = c.ctx;
  constexpr GemmType kOut = gemm_type<Out>();
  const int64_t scratch_bytes = epilogue_scratch(fused, c.s, kOut) * int64_t{sizeof(float)};
  const int64_t scratch = (scratch_bytes + kScratchUnit - 1) / kScratchUnit * kScratchUnit;
  if (scratch > ctx.workspace_bytes) return false;
  char* const front = static_cast<char*>(ctx.workspace);
  void* const workspace = front ? front + scratch : nullptr;

  lt::Operands o{c.C, c.A, c.B, nullptr, c.e.aux};
  if (has_bias(fused)) o.vector = scratch > 0 ? static_cast<const void*>(front) : c.e.bias;
  if (fused == LibraryEpilogue::bias_gradient) o.vector = scratch > 0 ? static_cast<void*>(front) : c.e.bias_gradient;

  GemmKey key{.shape = c.s, .in = gemm_type<T>(), .out = kOut, .epilogue = fused, .tf32 = ctx.tf32};
  key.align_a = alignment_of(c.A);
  key.align_b = alignment_of(c.B);
  key.align_c = alignment_of(c.C);
  key.align_extra = std::min(alignment_of(o.vector), alignment_of(o.aux));  // null is aligned
  key.workspace = ctx.workspace_bytes - scratch;
  key.device = ctx.device;

  lt::Plans& plans = lt::Plans::all();
  const std::lock_guard lock(plans.mutex());
  lt::Plan* plan = plans.find(key);
  if (!plan) {
    lt::Separately other_way;
    if (fused != LibraryEpilogue::none)
      other_way = [&](void* C, void* vector) {
        Epilogue<Out> e = c.e;
        if (e.bias_gradient) e.bias_gradient = static_cast<float*>(vector);
        separately(Call<T, Out>{ctx, static_cast<Out*>(C), c.A, c.B, e, c.s});
      };
    plan = &plans.choose(ctx, key, o, workspace, other_way);
  }
  if (!plan->fused()) return false;
  // Only now: choosing uses the workspace.
  if constexpr (kOut != GemmType::f32) {
    if (has_bias(fused)) cast_from_f32(ctx, reinterpret_cast<Out*>(front), c.e.bias, c.s.N);
  }
  plan->run(ctx, o, workspace);
  if (fused == LibraryEpilogue::bias_gradient && scratch > 0) {
    float* const sum = c.e.bias_gradient;
    binary_forward(ctx, Binary::add, sum, sum, static_cast<const float*>(o.vector), c.s.M);
  }
  return true;
}

// The product alone, then the epilogue by our own kernels.
template <class T, class Out>
void separately(const Call<T, Out>& c) {
  if (c.e.then != Then::nothing || c.e.bias_gradient)
    return gemm_composed(c.ctx, c.C, c.A, c.B, c.e, c.s);  // calls gemm with the bias
  if (c.s.M <= 0 || c.s.N <= 0 || c.s.batch <= 0) return;
  const Epilogue<Out> alone;
  if (c.s.K > 0) {
    in_library(Call<T, Out>{c.ctx, c.C, c.A, c.B, alone, c.s}, LibraryEpilogue::none);
  } else if (!c.s.accumulate) {
    for_tight_rows(c.s, [&](int64_t at, int64_t rows) { fill(c.ctx, c.C + at, 0.0f, rows * c.s.N); });
  }
  if (!c.e.bias) return;
  for_tight_rows(c.s, [&](int64_t at, int64_t rows) { bias_add(c.ctx, c.C + at, c.C + at, c.e.bias, rows, c.s.N); });
}

}  // namespace

template <class T, class Out>
void gemm(const Cuda& ctx, Out* C, const T* A, const T* B, const Epilogue<Out>& e, const GemmShape& shape) {
  const GemmShape s = complete(shape);
  check_epilogue(e, s);
  const Call<T, Out> call{ctx, C, A, B, e, s};
  const auto fused = library_epilogue(wish_of(e), s, gemm_type<Out>());
  if (!fused || !in_library(call, *fused)) separately(call);
  if (ctx.sync_each && !ctx.capturing) ACCRETE_CUDA(cudaStreamSynchronize(static_cast<cudaStream_t>(ctx.stream)));
}

template <class T, class Out>
void gemm(const Cuda& ctx, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s) {
  gemm(ctx, C, A, B, Epilogue<Out>{.bias = bias}, s);
}

#define ACCRETE_INSTANTIATE(T, Out)                                                          \
  template void gemm(const Cuda&, Out*, const T*, const T*, const float*, const GemmShape&); \
  template void gemm(const Cuda&, Out*, const T*, const T*, const Epilogue<Out>&, const GemmShape&);
ACCRETE_GEMM_TYPES(ACCRETE_INSTANTIATE)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
