// Token files of every kind, hostile ones too; windows; the permutation without a table; the prefetching loader.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "data/bpe_train.h"
#include "data/loader.h"
#include "data/permutation.h"
#include "data/token_file.h"
#include "data/token_source.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "tests/program_testing.h"
#include "tests/shared_data.h"

using namespace accrete;

namespace {

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::span<const std::byte> span_of(const std::string& bytes) { return std::as_bytes(std::span(bytes)); }

std::string shard(int32_t magic, int32_t version, int32_t count, const std::string& tokens) {
  std::vector<int32_t> header(256);
  header[0] = magic, header[1] = version, header[2] = count;
  return raw(header) + tokens;
}

std::string refusal(const std::string& bytes, TokenFormat format) {
  try {
    TokenFile::from_memory(span_of(bytes), format, "t");
  } catch (const Error& error) {
    return error.what();
  }
  return "(accepted)";
}

std::vector<int32_t> all_ids(const TokenFile& file) {
  std::vector<int32_t> ids(static_cast<size_t>(file.size()));
  file.copy(0, file.size(), ids.data());
  return ids;
}

// Token i is i + 1, so that a value tells where it comes from and 0 is padding.
const std::string& counting_bytes(int64_t n) {
  static std::map<int64_t, std::string> kept;
  std::string& bytes = kept[n];
  if (bytes.empty()) {
    std::vector<uint32_t> ids(static_cast<size_t>(n));
    std::iota(ids.begin(), ids.end(), 1u);
    bytes = raw(ids);
  }
  return bytes;
}

TokenStream counting(int64_t n) {
  return TokenStream({TokenFile::from_memory(span_of(counting_bytes(n)), {4, 0}, "t")});
}

struct Sample {
  std::vector<int32_t> inputs, targets;
  int64_t counted;
};
Sample sample(const TokenSource& source, int64_t index) {
  const size_t T = static_cast<size_t>(source.tokens_per_sample());
  Sample s{std::vector<int32_t>(T, -7), std::vector<int32_t>(T, -7), 0};
  s.counted = source.fill(index, s.inputs.data(), s.targets.data());
  return s;
}

}  // namespace

TEST_CASE("Bare files and llm.c shards read as they are") {
  const std::vector<uint16_t> ids16 = {5, 0, 65535, 7};
  const std::vector<uint32_t> ids32 = {5, 0, 70000, 7};
  const TokenFile bare16 = TokenFile::from_memory(std::as_bytes(std::span(ids16)), {2, 0}, "t");
  CHECK(all_ids(bare16) == std::vector<int32_t>{5, 0, 65535, 7});
  CHECK(bare16.vocab_size() == 65536);  // the largest id + 1
  CHECK(all_ids(TokenFile::from_memory(std::as_bytes(std::span(ids32)), {4, 0}, "t")) ==
        std::vector<int32_t>{5, 0, 70000, 7});
  const std::string shard16 = shard(20240520, 1, 4, raw(ids16)), shard32 = shard(20240801, 7, 4, raw(ids32));
  CHECK(all_ids(TokenFile::from_memory(span_of(shard16), {2, 0}, "t")) == std::vector<int32_t>{5, 0, 65535, 7});
  CHECK(all_ids(TokenFile::from_memory(span_of(shard32), {2, 100000}, "t")) == std::vector<int32_t>{5, 0, 70000, 7});
}

TEST_CASE("Token files that can not be right are refused with the reason") {
  const std::string four = raw(std::vector<uint16_t>{1, 2, 300, 4});
  CHECK(refusal("", {2, 0}) == "[t] is empty; expected token ids");
  CHECK(refusal("abc", {2, 0}).find("ids have 2 bytes; got a size of 3") != std::string::npos);
  CHECK(refusal("abcdef", {4, 0}).find("ids have 4 bytes; got a size of 6") != std::string::npos);
  CHECK(refusal(four, {2, 300}) ==
        "[t] token 2 has the id 300, outside the vocabulary; expected 0..299; were these tokens made with another "
        "tokenizer?");
  CHECK(refusal(four, {2, 301}) == "(accepted)");
  CHECK(refusal(raw(std::vector<uint32_t>{1, 0xFFFFFFFFu}), {4, 0}).find("token 1 has the id 4294967295") !=
        std::string::npos);
  CHECK(refusal(shard(20240520, 2, 4, four), {2, 0}).find("version 2; expected 1") != std::string::npos);
  CHECK(refusal(shard(20240520, 1, 5, four), {2, 0}).find("header for 5 tokens, which need 1034 bytes; got 1032") !=
        std::string::npos);
  CHECK(refusal(shard(20240520, 1, 3, four), {2, 0}).find("header for 3 tokens") != std::string::npos);
  CHECK(refusal(shard(20240520, 1, -4, four), {2, 0}).find("header for -4 tokens") != std::string::npos);
  CHECK(refusal(shard(20240801, 7, 2147483647, four), {2, 0}).find("header for 2147483647") != std::string::npos);
  CHECK(refusal(shard(20240520, 1, 0, ""), {2, 0}).find("header for 0 tokens") != std::string::npos);
}

TEST_CASE("A folder's meta.json decides; foreign folders are recognised") {
  const TempFolder folder;
  put_file(folder / "train.bin", raw(std::vector<uint32_t>{1, 2, 3}));
  TokenMeta meta;
  meta.vocab_size = 10, meta.width = 4, meta.tokenizer = "bpe", meta.end_of_text = 9;
  meta.splits["train"] = {"train.bin", 3, {12, 2, 1}};
  put_file(folder / "meta.json", meta.to_json());
  const TokenStream stream = TokenStream::open(folder.path(), "train");
  CHECK(stream.size() == 3);
  CHECK(stream.vocab_size() == 10);
  REQUIRE(stream.meta().has_value());
  CHECK(stream.meta()->text.words == 2);
  CHECK(TokenStream::open(folder / "train.bin", "").size() == 3);
  CHECK_THROWS_WITH_AS(TokenStream::open(folder.path(), "train", 3), doctest::Contains("token 2 has the id 3"), Error);
  CHECK_THROWS_WITH_AS(TokenStream::open(folder.path(), "test"), doctest::Contains("has no split \"test\""), Error);
  put_file(folder / "train.bin", raw(std::vector<uint32_t>{1, 2}));
  CHECK_THROWS_WITH_AS(TokenStream::open(folder.path(), "train"), doctest::Contains("but meta.json says 3"), Error);

  const TempFolder nano;  // nanoGPT: u16, val.bin, a character vocabulary
  put_file(nano / "val.bin", raw(std::vector<uint16_t>{1, 64}));
  put_file(nano / "meta.json", R"({"vocab_size": 65, "stoi": {"a": 0}, "itos": {"0": "a"}})");
  CHECK(TokenStream::open(nano.path(), "valid").vocab_size() == 65);

  const TempFolder shards;  // llm.c: shards in order
  for (int i = 0; i < 3; ++i)
    put_file(shards / ("web_train_00000" + std::to_string(i) + ".bin"),
             shard(20240520, 1, 2, raw(std::vector<uint16_t>{static_cast<uint16_t>(10 * i), 5})));
  put_file(shards / "web_val_000000.bin", shard(20240520, 1, 1, raw(std::vector<uint16_t>{9})));
  const TokenStream joined = TokenStream::open(shards.path(), "train");
  std::vector<int32_t> ids(5);
  joined.copy(1, 5, ids.data());
  CHECK(ids == std::vector<int32_t>{5, 10, 5, 20, 5});
  CHECK(TokenStream::open(shards.path(), "valid").size() == 1);
  CHECK_THROWS_AS(joined.copy(3, 4, ids.data()), Error);

  for (const char* bad : {"[]", "{}", R"({"vocab_size": -1})", R"({"vocab_size": 5, "dtype": "int8"})",
                          R"({"vocab_size": 5, "end_of_text": 5})", R"({"vocab_size": 5, "splits": {"train": 3}})",
                          R"({"vocab_size": 5, "splits": {"t": {"file": "../x", "tokens": 1}}})"})
    CHECK_THROWS_AS(TokenMeta::from_json(bad, "m"), Error);
  CHECK(TokenMeta::from_json(meta.to_json(), "m").to_json() == meta.to_json());
}

TEST_CASE("A part of a stream: its own positions, over the borders of files; parts of parts") {
  const TokenStream whole({TokenFile::from_memory(span_of(counting_bytes(5)), {4, 0}, "a"),
                           TokenFile::from_memory(span_of(counting_bytes(7)), {4, 0}, "b")});
  std::vector<int32_t> ids(6);
  const TokenStream part = whole.slice(3, 6);  // 4 5 | 1 2 3 4
  CHECK(part.size() == 6);
  CHECK(part.vocab_size() == whole.vocab_size());
  part.copy(0, 6, ids.data());
  CHECK(ids == std::vector<int32_t>{4, 5, 1, 2, 3, 4});
  part.slice(1, 3).copy(1, 2, ids.data());
  CHECK(ids == std::vector<int32_t>{1, 2, 1, 2, 3, 4});
  CHECK_THROWS_WITH_AS(part.copy(5, 2, ids.data()), doctest::Contains("outside the 6 tokens"), Error);
  CHECK_THROWS_AS(part.slice(4, 3), Error);
  CHECK_THROWS_AS(part.slice(6, 0), Error);
  CHECK_THROWS_AS(part.slice(-1, 3), Error);
}

TEST_CASE("The permutation is one, and depends on its key") {
  for (const uint64_t n : {1, 2, 3, 5, 16, 17, 100, 1023, 4097}) {
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t p = permuted(i, n, random_key(1, "t"));
      REQUIRE(p < n);
      CHECK_FALSE(seen[p]);
      seen[p] = true;
    }
  }
  // Where the first of 7 goes over 7,000 keys: 1,000 times to each place; 6 standard deviations are 176.
  int count[7] = {};
  for (uint64_t key = 0; key < 7000; ++key) ++count[permuted(0, 7, random_key(key, "t"))];
  for (const int c : count) CHECK(std::abs(c - 1000) < 176);
  // Neighbours do not stay neighbours.
  int close = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const auto at = [&](uint64_t k) { return static_cast<int64_t>(permuted(k, 100000, random_key(3, "t"))); };
    close += std::abs(at(i) - at(i + 1)) < 100;
  }
  CHECK(close < 60);  // 20 expected
  CHECK(permuted((uint64_t{1} << 40) - 1, uint64_t{1} << 40, random_key(1, "t")) < uint64_t{1} << 40);
}

TEST_CASE("Shuffled windows: each once an epoch, new order and offset every epoch") {
  const int64_t n = 1000, T = 7;
  const TokenSource source(counting(n), {.length = T, .seed = 5});
  const int64_t windows = source.epoch_samples();
  CHECK(windows == 141);  // 142 fit; one less leaves room for the offset
  std::set<int32_t> offsets;
  std::vector<std::vector<int32_t>> orders;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    std::set<int32_t> begins;
    orders.emplace_back();
    for (int64_t i = 0; i < windows; ++i) {
      const Sample s = sample(source, epoch * windows + i);
      REQUIRE(s.counted == T);
      for (int64_t t = 0; t < T; ++t) {
        REQUIRE(s.inputs[t] == s.inputs[0] + t);
        REQUIRE(s.targets[t] == s.inputs[t] + 1);
      }
      begins.insert(s.inputs[0] - 1);
      orders.back().push_back(s.inputs[0]);
    }
    CHECK(begins.size() == windows);
    CHECK(*begins.rbegin() + T < n);
    for (const int32_t begin : begins) CHECK((begin - *begins.begin()) % T == 0);
    offsets.insert(*begins.begin());
  }
  CHECK(offsets.size() > 1);
  CHECK(orders[0] != orders[1]);
  CHECK_FALSE(std::is_sorted(orders[0].begin(), orders[0].end()));
  const TokenSource other(counting(n), {.length = T, .seed = 6});
  CHECK(sample(other, 0).inputs != sample(source, 0).inputs);

  const TokenSource smallest(counting(T + 1), {.length = T});  // exactly one window, one offset
  CHECK(smallest.epoch_samples() == 1);
  CHECK(sample(smallest, 9).inputs[0] == 1);
  CHECK_THROWS_WITH_AS(TokenSource(counting(T), {.length = T}), doctest::Contains("too short"), Error);
}

TEST_CASE("Random windows begin anywhere, as nanoGPT's do") {
  const int64_t n = 12, T = 4;
  const TokenSource source(counting(n), {.length = T, .sampling = Sampling::random, .seed = 1});
  std::map<int32_t, int> begins;
  for (int64_t i = 0; i < 8000; ++i) {
    const Sample s = sample(source, i);
    ++begins[s.inputs[0] - 1];
    REQUIRE(s.targets[T - 1] == s.inputs[0] + T);
  }
  CHECK(begins.size() == n - T);                                                  // 0 .. n-T-1
  for (const auto& [begin, count] : begins) CHECK(std::abs(count - 1000) < 180);  // 6 standard deviations
}

TEST_CASE("Sequential windows: every target once, in order, with any stride") {
  for (const int64_t n : {2, 3, 8, 9, 10, 25, 26, 27, 100}) {
    for (const int64_t T : {1, 3, 8, 30}) {
      for (int64_t stride = 1; stride <= T; ++stride) {
        const TokenSource source(counting(n), {.length = T, .sampling = Sampling::sequential, .stride = stride});
        int32_t next = 2;  // value of the target that comes next
        for (int64_t i = 0; i < source.epoch_samples(); ++i) {
          const Sample s = sample(source, i);
          int64_t counted = 0;
          for (int64_t t = 0; t < T; ++t) {
            if (s.targets[t] < 0) continue;
            REQUIRE(s.targets[t] == next++);
            REQUIRE(s.inputs[t] == s.targets[t] - 1);
            ++counted;
          }
          REQUIRE(counted == s.counted);
          REQUIRE(counted > 0);
          REQUIRE(s.inputs[0] == 1 + i * stride);
        }
        CHECK(next == n + 1);
      }
    }
  }
  // The loop of the Hugging Face guide, in its own terms: windows of M tokens, the last target_len of them are scored,
  // and the first token of a window never is.
  for (const int64_t n : {20, 21, 29, 64}) {
    const int64_t M = 10;
    for (const int64_t stride : {3, 9, 10}) {
      std::vector<std::vector<int32_t>> expected;
      for (int64_t begin = 0, previous = 0;; begin += stride) {
        const int64_t end = std::min(begin + M, n);
        expected.emplace_back();
        for (int64_t at = std::max(begin + 1, previous); at < end; ++at)
          expected.back().push_back(static_cast<int32_t>(at + 1));
        previous = end;
        if (end == n) break;
      }
      const TokenSource source(counting(n), {.length = M - 1, .sampling = Sampling::sequential, .stride = stride});
      std::vector<std::vector<int32_t>> got;
      for (int64_t i = 0; i < source.epoch_samples(); ++i) {
        got.emplace_back();
        for (const int32_t target : sample(source, i).targets)
          if (target >= 0) got.back().push_back(target);
      }
      CHECK(got == expected);
    }
  }
  CHECK_THROWS_AS(TokenSource(counting(9), {.length = 4, .sampling = Sampling::sequential, .stride = 6}), Error);
  CHECK_THROWS_AS(TokenSource(counting(9), {.length = 4, .stride = 2}), Error);
  CHECK_THROWS_AS(TokenSource(counting(1), {.length = 4, .sampling = Sampling::sequential}), Error);
  CHECK_THROWS_AS(TokenSource(counting(9), {.length = 0}), Error);
  CHECK_THROWS_AS(sampling_of("shuffle"), Error);
}

TEST_CASE("Batches: shapes, counts, and fewer samples at the end of an evaluation") {
  const TokenSource source(counting(26), {.length = 5, .sampling = Sampling::sequential});
  CHECK(source.epoch_samples() == 5);
  const Batch last = source.get(3, 4);
  CHECK(last.samples == 2);
  CHECK(last.tokens == 10);
  CHECK(last.inputs.shape() == Shape{2, 5});
  CHECK(last.targets.to_vector<int32_t>() == std::vector<int32_t>{17, 18, 19, 20, 21, 22, 23, 24, 25, 26});
  CHECK(source.get(5, 2).samples == 0);
  const TokenSource endless(counting(26), {.length = 5});
  CHECK(endless.get(1000, 3).samples == 3);
  CHECK(endless.get(1000, 3).tokens == 15);
}

TEST_CASE("The loader gives the same batches with any number of threads, from any position") {
  const auto source = std::make_shared<TokenSource>(counting(5000), WindowOptions{.length = 16, .seed = 2});
  std::vector<std::vector<int32_t>> expected;
  for (int64_t k = 0; k < 60; ++k) expected.push_back(source->get(k * 8, 8).inputs.to_vector<int32_t>());
  for (const int threads : {0, 1, 3}) {
    for (const int64_t start : {0, 41}) {
      Loader loader(source, start * 8, 8, 0, threads, 3);
      for (int64_t k = start; k < 60; ++k) {
        CHECK(loader.position() == k * 8);
        CHECK(loader.next().inputs.to_vector<int32_t>() == expected[static_cast<size_t>(k)]);
      }
    }
  }
  // Two ranks with half the batch see together what one rank sees.
  Loader first(source, 0, 4, 8), second(source, 4, 4, 8);
  for (int64_t k = 0; k < 20; ++k) {
    std::vector<int32_t> both = first.next().inputs.to_vector<int32_t>();
    const std::vector<int32_t> rest = second.next().inputs.to_vector<int32_t>();
    both.insert(both.end(), rest.begin(), rest.end());
    CHECK(both == expected[static_cast<size_t>(k)]);
  }
  { const Loader unused(source, 0, 8, 0, 2, 4); }  // destroyed while it works
}

TEST_CASE("An error in a loader thread arrives at the caller, at its batch") {
  struct Failing : Source {
    int64_t epoch_samples() const override { return 10; }
    int64_t tokens_per_sample() const override { return 1; }
    Batch get(int64_t first, int64_t) const override {
      check(first != 3, "t", "no sample 3");
      return {};
    }
  };
  for (const int threads : {0, 2}) {
    Loader loader(std::make_shared<Failing>(), 0, 1, 0, threads);
    for (int i = 0; i < 3; ++i) loader.next();
    CHECK_THROWS_WITH_AS(loader.next(), doctest::Contains("no sample 3"), Error);
    loader.next();  // and the next one is fine again
  }
}

TEST_CASE("nanoGPT and llm.c: token files of tiny Shakespeare, byte for byte") {
  const auto file = shared_file("text/tinyshakespeare/input.txt"), gpt2 = shared_file("tokenizers/gpt2/tokenizer.json");
  if (file.empty() || gpt2.empty()) return;
  const TextFile text(file);
  const std::string_view whole = text.bytes();
  const auto tokenizer = load_tokenizer(gpt2);
  const size_t cut = whole.size() * 9 / 10;
  for (const auto& [part, tokens, hash] :
       {std::tuple(whole.substr(0, cut), 301966, "502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f"),
        std::tuple(whole.substr(cut), 36059, "68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b")}) {
    const std::vector<int32_t> ids = tokenizer->encode(part);
    CHECK(ids.size() == tokens);
    CHECK(sha256_hex(raw(std::vector<uint16_t>(ids.begin(), ids.end()))) == hash);
  }
  // llm.c: the text is cut at blank lines, an end of text stands before each section, blank lines stay at its end.
  std::vector<int32_t> ids;
  for (size_t at = 0; at < whole.size();) {
    const size_t end = std::min(whole.find("\n\n", at), whole.size() - 2) + 2;
    ids.push_back(50256);
    for (const int32_t id : tokenizer->encode(whole.substr(at, end - at))) ids.push_back(id);
    at = end;
  }
  const std::vector<uint16_t> narrow(ids.begin(), ids.end());
  const std::string valid = shard(20240520, 1, 32768, raw(std::vector(narrow.begin(), narrow.begin() + 32768)));
  CHECK(sha256_hex(valid) == "fe99db720dc7c83e694806d4e047a952909411da1daccde4ccc2e55f40882a62");
  const TokenFile read = TokenFile::from_memory(span_of(valid), {2, 50257}, "t");
  CHECK(std::equal(ids.begin(), ids.begin() + 32768, all_ids(read).begin()));
}
