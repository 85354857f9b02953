// cuBLASLt, loaded when the first GPU is opened: programs start at once and run on machines that have no CUDA, and a
// missing library is one sentence instead of a program that does not start.
#pragma once

#include <cublasLt.h>

namespace accrete::kernels {

// The functions of the library that are used here; what they do is said in cublasLt.h.
struct CublasLt {
#define ACCRETE_LT_FUNCTIONS(X)   \
  X(Create)                       \
  X(GetVersion)                   \
  X(GetStatusString)              \
  X(Matmul)                       \
  X(MatmulAlgoCheck)              \
  X(MatmulAlgoGetHeuristic)       \
  X(MatmulDescCreate)             \
  X(MatmulDescDestroy)            \
  X(MatmulDescSetAttribute)       \
  X(MatmulPreferenceCreate)       \
  X(MatmulPreferenceDestroy)      \
  X(MatmulPreferenceSetAttribute) \
  X(MatrixLayoutCreate)           \
  X(MatrixLayoutDestroy)          \
  X(MatrixLayoutSetAttribute)
#define ACCRETE_LT_MEMBER(name) decltype(&::cublasLt##name) name = nullptr;
  ACCRETE_LT_FUNCTIONS(ACCRETE_LT_MEMBER)
#undef ACCRETE_LT_MEMBER
};

// Loads the library at the first call. Throws std::runtime_error when it is not found or lacks a function.
const CublasLt& cublaslt();

}  // namespace accrete::kernels
