// A random order of 0..n-1 without a table: entry i is computed from i alone.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "engine/core/random.h"

namespace accrete {

// The i-th entry (i < n) of the permutation chosen by `key`. A balanced Feistel network is a bijection of 2^(2h)
// numbers, whatever its round function; walking along its cycle until a number below n appears restricts it to 0..n-1
// (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). 2^(2h) < 4 n, so the walk takes 4 steps at most on
// average.
inline uint64_t permuted(uint64_t i, uint64_t n, const RandomKey& key) {
  constexpr uint64_t kRounds = 8;
  const int half = std::max(1, (static_cast<int>(std::bit_width(n - 1)) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = i >> half, right = i & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = random_words(key, round << 32 | right).v[0] & mask;
      left = std::exchange(right, left ^ mixed);
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

}  // namespace accrete
