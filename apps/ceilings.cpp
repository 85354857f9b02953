#include "apps/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "engine/core/memory.h"
#include "engine/core/tensor.h"
#include "kernels/dropout.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

namespace accrete {
namespace {

// The best of several sizes: which one a library does best differs from processor to processor.
template <class T>
double best_product(DType dtype) {
  double best = 0;
  for (const int64_t n : {1024, 2048}) {
    const Tensor a = Tensor::zeros(Shape{n, n}, dtype), b = Tensor::zeros(Shape{n, n}, dtype),
                 c = Tensor::zeros(Shape{n, n}, dtype);
    const int repeats = n == 1024 ? 12 : 6;
    for (int i = 0; i < repeats; ++i) {
      const double begin = now_seconds();
      kernels::gemm<T, T>(cpu_context(), c.ptr<T>(), a.ptr<T>(), b.ptr<T>(), nullptr,
                          {.M = n, .N = n, .K = n, .trans_b = true});
      const double s = now_seconds() - begin;
      if (i > 0) best = std::max(best, 2.0 * static_cast<double>(n * n * n) / s);  // the first makes the primitive
    }
  }
  return best;
}

double best_copy(int threads) {
  constexpr int64_t kBytes = int64_t{192} << 20;
  const Tensor from = Tensor::zeros(Shape{kBytes}, DType::u8), to = Tensor::zeros(Shape{kBytes}, DType::u8);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const double begin = now_seconds();
    kernels::for_elements(kernels::Cpu{threads}, kBytes, 1, [&](int64_t first, int64_t last) {
      std::memcpy(static_cast<char*>(to.data()) + first, static_cast<const char*>(from.data()) + first,
                  static_cast<size_t>(last - first));
    });
    best = std::max(best, 2.0 * static_cast<double>(kBytes) / (now_seconds() - begin));
  }
  return best;
}

// ---- devices whose work is queued -----------------------------------------------------------------------------------

// The best time of one run out of several in a row, so that starting and waiting hardly count.
template <class Body>
double best_seconds(Device device, const Body& body) {
  body();  // chooses the algorithm
  synchronize(device);
  double best = 1e9;
  for (int i = 0; i < 6; ++i) {
    const double begin = now_seconds();
    for (int j = 0; j < 4; ++j) body();
    synchronize(device);
    best = std::min(best, (now_seconds() - begin) / 4);
  }
  return best;
}

template <class T>
double queued_product(DType dtype, Device device) {
  const int64_t n = device.kind == DeviceKind::cuda ? 8192 : 128;
  const Shape square{n, n};
  const Tensor a = Tensor::empty(square, dtype, device), b = Tensor::empty(square, dtype, device),
               c = Tensor::empty(square, dtype, device);
  double seconds = 0;
  on_queued(device, [&](const auto& dev) {
    kernels::random_uniform<T>(dev, a.ptr<T>(), n * n, -1.0f, 1.0f, {1, 2, 3}, 0);
    kernels::random_uniform<T>(dev, b.ptr<T>(), n * n, -1.0f, 1.0f, {4, 5, 6}, 0);
    seconds = best_seconds(device, [&] {
      kernels::gemm<T, T>(dev, c.ptr<T>(), a.ptr<T>(), b.ptr<T>(), nullptr, {.M = n, .N = n, .K = n, .trans_b = true});
    });
  });
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / seconds;
}

double queued_copy(Device device) {
  int64_t bytes = device.kind == DeviceKind::cuda ? int64_t{4} << 30 : int64_t{1} << 20;
  for (;; bytes /= 2) {
    try {
      const Tensor from = Tensor::empty(Shape{bytes / 4}, DType::f32, device), to = like(from);
      on_queued(device, [&](const auto& dev) {
        kernels::random_uniform<float>(dev, from.ptr<float>(), bytes / 4, -1.0f, 1.0f, {7, 8, 9}, 0);
      });
      return 2.0 * static_cast<double>(bytes) / best_seconds(device, [&] { to.copy_from(from); });
    } catch (const OutOfMemory&) {
      if (bytes <= int64_t{16} << 20) throw;
      release_cache(device);
    }
  }
}

}  // namespace

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Ceilings measure_ceilings(Device device) {
  Ceilings c;
  c.device = device;
  if (device.queued()) {
    c.gemm_f32 = queued_product<float>(DType::f32, device);
    c.gemm_bf16 = queued_product<bf16>(DType::bf16, device);
    c.gemm_f16 = queued_product<f16>(DType::f16, device);
    c.copy_one = c.copy_all = queued_copy(device);
    release_cache(device);
    return c;
  }
  c.gemm_f32 = best_product<float>(DType::f32);
  c.gemm_bf16 = best_product<bf16>(DType::bf16);
  c.gemm_f16 = best_product<f16>(DType::f16);
  c.copy_one = best_copy(1);
  c.copy_all = std::max(c.copy_one, best_copy(cpu_context().threads));
  release_cache(kCpu);
  return c;
}

Json to_json(const Ceilings& c) {
  return Json{{"device", name_of(c.device)},
              {"threads", cpu_context().threads},
              {"gemm", c.device.kind == DeviceKind::cuda ? "cublaslt" : kernels::gemm_backend()},
              {"gemm_f32_flops_per_second", c.gemm_f32},
              {"gemm_bf16_flops_per_second", c.gemm_bf16},
              {"gemm_f16_flops_per_second", c.gemm_f16},
              {"copy_bytes_per_second_1_thread", c.copy_one},
              {"copy_bytes_per_second", c.copy_all}};
}

std::string to_text(const Ceilings& c) {
  char text[256];
  if (c.device.queued()) {
    std::snprintf(text, sizeof text,
                  "ceilings measured now, %s: product f32 %.1f, bf16 %.1f, f16 %.1f TFLOP/s; copy %.0f GB/s, read + "
                  "written",
                  name_of(c.device).c_str(), c.gemm_f32 / 1e12, c.gemm_bf16 / 1e12, c.gemm_f16 / 1e12,
                  c.copy_all / 1e9);
    return text;
  }
  std::snprintf(
      text, sizeof text,
      "ceilings measured now, %d threads, %s: product f32 %.0f, bf16 %.0f, f16 %.0f GFLOP/s; copy %.1f GB/s (1 thread "
      "%.1f), read + written",
      cpu_context().threads, kernels::gemm_backend(), c.gemm_f32 / 1e9, c.gemm_bf16 / 1e9, c.gemm_f16 / 1e9,
      c.copy_all / 1e9, c.copy_one / 1e9);
  return text;
}

Spread spread_of(std::vector<double> v) {
  if (v.empty()) return {};
  std::sort(v.begin(), v.end());
  const size_t n = v.size();
  return {n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2, v.front(), v.back()};
}

Json to_json(const Spread& s) { return Json{{"median", s.median}, {"min", s.low}, {"max", s.high}}; }

}  // namespace accrete
