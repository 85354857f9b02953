// Matrix products through oneDNN's matmul primitive. Transposition is a matter of strides, adding to C a sum post-op.
// Primitives are kept per thread and shape, so a steady state creates and allocates nothing.
#include <omp.h>

#include <array>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <type_traits>
#include <unordered_map>

#include "kernels/gemm_variants.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

using dnnl::memory;

constexpr size_t kCachedPrimitives = 1024;

// Everything a primitive depends on, as numbers.
using Key = std::array<int64_t, 12>;
struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = 0xcbf29ce484222325ull;
    for (int64_t part : key) h = (h ^ static_cast<uint64_t>(part)) * 0x9E3779B97F4A7C15ull, h ^= h >> 29;
    return static_cast<size_t>(h);
  }
};

// oneDNN reads the number of threads from OpenMP's setting of the calling thread; the old setting is put back.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) {
    if (threads != before_) omp_set_num_threads(threads);
  }
  ~ThreadScope() {
    if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
  }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// (batch, rows, cols) or (rows, cols) stored with the given distances
memory::desc describe(int64_t batch, int64_t rows, int64_t cols, int64_t batch_stride, int64_t row_stride,
                      int64_t col_stride, memory::data_type type) {
  if (batch == 1) return memory::desc({rows, cols}, type, memory::dims{row_stride, col_stride});
  return memory::desc({batch, rows, cols}, type, memory::dims{batch_stride, row_stride, col_stride});
}

template <class T>
constexpr memory::data_type type_of() {
  if constexpr (std::is_same_v<T, float>) return memory::data_type::f32;
  return std::is_same_v<T, bf16> ? memory::data_type::bf16 : memory::data_type::f16;
}

// A prepared product and the memory objects through which it is given its pointers. Empty where the library has no
// fast code for the types on this processor.
struct Product {
  dnnl::matmul primitive;
  memory a, b, c, bias, scratchpad;
  size_t scratchpad_bytes = 0;
  bool fast = false;
};

dnnl::matmul::primitive_desc make_description(const memory::desc& a, const memory::desc& b, const memory::desc& bias,
                                              const memory::desc& c, bool has_bias, const dnnl::primitive_attr& attr) {
#if DNNL_VERSION_MAJOR >= 3
  if (has_bias) return dnnl::matmul::primitive_desc(cpu_engine(), a, b, bias, c, attr);
  return dnnl::matmul::primitive_desc(cpu_engine(), a, b, c, attr);
#else
  const dnnl::matmul::desc desc = has_bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
  return dnnl::matmul::primitive_desc(desc, attr, cpu_engine());
#endif
}

// Whether the processor multiplies bf16 itself. On others the library (2.7) has code that emulates it, at a fifth of
// the speed of f32 products (51 and 246 GFLOP/s on a Xeon without AVX512-BF16); widening to f32 reaches 234.
bool has_bf16_products() {
  static const bool has = [] {
    const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    return (isa & wanted) == wanted;
  }();
  return has;
}

template <class T, class Out>
Product make_product(const GemmShape& s, bool has_bias) {
  if (std::is_same_v<T, bf16> && !has_bf16_products()) return {};
  const auto a = describe(s.batch, s.M, s.K, s.batch_a, s.trans_a ? 1 : s.lda, s.trans_a ? s.lda : 1, type_of<T>());
  const auto b = describe(s.batch, s.K, s.N, s.batch_b, s.trans_b ? 1 : s.ldb, s.trans_b ? s.ldb : 1, type_of<T>());
  const auto c = describe(s.batch, s.M, s.N, s.batch_c, s.ldc, 1, type_of<Out>());
  const auto bias = s.batch == 1 ? memory::desc({1, s.N}, memory::data_type::f32, memory::dims{s.N, 1})
                                 : memory::desc({1, 1, s.N}, memory::data_type::f32, memory::dims{s.N, s.N, 1});
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (s.accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  Product product;
  try {
    const auto description = make_description(a, b, bias, c, has_bias, attr);
    if (std::strncmp(description.impl_info_str(), "ref", 3) == 0) return product;
    product.primitive = dnnl::matmul(description);
    product.a = memory(a, cpu_engine(), nullptr);
    product.b = memory(b, cpu_engine(), nullptr);
    product.c = memory(c, cpu_engine(), nullptr);
    if (has_bias) product.bias = memory(bias, cpu_engine(), nullptr);
    product.scratchpad = memory(description.scratchpad_desc(), cpu_engine(), nullptr);
    product.scratchpad_bytes = description.scratchpad_desc().get_size();
    product.fast = true;
  } catch (const dnnl::error& e) {
    if (e.status != dnnl_unimplemented) throw;
  }
  return product;
}

template <class T, class Out>
Product& find_product(const Cpu& dev, const GemmShape& s, bool has_bias) {
  thread_local std::unordered_map<Key, Product, KeyHash> products;
  const int64_t flags = int64_t{s.trans_a} | s.trans_b << 1 | s.accumulate << 2 | has_bias << 3;
  const Key key{s.M, s.N, s.K, s.lda, s.ldb, s.ldc, s.batch, s.batch_a, s.batch_b, s.batch_c, flags, dev.threads};
  const auto found = products.find(key);
  if (found != products.end()) return found->second;
  if (products.size() >= kCachedPrimitives) products.clear();
  return products.emplace(key, make_product<T, Out>(s, has_bias)).first->second;
}

void check(dnnl_status_t status) {
  if (status != dnnl_success) throw dnnl::error(status, "oneDNN could not run a matrix product");
}

// C = bias, or 0, or C: the product of an empty sum.
template <class Out>
void empty_sum(Out* C, const float* bias, const GemmShape& s) {
  for (int64_t row = 0; row < s.batch * s.M; ++row) {
    Out* out = C + row / s.M * s.batch_c + row % s.M * s.ldc;
    each(0, s.N, [=]<class V>(int64_t c) {
      V v{};
      if (bias) v += load<V>(bias + c);
      if (s.accumulate) v += load<V>(out + c);
      store(out + c, v);
    });
  }
}

}  // namespace

template <class T, class Out>
void gemm(const Cpu& dev, Out* C, const T* A, const T* B, const float* bias, const GemmShape& shape) {
  const GemmShape s = complete(shape);
  if (s.M <= 0 || s.N <= 0 || s.batch <= 0) return;
  if (s.K <= 0) return empty_sum(C, bias, s);
  const ThreadScope scope(dev.threads);
  Product& product = find_product<T, Out>(dev, s, bias != nullptr);
  if (!product.fast) {
    if constexpr (std::is_same_v<T, float>) {
      return gemm_portable(dev, C, A, B, bias, shape);
    } else {
      return gemm_widened(dev, C, A, B, bias, shape);
    }
  }
  thread_local dnnl::stream stream(cpu_engine());
  thread_local Scratch<unsigned char> scratchpad;
  const auto point = [](memory& m, const void* p) {
    check(dnnl_memory_set_data_handle(m.get(), const_cast<void*>(p)));
    return m.get();
  };
  std::array<dnnl_exec_arg_t, 5> args;
  int count = 0;
  args[count++] = {DNNL_ARG_SRC, point(product.a, A)};
  args[count++] = {DNNL_ARG_WEIGHTS, point(product.b, B)};
  args[count++] = {DNNL_ARG_DST, point(product.c, C)};
  args[count++] = {DNNL_ARG_SCRATCHPAD,
                   point(product.scratchpad, scratchpad.get(static_cast<int64_t>(product.scratchpad_bytes)))};
  if (bias) args[count++] = {DNNL_ARG_BIAS, point(product.bias, bias)};
  check(dnnl_primitive_execute(product.primitive.get(), stream.get(), count, args.data()));
}

template void gemm<float, float>(const Cpu&, float*, const float*, const float*, const float*, const GemmShape&);
template void gemm<bf16, bf16>(const Cpu&, bf16*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm<f16, f16>(const Cpu&, f16*, const f16*, const f16*, const float*, const GemmShape&);
template void gemm<bf16, float>(const Cpu&, float*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm<f16, float>(const Cpu&, float*, const f16*, const f16*, const float*, const GemmShape&);

const char* gemm_backend() { return "onednn"; }

}  // namespace accrete::kernels
