// Many words of one Philox stream at once: the rounds run side by side on several blocks, which the compiler turns into
// vector code.
#pragma once

#include <cstdint>

#include "kernels/philox.h"

namespace accrete::kernels {

inline constexpr int kPhiloxBlocks = 32;
inline constexpr int kPhiloxWords = 4 * kPhiloxBlocks;

// words[4*i + j] = word j of block first_block + i, i = 0 .. kPhiloxBlocks-1; the same bits as random_words.
inline void many_random_words(const RandomKey& key, uint64_t first_block, uint32_t* words) {
  const uint64_t k = key.seed ^ (key.stream * 0x9E3779B97F4A7C15ull);
  uint32_t c0[kPhiloxBlocks], c1[kPhiloxBlocks], c2[kPhiloxBlocks], c3[kPhiloxBlocks];
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    const uint64_t block = first_block + static_cast<uint64_t>(i);
    c0[i] = static_cast<uint32_t>(block);
    c1[i] = static_cast<uint32_t>(block >> 32);
    c2[i] = static_cast<uint32_t>(key.step);
    c3[i] = static_cast<uint32_t>(key.step >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(k), k1 = static_cast<uint32_t>(k >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int i = 0; i < kPhiloxBlocks; ++i) {
      const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0[i];
      const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2[i];
      const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c0[i] = n0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = n2;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma omp simd
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

// body(i, word) style loop in batches: calls body(offset, count, words) with the words of elements first + offset ..
// first + offset + count - 1, covering n elements.
template <class Body>
inline void for_random_words(const RandomKey& key, uint64_t first, int64_t n, const Body& body) {
  uint32_t words[kPhiloxWords];
  for (int64_t done = 0; done < n;) {
    const uint64_t element = first + static_cast<uint64_t>(done);
    const int64_t skip = static_cast<int64_t>(element % 4);
    const int64_t count = n - done < kPhiloxWords - skip ? n - done : kPhiloxWords - skip;
    many_random_words(key, element / 4, words);
    body(done, count, words + skip);
    done += count;
  }
}

}  // namespace accrete::kernels
