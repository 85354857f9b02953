// Matrix products through cuBLASLt, which thinks in columns: a row-major C (M, N) is a column-major C^T (N, M), and
//   C = op(A) op(B)   is   C^T = op(B)^T op(A)^T,
// where a row-major matrix with leading dimension ld already is its own transpose in columns. So B goes first, M and N
// change places, and the transposition flags stay as they are. The bias, one value per column of C, is then one value
// per row of C^T, which is what cuBLASLt's bias epilogue adds.
#include "kernels/gemm.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/elementwise.h"

namespace accrete::kernels {

namespace {

void check(cublasStatus_t status, const char* statement, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string("[cublaslt] ") + cublasLtGetStatusString(status) + "; statement: " + statement +
                           "; " + __FILE__ + ":" + std::to_string(line));
}
#define ACCRETE_LT(call) check(call, #call, __LINE__)

template <class T>
constexpr cudaDataType_t kLtType = std::is_same_v<T, float>  ? CUDA_R_32F
                                   : std::is_same_v<T, bf16> ? CUDA_R_16BF
                                                             : CUDA_R_16F;

// Largest power of two up to 256 that divides the address: what cuBLASLt may assume.
uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return address % 256 == 0 ? 256 : static_cast<uint32_t>(address & (~address + 1));
}

// Owners of cuBLASLt's descriptors.
struct Operation {
  cublasLtMatmulDesc_t handle = nullptr;
  Operation() { ACCRETE_LT(cublasLtMatmulDescCreate(&handle, CUBLAS_COMPUTE_32F, CUDA_R_32F)); }
  ~Operation() { cublasLtMatmulDescDestroy(handle); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  template <class V>
  void set(cublasLtMatmulDescAttributes_t what, const V& value) {
    ACCRETE_LT(cublasLtMatmulDescSetAttribute(handle, what, &value, sizeof value));
  }
};

struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  Layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld, int64_t batch, int64_t stride) {
    ACCRETE_LT(cublasLtMatrixLayoutCreate(&handle, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld));
    const int32_t count = static_cast<int32_t>(batch);
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count);
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(handle); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  template <class V>
  void set(cublasLtMatrixLayoutAttribute_t what, const V& value) {
    ACCRETE_LT(cublasLtMatrixLayoutSetAttribute(handle, what, &value, sizeof value));
  }
};

struct Preference {
  cublasLtMatmulPreference_t handle = nullptr;
  Preference() { ACCRETE_LT(cublasLtMatmulPreferenceCreate(&handle)); }
  ~Preference() { cublasLtMatmulPreferenceDestroy(handle); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  template <class V>
  void set(cublasLtMatmulPreferenceAttributes_t what, const V& value) {
    ACCRETE_LT(cublasLtMatmulPreferenceSetAttribute(handle, what, &value, sizeof value));
  }
};

// Row-major (rows, cols) with leading dimension ld, as cuBLASLt sees it.
Layout layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld, int64_t batch, int64_t stride) {
  return Layout(type, cols, rows, ld, batch, stride);
}

}  // namespace

template <class T, class Out>
void gemm(const Cuda& ctx, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s) {
  if (s.M <= 0 || s.N <= 0 || s.batch <= 0) return;
  const int64_t a_rows = s.trans_a ? s.K : s.M, a_cols = s.trans_a ? s.M : s.K;
  const int64_t b_rows = s.trans_b ? s.N : s.K, b_cols = s.trans_b ? s.K : s.N;
  const int64_t lda = s.lda ? s.lda : a_cols, ldb = s.ldb ? s.ldb : b_cols, ldc = s.ldc ? s.ldc : s.N;
  const int64_t stride_a = s.batch_a ? s.batch_a : a_rows * lda, stride_b = s.batch_b ? s.batch_b : b_rows * ldb;
  const int64_t stride_c = s.batch_c ? s.batch_c : s.M * ldc;
  // What cuBLASLt cannot do: an f32 bias on a bf16 result, and K = 0. The bias is then added row by row afterwards.
  const bool epilogue = bias && std::is_same_v<Out, float> && s.K > 0;
  const auto stream = static_cast<cudaStream_t>(ctx.stream);

  if (s.K > 0) {
    if (!ctx.blas) throw std::runtime_error("[gemm] the CUDA context has no cuBLASLt handle");
    Operation op;
    op.set(CUBLASLT_MATMUL_DESC_TRANSA, s.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    op.set(CUBLASLT_MATMUL_DESC_TRANSB, s.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (epilogue) {
      op.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      op.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
      op.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    }
    const Layout first = layout(kLtType<T>, b_rows, b_cols, ldb, s.batch, stride_b);
    const Layout second = layout(kLtType<T>, a_rows, a_cols, lda, s.batch, stride_a);
    const Layout result = layout(kLtType<Out>, s.M, s.N, ldc, s.batch, stride_c);
    Preference preference;
    preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{0});
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(B));
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(A));
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(C));
    preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(C));
    const auto blas = static_cast<cublasLtHandle_t>(ctx.blas);
    cublasLtMatmulHeuristicResult_t choice{};
    int found = 0;
    ACCRETE_LT(cublasLtMatmulAlgoGetHeuristic(blas, op.handle, first.handle, second.handle, result.handle,
                                              result.handle, preference.handle, 1, &choice, &found));
    if (found == 0) throw std::runtime_error("[gemm] cuBLASLt has no algorithm for this product");
    const float alpha = 1.0f, beta = s.accumulate ? 1.0f : 0.0f;
    ACCRETE_LT(cublasLtMatmul(blas, op.handle, &alpha, B, first.handle, A, second.handle, &beta, C, result.handle, C,
                              result.handle, &choice.algo, nullptr, 0, stream));
  }
  const bool clear = s.K <= 0 && !s.accumulate, add_bias = bias && !epilogue;
  if (clear || add_bias) {
    const int64_t rows = ldc == s.N ? s.M : 1;  // rows that stand behind one another
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t r = 0; r < s.M; r += rows) {
        Out* const c = C + b * stride_c + r * ldc;
        if (clear) fill(ctx, c, 0.0f, rows * s.N);
        if (add_bias) bias_add(ctx, c, c, bias, rows, s.N);
      }
    }
  }
  if (ctx.sync_each && cudaStreamSynchronize(stream) != cudaSuccess) {
    throw std::runtime_error("[gemm] the device reports an error after a matrix product");
  }
}

template void gemm(const Cuda&, float*, const float*, const float*, const float*, const GemmShape&);
template void gemm(const Cuda&, bf16*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm(const Cuda&, f16*, const f16*, const f16*, const float*, const GemmShape&);
template void gemm(const Cuda&, float*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm(const Cuda&, float*, const f16*, const f16*, const float*, const GemmShape&);

}  // namespace accrete::kernels
