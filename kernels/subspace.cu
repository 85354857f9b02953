// Products with the stored rows of a subspace. Bandwidth-bound; bytes for r rows of D elements of b bits (and 1/2 bit
// for the groups of b <= 8):
//   project  r D b / 8 + 4 D   (the rows, g)
//   expand   r D b / 8 + 8 D   (the rows, start, out)
// GPT-2 124M with 20 rows reads and writes 21.4 GB a step in f32, 11.4 GB in bf16, 4.3 GB in q4: 5.0, 2.7 and 1.0 ms at
// the H200's measured 4.3 TB/s. Codes are decoded in registers. project takes kRows rows at a time, the blocks of one
// chunk side by side, so that all but the first of them find g in the cache.
//
// Precision: a thread adds the f32 products of its 16 elements of a row (project), or of an element with kRows rows
// (expand), in f32, and everything beyond in f64. So a projection is off by less than 1e-6 |row| |g| at worst, since 16
// roundings of 2^-24 are, and by some 1e-9 in tests: as good as f64 throughout, with one conversion for 16 products,
// which costs no time that shows, also where a GPU has little f64.
#include "kernels/subspace.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

constexpr int kRows = 8;
constexpr int kEach = static_cast<int>(kSubspaceTile) / kBlockSize;  // elements of a thread

// One thread's elements of a tile: packs of W neighbours, as many as one load brings, pack p from element first(p) on.
// Codes: W = kEach, so that a thread meets one group.
template <int kBits>
struct Lane {
  static constexpr bool kCodes = kBits < 16;
  static constexpr int W = kCodes ? kEach : 128 / kBits, kPacks = kEach / W;
  static constexpr int kWords = kBits == 1 ? 1 : W * kBits / 32;   // of a pack
  static constexpr int kAtOnce = kBits >= 8 ? 32 / kBits : kRows;  // rows on their way at a time: 64 bytes
  int64_t count;                                                   // elements of the tile

  __device__ __forceinline__ int64_t first(int p) const {
    return (static_cast<int64_t>(p) * kBlockSize + threadIdx.x) * W;
  }
  // v = x[first(p) ...], x a flat buffer from the tile's begin on; zeros beyond the tile.
  __device__ __forceinline__ void load(float (&v)[kEach], const float* x) const {
    ACCRETE_UNROLL
    for (int i = 0; i < kEach; i += 4) {
      float four[4];
      load_row<4, true>(four, x, first(i / W) + i % W, count);
      ACCRETE_UNROLL
      for (int j = 0; j < 4; ++j) v[i + j] = four[j];
    }
  }
  __device__ __forceinline__ void store(float* x, const float (&v)[kEach]) const {
    ACCRETE_UNROLL
    for (int i = 0; i < kEach; i += 4) {
      const float four[4] = {v[i], v[i + 1], v[i + 2], v[i + 3]};
      store_row<4, true>(x, first(i / W) + i % W, count, four);
    }
  }

  // The same elements of a stored row, as they are stored; zeros beyond the tile, and everywhere for a row that is not
  // `there`.
  struct Stored {
    Pack<uint32_t, kWords> words[kPacks];
    uint32_t group = 0;
  };
  __device__ __forceinline__ Stored fetch(const uint8_t* row, bool there) const {
    Stored s{};
    ACCRETE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      if (!there || first(p) >= count) continue;
      const uint8_t* at = row + subspace_codes_at(kBits, count) + first(p) * kBits / 8;
      if constexpr (kBits == 1) {
        s.words[p].e[0] = load_pack<1>(reinterpret_cast<const f16*>(at)).e[0].bits;
      } else {
        s.words[p] = load_words<W * kBits / 8>(at);
      }
      if constexpr (kCodes) s.group = load_words<4>(row + first(p) / kSubspaceGroup * 4).e[0];
    }
    return s;
  }
  // As numbers: value = offset + scale * x, for codes.
  static __device__ __forceinline__ void decode(float (&x)[kEach], float& scale, float& offset, const Stored& s) {
    ACCRETE_UNROLL
    for (int j = 0; j < kEach; ++j) {
      const uint32_t word = s.words[j / W].e[j % W * kBits / 32];
      if constexpr (kBits == 32) {
        x[j] = bits_to_float(word);
      } else if constexpr (kBits == 16) {
        x[j] = to_float(bf16{static_cast<uint16_t>(word >> j % 2 * 16)});
      } else {  // 2^23 + code as bits: at full rate, which conversions of integers are not
        x[j] = bits_to_float(0x4b000000u | (word >> j * kBits % 32 & ((1u << kBits) - 1))) - 0x1p23f;
      }
    }
    scale = to_float(f16{static_cast<uint16_t>(s.group)});
    offset = to_float(f16{static_cast<uint16_t>(s.group >> 16)});
  }
  // fn(q, x, scale, offset) for kRows rows from `row` on, of which the first `rows` are there, the others zeros.
  template <class Fn>
  __device__ __forceinline__ void each_row(const uint8_t* row, int64_t row_bytes, int64_t rows, const Fn& fn) const {
    ACCRETE_UNROLL
    for (int begin = 0; begin < kRows; begin += kAtOnce) {
      Stored stored[kAtOnce];
      ACCRETE_UNROLL
      for (int i = 0; i < kAtOnce; ++i) stored[i] = fetch(row + (begin + i) * row_bytes, begin + i < rows);
      ACCRETE_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        float x[kEach], scale = 0.0f, offset = 0.0f;
        decode(x, scale, offset, stored[i]);
        fn(begin + i, x, scale, offset);
      }
    }
  }
};

__device__ __forceinline__ double sum_of_warp(double v) {
  ACCRETE_UNROLL
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) v += __shfl_xor_sync(kFullWarp, v, lanes);
  return v;
}

// parts[c, q] = sum over the elements of chunk c of row q times g. A block takes kRows rows of one chunk.
template <int kBits>
__global__ void __launch_bounds__(kBlockSize) project_kernel(float* parts, const float* g, Subspace s, int64_t turns) {
  ACCRETE_SHARED(double, part, kRows* kBlockWarps);
  const SubspaceChunk chunk = s.chunks[blockIdx.x / turns];
  const int64_t first = blockIdx.x % turns * kRows, left = s.blocks[chunk.block].rows - first;
  double sums[kRows] = {};
  for (int64_t i = chunk.first; i < chunk.last; ++i) {
    const SubspaceTile t = s.tiles[i];
    const Lane<kBits> lane{t.count};
    const int64_t row_bytes = subspace_row_bytes(kBits, t.count);
    const uint8_t* row = s.bytes + t.offset + first * row_bytes;
    float v[kEach], plain = 0.0f;
    lane.load(v, g + t.begin);
    ACCRETE_UNROLL
    for (int j = 0; j < kEach; ++j) plain += v[j];
    lane.each_row(row, row_bytes, left, [&](int q, const float(&x)[kEach], float scale, float offset) {
      float sum = 0.0f;
      ACCRETE_UNROLL
      for (int j = 0; j < kEach; ++j) sum += x[j] * v[j];
      sums[q] += static_cast<double>(Lane<kBits>::kCodes ? scale * sum + offset * plain : sum);
    });
  }
  ACCRETE_UNROLL
  for (int q = 0; q < kRows; ++q) {
    const double sum = sum_of_warp(sums[q]);
    if (threadIdx.x % kWarpSize == 0) part[q * kBlockWarps + threadIdx.x / kWarpSize] = sum;
  }
  __syncthreads();
  const auto q = static_cast<int64_t>(threadIdx.x);
  if (q < kRows && q < left) {
    double total = 0;
    for (int w = 0; w < kBlockWarps; ++w) total += part[q * kBlockWarps + w];
    parts[blockIdx.x / turns * s.rank + first + q] = static_cast<float>(total);
  }
}

// out[l, q] = the sum of parts[c, q] over the chunks of block l. A warp for each.
__global__ void finish_project_kernel(float* out, const float* parts, Subspace s) {
  using Team = RowTeam<false>;
  for (int64_t i = Team::first_row(); i < s.n_blocks * s.rank; i += Team::row_step()) {
    const SubspaceBlock block = s.blocks[i / s.rank];
    const int64_t q = i % s.rank;
    double sum = 0;
    for (int64_t c = block.first + Team::rank(); q < block.rows && c < block.last; c += Team::kSize)
      sum += static_cast<double>(parts[c * s.rank + q]);
    sum = sum_of_warp(sum);
    if (Team::rank() == 0) out[i] = static_cast<float>(sum);
  }
}

// A block for each tile.
template <int kBits>
__global__ void __launch_bounds__(kBlockSize)
    expand_kernel(float* out, const float* start, const float* x, Subspace s) {
  const SubspaceTile t = s.tiles[blockIdx.x];
  const Lane<kBits> lane{t.count};
  const int64_t rows = s.blocks[t.block].rows, row_bytes = subspace_row_bytes(kBits, t.count);
  x += t.block * s.rank;
  double change[kEach] = {};
  for (int64_t first = 0; first < rows; first += kRows) {
    const uint8_t* row = s.bytes + t.offset + first * row_bytes;
    float sum[kEach] = {}, offsets = 0.0f;
    lane.each_row(row, row_bytes, rows - first, [&](int q, const float(&v)[kEach], float scale, float offset) {
      const float a = first + q < rows ? x[first + q] : 0.0f, scaled = Lane<kBits>::kCodes ? a * scale : a;
      ACCRETE_UNROLL
      for (int j = 0; j < kEach; ++j) sum[j] += scaled * v[j];
      offsets += a * offset;
    });
    ACCRETE_UNROLL
    for (int j = 0; j < kEach; ++j) change[j] += static_cast<double>(Lane<kBits>::kCodes ? sum[j] + offsets : sum[j]);
  }
  float v[kEach];
  lane.load(v, start + t.begin);
  ACCRETE_UNROLL
  for (int j = 0; j < kEach; ++j)
    v[j] = change[j] == 0.0 ? v[j] : static_cast<float>(static_cast<double>(v[j]) + change[j]);
  lane.store(out + t.begin, v);
}

// Calls fn.operator()<bits>().
template <class Fn>
void with_bits(int bits, Fn&& fn) {
  if (bits == 32) return fn.template operator()<32>();
  if (bits == 16) return fn.template operator()<16>();
  if (bits == 8) return fn.template operator()<8>();
  if (bits == 4) return fn.template operator()<4>();
  if (bits == 2) return fn.template operator()<2>();
  fn.template operator()<1>();
}

}  // namespace

void subspace_project(const Gpu& ctx, float* out, float* parts, const float* g, const Subspace& s) {
  if (s.n_blocks * s.rank == 0) return;
  const int64_t turns = (s.rank + kRows - 1) / kRows;
  with_bits(s.bits, [&]<int kBits>() {
    if (s.n_chunks == 0) return;
    ACCRETE_LAUNCH(project_kernel<kBits>, dim3{static_cast<uint32_t>(s.n_chunks * turns)}, dim3{kBlockSize}, 0, ctx,
                   parts, g, s, turns);
  });
  ACCRETE_LAUNCH(finish_project_kernel, dim3{RowTeam<false>::blocks(s.n_blocks * s.rank)}, dim3{kBlockSize}, 0, ctx,
                 out, parts, s);
}

void subspace_expand(const Gpu& ctx, float* out, const float* start, const float* x, const Subspace& s) {
  if (s.n_tiles == 0) return;
  with_bits(s.bits, [&]<int kBits>() {
    ACCRETE_LAUNCH(expand_kernel<kBits>, dim3{static_cast<uint32_t>(s.n_tiles)}, dim3{kBlockSize}, 0, ctx, out, start,
                   x, s);
  });
}

}  // namespace accrete::kernels
