// Random numbers with an address: (seed, purpose, step, index). There is no hidden generator anywhere in the project.
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/philox.h"

namespace accrete {

// 64-bit FNV-1a: turns a purpose ("init", "blocks.3.attn.dropout") into the stream of a RandomKey.
constexpr uint64_t stream_of(std::string_view purpose) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : purpose) {
    h ^= static_cast<uint8_t>(c);
    h *= 0x100000001b3ull;
  }
  return h;
}

inline RandomKey random_key(uint64_t seed, std::string_view purpose, uint64_t step = 0) {
  return RandomKey{seed, stream_of(purpose), step};
}

// Word `index` of the stream; uniform integer in [0, bound) from 64 random bits (bias below bound / 2^64).
inline uint64_t random_below(const RandomKey& key, uint64_t index, uint64_t bound) {
  const Philox4 w = random_words(key, index);
  const uint64_t bits = (static_cast<uint64_t>(w.v[0]) << 32) | w.v[1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * bound) >> 64);
}

}  // namespace accrete
