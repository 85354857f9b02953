// What a plan of cuBLASLt depends on, and how a row-major product is said to a library that thinks in columns.
// Plain arithmetic, no GPU needed: kernels/cuda/ uses it, tests/gemm_plan_test.cpp tests it everywhere.
//
// A row-major C (M, N) is a column-major C^T (N, M) in the same memory, and
//   C = op(A) op(B)   is   C^T = op(B)^T op(A)^T,
// where a row-major matrix with leading dimension ld already is its own transpose in columns. So B goes first, M and N
// change places, and the transposition flags stay as they are. The bias, one value per column of C, is then one value
// per row of C^T: what the library's bias epilogue adds. The sums of op(A) over K become sums of the second operand:
// one value per column of C^T, what its BGRADB epilogue gives.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

#include "kernels/gemm_variants.h"

namespace accrete::kernels {

enum class GemmType : uint8_t { f32, bf16, f16 };
template <class T>
constexpr GemmType gemm_type() {
  if constexpr (std::is_same_v<T, float>) return GemmType::f32;
  return std::is_same_v<T, bf16> ? GemmType::bf16 : GemmType::f16;
}

const char* name_of(GemmType t);

// Epilogues that the library has in one kernel.
enum class LibraryEpilogue : uint8_t {
  none,
  bias,
  gelu,
  gelu_bias,
  gelu_aux,
  gelu_aux_bias,
  gelu_gradient,
  bias_gradient,
};
const char* name_of(LibraryEpilogue e);
inline bool has_bias(LibraryEpilogue e) {
  return e == LibraryEpilogue::bias || e == LibraryEpilogue::gelu_bias || e == LibraryEpilogue::gelu_aux_bias;
}
inline bool has_aux(LibraryEpilogue e) {
  return e == LibraryEpilogue::gelu_aux || e == LibraryEpilogue::gelu_aux_bias || e == LibraryEpilogue::gelu_gradient;
}

// What an epilogue asks for, without its pointers.
struct Wish {
  bool bias = false, aux = false, bias_gradient = false, erf = false;
  Then then = Then::nothing;
};
template <class Out>
Wish wish_of(const Epilogue<Out>& e) {
  return {e.bias != nullptr, e.aux != nullptr, e.bias_gradient != nullptr, e.erf, e.then};
}

// The one library epilogue that does all of it; nothing when there is none, by the rules of cublasLt.h: gelu is by
// tanh, aux has a leading dimension divisible by 8, a bias gradient has the type of the result (here: f32) and stands
// alone, and an empty sum is no product. `s` is complete().
std::optional<LibraryEpilogue> library_epilogue(const Wish& wish, const GemmShape& s, GemmType out);

// f32 values of scratch that the epilogue takes from the front of the workspace: a bias rounded to the type of the
// result (the library wants it so), or a bias gradient that is still to be added to an old one.
int64_t epilogue_scratch(LibraryEpilogue e, const GemmShape& s, GemmType out);

// A column-major matrix.
struct ColumnMajor {
  int64_t rows = 0, cols = 0, ld = 0, batch_stride = 0;
  friend bool operator==(const ColumnMajor&, const ColumnMajor&) = default;
};
// result = op(first) op(second), all column-major.
struct ColumnProduct {
  ColumnMajor first, second, result;  // B, A, C
  bool trans_first = false, trans_second = false;
};
ColumnProduct in_columns(const GemmShape& complete_shape);

// Elements from the first to behind the last one that C reaches, gaps included.
int64_t extent_of_c(const GemmShape& complete_shape);

// Largest power of two up to 256 that divides the address: what the library may assume of a pointer.
uint32_t alignment_of(const void* p);

// A name of a device as one word of a key, which nothing in it can break.
std::string one_word(const std::string& device_name);

// Everything that decides which algorithm is the fastest one.
struct GemmKey {
  GemmShape shape;  // complete()
  GemmType in = GemmType::f32, out = GemmType::f32;
  LibraryEpilogue epilogue = LibraryEpilogue::none;
  bool tf32 = false;
  uint32_t align_a = 256, align_b = 256, align_c = 256, align_extra = 256;  // bytes; extra: bias and aux
  int64_t workspace = 0;                                                    // bytes the algorithm may use
  int device = 0;
  friend bool operator==(const GemmKey&, const GemmKey&) = default;

  // One line for the plan file. The device stands in it by name (and size), since its number means nothing elsewhere;
  // plans are valid for one version of the library.
  std::string text(const std::string& device_name, int64_t library_version) const;
};
struct GemmKeyHash {
  size_t operator()(const GemmKey& key) const;
};

}  // namespace accrete::kernels
