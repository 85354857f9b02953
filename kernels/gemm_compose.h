// An epilogue by separate kernels: what every backend means by it, and what it falls back to.
//
//   v = op(A) op(B) + bias        the product, to aux when aux receives v, else to C
//   C = gelu(v)                   one pass over the result
//   C = v * gelu'(aux)            one pass over the result
//   bias_gradient (+)= sum_k A    one pass over A
//
// Included by the files that define gemm for a context; the context's product with a bias is all they have to bring.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/elementwise.h"
#include "kernels/gemm_variants.h"
#include "kernels/reduce.h"

// Every (operand, result) pair that gemm exists for.
#define ACCRETE_GEMM_TYPES(ROW) ROW(float, float) ROW(bf16, bf16) ROW(f16, f16) ROW(bf16, float) ROW(f16, float)

namespace accrete::kernels {

// `s` is complete().
template <class Out>
void check_epilogue(const Epilogue<Out>& e, const GemmShape& s) {
  const char* wrong = nullptr;
  if (e.then != Then::nothing && s.accumulate) wrong = "gelu and gelu_gradient cannot be added to old contents";
  if (e.then == Then::gelu_gradient && !e.aux) wrong = "gelu_gradient needs aux, the value gelu was taken of";
  if (e.then == Then::nothing && e.aux) wrong = "aux is given, but nothing reads or writes it";
  if (e.bias_gradient && (!s.trans_a || s.lda != s.M || s.batch != 1))
    wrong = "bias_gradient needs A stored (K, M) without gaps, and batch 1";
  if (wrong) throw std::runtime_error(std::string("[gemm] ") + wrong);
}

// Calls fn(offset, rows) for pieces of C in which `rows` rows of N elements stand behind one another without gaps.
template <class Fn>
void for_tight_rows(const GemmShape& s, Fn&& fn) {
  const bool tight = s.ldc == s.N;
  if (tight && (s.batch == 1 || s.batch_c == s.M * s.N)) return fn(int64_t{0}, s.batch * s.M);
  for (int64_t b = 0; b < s.batch; ++b) {
    if (tight) {
      fn(b * s.batch_c, s.M);
    } else {
      for (int64_t r = 0; r < s.M; ++r) fn(b * s.batch_c + r * s.ldc, int64_t{1});
    }
  }
}

template <class Context, class T, class Out>
void gemm_composed(const Context& ctx, Out* C, const T* A, const T* B, const Epilogue<Out>& e, const GemmShape& given) {
  const GemmShape s = complete(given);
  check_epilogue(e, s);
  Out* const v = e.then == Then::gelu && e.aux ? e.aux : C;
  gemm(ctx, v, A, B, e.bias, s);
  const Unary f = e.erf ? Unary::gelu_erf : Unary::gelu_tanh;
  if (e.then != Then::nothing && s.M > 0 && s.N > 0) {
    for_tight_rows(s, [&](int64_t at, int64_t rows) {
      if (e.then == Then::gelu) unary_forward(ctx, f, C + at, v + at, rows * s.N);
      if (e.then == Then::gelu_gradient) unary_backward(ctx, f, C + at, e.aux + at, C + at, rows * s.N);
    });
  }
  if (e.bias_gradient) column_sum(ctx, e.bias_gradient, A, s.K, s.M, s.accumulate);
}

}  // namespace accrete::kernels
