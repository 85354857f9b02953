// bench tokenizer, bench data: how fast text becomes tokens and tokens become batches.
#include <cstdio>
#include <iostream>
#include <thread>

#include "apps/bench.h"
#include "data/loader.h"
#include "data/prepare_text.h"
#include "data/text_file.h"
#include "data/token_source.h"
#include "training/progress.h"

namespace accrete {

void bench_tokenizer(const std::string& name, const std::string& file, const BenchOptions& o) {
  const double begin = now_seconds();
  const auto tokenizer = named_tokenizer(name);
  const double load = now_seconds() - begin;
  const TextFile text(file);
  const auto bytes = static_cast<double>(text.bytes().size());
  const int all_threads = cpu_context().threads;
  std::vector<int32_t> ids;
  const auto encode = [&](int threads) {
    return repeat_for(o.seconds, [&] { ids = tokenizer->encode(text.bytes(), {.threads = threads}); });
  };
  const Spread one = encode(1);
  const Spread all = all_threads > 1 ? encode(all_threads) : one;
  std::string back;
  const Spread decode = repeat_for(o.seconds, [&] { back = tokenizer->decode(ids); });
  check(text.invalid_sequences() > 0 || back == text.bytes(), "bench", "decoding did not give back ", file);
  const auto count = static_cast<double>(ids.size());
  Json j;
  j["tokenizer"] = name;
  j["vocab_size"] = tokenizer->vocab_size();
  j["file"] = file;
  j["bytes"] = text.bytes().size();
  j["tokens"] = ids.size();
  j["threads"] = all_threads;
  j["load_seconds"] = load;
  j["encode_seconds_1_thread"] = to_json(one);
  j["encode_seconds"] = to_json(all);
  j["decode_seconds"] = to_json(decode);
  j["encode_bytes_per_second_1_thread"] = bytes / one.median;
  j["encode_bytes_per_second"] = bytes / all.median;
  j["decode_bytes_per_second"] = bytes / decode.median;
  j["encode_tokens_per_second"] = count / all.median;
  if (o.json) {
    std::cout << j.dump(2) << "\n";
    return;
  }
  std::printf("%s: %lld ids, loaded in %s; %s: %s, %.0f tokens, %.2f bytes per token\n", name.c_str(),
              static_cast<long long>(tokenizer->vocab_size()), format_milliseconds(load).c_str(), file.c_str(),
              format_bytes(bytes).c_str(), count, bytes / count);
  std::printf("encode    %6.1f MB/s with 1 thread, %6.1f MB/s with %d, %s tok/s\n", bytes / one.median / 1e6,
              bytes / all.median / 1e6, all_threads, format_count(count / all.median).c_str());
  std::printf("decode    %6.1f MB/s with 1 thread\n", bytes / decode.median / 1e6);
}

void bench_data(const DataBench& b, const BenchOptions& o) {
  const double begin = now_seconds();
  WindowOptions windows;
  windows.length = b.length;
  const auto source = std::make_shared<TokenSource>(TokenStream::open(b.data, b.split), windows);
  const double open = now_seconds() - begin;
  Loader loader(source, 0, b.batch, b.batch, b.loader_threads);
  const Spread s = repeat_for(o.seconds, [&] { loader.next(); });
  // Resuming: the position is a number, so a far batch costs what a near one does.
  const double far_begin = now_seconds();
  source->get(source->epoch_samples() * 3 + 12345, b.batch);
  const double far = now_seconds() - far_begin;
  const auto tokens = static_cast<double>(b.batch * b.length);
  Json j;
  j["data"] = b.data;
  j["split"] = b.split;
  j["tokens"] = source->tokens().size();
  j["batch"] = b.batch;
  j["length"] = b.length;
  j["loader_threads"] = b.loader_threads;
  j["open_seconds"] = open;
  j["batch_seconds"] = to_json(s);
  j["tokens_per_second"] = tokens / s.median;
  j["far_batch_seconds"] = far;
  if (o.json) {
    std::cout << j.dump(2) << "\n";
    return;
  }
  std::printf("%s, %s: %s tokens, opened and checked in %s\n", b.data.c_str(), b.split.c_str(),
              format_count(static_cast<double>(source->tokens().size())).c_str(), format_milliseconds(open).c_str());
  std::printf("batch of %lld x %lld: %s, %s tok/s with %d loader threads; a batch three epochs away: %s\n",
              static_cast<long long>(b.batch), static_cast<long long>(b.length), format_milliseconds(s.median).c_str(),
              format_count(tokens / s.median).c_str(), b.loader_threads, format_milliseconds(far).c_str());
}

}  // namespace accrete
