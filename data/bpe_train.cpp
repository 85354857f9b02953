#include "data/bpe_train.h"

#include <algorithm>
#include <deque>
#include <queue>
#include <thread>
#include <unordered_map>

#include "data/bpe.h"
#include "data/piece_cache.h"
#include "data/pretokenize.h"
#include "data/unicode.h"
#include "engine/core/error.h"

namespace accrete {
namespace {

using Pair = uint64_t;  // left id in the high half: integer order is the order of (left, right)

Pair make_pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// One word as symbols in the common array; merging shortens it in place.
struct Word {
  size_t begin;
  uint32_t length;
  int64_t count;
};

struct PairInfo {
  int64_t count = 0;            // occurrences, weighted by the counts of the words
  std::vector<uint32_t> words;  // that may hold the pair; some entries are out of date, none is missing
};

struct Candidate {
  int64_t count;
  Pair pair;
  bool operator<(const Candidate& other) const {  // the heap gives the largest first
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

class Trainer {
 public:
  Trainer(const WordCounts& words, const BpeTrainOptions& options) : options_(options) {
    make_alphabet(words);
    for (size_t w = 0; w < words_.size(); ++w)
      for (uint32_t i = 0; i + 1 < words_[w].length; ++i) {
        const int32_t* symbols = symbols_.data() + words_[w].begin + i;
        change(w, symbols[0], symbols[1], words_[w].count);
      }
    for (const auto& [pair, info] : pairs_) heap_.push({info.count, pair});
  }

  TrainedBpe run() {
    const int64_t least = std::max<int64_t>(1, options_.min_frequency);
    while (static_cast<int64_t>(result_.vocab.size()) < options_.vocab_size && !heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const auto found = pairs_.find(top.pair);
      const int64_t count = found == pairs_.end() ? 0 : found->second.count;
      if (count != top.count) {  // out of date; a pair that grew was pushed again when it did
        if (count > 0 && count < top.count) heap_.push({count, top.pair});
        continue;
      }
      if (top.count < least) break;
      const int32_t left = static_cast<int32_t>(top.pair >> 32), right = static_cast<int32_t>(top.pair & 0xFFFFFFFFu);
      if (options_.max_token_length > 0 && characters_[left] + characters_[right] > options_.max_token_length) continue;
      const std::vector<uint32_t> where = std::move(found->second.words);
      merge(left, right, where);
      pairs_.erase(top.pair);
    }
    return std::move(result_);
  }

 private:
  int32_t add_token(const std::string& token, int64_t characters) {
    const auto [it, fresh] = id_of_.emplace(token, static_cast<int32_t>(result_.vocab.size()));
    if (fresh) {
      result_.vocab.push_back(token);
      characters_.push_back(characters);
    }
    return it->second;
  }

  void make_alphabet(const WordCounts& words) {
    std::vector<uint32_t> alphabet = options_.alphabet;
    std::vector<bool> seen(0x110000);
    for (const auto& [text, count] : words) {
      check(count >= 0, "bpe_train", "a word has the count ", count);
      for (size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        if (!seen[step.code]) alphabet.push_back(step.code);
        seen[step.code] = true;
        at += step.length;
      }
    }
    std::sort(alphabet.begin(), alphabet.end());
    for (const std::string& token : options_.special) add_token(token, 1);
    std::vector<int32_t> id_of_character(0x110000);
    for (const uint32_t code : alphabet) {
      std::string token;
      append_utf8(token, code);
      id_of_character[code] = add_token(token, 1);
    }
    for (const auto& [text, count] : words) {
      const size_t begin = symbols_.size();
      for (size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        symbols_.push_back(id_of_character[step.code]);
        at += step.length;
      }
      words_.push_back({begin, static_cast<uint32_t>(symbols_.size() - begin), count});
    }
  }

  // The pair stands in word w more often (by > 0) or less often than before.
  void change(size_t w, int32_t left, int32_t right, int64_t by) {
    const Pair pair = make_pair_key(left, right);
    PairInfo& info = pairs_[pair];
    info.count += by;
    if (by <= 0) return;
    if (info.words.empty() || info.words.back() != w) info.words.push_back(static_cast<uint32_t>(w));
    grown_.push_back(pair);
  }

  void merge(int32_t left, int32_t right, const std::vector<uint32_t>& where) {
    const int32_t merged =
        add_token(result_.vocab[left] + result_.vocab[right], characters_[left] + characters_[right]);
    result_.merges.emplace_back(left, right);
    grown_.clear();
    for (const uint32_t w : where) merge_in_word(w, left, right, merged);
    std::sort(grown_.begin(), grown_.end());
    grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
    for (const Pair pair : grown_) heap_.push({pairs_[pair].count, pair});
  }

  // Replaces left, right by merged everywhere in the word, from left to right. Only the pairs beside a merge change.
  void merge_in_word(size_t w, int32_t left, int32_t right, int32_t merged) {
    Word& word = words_[w];
    int32_t* symbols = symbols_.data() + word.begin;
    uint32_t out = 0;
    for (uint32_t i = 0; i < word.length;) {
      if (i + 1 == word.length || symbols[i] != left || symbols[i + 1] != right) {
        symbols[out++] = symbols[i++];
        continue;
      }
      if (out > 0) {
        change(w, symbols[out - 1], left, -word.count);
        change(w, symbols[out - 1], merged, word.count);
      }
      if (i + 2 < word.length) {
        change(w, right, symbols[i + 2], -word.count);
        change(w, merged, symbols[i + 2], word.count);
      }
      symbols[out++] = merged;
      i += 2;
    }
    word.length = out;
  }

  const BpeTrainOptions& options_;
  TrainedBpe result_;
  std::vector<int64_t> characters_;  // length of each token; a special token is never part of a word
  std::unordered_map<std::string, int32_t> id_of_;
  std::vector<int32_t> symbols_;
  std::vector<Word> words_;
  std::unordered_map<Pair, PairInfo> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<Pair> grown_;  // pairs that were found more often in the merge that is being made
};

// Counts by piece; the keys point into the text.
using PieceMap =
    std::unordered_map<std::string_view, int64_t, decltype([](std::string_view s) { return hash_piece(s); })>;

}  // namespace

TrainedBpe train_bpe(const WordCounts& words, const BpeTrainOptions& options) { return Trainer(words, options).run(); }

WordCounts count_pieces(std::span<const std::string_view> texts, int threads) {
  constexpr size_t kBytesPerThread = size_t{1} << 20;
  PieceMap total;
  for (const std::string_view text : texts) {
    const size_t parts = std::clamp<size_t>(text.size() / kBytesPerThread, 1, std::max(1, threads));
    const std::vector<size_t> cuts = piece_cuts(text, parts);
    std::vector<PieceMap> maps(cuts.size() - 1);
    std::vector<std::thread> workers;
    for (size_t part = 0; part < maps.size(); ++part) {
      workers.emplace_back([&, part] {
        for (size_t at = cuts[part]; at < cuts[part + 1];) {
          const size_t end = piece_end(text, at);
          ++maps[part][text.substr(at, end - at)];
          at = end;
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
    for (const PieceMap& map : maps)
      for (const auto& [piece, count] : map) total[piece] += count;
  }
  WordCounts counts;
  counts.reserve(total.size());
  for (const auto& [piece, count] : total) counts.emplace_back(bytes_to_characters(piece), count);
  return counts;
}

std::unique_ptr<Tokenizer> train_byte_bpe(std::span<const std::string_view> texts, int64_t vocab_size, int threads) {
  check(vocab_size >= 257 && vocab_size <= 1 << 24, "bpe_train",
        "a byte-level vocabulary has 256 bytes, the end of text and the merges; expected a size of 257..", 1 << 24,
        "; got ", vocab_size);
  std::vector<std::string_view> valid(texts.begin(), texts.end());
  std::deque<std::string> repaired;  // owns what had to be changed
  for (std::string_view& text : valid)
    if (find_invalid_utf8(text) != std::string_view::npos) text = repaired.emplace_back(repair_utf8(text));
  BpeTrainOptions options;
  options.vocab_size = vocab_size;
  options.min_frequency = 2;
  options.special = {"<|endoftext|>"};
  options.alphabet.assign(byte_characters().begin(), byte_characters().end());
  TrainedBpe trained = train_bpe(count_pieces(valid, threads), options);
  Bpe::Parts parts;
  parts.vocab = std::move(trained.vocab);
  parts.merges = std::move(trained.merges);
  parts.added.push_back({.id = 0, .content = options.special[0]});
  return std::make_unique<Bpe>(std::move(parts));
}

}  // namespace accrete
