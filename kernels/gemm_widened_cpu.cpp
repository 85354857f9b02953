// Products of bf16 and f16 by way of f32 copies of the operands.
#include "kernels/gemm_variants.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

// y (rows, cols) tight = x, rows `stride` elements apart
template <class To, class From>
void convert_rows(const Cpu& dev, To* y, int64_t y_stride, const From* x, int64_t x_stride, int64_t rows,
                  int64_t cols) {
  for_ranges(dev, rows, cols, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      each(0, cols, [=]<class V>(int64_t c) { store(y + r * y_stride + c, load<V>(x + r * x_stride + c)); });
  });
}

}  // namespace

template <class T, class Out>
void gemm_widened(const Cpu& dev, Out* C, const T* A, const T* B, const float* bias, const GemmShape& shape) {
  thread_local Scratch<float> a_memory, b_memory, c_memory;
  const GemmShape s = complete(shape);
  const int64_t a_rows = s.trans_a ? s.K : s.M, a_cols = s.trans_a ? s.M : s.K;
  const int64_t b_rows = s.trans_b ? s.N : s.K, b_cols = s.trans_b ? s.K : s.N;
  GemmShape one = s;
  one.batch = 1;
  one.lda = a_cols;
  one.ldb = b_cols;
  float* a = a_memory.get(a_rows * a_cols);
  float* b = b_memory.get(b_rows * b_cols);
  for (int64_t i = 0; i < s.batch; ++i) {
    convert_rows(dev, a, a_cols, A + i * s.batch_a, s.lda, a_rows, a_cols);
    convert_rows(dev, b, b_cols, B + i * s.batch_b, s.ldb, b_rows, b_cols);
    Out* c_out = C + i * s.batch_c;
    if constexpr (sizeof(Out) == sizeof(float)) {
      gemm<float, float>(dev, c_out, a, b, bias, one);
    } else {
      one.ldc = s.N;
      float* c = c_memory.get(s.M * s.N);
      if (s.accumulate) convert_rows(dev, c, s.N, c_out, s.ldc, s.M, s.N);
      gemm<float, float>(dev, c, a, b, bias, one);
      convert_rows(dev, c_out, s.ldc, c, s.N, s.M, s.N);
    }
  }
}

template void gemm_widened<bf16, bf16>(const Cpu&, bf16*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm_widened<bf16, float>(const Cpu&, float*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm_widened<f16, f16>(const Cpu&, f16*, const f16*, const f16*, const float*, const GemmShape&);
template void gemm_widened<f16, float>(const Cpu&, float*, const f16*, const f16*, const float*, const GemmShape&);

}  // namespace accrete::kernels
