// Philox 4x32-10 (Salmon et al., SC 2011): random numbers with an address instead of a state.
// The same (key, counter) gives the same four words on every backend, in any order, on any number of threads.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/types.h"

namespace accrete {

// Address of a stream of random numbers. `seed` belongs to the run, `stream` names the purpose (a hash of the module
// path), `step` counts micro-batches; the element index completes the address.
struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;
  uint64_t step = 0;
  // Device memory that holds the step; where it is not null, `step` does not count. Launches that are recorded once and
  // replayed draw new numbers in every step this way.
  const uint64_t* live_step = nullptr;
};

struct Philox4 {
  uint32_t v[4];
};

ACCRETE_HD void mul_hi_lo(uint32_t a, uint32_t b, uint32_t& hi, uint32_t& lo) {
  const uint64_t p = static_cast<uint64_t>(a) * b;
  hi = static_cast<uint32_t>(p >> 32);
  lo = static_cast<uint32_t>(p);
}

// The raw generator: 10 rounds on a 128-bit counter with a 64-bit key.
ACCRETE_HD Philox4 philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    uint32_t hi0, lo0, hi1, lo1;
    mul_hi_lo(0xD2511F53u, c0, hi0, lo0);
    mul_hi_lo(0xCD9E8D57u, c2, hi1, lo1);
    const uint32_t n0 = hi1 ^ c1 ^ k0;
    const uint32_t n2 = hi0 ^ c3 ^ k1;
    c0 = n0;
    c1 = lo1;
    c2 = n2;
    c3 = lo0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Philox4{{c0, c1, c2, c3}};
}

// Four words for elements 4*block .. 4*block+3 of the stream: key = seed mixed with the stream, counter = (block,
// step).
ACCRETE_HD Philox4 random_words(const RandomKey& key, uint64_t block) {
  const uint64_t k = key.seed ^ (key.stream * 0x9E3779B97F4A7C15ull);
  const uint64_t step = key.live_step ? *key.live_step : key.step;
  return philox4x32(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), static_cast<uint32_t>(step),
                    static_cast<uint32_t>(step >> 32), static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32));
}

// Uniform in [0, 1) with 24 bits.
ACCRETE_HD float to_uniform(uint32_t word) { return static_cast<float>(word >> 8) * (1.0f / 16777216.0f); }

// Standard normal from two words: Box-Muller in double, sqrt(-2 ln u) cos(2 pi v) with u in (0, 1], v in [0, 1).
ACCRETE_HD float to_normal(uint32_t w0, uint32_t w1) {
  const double u = (static_cast<double>(w0) + 1.0) * (1.0 / 4294967296.0);
  const double v = static_cast<double>(w1) * (1.0 / 4294967296.0);
  return static_cast<float>(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

// Dropout keeps an element when its 32-bit word is >= this threshold: exact integer test, the same on every backend.
ACCRETE_HD uint32_t drop_threshold(float p) {
  const double t = static_cast<double>(p) * 4294967296.0;
  return t >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(t);
}

}  // namespace accrete
