// Training of a byte-pair vocabulary, with the tie-breaking of the Hugging Face trainer so that results can be
// compared.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/tokenizer.h"

namespace accrete {

// A word (any UTF-8 string; one symbol per character) and how often it occurs.
using WordCounts = std::vector<std::pair<std::string, int64_t>>;

struct BpeTrainOptions {
  int64_t vocab_size = 30000;        // with special tokens and alphabet; fewer when the words give no more pairs
  int64_t min_frequency = 0;         // rarest pair that is merged
  int64_t max_token_length = 0;      // longest token in characters; 0: any
  std::vector<std::string> special;  // first ids, in this order
  std::vector<uint32_t> alphabet;    // characters that are in the vocabulary even when no word has them
};

struct TrainedBpe {
  std::vector<std::string> vocab;                   // id -> token
  std::vector<std::pair<int32_t, int32_t>> merges;  // in the order they were made
};

// Special tokens, then the characters in code point order, then one token per merge. Each merge takes the pair of
// neighbours with the largest count; of equals the one with the smallest (left id, right id). When a merge makes a
// token that exists, it keeps that token's id. The order of `words` does not matter.
TrainedBpe train_bpe(const WordCounts& words, const BpeTrainOptions& options);

// Pieces of the texts (pretokenize.h), written in the characters of the byte table, with their counts. Order
// unspecified.
WordCounts count_pieces(std::span<const std::string_view> texts, int threads = 1);

// Byte-level BPE from whole texts: "<|endoftext|>" has id 0, the 256 byte characters in code point order 1..256, then
// the merges of pairs that occur at least twice. Invalid UTF-8 counts as U+FFFD. vocab_size >= 257.
std::unique_ptr<Tokenizer> train_byte_bpe(std::span<const std::string_view> texts, int64_t vocab_size, int threads = 1);

}  // namespace accrete
