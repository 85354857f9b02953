// bench gemm: the matrix products that a GPT step is made of.
#include <cstdio>
#include <iostream>

#include "apps/bench.h"
#include "engine/core/tensor.h"
#include "kernels/dropout.h"
#include "kernels/gemm.h"

namespace accrete {
namespace {

struct Layer {
  const char* name;
  int64_t in, out;
};

// Random, so that no processor can be faster on equal numbers.
template <class T>
Tensor filled(int64_t rows, int64_t cols, DType dtype, Device device) {
  const Tensor t = Tensor::empty(Shape{rows, cols}, dtype, device);
  on_device(device, [&](const auto& dev) {
    kernels::random_uniform<T>(dev, t.ptr<T>(), t.count(), -1.0f, 1.0f, {1, static_cast<uint64_t>(rows), 0}, 0);
  });
  return t;
}

// Seconds of one product of the layer; dw is f32 and accumulates, as in training.
template <class T>
Spread time_product(const std::string& product, const Layer& l, int64_t N, DType dtype, const BenchOptions& o) {
  const Device d = o.device;
  const Tensor x = filled<T>(N, l.in, dtype, d), w = filled<T>(l.out, l.in, dtype, d),
               dy = filled<T>(N, l.out, dtype, d);
  const Tensor dw = Tensor::zeros(Shape{l.out, l.in}, DType::f32, d);
  Spread s;
  on_device(d, [&](const auto& dev) {
    if (product == "y")
      s = repeat_on(d, o.seconds, [&] {
        kernels::gemm<T, T>(dev, dy.ptr<T>(), x.ptr<T>(), w.ptr<T>(), nullptr,
                            {.M = N, .N = l.out, .K = l.in, .trans_b = true});
      });
    else if (product == "dx")
      s = repeat_on(d, o.seconds, [&] {
        kernels::gemm<T, T>(dev, x.ptr<T>(), dy.ptr<T>(), w.ptr<T>(), nullptr, {.M = N, .N = l.in, .K = l.out});
      });
    else
      s = repeat_on(d, o.seconds, [&] {
        kernels::gemm<T, float>(dev, dw.ptr<float>(), dy.ptr<T>(), x.ptr<T>(), nullptr,
                                {.M = l.out, .N = l.in, .K = N, .trans_a = true, .accumulate = true});
      });
  });
  return s;
}

}  // namespace

void bench_gemm(const GemmBench& b, const BenchOptions& o) {
  const Ceilings ceilings = measure_ceilings(o.device);
  const int64_t C = b.embed_dim, N = b.tokens;
  const Layer layers[] = {{"attn.qkv", C, 3 * C},
                          {"attn.proj", C, C},
                          {"mlp.fc1", C, 4 * C},
                          {"mlp.fc2", 4 * C, C},
                          {"head", C, b.vocab_size}};
  if (!o.json)
    std::printf("%s\n%-10s %-3s %-5s %24s %10s %10s %8s\n", to_text(ceilings).c_str(), "layer", "", "type", "M x N x K",
                "ms", "GFLOP/s", "ceiling");
  Json rows = Json::array();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Layer& l : layers) {
      for (const char* product : {"y", "dx", "dw"}) {
        const Spread s = dtype == DType::bf16 ? time_product<bf16>(product, l, N, dtype, o)
                                              : time_product<float>(product, l, N, dtype, o);
        const double flops = 2.0 * static_cast<double>(N * l.in * l.out), rate = flops / s.median,
                     share = rate / ceilings.flops(dtype);
        const bool dw = std::string(product) == "dw", dx = std::string(product) == "dx";
        const int64_t M = dw ? l.out : N, n = dx || dw ? l.in : l.out, K = dw ? N : dx ? l.out : l.in;
        rows.push_back(Json{{"layer", l.name},
                            {"product", product},
                            {"dtype", name_of(dtype)},
                            {"m", M},
                            {"n", n},
                            {"k", K},
                            {"seconds", to_json(s)},
                            {"flops_per_second", rate},
                            {"share_of_ceiling", share}});
        if (!o.json) {
          const std::string size = std::to_string(M) + " x " + std::to_string(n) + " x " + std::to_string(K);
          std::printf("%-10s %-3s %-5s %24s %10.3f %10.1f %7.0f%%\n", l.name, product, name_of(dtype).data(),
                      size.c_str(), s.median * 1e3, rate / 1e9, share * 100);
        }
      }
    }
  }
  if (o.json) std::cout << Json{{"ceilings", to_json(ceilings)}, {"products", rows}}.dump(2) << "\n";
}

}  // namespace accrete
