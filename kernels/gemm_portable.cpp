// Blocked matrix product without a library (Goto & van de Geijn 2008). A strip of B is packed once into panels as wide
// as the register tile; every task packs a block of A and runs the register tile over its share of C:
//
//   for each strip of N  (so that K x strip fits the caches)         pack B:   panels (K, kTileCols), all threads
//     for each block of rows and part of the strip, in parallel
//       for each block of K                                          pack A:   panels (kTileRows, k) ; k-major
//         C block (f32, in cache) += A panel * B panel
//       write C: + bias, + old C, rounded to the output type
#include "kernels/gemm_variants.h"
#include "kernels/micro_kernel.h"
#include "kernels/parallel.h"

namespace accrete::kernels {

namespace {

constexpr int64_t kBlockRows = 16 * kTileRows;      // rows of C in one task
constexpr int64_t kBlockK = 256;                    // depth of one packed block of A
constexpr int64_t kTaskCols = 8 * kTileCols;        // columns of C in one task
constexpr int64_t kStripFloats = int64_t{1} << 21;  // packed B: 8 MiB

int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// panel[k * kTileCols + c] = op(B)(k, c); columns beyond `cols` are zero.
template <class T>
void pack_b(float* panel, const T* b, int64_t ldb, bool trans, int64_t K, int64_t cols) {
  if (!trans) {
    for (int64_t k = 0; k < K; ++k) {
      float* out = panel + k * kTileCols;
      each(0, cols, [=]<class V>(int64_t c) { store(out + c, load<V>(b + k * ldb + c)); });
      for (int64_t c = cols; c < kTileCols; ++c) out[c] = 0.0f;
    }
    return;
  }
  constexpr int64_t kTile = 16;  // a tile of source lines and panel lines stays in the first-level cache
  for (int64_t k0 = 0; k0 < K; k0 += kTile) {
    const int64_t k1 = std::min(K, k0 + kTile);
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t k = k0; k < k1; ++k) panel[k * kTileCols + c] = to_float(b[c * ldb + k]);
    for (int64_t c = cols; c < kTileCols; ++c)
      for (int64_t k = k0; k < k1; ++k) panel[k * kTileCols + c] = 0.0f;
  }
}

// block: panels of kTileRows rows, each k-major: block[(r / kTileRows) * kTileRows * K + k * kTileRows + r % kTileRows]
template <class T>
void pack_a(float* block, const T* a, int64_t lda, bool trans, int64_t rows, int64_t K) {
  for (int64_t r0 = 0; r0 < rows; r0 += kTileRows) {
    const int64_t count = std::min<int64_t>(kTileRows, rows - r0);
    float* panel = block + r0 * K;
    for (int64_t r = 0; r < kTileRows; ++r) {
      if (r >= count) {
        for (int64_t k = 0; k < K; ++k) panel[k * kTileRows + r] = 0.0f;
      } else if (trans) {
        for (int64_t k = 0; k < K; ++k) panel[k * kTileRows + r] = to_float(a[k * lda + r0 + r]);
      } else {
        for (int64_t k = 0; k < K; ++k) panel[k * kTileRows + r] = to_float(a[(r0 + r) * lda + k]);
      }
    }
  }
}

// C rows = (+)= block + bias
template <class Out>
void write_block(Out* C, int64_t ldc, const float* block, int64_t block_ld, const float* bias, int64_t rows,
                 int64_t cols, bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    Out* out = C + r * ldc;
    const float* in = block + r * block_ld;
    each(0, cols, [=]<class V>(int64_t c) {
      V v = load<V>(in + c);
      if (bias) v += load<V>(bias + c);
      if (accumulate) v += load<V>(out + c);
      store(out + c, v);
    });
  }
}

template <class T, class Out>
void product(const Cpu& dev, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s) {
  thread_local Scratch<float> strip_memory;
  const int64_t strip_cols = std::clamp<int64_t>(kStripFloats / std::max<int64_t>(s.K, 1) / kTaskCols * kTaskCols,
                                                 kTaskCols, round_up(s.N, kTaskCols));
  float* strip = strip_memory.get(strip_cols * s.K);
  const int64_t row_blocks = (s.M + kBlockRows - 1) / kBlockRows;
  for (int64_t n0 = 0; n0 < s.N; n0 += strip_cols) {
    const int64_t width = std::min(strip_cols, s.N - n0);
    const int64_t panels = (width + kTileCols - 1) / kTileCols;
    for_blocks(dev, panels, 2 * width * s.K, [=](int64_t p) {
      const int64_t n = n0 + p * kTileCols;
      const T* b = s.trans_b ? B + n * s.ldb : B + n;
      pack_b(strip + p * kTileCols * s.K, b, s.ldb, s.trans_b, s.K, std::min<int64_t>(kTileCols, s.N - n));
    });
    const int64_t parts = (width + kTaskCols - 1) / kTaskCols;
    for_blocks(dev, row_blocks * parts, s.M * width * std::max<int64_t>(s.K / 8, 1), [=](int64_t task) {
      thread_local Scratch<float> a_memory, c_memory;
      const int64_t m = task / parts * kBlockRows, rows = std::min(kBlockRows, s.M - m);
      const int64_t c0 = task % parts * kTaskCols, cols = std::min(kTaskCols, width - c0);
      float* a_block = a_memory.get(kBlockRows * kBlockK);
      float* c_block = c_memory.get(kBlockRows * kTaskCols);
      if (s.K == 0) std::fill(c_block, c_block + kBlockRows * kTaskCols, 0.0f);
      for (int64_t k0 = 0; k0 < s.K; k0 += kBlockK) {
        const int64_t depth = std::min(kBlockK, s.K - k0);
        pack_a(a_block, s.trans_a ? A + k0 * s.lda + m : A + m * s.lda + k0, s.lda, s.trans_a, rows, depth);
        for (int64_t c = 0; c < cols; c += kTileCols) {
          const float* b = strip + (c0 + c) * s.K + k0 * kTileCols;
          for (int64_t r = 0; r < rows; r += kTileRows)
            tile_product<kTileRows, kTileVectors>(depth, a_block + r * depth, 1, kTileRows, b, kTileCols,
                                                  c_block + r * kTaskCols + c, kTaskCols, k0 > 0);
        }
      }
      write_block(C + m * s.ldc + n0 + c0, s.ldc, c_block, kTaskCols, bias ? bias + n0 + c0 : nullptr, rows, cols,
                  s.accumulate);
    });
  }
}

}  // namespace

template <class T, class Out>
void gemm_portable(const Cpu& dev, Out* C, const T* A, const T* B, const float* bias, const GemmShape& shape) {
  const GemmShape s = complete(shape);
  if (s.M <= 0 || s.N <= 0) return;
  for (int64_t i = 0; i < s.batch; ++i) product(dev, C + i * s.batch_c, A + i * s.batch_a, B + i * s.batch_b, bias, s);
}

template void gemm_portable<float, float>(const Cpu&, float*, const float*, const float*, const float*,
                                          const GemmShape&);
template void gemm_portable<bf16, bf16>(const Cpu&, bf16*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm_portable<f16, f16>(const Cpu&, f16*, const f16*, const f16*, const float*, const GemmShape&);
template void gemm_portable<bf16, float>(const Cpu&, float*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm_portable<f16, float>(const Cpu&, float*, const f16*, const f16*, const float*, const GemmShape&);

#if !defined(ACCRETE_WITH_ONEDNN)
template <class T, class Out>
void gemm(const Cpu& dev, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s) {
  gemm_portable(dev, C, A, B, bias, s);
}
template void gemm<float, float>(const Cpu&, float*, const float*, const float*, const float*, const GemmShape&);
template void gemm<bf16, bf16>(const Cpu&, bf16*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm<f16, f16>(const Cpu&, f16*, const f16*, const f16*, const float*, const GemmShape&);
template void gemm<bf16, float>(const Cpu&, float*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm<f16, float>(const Cpu&, float*, const f16*, const f16*, const float*, const GemmShape&);

const char* gemm_backend() { return "portable"; }
#endif

}  // namespace accrete::kernels
