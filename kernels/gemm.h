// Matrix products.   C (+)= op(A) op(B) (+ bias),  row-major, leading dimensions in elements.
// Cpu: oneDNN (f32; bf16 and f16 where the processor multiplies them, else widened to f32), or the portable blocked
// product where oneDNN is absent. Cuda: cuBLASLt. Emu: the same as Cpu. A library may split a sum between threads: the
// same number of threads gives the same bits, another number may not.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

struct GemmShape {
  int64_t M = 0, N = 0, K = 0;
  bool trans_a = false;               // A is stored (K, M) instead of (M, K)
  bool trans_b = false;               // B is stored (N, K) instead of (K, N)
  bool accumulate = false;            // add to what C holds
  int64_t lda = 0, ldb = 0, ldc = 0;  // 0: tight
  int64_t batch = 1;
  int64_t batch_a = 0, batch_b = 0, batch_c = 0;  // elements between batch entries; 0: tight (batch > 1)
  friend bool operator==(const GemmShape&, const GemmShape&) = default;
};

// C: (M, N) of Out; A, B of T; bias: (N) f32 added to every row, or null. T is float, bf16 or f16, Out is T or float.
// Sums are f32. K = 0 gives bias (or 0, or leaves C when accumulating).
template <class T, class Out>
void gemm(const Cpu&, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);
template <class T, class Out>
void gemm(const Emu&, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);
template <class T, class Out>
void gemm(const Cuda&, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);

// What is done with v = op(A) op(B) + bias (+ old C) on its way to memory. A product can then spare a pass over its
// result; where it cannot (Cpu, Emu, a library without the fused kernel), the same is done by kernels that follow.
enum class Then : uint8_t {
  nothing,        // C = v
  gelu,           // C = gelu(v), and aux = v where aux is given: the backward pass needs it
  gelu_gradient,  // C = v * gelu'(aux)
};

template <class Out>
struct Epilogue {
  const float* bias = nullptr;  // (N), or null
  Then then = Then::nothing;    // with gelu and gelu_gradient the shape must not say accumulate
  bool erf = false;             // gelu in its exact form; otherwise by tanh (kernels/unary.h)
  Out* aux = nullptr;           // (M, N), strides of C; overlaps neither C nor A nor B
  // (M) f32 or null: sum over k of op(A)(m, k), added to what it holds when the shape says accumulate. In the weight
  // gradient dw = dy^T x this is the gradient of the bias. Needs A stored (K, M), tight, and batch 1.
  float* bias_gradient = nullptr;
};

// The general form: gemm(.., bias, s) is gemm(.., {.bias = bias}, s). Where aux receives v, the gelu is taken of v in
// f32 or of v rounded to Out, whichever the implementation has at hand. Throws std::runtime_error for an epilogue that
// breaks the rules above.
template <class T, class Out>
void gemm(const Cpu&, Out* C, const T* A, const T* B, const Epilogue<Out>& e, const GemmShape& s);
template <class T, class Out>
void gemm(const Emu&, Out* C, const T* A, const T* B, const Epilogue<Out>& e, const GemmShape& s);
template <class T, class Out>
void gemm(const Cuda&, Out* C, const T* A, const T* B, const Epilogue<Out>& e, const GemmShape& s);

// Which implementation serves gemm on the CPU here: "onednn" or "portable".
const char* gemm_backend();

}  // namespace accrete::kernels
