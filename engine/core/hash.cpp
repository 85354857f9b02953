#include "engine/core/hash.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace accrete {
namespace {

// The 64 round constants: the first 32 fractional bits of the cube roots of the first 64 primes.
std::array<uint32_t, 64> round_constants() {
  std::array<uint32_t, 64> constants{};
  size_t count = 0;
  for (int n = 2; count < constants.size(); ++n) {
    bool prime = true;
    for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
    if (!prime) continue;
    const long double root = std::cbrt(static_cast<long double>(n));  // 64-bit mantissa: 3 + 32 bits are exact
    constants[count++] = static_cast<uint32_t>((root - std::floor(root)) * 4294967296.0L);
  }
  return constants;
}

std::array<uint32_t, 256> crc_table(uint32_t polynomial) {
  std::array<uint32_t, 256> table{};
  for (uint32_t n = 0; n < 256; ++n) {
    uint32_t value = n;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? polynomial : 0u);
    table[n] = value;
  }
  return table;
}

uint32_t updated_crc(const std::array<uint32_t, 256>& table, uint32_t before, std::string_view bytes) {
  uint32_t crc = ~before;
  for (const char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(byte)) & 255];
  return ~crc;
}

}  // namespace

void Sha256::block(const uint8_t* bytes) {
  static const std::array<uint32_t, 64> k = round_constants();
  uint32_t w[64];
  for (int i = 0; i < 16; ++i)
    w[i] = uint32_t{bytes[4 * i]} << 24 | uint32_t{bytes[4 * i + 1]} << 16 | uint32_t{bytes[4 * i + 2]} << 8 |
           bytes[4 * i + 3];
  for (int i = 16; i < 64; ++i) {
    const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (int i = 0; i < 64; ++i) {
    const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i];
    const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  const std::array<uint32_t, 8> added = {a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) state_[i] += added[i];
}

void Sha256::update(const void* data, size_t bytes) {
  const uint8_t* next = static_cast<const uint8_t*>(data);
  while (bytes > 0) {
    const size_t used = length_ % 64;
    if (used == 0 && bytes >= 64) {
      block(next);
      next += 64, bytes -= 64, length_ += 64;
      continue;
    }
    const size_t taken = std::min(bytes, 64 - used);
    std::memcpy(pending_.data() + used, next, taken);
    next += taken, bytes -= taken, length_ += taken;
    if (length_ % 64 == 0) block(pending_.data());
  }
}

std::string Sha256::hex() const {
  Sha256 last = *this;  // the padding must not disturb the running state
  const uint64_t bits = length_ * 8;
  const uint8_t one = 0x80, zero = 0;
  last.update(&one, 1);
  while (last.length_ % 64 != 56) last.update(&zero, 1);
  for (int shift = 56; shift >= 0; shift -= 8) {
    const uint8_t byte = static_cast<uint8_t>(bits >> shift);
    last.update(&byte, 1);
  }
  std::string text;
  for (uint32_t word : last.state_)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15];
  return text;
}

std::string sha256_hex(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex();
}

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = crc_table(0x82F63B78u);
  return updated_crc(table, 0, bytes);
}

uint32_t crc32(std::string_view bytes, uint32_t before) {
  static const std::array<uint32_t, 256> table = crc_table(0xEDB88320u);
  return updated_crc(table, before, bytes);
}

}  // namespace accrete
