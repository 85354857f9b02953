#include "data/unicode.h"

#include <cstring>
#include <vector>

#include "data/unicode_tables.h"

namespace accrete {
namespace {

constexpr uint32_t kCodePoints = 0x110000;

// One byte for each code point (1.1 MB): only the pages of scripts that occur are ever touched.
std::vector<CharClass> make_classes() {
  std::vector<CharClass> classes(kCodePoints, CharClass::other);
  for (const auto& range : unicode_tables::kRanges) {
    const CharClass kind = range.kind == 'L'   ? CharClass::letter
                           : range.kind == 'N' ? CharClass::number
                                               : CharClass::space;
    for (uint32_t code = range.first; code <= range.last; ++code) classes[code] = kind;
  }
  return classes;
}

// Calls fn(offset, step) for every invalid sequence until it returns false.
template <class Fn>
void each_invalid(std::string_view text, Fn&& fn) {
  size_t at = 0;
  while (at < text.size()) {
    if (at + 8 <= text.size()) {  // eight ASCII bytes at once
      uint64_t word;
      std::memcpy(&word, text.data() + at, 8);
      if ((word & 0x8080808080808080ull) == 0) {
        at += 8;
        continue;
      }
    }
    const Utf8Step step = decode_utf8(text, at);
    if (!step.valid && !fn(at, step)) return;
    at += step.length;
  }
}

}  // namespace

CharClass char_class(uint32_t code) {
  static const std::vector<CharClass> classes = make_classes();
  return code < kCodePoints ? classes[code] : CharClass::other;
}

Utf8Step decode_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return {lead, 1, true, false};
  // Bounds of the second byte exclude overlong forms, surrogates and code points above U+10FFFF (Unicode, table 3-7).
  int more = 0;
  uint8_t low = 0x80, high = 0xBF;
  uint32_t code = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    more = 1, code = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    more = 2, code = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    more = 3, code = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {kReplacement, 1, false, false};
  }
  for (int i = 1; i <= more; ++i) {
    const uint8_t length = static_cast<uint8_t>(i);
    if (at + i >= text.size()) return {kReplacement, length, false, true};
    const uint8_t next = byte(at + i);
    if (next < low || next > high) return {kReplacement, length, false, false};
    code = (code << 6) | (next & 0x3F);
    low = 0x80, high = 0xBF;
  }
  return {code, static_cast<uint8_t>(more + 1), true, false};
}

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  }
}

size_t find_invalid_utf8(std::string_view text) {
  size_t found = std::string_view::npos;
  each_invalid(text, [&](size_t at, const Utf8Step&) {
    found = at;
    return false;
  });
  return found;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  size_t copied = 0;
  each_invalid(text, [&](size_t at, const Utf8Step& step) {
    out.append(text, copied, at - copied);
    append_utf8(out, kReplacement);
    copied = at + step.length;
    return true;
  });
  out.append(text, copied, text.size() - copied);
  return out;
}

size_t count_invalid_utf8(std::string_view text) {
  size_t count = 0;
  each_invalid(text, [&](size_t, const Utf8Step&) {
    ++count;
    return true;
  });
  return count;
}

}  // namespace accrete
