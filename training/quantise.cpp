#include "training/quantise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/core/dtype.h"
#include "engine/core/error.h"

namespace accrete {
namespace {

constexpr uint16_t kLargestHalf = 0x7bff;  // 65504

// The next number of the f16 grid, upwards or downwards.
uint16_t next_half(uint16_t h, bool up) {
  const bool negative = (h & 0x8000u) != 0;
  if ((h & 0x7fffu) == 0) return up ? 0x0001 : 0x8001;
  const auto next = static_cast<uint16_t>(negative == up ? h - 1 : h + 1);
  return (next & 0x7fffu) > kLargestHalf ? h : next;
}
uint16_t half_not_above(float x) {
  const uint16_t h = to_half(x);
  return from_half(h) > x ? next_half(h, false) : h;
}
uint16_t half_not_below(float x) {
  const uint16_t h = to_half(x);
  return from_half(h) < x ? next_half(h, true) : h;
}

struct Group {
  float scale = 0, offset = 0;
};

// Where the parts of an encoded row lie: the groups' numbers first, then the codes.
struct RowLayout {
  int bits;
  int64_t n, groups;
  RowLayout(Precision p, int64_t count) : bits(bits_of(p)), n(count), groups((count + kQuantGroup - 1) / kQuantGroup) {}
  int64_t size(int64_t g) const { return std::min(kQuantGroup, n - g * kQuantGroup); }
  const std::byte* codes(const std::byte* row, int64_t g) const {
    return row + 4 * groups + g * kQuantGroup * bits / 8;
  }
};

Group read_group(const std::byte* row, int64_t g) {
  uint16_t h[2];
  std::memcpy(h, row + 4 * g, sizeof h);
  return {from_half(h[0]), from_half(h[1])};
}

// Codes of one group, widened to f32.
using Codes = std::array<float, kQuantGroup>;
template <int Bits>
void unpack(Codes& out, const std::byte* codes, int64_t bytes) {
  constexpr int kPer = 8 / Bits;
  constexpr unsigned kMask = (1u << Bits) - 1;
  for (int64_t b = 0; b < bytes; ++b) {
    const auto byte = std::to_integer<unsigned>(codes[b]);
    for (int i = 0; i < kPer; ++i)
      out[static_cast<size_t>(b * kPer + i)] = static_cast<float>((byte >> (i * Bits)) & kMask);
  }
}

Codes read_codes(const RowLayout& at, const std::byte* row, int64_t g) {
  Codes c{};
  const std::byte* codes = at.codes(row, g);
  const int64_t bytes = (at.size(g) * at.bits + 7) / 8;
  switch (at.bits) {
    case 8:
      unpack<8>(c, codes, bytes);
      break;
    case 4:
      unpack<4>(c, codes, bytes);
      break;
    case 2:
      unpack<2>(c, codes, bytes);
      break;
    default:
      unpack<1>(c, codes, bytes);
  }
  return c;
}

void encode_group(std::byte* row, const RowLayout& at, int64_t g, const float* x) {
  const int64_t n = at.size(g);
  uint16_t h[2];
  std::array<unsigned, kQuantGroup> codes{};
  if (at.bits == 1) {
    double mean = 0;
    for (int64_t k = 0; k < n; ++k) mean += std::fabs(x[k]);
    const uint16_t m = to_half(static_cast<float>(mean / static_cast<double>(n)));
    h[0] = to_half(2 * from_half(m)), h[1] = m | 0x8000u;
    for (int64_t k = 0; k < n; ++k) codes[static_cast<size_t>(k)] = x[k] >= 0;
  } else {
    const unsigned top = (1u << at.bits) - 1;
    const auto [low, high] = std::minmax_element(x, x + n);
    h[1] = half_not_above(*low);
    const float offset = from_half(h[1]);
    h[0] = half_not_below((*high - offset) / static_cast<float>(top));
    const float scale = from_half(h[0]);
    for (int64_t k = 0; k < n; ++k) {
      const float code = scale > 0 ? std::nearbyint((x[k] - offset) / scale) : 0.0f;
      codes[static_cast<size_t>(k)] = static_cast<unsigned>(std::clamp(code, 0.0f, static_cast<float>(top)));
    }
  }
  std::memcpy(row + 4 * g, h, sizeof h);
  const int per = 8 / at.bits;
  std::byte* out = row + (at.codes(row, g) - row);
  for (int64_t b = 0; b * per < n; ++b) {
    unsigned byte = 0;
    for (int i = 0; i < per; ++i) byte |= codes[static_cast<size_t>(b * per + i)] << (i * at.bits);
    out[b] = static_cast<std::byte>(byte);
  }
}

// Eight sums side by side, so that the compiler uses whole registers; their order is fixed.
template <class Value>
double dot_of(int64_t n, const float* g, const Value& value) {
  double sums[8] = {};
  int64_t k = 0;
  for (; k + 8 <= n; k += 8)
    for (int j = 0; j < 8; ++j) sums[j] += static_cast<double>(value(k + j)) * static_cast<double>(g[k + j]);
  for (; k < n; ++k) sums[0] += static_cast<double>(value(k)) * static_cast<double>(g[k]);
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

const float* floats(const std::byte* row) { return reinterpret_cast<const float*>(row); }
const bf16* halves(const std::byte* row) { return reinterpret_cast<const bf16*>(row); }

}  // namespace

Precision precision_of(const std::string& name) {
  constexpr const char* kNames[] = {"f32", "bf16", "q8", "q4", "q2", "q1"};
  for (int i = 0; i < 6; ++i)
    if (name == kNames[i]) return static_cast<Precision>(i);
  fail("basis", "unknown precision \"", name, "\"; expected f32, bf16, q8, q4, q2 or q1");
}

int bits_of(Precision p) {
  constexpr int kBits[] = {32, 16, 8, 4, 2, 1};
  return kBits[static_cast<size_t>(p)];
}

int64_t encoded_bytes(Precision p, int64_t n) {
  const int64_t codes = (n * bits_of(p) + 7) / 8;
  return p == Precision::f32 || p == Precision::bf16 ? codes : codes + 4 * ((n + kQuantGroup - 1) / kQuantGroup);
}

void encode(Precision p, std::byte* out, const float* x, int64_t n) {
  if (n == 0) return;
  if (p == Precision::f32) {
    std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  } else if (p == Precision::bf16) {
    for (int64_t k = 0; k < n; ++k) {
      const bf16 v = from_float<bf16>(x[k]);
      std::memcpy(out + 2 * k, &v, sizeof v);
    }
  } else {
    const RowLayout at(p, n);
    for (int64_t g = 0; g < at.groups; ++g) encode_group(out, at, g, x + g * kQuantGroup);
  }
}

void decode(Precision p, float* out, const std::byte* row, int64_t n) {
  if (n == 0) return;
  if (p == Precision::f32) {
    std::memcpy(out, row, static_cast<size_t>(n) * sizeof(float));
  } else if (p == Precision::bf16) {
    for (int64_t k = 0; k < n; ++k) out[k] = to_float(halves(row)[k]);
  } else {
    const RowLayout at(p, n);
    for (int64_t g = 0; g < at.groups; ++g) {
      const Group group = read_group(row, g);
      const Codes c = read_codes(at, row, g);
      for (int64_t k = 0; k < at.size(g); ++k)
        out[g * kQuantGroup + k] = group.offset + group.scale * c[static_cast<size_t>(k)];
    }
  }
}

double dot(Precision p, const std::byte* row, const float* g, int64_t n) {
  if (p == Precision::f32) return dot_of(n, g, [x = floats(row)](int64_t k) { return x[k]; });
  if (p == Precision::bf16) return dot_of(n, g, [x = halves(row)](int64_t k) { return to_float(x[k]); });
  const RowLayout at(p, n);
  double sum = 0;
  for (int64_t i = 0; i < at.groups; ++i) {
    const Group group = read_group(row, i);
    const Codes c = read_codes(at, row, i);
    const float* x = g + i * kQuantGroup;
    const double codes = dot_of(at.size(i), x, [&](int64_t k) { return c[static_cast<size_t>(k)]; });
    const double plain = dot_of(at.size(i), x, [](int64_t) { return 1.0f; });
    sum += static_cast<double>(group.scale) * codes + static_cast<double>(group.offset) * plain;
  }
  return sum;
}

void axpy(Precision p, double* out, double a, const std::byte* row, int64_t n) {
  if (p == Precision::f32) {
    for (int64_t k = 0; k < n; ++k) out[k] += a * static_cast<double>(floats(row)[k]);
  } else if (p == Precision::bf16) {
    for (int64_t k = 0; k < n; ++k) out[k] += a * static_cast<double>(to_float(halves(row)[k]));
  } else {
    const RowLayout at(p, n);
    for (int64_t i = 0; i < at.groups; ++i) {
      const Group group = read_group(row, i);
      const Codes c = read_codes(at, row, i);
      const double scale = a * static_cast<double>(group.scale), offset = a * static_cast<double>(group.offset);
      double* y = out + i * kQuantGroup;
      for (int64_t k = 0; k < at.size(i); ++k) y[k] += offset + scale * static_cast<double>(c[static_cast<size_t>(k)]);
    }
  }
}

uint16_t to_half(float x) {
  const uint32_t u = float_to_bits(x), sign = (u >> 16) & 0x8000u;
  const float size = std::fabs(x);
  if (!(size < 65520.0f)) return static_cast<uint16_t>(sign | kLargestHalf);
  if (size < 6.103515625e-05f)  // below 2^-14: steps of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(size * 16777216.0f)));
  const uint32_t bits = (u & 0x7fffffffu) - (112u << 23);  // exponent bias 127 -> 15
  return static_cast<uint16_t>(sign | ((bits + 0xfffu + ((bits >> 13) & 1u)) >> 13));
}

float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest < 0x400u) return bits_to_float(sign | float_to_bits(static_cast<float>(rest) / 16777216.0f));
  return bits_to_float(sign | ((rest << 13) + (112u << 23)));
}

}  // namespace accrete
