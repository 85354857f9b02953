// Tokenizer: text <-> token ids. One interface for the byte, BPE and word-piece kinds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace accrete {

// A token that is found in the text as a whole string, before the text is split (formats.md of the Hugging Face
// libraries: "added_tokens"). Special ones mark structure, such as the end of a text.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // swallows white space on its left
  bool rstrip = false;       // ... on its right
  bool normalized = true;    // false: searched first
};

struct EncodeOptions {
  bool allow_special = false;   // true: "<|endoftext|>" in the text becomes one id; false: it is ordinary text
  bool refuse_invalid = false;  // bytes that are not UTF-8: false replaces them by U+FFFD, true throws
  int threads = 1;              // for large texts; changes the time, never the ids
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string kind() const = 0;  // "bytes", "bpe"
  int64_t vocab_size() const { return vocab_size_; }
  const std::vector<AddedToken>& added_tokens() const { return added_; }  // ascending id
  std::optional<int32_t> end_of_text() const { return end_of_text_; }     // put between documents, if there is one

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // The bytes of the ids, one after the other: the exact inverse of encode for valid UTF-8. Ids outside the vocabulary
  // throw.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;

  // Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and the files of the kind (vocab.json and
  // merges.txt), as the Hugging Face libraries read them. `context` is the longest input of the model in tokens.
  virtual void save(const std::filesystem::path& folder, int64_t context = 1024) const = 0;

 protected:
  // `added` in any order; throws when two have the same id or content.
  Tokenizer(int64_t vocab_size, std::vector<AddedToken> added);

  // Text without added tokens -> ids, appended. `text` may hold bytes that are not UTF-8 only when keeps_bytes().
  virtual void encode_plain(std::string_view text, int threads, std::vector<int32_t>& ids) const = 0;
  virtual bool keeps_bytes() const { return false; }
  void check_id(int32_t id) const;

 private:
  int64_t vocab_size_;
  std::vector<AddedToken> added_;
  std::optional<int32_t> end_of_text_;
};

// Decodes ids one by one for a terminal: holds back the tail of an unfinished UTF-8 character, replaces what can not
// become one. All pushes and finish() together give repair_utf8(decode(ids)).
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string push(int32_t id);
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
};

// 256 bytes and the end of text: 257 ids, id of a byte = its value. Keeps any bytes, valid UTF-8 or not.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

// `path`: a tokenizer.json, or a folder with tokenizer.json, vocab.json + merges.txt, or encoder.json + vocab.bpe
// (looked for in this order), each also packed as .gz; or the vocab.json / encoder.json itself.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

// tokenizer.json in memory; `where` names it in errors.
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view json, const std::string& where);
// vocab.json and merges.txt (or encoder.json and vocab.bpe) in memory. "<|endoftext|>" in the vocabulary is special.
std::unique_ptr<Tokenizer> parse_vocab_and_merges(std::string_view vocab_json, std::string_view merges,
                                                  const std::string& where);

}  // namespace accrete
