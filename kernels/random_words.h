// Many words of one Philox stream at once: the rounds run side by side on several blocks, one block per vector lane.
#pragma once

#include <cstdint>

#include "kernels/philox.h"
#include "kernels/simd.h"

namespace accrete::kernels {

inline constexpr int kPhiloxBlocks = 2 * kLanes;
inline constexpr int kPhiloxWords = 4 * kPhiloxBlocks;

// The lower 32 bits of every 64-bit lane times k.
inline WideVec multiply_low(WideVec a, uint32_t k) {
#if defined(__AVX512F__)
  return reinterpret_cast<WideVec>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), _mm512_set1_epi64(static_cast<int64_t>(k))));
#elif defined(__AVX2__)
  return reinterpret_cast<WideVec>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<int64_t>(k))));
#else
  return (a & 0xffffffffull) * static_cast<uint64_t>(k);
#endif
}

// Upper and lower halves of the products of every 32-bit lane with k: even lanes and odd lanes apart.
inline void mul_hi_lo(UintVec a, uint32_t k, UintVec& hi, UintVec& lo) {
  const WideVec even = multiply_low(reinterpret_cast<WideVec>(a), k);
  const WideVec odd = multiply_low(reinterpret_cast<WideVec>(a) >> 32, k);
  hi = reinterpret_cast<UintVec>((even >> 32) | (odd & 0xffffffff00000000ull));
  lo = reinterpret_cast<UintVec>((even & 0xffffffffull) | (odd << 32));
}

// words[4*i + j] = word j of block first_block + i, i = 0 .. kPhiloxBlocks-1; the same bits as random_words.
inline void many_random_words(const RandomKey& key, uint64_t first_block, uint32_t* words) {
  const uint64_t k = key.seed ^ (key.stream * 0x9E3779B97F4A7C15ull);
  constexpr int kGroups = kPhiloxBlocks / kLanes;  // independent chains, so that one multiply does not wait for another
  UintVec c0[kGroups], c1[kGroups], c2[kGroups], c3[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    uint32_t low[kLanes], high[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t block = first_block + static_cast<uint64_t>(g * kLanes + lane);
      low[lane] = static_cast<uint32_t>(block);
      high[lane] = static_cast<uint32_t>(block >> 32);
    }
    std::memcpy(&c0[g], low, sizeof low);
    std::memcpy(&c1[g], high, sizeof high);
    c2[g] = UintVec{} + static_cast<uint32_t>(key.step);
    c3[g] = UintVec{} + static_cast<uint32_t>(key.step >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(k), k1 = static_cast<uint32_t>(k >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int g = 0; g < kGroups; ++g) {
      UintVec hi0, lo0, hi1, lo1;
      mul_hi_lo(c0[g], 0xD2511F53u, hi0, lo0);
      mul_hi_lo(c2[g], 0xCD9E8D57u, hi1, lo1);
      c0[g] = hi1 ^ c1[g] ^ k0;
      c1[g] = lo1;
      c2[g] = hi0 ^ c3[g] ^ k1;
      c3[g] = lo0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int g = 0; g < kGroups; ++g) {
    uint32_t planes[4][kLanes];
    std::memcpy(planes[0], &c0[g], sizeof planes[0]);
    std::memcpy(planes[1], &c1[g], sizeof planes[1]);
    std::memcpy(planes[2], &c2[g], sizeof planes[2]);
    std::memcpy(planes[3], &c3[g], sizeof planes[3]);
    for (int lane = 0; lane < kLanes; ++lane)
      for (int j = 0; j < 4; ++j) words[4 * (g * kLanes + lane) + j] = planes[j][lane];
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

// v where the word says keep (word >= threshold), else 0.
inline float where_kept(const uint32_t* word, uint32_t threshold, float v) { return *word >= threshold ? v : 0.0f; }
inline Vec where_kept(const uint32_t* words, uint32_t threshold, Vec v) {
  UintVec w;
  std::memcpy(&w, words, sizeof w);
  return w >= threshold ? v : Vec{};
}

}  // namespace accrete::kernels
