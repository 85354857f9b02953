// UTF-8 and the few Unicode properties that tokenizers ask for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace accrete {

// letter = category L, number = category N, space = property White_Space, other = everything else (marks, symbols,
// punctuation, controls, unassigned).
enum class CharClass : uint8_t { other, letter, number, space };

inline constexpr uint32_t kReplacement = 0xFFFD;  // stands for bytes that are not UTF-8

// Class of a code point; code points beyond U+10FFFF are `other`.
CharClass char_class(uint32_t code);

// One step of a UTF-8 decoder. Invalid bytes are taken as Unicode recommends ("maximal subpart", Python's
// errors="replace" does the same): code = U+FFFD, length = the bytes that one replacement character stands for.
struct Utf8Step {
  uint32_t code;
  uint8_t length;  // bytes consumed, at least 1
  bool valid;
  bool cut_off;  // invalid only because the text ends inside a sequence that began well
};

// Decodes the character at text[at]; at < text.size().
Utf8Step decode_utf8(std::string_view text, size_t at);

// Appends a code point as UTF-8; code <= 0x10FFFF.
void append_utf8(std::string& out, uint32_t code);

// Offset of the first byte that is not UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

// The text with each invalid sequence replaced by U+FFFD.
std::string repair_utf8(std::string_view text);

// Number of invalid sequences: how many replacement characters repair_utf8 would insert.
size_t count_invalid_utf8(std::string_view text);

}  // namespace accrete
