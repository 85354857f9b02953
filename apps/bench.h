// The benchmarks of `bench`. Each measures, prints a table (or JSON) with the machine's ceilings beside it, and
// returns.
#pragma once

#include <cstdint>
#include <string>

#include "apps/ceilings.h"

namespace accrete {

struct BenchOptions {
  bool json = false;
  double seconds = 0.3;  // to spend on each figure
  Device device;
};

// Products of one GPT step: y = x w^T, dx = dy w, dw = dy^T x, for every linear layer, in f32 and bf16.
struct GemmBench {
  int64_t tokens = 1024, embed_dim = 768, vocab_size = 50257;
};
void bench_gemm(const GemmBench& bench, const BenchOptions& options);

// Every row of the op table, forward and backward, f32 and bf16. `only`: rows whose name contains it. Sizes are those
// of the table, 1024 tokens; on a device whose work is queued, activations have `tokens` rows (0: 65536 on a GPU, so
// that nothing fits into its caches), and the launches of an op are recorded and replayed.
void bench_ops(const std::string& only, int64_t tokens, const BenchOptions& options);

// Whole optimizer steps of a published model, on random data.
struct StepBench {
  std::string model = "gpt2", precision = "bf16";
  int64_t batch = 4, length = 256, resolution = 0;  // length: texts; resolution: pictures, 0: of the model
  int64_t depth = 0, embed_dim = 0, num_heads = 0, vocab_size = 0, patch = 0, classes = 0;  // 0: of the model
  int64_t steps = 10, warmup = 3;
  bool recompute = false;
  bool eager = false;  // on a GPU: launch by launch
};
void bench_step(const StepBench& bench, const BenchOptions& options);

// Every step of the ladders of kernels (kernels/ladder/README.md) on a GPU: checked at a small size, then timed at a
// large one. `only`: one ladder; empty: all.
void bench_ladder(const std::string& only, const std::string& device, const BenchOptions& options);

// Encoding and decoding a text.
void bench_tokenizer(const std::string& tokenizer, const std::string& text, const BenchOptions& options);

// Batches from a folder of token files, as training gets them.
struct DataBench {
  std::string data, split = "train";
  int64_t length = 256, batch = 32;
  int loader_threads = 1;
};
void bench_data(const DataBench& bench, const BenchOptions& options);

// Pictures to training samples: reading, decoding, the pipelines of training and evaluation, each on one core.
struct ImageBench {
  std::string in, split = "train";  // a data set of pictures, or any folder of picture files
  std::string shards;               // the same data as `prepare images` writes it; empty: not compared
  int64_t size = 224, pictures = 64;
  int loader_threads = 1;
};
void bench_images(const ImageBench& bench, const BenchOptions& options);

// Runs `body` again and again for about `seconds` (at least three times, after one warm-up); the seconds of each run.
template <class Body>
Spread repeat_for(double seconds, const Body& body) {
  body();
  std::vector<double> all;
  const double end = now_seconds() + seconds;
  while (all.size() < 3 || (now_seconds() < end && all.size() < 10000)) {
    const double begin = now_seconds();
    body();
    all.push_back(now_seconds() - begin);
  }
  return spread_of(std::move(all));
}

// The same on any device. Where work is queued, about 2 ms of runs in a row are timed together, so that starting and
// waiting do not count.
template <class Body>
Spread repeat_on(Device device, double seconds, const Body& body) {
  if (!device.queued()) return repeat_for(seconds, body);
  const auto timed = [&](int64_t runs) {
    const double begin = now_seconds();
    for (int64_t i = 0; i < runs; ++i) body();
    synchronize(device);
    return (now_seconds() - begin) / static_cast<double>(runs);
  };
  timed(1);  // makes what is made on first use
  const double one = timed(1);
  const auto runs = static_cast<int64_t>(one < 2e-6 ? 1000.0 : one < 2e-3 ? 2e-3 / one : 1.0);
  std::vector<double> all;
  const double end = now_seconds() + seconds;
  while (all.size() < 5 || (now_seconds() < end && all.size() < 10000)) all.push_back(timed(runs));
  return spread_of(std::move(all));
}

}  // namespace accrete
