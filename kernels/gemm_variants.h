// Ways to compute a matrix product on the CPU that gemm() chooses from; tests compare them with each other.
#pragma once

#include "kernels/gemm.h"

namespace accrete::kernels {

// The shape with every default (0) leading dimension and batch distance filled in.
inline GemmShape complete(GemmShape s) {
  if (s.lda == 0) s.lda = s.trans_a ? s.M : s.K;
  if (s.ldb == 0) s.ldb = s.trans_b ? s.K : s.N;
  if (s.ldc == 0) s.ldc = s.N;
  if (s.batch_a == 0) s.batch_a = (s.trans_a ? s.K : s.M) * s.lda;
  if (s.batch_b == 0) s.batch_b = (s.trans_b ? s.N : s.K) * s.ldb;
  if (s.batch_c == 0) s.batch_c = s.M * s.ldc;
  return s;
}

// Own blocked product, on any processor. Same meaning as gemm.
template <class T, class Out>
void gemm_portable(const Cpu& dev, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);

// bf16 or f16 operands widened to f32, then gemm<float, float>: for processors on which the library has no such
// product.
template <class T, class Out>
void gemm_widened(const Cpu& dev, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s);

}  // namespace accrete::kernels
