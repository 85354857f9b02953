#include "kernels/gemm_plan.h"

#include <cstdint>
#include <sstream>

namespace accrete::kernels {

const char* name_of(GemmType t) { return t == GemmType::f32 ? "f32" : t == GemmType::bf16 ? "bf16" : "f16"; }

const char* name_of(LibraryEpilogue e) {
  switch (e) {
    case LibraryEpilogue::none:
      return "none";
    case LibraryEpilogue::bias:
      return "bias";
    case LibraryEpilogue::gelu:
      return "gelu";
    case LibraryEpilogue::gelu_bias:
      return "gelu_bias";
    case LibraryEpilogue::gelu_aux:
      return "gelu_aux";
    case LibraryEpilogue::gelu_aux_bias:
      return "gelu_aux_bias";
    case LibraryEpilogue::gelu_gradient:
      return "gelu_gradient";
    case LibraryEpilogue::bias_gradient:
      return "bias_gradient";
  }
  return "?";
}

std::optional<LibraryEpilogue> library_epilogue(const Wish& wish, const GemmShape& s, GemmType out) {
  if (s.M <= 0 || s.N <= 0 || s.K <= 0 || s.batch <= 0) return std::nullopt;
  if (wish.bias_gradient) {
    const bool alone = !wish.bias && wish.then == Then::nothing;
    if (!alone || out != GemmType::f32 || s.batch != 1) return std::nullopt;
    return LibraryEpilogue::bias_gradient;
  }
  if (wish.then == Then::nothing) return wish.bias ? LibraryEpilogue::bias : LibraryEpilogue::none;
  if (wish.erf || s.batch != 1 || s.accumulate) return std::nullopt;
  if (wish.aux && s.ldc % 8 != 0) return std::nullopt;
  if (wish.then == Then::gelu_gradient) {
    if (wish.bias || !wish.aux) return std::nullopt;
    return LibraryEpilogue::gelu_gradient;
  }
  if (wish.aux) return wish.bias ? LibraryEpilogue::gelu_aux_bias : LibraryEpilogue::gelu_aux;
  return wish.bias ? LibraryEpilogue::gelu_bias : LibraryEpilogue::gelu;
}

int64_t epilogue_scratch(LibraryEpilogue e, const GemmShape& s, GemmType out) {
  if (has_bias(e) && out != GemmType::f32) return (s.N + 1) / 2;
  if (e == LibraryEpilogue::bias_gradient && s.accumulate) return s.M;
  return 0;
}

ColumnProduct in_columns(const GemmShape& s) {
  ColumnProduct p;
  p.first = {s.trans_b ? s.K : s.N, s.trans_b ? s.N : s.K, s.ldb, s.batch_b};
  p.second = {s.trans_a ? s.M : s.K, s.trans_a ? s.K : s.M, s.lda, s.batch_a};
  p.result = {s.N, s.M, s.ldc, s.batch_c};
  p.trans_first = s.trans_b;
  p.trans_second = s.trans_a;
  return p;
}

int64_t extent_of_c(const GemmShape& s) {
  if (s.M <= 0 || s.N <= 0 || s.batch <= 0) return 0;
  return (s.batch - 1) * s.batch_c + (s.M - 1) * s.ldc + s.N;
}

uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return address % 256 == 0 ? 256 : static_cast<uint32_t>(address & (~address + 1));
}

std::string one_word(const std::string& device_name) {
  std::string word;
  for (const char c : device_name) word += c > ' ' && c < 127 && c != '|' ? c : '_';
  return word;
}

std::string GemmKey::text(const std::string& device_name, int64_t library_version) const {
  std::ostringstream out_text;
  const GemmShape& s = shape;
  out_text << one_word(device_name) << " cublaslt " << library_version << " M " << s.M << " N " << s.N << " K " << s.K
           << (s.trans_a ? " At" : "") << (s.trans_b ? " Bt" : "") << (s.accumulate ? " accumulate" : "") << " ld "
           << s.lda << ' ' << s.ldb << ' ' << s.ldc;
  if (s.batch != 1) out_text << " batch " << s.batch << ' ' << s.batch_a << ' ' << s.batch_b << ' ' << s.batch_c;
  out_text << ' ' << name_of(in) << " to " << name_of(out) << (tf32 ? " tf32" : "") << " epilogue "
           << kernels::name_of(epilogue) << " align " << align_a << ' ' << align_b << ' ' << align_c << ' '
           << align_extra << " workspace " << workspace;
  return out_text.str();
}

size_t GemmKeyHash::operator()(const GemmKey& key) const {
  const GemmShape& s = key.shape;
  const int64_t flags = int64_t{s.trans_a} | s.trans_b << 1 | s.accumulate << 2 | key.tf32 << 3 |
                        static_cast<int64_t>(key.in) << 4 | static_cast<int64_t>(key.out) << 6 |
                        static_cast<int64_t>(key.epilogue) << 8 | static_cast<int64_t>(key.device) << 16;
  uint64_t h = 0xcbf29ce484222325ull;
  for (const int64_t part :
       {s.M, s.N, s.K, s.lda, s.ldb, s.ldc, s.batch, s.batch_a, s.batch_b, s.batch_c, flags, int64_t{key.align_a},
        int64_t{key.align_b}, int64_t{key.align_c}, int64_t{key.align_extra}, key.workspace})
    h = (h ^ static_cast<uint64_t>(part)) * 0x9E3779B97F4A7C15ull, h ^= h >> 29;
  return static_cast<size_t>(h);
}

}  // namespace accrete::kernels
