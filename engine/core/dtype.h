// Element types of tensors and the link to C++ types.
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/types.h"

namespace accrete {

// f32, bf16 and f16 are computed with; i64 and u8 are storage types of files and data.
enum class DType : uint8_t { f32, bf16, f16, i32, i64, u8 };

constexpr int64_t size_of(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType t) {
  switch (t) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
  }
  return "?";
}

// The types of half the size that activations and products may have beside f32.
constexpr bool is_half(DType t) { return t == DType::bf16 || t == DType::f16; }
constexpr bool is_float(DType t) { return t == DType::f32 || is_half(t); }

// Type of activations and products for the precision that a person names: f32, tf32, bf16 or f16. tf32 keeps f32
// numbers and lets matrix products round their operands, where the device can.
constexpr DType compute_type(std::string_view precision) {
  return precision == "bf16" ? DType::bf16 : precision == "f16" ? DType::f16 : DType::f32;
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<f16>() {
  return DType::f16;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::u8;
}

}  // namespace accrete
