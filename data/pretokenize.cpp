#include "data/pretokenize.h"

#include <algorithm>

#include "data/unicode.h"

namespace accrete {
namespace {

struct Char {
  CharClass kind;
  size_t length;
};

Char char_at(std::string_view text, size_t at) {
  const Utf8Step step = decode_utf8(text, at);
  return {char_class(step.code), step.length};
}

size_t skip(std::string_view text, size_t at, CharClass kind) {
  while (at < text.size()) {
    const Char c = char_at(text, at);
    if (c.kind != kind) break;
    at += c.length;
  }
  return at;
}

// Length of one of the contractions 's 't 're 've 'm 'll 'd at text[at] (an apostrophe), or 0. Case-sensitive.
size_t contraction(std::string_view text, size_t at) {
  const char a = at + 1 < text.size() ? text[at + 1] : '\0';
  const char b = at + 2 < text.size() ? text[at + 2] : '\0';
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

// Start of the character that ends just before text[at], at > 0.
size_t char_before(std::string_view text, size_t at) {
  size_t start = at - 1;
  while (start > 0 && at - start < 4 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return start + decode_utf8(text, start).length == at ? start : at - 1;
}

}  // namespace

size_t piece_end(std::string_view text, size_t begin) {
  if (text[begin] == '\'') {
    if (const size_t length = contraction(text, begin)) return begin + length;
  }
  const bool space_first = text[begin] == ' ' && begin + 1 < text.size();
  const size_t start = begin + (space_first ? 1 : 0);
  const Char first = char_at(text, start);
  if (first.kind != CharClass::space) return skip(text, start + first.length, first.kind);

  // White space: a run in front of something leaves its last character to the next piece.
  size_t end = begin, last = begin;
  while (end < text.size()) {
    const Char c = char_at(text, end);
    if (c.kind != CharClass::space) break;
    last = end;
    end += c.length;
  }
  return end == text.size() || last == begin ? end : last;
}

std::vector<size_t> piece_cuts(std::string_view text, size_t parts) {
  std::vector<size_t> cuts = {0};
  for (size_t part = 1; part < parts; ++part) {
    size_t at = std::max(cuts.back() + 1, text.size() / parts * part);
    while (at < text.size()) {
      const bool inside = (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80;  // of a character
      if (!inside && char_at(text, at).kind == CharClass::space &&
          char_at(text, char_before(text, at)).kind != CharClass::space)
        break;
      ++at;
    }
    if (at >= text.size()) break;
    cuts.push_back(at);
  }
  if (!text.empty()) cuts.push_back(text.size());
  return cuts;
}

const std::array<uint32_t, 256>& byte_characters() {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      t[byte] = printable ? byte : next++;
    }
    return t;
  }();
  return table;
}

std::string bytes_to_characters(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) append_utf8(out, byte_characters()[static_cast<uint8_t>(byte)]);
  return out;
}

bool characters_to_bytes(std::string_view characters, std::string& bytes) {
  static const std::array<int16_t, 324> inverse = [] {
    std::array<int16_t, 324> t{};
    t.fill(-1);
    for (int byte = 0; byte < 256; ++byte) t[byte_characters()[byte]] = static_cast<int16_t>(byte);
    return t;
  }();
  bytes.clear();
  for (size_t at = 0; at < characters.size();) {
    const Utf8Step step = decode_utf8(characters, at);
    if (step.code >= inverse.size() || inverse[step.code] < 0) return false;
    bytes += static_cast<char>(inverse[step.code]);
    at += step.length;
  }
  return true;
}

}  // namespace accrete
