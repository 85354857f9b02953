// Rows of numbers in few bits, and the two products that a subspace needs of them: <row, g> and out += a * row.
//
//   f32, bf16   as they are
//   q8 q4 q2    groups of 64 neighbours: codes of so many bits, value = offset + scale * code, with scale and offset of
//               the group in f16. The group's smallest and largest value lie inside the codes: |x - value| <= scale
//               / 2.
//   q1          sign times the group's mean absolute value, stored the same way
//
// The products never write decoded rows to memory: inside a group, sum (offset + scale c) g = scale sum c g + offset
// sum g (twa spec 6.4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace accrete {

enum class Precision : uint8_t { f32, bf16, q8, q4, q2, q1 };
Precision precision_of(const std::string& name);  // by the names above; Error for others
int bits_of(Precision p);                         // of an element, without the groups' scales

inline constexpr int64_t kQuantGroup = 64;

// Bytes of n encoded elements: ceil(bits n / 8), and 4 for every begun group.
int64_t encoded_bytes(Precision p, int64_t n);
// x: (n) -> out: encoded_bytes(p, n). Values should be of size 1 or so (f16 scales).
void encode(Precision p, std::byte* out, const float* x, int64_t n);
void decode(Precision p, float* out, const std::byte* row, int64_t n);
// <row, g> in f64; g: (n).
double dot(Precision p, const std::byte* row, const float* g, int64_t n);
// out += a * row; out: (n) f64.
void axpy(Precision p, double* out, double a, const std::byte* row, int64_t n);

// IEEE half precision, rounded to nearest (ties to even); beyond its range: its largest number.
uint16_t to_half(float x);
float from_half(uint16_t bits);

}  // namespace accrete
