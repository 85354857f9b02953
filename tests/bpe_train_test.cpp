// Training of BPE vocabularies: the published tests of the Hugging Face trainer, its result on a text, an oracle that
// counts everything anew for each merge, and the reference run on tiny Shakespeare.
#include "data/bpe_train.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>

#include "data/bpe.h"
#include "data/pretokenize.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "tests/program_testing.h"
#include "tests/shared_data.h"

using namespace accrete;

namespace {

using Texts = std::vector<std::string>;

Texts merges_of(const TrainedBpe& trained) {
  Texts out;
  for (const auto& [left, right] : trained.merges) out.push_back(trained.vocab[left] + " " + trained.vocab[right]);
  return out;
}

std::string merge_lines(const Tokenizer& tokenizer) {
  const Bpe::Parts& parts = dynamic_cast<const Bpe&>(tokenizer).parts();
  std::string lines;
  for (const auto& [left, right] : parts.merges) lines += parts.vocab[left] + " " + parts.vocab[right] + "\n";
  return lines;
}

std::unique_ptr<Tokenizer> train(std::string_view text, int64_t size, int threads = 1) {
  return train_byte_bpe({&text, 1}, size, threads);
}

// The definition without any cleverness; ASCII words only.
TrainedBpe oracle(const WordCounts& words, int64_t vocab_size, int64_t min_frequency) {
  TrainedBpe result;
  std::map<std::string, int32_t> id_of;
  const auto add = [&](const std::string& token) {
    const auto [it, fresh] = id_of.emplace(token, static_cast<int32_t>(result.vocab.size()));
    if (fresh) result.vocab.push_back(token);
    return it->second;
  };
  std::string alphabet;
  for (const auto& [word, count] : words) alphabet += word;
  std::sort(alphabet.begin(), alphabet.end());
  for (const char c : alphabet) add(std::string(1, c));
  std::vector<std::vector<int32_t>> symbols;
  for (const auto& [word, count] : words) {
    symbols.emplace_back();
    for (const char c : word) symbols.back().push_back(id_of[std::string(1, c)]);
  }
  while (static_cast<int64_t>(result.vocab.size()) < vocab_size) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (size_t w = 0; w < words.size(); ++w)
      for (size_t i = 0; i + 1 < symbols[w].size(); ++i) counts[{symbols[w][i], symbols[w][i + 1]}] += words[w].second;
    std::pair<int32_t, int32_t> best;
    int64_t most = 0;
    for (const auto& [pair, count] : counts)  // ascending pairs: the first of equals wins
      if (count > most) best = pair, most = count;
    if (most < std::max<int64_t>(1, min_frequency)) break;
    const int32_t merged = add(result.vocab[best.first] + result.vocab[best.second]);
    result.merges.push_back(best);
    for (auto& word : symbols) {
      std::vector<int32_t> out;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool both = i + 1 < word.size() && word[i] == best.first && word[i + 1] == best.second;
        out.push_back(both ? merged : word[i]);
        i += both;
      }
      word = out;
    }
  }
  return result;
}

}  // namespace

TEST_CASE("Published trainer test: counts and the order of ids") {
  const WordCounts words = {{"roses", 1}, {"are", 2}, {"red", 1}, {"voilets", 1}, {"blue", 1}, {"BERT", 1},
                            {"is", 2},    {"big", 1}, {"and", 1}, {"so", 1},      {"GPT-2", 1}};
  BpeTrainOptions options;
  options.min_frequency = 2;
  const TrainedBpe trained = train_bpe(words, options);
  Texts expected;
  for (const char c : std::string("-2BEGPRTabdegilnorstuv")) expected.emplace_back(1, c);
  for (const char* token : {"re", "are", "is"}) expected.emplace_back(token);
  CHECK(trained.vocab == expected);
  CHECK(merges_of(trained) == Texts{"r e", "a re", "i s"});
}

TEST_CASE("Published trainer test: longest token, ties go to the smallest pair of ids") {
  WordCounts words;
  for (const char* word :
       {"sin", "Sin", "Lon", "Ano", "짧은한", "긴한글", "短字符", "长字符", "短い文", "長い文", "so", "GP"})
    words.emplace_back(word, 2);
  BpeTrainOptions options;
  options.max_token_length = 2;
  CHECK(train_bpe(words, options).vocab == Texts{"A",  "G",  "L",    "P",    "S",  "i",  "n",  "o",  "s",    "い",
                                                 "字", "文", "短",   "符",   "長", "长", "글", "긴", "은",   "짧",
                                                 "한", "in", "い文", "字符", "An", "GP", "Lo", "so", "긴한", "은한"});
}

TEST_CASE("Fast counting makes the merges of the definition") {
  std::mt19937 rng(17);
  for (int trial = 0; trial < 60; ++trial) {
    WordCounts words;
    const int letters = 2 + trial % 4;  // few letters: runs, ties and tokens that arise in two ways
    for (int i = 0; i < 40; ++i) {
      std::string word;
      for (int length = 1 + static_cast<int>(rng() % 12); length > 0; --length)
        word += static_cast<char>('a' + rng() % letters);
      words.emplace_back(word, 1 + rng() % 5);
    }
    BpeTrainOptions options;
    options.vocab_size = 90;
    options.min_frequency = trial % 3;
    const TrainedBpe expected = oracle(words, options.vocab_size, options.min_frequency);
    const TrainedBpe trained = train_bpe(words, options);
    CHECK(trained.vocab == expected.vocab);
    CHECK(trained.merges == expected.merges);
    std::shuffle(words.begin(), words.end(), rng);
    CHECK(train_bpe(words, options).merges == expected.merges);
  }
}

TEST_CASE("Hugging Face trainer on a text: the same vocabulary and merges") {
  const auto golden = parse_json(file_bytes(ACCRETE_SOURCE_DIR "/tests/golden/bpe.json"), "golden");
  const auto tokenizer = train(golden["text"].get<std::string>(), 400);
  const Bpe::Parts& parts = dynamic_cast<const Bpe&>(*tokenizer).parts();
  const auto& vocab = golden["trained"]["vocab"];
  CHECK(parts.vocab.size() == vocab.size());  // 374: no more pairs that occur twice
  for (size_t id = 0; id < parts.vocab.size(); ++id) CHECK(vocab.value(parts.vocab[id], -1) == static_cast<int>(id));
  std::string expected;
  for (const auto& merge : golden["trained"]["merges"])
    expected += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  CHECK(merge_lines(*tokenizer) == expected);
}

TEST_CASE("Several texts count together, and invalid UTF-8 counts as U+FFFD") {
  const std::string_view parts[] = {"abab ab", "ab\xFF\xFF", ""};
  const auto tokenizer = train_byte_bpe(parts, 300);
  CHECK(merge_lines(*tokenizer).starts_with("a b\n"));
  CHECK(tokenizer->decode(tokenizer->encode("ab\xFF")) == "ab\ufffd");
  CHECK_THROWS_WITH_AS(train("abc", 256), doctest::Contains("expected a size of 257"), Error);
}

TEST_CASE("Tiny Shakespeare: the reference merges") {
  const auto file = shared_file("text/tinyshakespeare/input.txt");
  if (file.empty()) return;
  const TextFile text(file);
  const std::string_view whole = text.bytes();
  WordCounts pieces = count_pieces({&whole, 1});
  int64_t total = 0;
  for (const auto& [piece, count] : pieces) total += count;
  CHECK(total == 297833);
  CHECK(pieces.size() == 15057);
  std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  CHECK(pieces[0] == std::pair<std::string, int64_t>("Ċ", 39996));
  CHECK(pieces[4] == std::pair<std::string, int64_t>("Ġthe", 5370));

  for (const int threads : {1, 3}) {
    const auto tokenizer = train(whole, 512, threads);
    CHECK(tokenizer->vocab_size() == 512);
    CHECK(sha256_hex(merge_lines(*tokenizer)) == "50f4e01445c666b4439f2878bec7d8f81014f63dfad08a4f13ed05dd5d74533d");
    CHECK(tokenizer->encode(whole).size() == 575809);
    CHECK(tokenizer->encode("ROMEO:\nBut, soft! what light") ==
          std::vector<int32_t>{50, 47, 45, 37, 47, 26, 199, 446, 12, 366, 70, 84, 1, 435, 360, 349});
  }
}
