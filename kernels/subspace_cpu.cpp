// Products with stored rows, in f64: their plain meaning. (Averaging on the CPU multiplies with the rows in their file,
// training/basis.h.)
#include "kernels/subspace.h"

#include <cstring>

#include "kernels/parallel.h"

namespace accrete::kernels {

namespace {

float value(const uint8_t* row, int bits, int64_t count, int64_t k) {
  const uint8_t* codes = row + subspace_codes_at(bits, count);
  if (bits == 32) {
    float x;
    std::memcpy(&x, codes + 4 * k, sizeof x);
    return x;
  }
  uint16_t h[2];
  if (bits == 16) {
    std::memcpy(h, codes + 2 * k, sizeof h[0]);
    return to_float(bf16{h[0]});
  }
  std::memcpy(h, row + k / kSubspaceGroup * 4, sizeof h);
  const int code = codes[k * bits / 8] >> (k * bits % 8) & ((1 << bits) - 1);
  return to_float(f16{h[1]}) + to_float(f16{h[0]}) * static_cast<float>(code);
}

const uint8_t* row_of(const Subspace& s, const SubspaceTile& t, int64_t q) {
  return s.bytes + t.offset + q * subspace_row_bytes(s.bits, t.count);
}

}  // namespace

void subspace_project(const Cpu& dev, float* out, float* parts, const float* g, const Subspace& s) {
  for_blocks(dev, s.n_chunks, s.n_tiles * kSubspaceTile * s.rank, [=](int64_t c) {
    const SubspaceChunk chunk = s.chunks[c];
    for (int64_t q = 0; q < s.blocks[chunk.block].rows; ++q) {
      double sum = 0;
      for (int64_t i = chunk.first; i < chunk.last; ++i) {
        const SubspaceTile& t = s.tiles[i];
        const uint8_t* row = row_of(s, t, q);
        for (int64_t k = 0; k < t.count; ++k)
          sum += static_cast<double>(value(row, s.bits, t.count, k)) * static_cast<double>(g[t.begin + k]);
      }
      parts[c * s.rank + q] = static_cast<float>(sum);
    }
  });
  for (int64_t l = 0; l < s.n_blocks; ++l)
    for (int64_t q = 0; q < s.rank; ++q) {
      double sum = 0;
      for (int64_t c = s.blocks[l].first; q < s.blocks[l].rows && c < s.blocks[l].last; ++c) {
        sum += static_cast<double>(parts[c * s.rank + q]);
      }
      out[l * s.rank + q] = static_cast<float>(sum);
    }
}

void subspace_expand(const Cpu& dev, float* out, const float* start, const float* x, const Subspace& s) {
  for_blocks(dev, s.n_tiles, s.n_tiles * kSubspaceTile * s.rank, [=](int64_t i) {
    const SubspaceTile& t = s.tiles[i];
    for (int64_t k = 0; k < t.count; ++k) {
      double change = 0;
      for (int64_t q = 0; q < s.blocks[t.block].rows; ++q)
        change += static_cast<double>(x[t.block * s.rank + q]) *
                  static_cast<double>(value(row_of(s, t, q), s.bits, t.count, k));
      const float from = start[t.begin + k];
      out[t.begin + k] = change == 0 ? from : static_cast<float>(static_cast<double>(from) + change);
    }
  });
}

}  // namespace accrete::kernels
