// Matrix products.   C (+)= op(A) op(B) (+ bias),  row-major, leading dimensions in elements.
// Cpu: oneDNN (f32 and bf16 on AMX / AVX-512), or the portable blocked product where oneDNN is absent.
// Cuda: cuBLASLt. Emu: the same as Cpu. A library may split a sum between threads: the same number of threads gives the
// same bits, another number may not.
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
};

// C: (M, N) of Out; A, B of T; bias: (N) f32 added to every row, or null. (T, Out) is (float, float), (bf16, bf16) or
// (bf16, float). Sums are f32. K = 0 gives bias (or 0, or leaves C when accumulating).
template <class T, class Out>
void gemm(const Cpu&, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);
template <class T, class Out>
void gemm(const Emu&, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);
template <class T, class Out>
void gemm(const Cuda&, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);

// Which implementation serves gemm on the CPU here: "onednn" or "portable".
const char* gemm_backend();

}  // namespace accrete::kernels
