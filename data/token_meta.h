// meta.json: what stands beside the token files of a prepared text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "data/text_file.h"

namespace accrete {

struct SplitMeta {
  std::string file;    // name in the same folder
  int64_t tokens = 0;  // in the file, with the end-of-text tokens between documents
  TextCounts text;     // of the original text: denominators of per-word and per-byte measures
};

struct TokenMeta {
  int64_t vocab_size = 0;
  int width = 0;  // bytes of an id in the files: 2 or 4; 0 when the file does not say (nanoGPT's)
  std::string tokenizer;
  std::optional<int32_t> end_of_text;
  std::map<std::string, SplitMeta> splits;  // by name: train, valid, test

  std::string to_json() const;
  // Also reads nanoGPT's character vocabulary {"vocab_size": 65, "stoi": ..., "itos": ...}. `where` names it in errors.
  static TokenMeta from_json(std::string_view text, const std::string& where);
  // folder/meta.json, or nothing when there is none.
  static std::optional<TokenMeta> read(const std::filesystem::path& folder);
};

// Bytes that an id of this vocabulary takes in a file: 2 up to 65,536 ids, otherwise 4.
inline int token_width(int64_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

}  // namespace accrete
