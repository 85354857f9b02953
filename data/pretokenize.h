// GPT-2's split of a text into pieces, and its printable names for bytes (openai/gpt-2: src/encoder.py).
// Pieces never merge with each other in byte-level BPE, so they are also where a text may be cut for threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace accrete {

// End of the piece that starts at text[begin], begin < text.size(). Pieces are the matches of
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// (first alternative that matches, greedy). Bytes that are not UTF-8 count as U+FFFD, a symbol.
size_t piece_end(std::string_view text, size_t begin);

// Offsets 0 = o[0] < o[1] < ... = text.size() of at most `parts` stretches of about equal length that start where a
// piece starts, whatever comes before: at the first white space after something else. Each stretch may be split on its
// own as long as piece_end still sees the whole text.
std::vector<size_t> piece_cuts(std::string_view text, size_t parts);

// Byte table: bytes 33..126, 161..172, 174..255 are written as the character of the same number, the other 68, in
// increasing order, as U+0100, U+0101, ... So a space is U+0120 and every token is a printable string.
const std::array<uint32_t, 256>& byte_characters();
std::string bytes_to_characters(std::string_view bytes);
// The inverse. False when a character is not in the table; `bytes` then holds what came before.
bool characters_to_bytes(std::string_view characters, std::string& bytes);

}  // namespace accrete
