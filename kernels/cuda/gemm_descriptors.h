// Owners of cuBLASLt's descriptors: what a product is (Operation), how its matrices lie in memory (Layout), what the
// search for algorithms may use (Preference). Each is made once and kept with its plan.
#pragma once

#include "kernels/cuda/cublaslt.h"

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/gemm_plan.h"

namespace accrete::kernels::lt {

inline void check(cublasStatus_t status, const char* statement, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string("[cublaslt] ") + cublaslt().GetStatusString(status) +
                           "; statement: " + statement + "; " + file + ":" + std::to_string(line));
}
#define ACCRETE_LT(call) ::accrete::kernels::lt::check(call, #call, __FILE__, __LINE__)

inline cudaDataType_t data_type(GemmType t) {
  return t == GemmType::f32 ? CUDA_R_32F : t == GemmType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

inline cublasLtEpilogue_t library_name(LibraryEpilogue e) {
  switch (e) {
    case LibraryEpilogue::none:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case LibraryEpilogue::bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case LibraryEpilogue::gelu:
      return CUBLASLT_EPILOGUE_GELU;
    case LibraryEpilogue::gelu_bias:
      return CUBLASLT_EPILOGUE_GELU_BIAS;
    case LibraryEpilogue::gelu_aux:
      return CUBLASLT_EPILOGUE_GELU_AUX;
    case LibraryEpilogue::gelu_aux_bias:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case LibraryEpilogue::gelu_gradient:
      return CUBLASLT_EPILOGUE_DGELU;
    case LibraryEpilogue::bias_gradient:
      return CUBLASLT_EPILOGUE_BGRADB;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

// Sums are f32 always; with tf32 the operands of f32 products are rounded to 10 bits of mantissa on their way in.
class Operation {
 public:
  explicit Operation(bool tf32) {
    ACCRETE_LT(
        cublaslt().MatmulDescCreate(&handle_, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
  }
  ~Operation() { cublaslt().MatmulDescDestroy(handle_); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  template <class V>
  void set(cublasLtMatmulDescAttributes_t what, const V& value) {
    ACCRETE_LT(cublaslt().MatmulDescSetAttribute(handle_, what, &value, sizeof value));
  }
  cublasLtMatmulDesc_t handle() const { return handle_; }

 private:
  cublasLtMatmulDesc_t handle_ = nullptr;
};

class Layout {
 public:
  Layout(GemmType type, const ColumnMajor& m, int64_t batch) {
    ACCRETE_LT(cublaslt().MatrixLayoutCreate(&handle_, data_type(type), static_cast<uint64_t>(m.rows),
                                             static_cast<uint64_t>(m.cols), m.ld));
    const auto count = static_cast<int32_t>(batch);
    ACCRETE_LT(cublaslt().MatrixLayoutSetAttribute(handle_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
    ACCRETE_LT(cublaslt().MatrixLayoutSetAttribute(handle_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                   &m.batch_stride, sizeof m.batch_stride));
  }
  ~Layout() { cublaslt().MatrixLayoutDestroy(handle_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t handle() const { return handle_; }

 private:
  cublasLtMatrixLayout_t handle_ = nullptr;
};

class Preference {
 public:
  Preference() { ACCRETE_LT(cublaslt().MatmulPreferenceCreate(&handle_)); }
  ~Preference() { cublaslt().MatmulPreferenceDestroy(handle_); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  template <class V>
  void set(cublasLtMatmulPreferenceAttributes_t what, const V& value) {
    ACCRETE_LT(cublaslt().MatmulPreferenceSetAttribute(handle_, what, &value, sizeof value));
  }
  cublasLtMatmulPreference_t handle() const { return handle_; }

 private:
  cublasLtMatmulPreference_t handle_ = nullptr;
};

}  // namespace accrete::kernels::lt
