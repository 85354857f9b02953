// Checksums: SHA-256 (identity of weights and data), CRC-32C (TensorBoard records) and CRC-32 (zip archives).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace accrete {

// SHA-256 (FIPS 180-4), fed in pieces.
class Sha256 {
 public:
  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  std::string hex() const;  // 64 lower-case digits for everything fed so far; more may follow

 private:
  void block(const uint8_t* bytes);  // one 64-byte block

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  uint64_t length_ = 0;  // bytes fed
};

std::string sha256_hex(std::string_view text);

// CRC-32C (Castagnoli): reflected polynomial 0x82F63B78, start and end inverted. crc32c("123456789") = 0xE3069283.
uint32_t crc32c(std::string_view bytes);
// CRC-32 of zip and PNG: polynomial 0xEDB88320. crc32("123456789") = 0xCBF43926. `before`: that of the bytes in front.
uint32_t crc32(std::string_view bytes, uint32_t before = 0);

}  // namespace accrete
