#include "data/tokenizer.h"

#include <algorithm>
#include <unordered_set>

#include "data/unicode.h"
#include "engine/core/error.h"
#include "engine/core/json.h"

namespace accrete {
namespace {

bool is_space(std::string_view text, size_t at) { return char_class(decode_utf8(text, at).code) == CharClass::space; }

// Start of the character before text[at]; `text` is valid UTF-8.
size_t before(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool is_word(std::string_view text, size_t at) {
  const CharClass kind = char_class(decode_utf8(text, at).code);
  return kind == CharClass::letter || kind == CharClass::number || text[at] == '_';
}

// Finds added tokens: leftmost first, of several at one place the longest.
class Finder {
 public:
  struct Match {
    size_t begin = 0, end = 0;  // with the white space that the token swallows
    int32_t id = 0;
  };

  Finder(const std::vector<AddedToken>& added, bool normalized, bool allow_special) {
    for (const AddedToken& token : added) {
      if (token.normalized != normalized || (token.special && !allow_special)) continue;
      tokens_.push_back(&token);
      starts_[static_cast<uint8_t>(token.content[0])] = true;
    }
    std::stable_sort(tokens_.begin(), tokens_.end(),
                     [](const AddedToken* a, const AddedToken* b) { return a->content.size() > b->content.size(); });
  }

  std::optional<Match> next(std::string_view text, size_t from) const {
    for (size_t at = tokens_.empty() ? text.size() : from; at < text.size(); ++at) {
      if (!starts_[static_cast<uint8_t>(text[at])]) continue;
      for (const AddedToken* token : tokens_)
        if (const auto match = match_at(text, from, at, *token)) return match;
    }
    return std::nullopt;
  }

 private:
  static std::optional<Match> match_at(std::string_view text, size_t from, size_t at, const AddedToken& token) {
    if (text.substr(at, token.content.size()) != token.content) return std::nullopt;
    Match match{at, at + token.content.size(), token.id};
    if (token.single_word && ((match.begin > 0 && is_word(text, before(text, match.begin))) ||
                              (match.end < text.size() && is_word(text, match.end))))
      return std::nullopt;
    while (token.lstrip && match.begin > from && is_space(text, before(text, match.begin)))
      match.begin = before(text, match.begin);
    while (token.rstrip && match.end < text.size() && is_space(text, match.end))
      match.end += decode_utf8(text, match.end).length;
    return match;
  }

  std::vector<const AddedToken*> tokens_;
  bool starts_[256] = {};
};

// Calls plain(part) for the text between the tokens and token(id) for each of them, in order.
template <class Plain, class Token>
void split(std::string_view text, const Finder& finder, Plain&& plain, Token&& token) {
  size_t from = 0;
  while (const auto match = finder.next(text, from)) {
    if (match->begin > from) plain(text.substr(from, match->begin - from));
    token(match->id);
    from = match->end;
  }
  if (from < text.size()) plain(text.substr(from));
}

}  // namespace

Tokenizer::Tokenizer(int64_t vocab_size, std::vector<AddedToken> added)
    : vocab_size_(vocab_size), added_(std::move(added)) {
  std::sort(added_.begin(), added_.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  std::unordered_set<std::string_view> contents;
  for (size_t i = 0; i < added_.size(); ++i) {
    const AddedToken& token = added_[i];
    check(!token.content.empty(), "tokenizer", "added token ", token.id, " is empty");
    check(i == 0 || added_[i - 1].id != token.id, "tokenizer", "two added tokens have the id ", token.id);
    check(contents.insert(token.content).second, "tokenizer", "added token \"", printable(token.content),
          "\" appears twice");
    check_id(token.id);
    if (token.special && token.content == "<|endoftext|>") end_of_text_ = token.id;
  }
}

void Tokenizer::check_id(int32_t id) const {
  check(id >= 0 && id < vocab_size_, "tokenizer", "token id ", id, " is outside the vocabulary; expected 0..",
        vocab_size_ - 1);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string repaired;
  if (!keeps_bytes() || options.refuse_invalid) {
    if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
      check(!options.refuse_invalid, "tokenizer", "the text is not valid UTF-8 at byte ", bad);
      text = repaired = repair_utf8(text);
    }
  }
  std::vector<int32_t> ids;
  const Finder raw(added_, false, options.allow_special), normalized(added_, true, options.allow_special);
  const auto token = [&](int32_t id) { ids.push_back(id); };
  const auto plain = [&](std::string_view part) { encode_plain(part, options.threads, ids); };
  split(
      text, raw, [&](std::string_view part) { split(part, normalized, plain, token); }, token);
  return ids;
}

std::string StreamDecoder::push(int32_t id) {
  held_ += tokenizer_.decode({&id, 1});
  // Hold back at most three bytes: those of a character that may still be completed.
  size_t keep = held_.size();
  for (size_t at = held_.size() - std::min<size_t>(3, held_.size()); at < held_.size();) {
    const bool inside = (static_cast<uint8_t>(held_[at]) & 0xC0) == 0x80;
    const Utf8Step step = decode_utf8(held_, at);
    if (!inside && step.cut_off) {
      keep = at;
      break;
    }
    at += inside ? 1 : step.length;
  }
  const std::string ready = repair_utf8(std::string_view(held_).substr(0, keep));
  held_.erase(0, keep);
  return ready;
}

std::string StreamDecoder::finish() {
  const std::string ready = repair_utf8(held_);
  held_.clear();
  return ready;
}

}  // namespace accrete
