// Any bytes as tokenizer.json: they are refused with an Error, or give a tokenizer whose decode inverts its encode.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "data/tokenizer.h"
#include "engine/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = accrete::parse_tokenizer_json(text, "fuzz");
    const std::string_view sample = " ab'll <|endoftext|> aaab";
    try {
      const auto ids = tokenizer->encode(sample);
      const std::string back = tokenizer->decode(ids);
      // Added tokens may swallow white space, and a prefix space may be put in front; otherwise nothing is lost.
      if (tokenizer->added_tokens().empty() && !back.ends_with(sample)) std::abort();
    } catch (const accrete::Error&) {  // the vocabulary lacks a byte
    }
  } catch (const accrete::Error&) {
  }
  // The same bytes as the two older files, cut at the first NUL.
  const size_t cut = std::min(text.find('\0'), text.size());
  try {
    accrete::parse_vocab_and_merges(text.substr(0, cut), cut < size ? text.substr(cut + 1) : "", "fuzz");
  } catch (const accrete::Error&) {
  }
  return 0;
}
