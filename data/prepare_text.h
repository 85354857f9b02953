// From text files to a folder that training reads: train.bin, valid.bin, test.bin, meta.json and the tokenizer's files.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/token_meta.h"
#include "data/tokenizer.h"

namespace accrete {

struct PrepareText {
  std::vector<std::filesystem::path> train;  // at least one; .gz is unpacked
  std::vector<std::filesystem::path> valid, test;
  // When `valid` is empty, the last part of the training text becomes the validation split: this share of its bytes, up
  // to the next line end. 0: no validation split.
  double valid_fraction = 0.1;
  std::string tokenizer;       // "bytes", "train-bpe:SIZE", or a folder or file for load_tokenizer
  bool allow_special = false;  // special tokens written in the text become their ids
  std::filesystem::path out;
  int threads = 1;
};

// Several files of one split are encoded one by one, with the end-of-text token between them (when the tokenizer has
// one). A tokenizer is trained on the training split only. Nothing in `out` changes before everything is written, so a
// full disk or a bad input file leaves an earlier result whole; meta.json is moved into place last.
// `log` receives one line of progress at a time.
TokenMeta prepare_text(const PrepareText& options, const std::function<void(const std::string&)>& log);

// The tokenizer that a command line names: "bytes" or a path. "train-bpe:SIZE" is refused: it needs a text.
std::unique_ptr<Tokenizer> named_tokenizer(const std::string& name);

// Ids as a bare little-endian file of `width` (2 or 4) bytes each, written atomically.
void write_tokens(const std::filesystem::path& path, std::span<const int32_t> ids, int width);

}  // namespace accrete
