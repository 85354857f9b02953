// The innermost product of the CPU code: a small tile of C held in vector registers while k runs. Used by the portable
// matrix product and by attention.
#pragma once

#include "kernels/simd.h"

namespace accrete::kernels {

// Tile of C in registers: kTileRows x (kTileVectors * kLanes). AVX-512 has 32 registers, the others 16.
inline constexpr int kTileRows = 6;
#if defined(__AVX512F__)
inline constexpr int kTileVectors = 4;
#else
inline constexpr int kTileVectors = 2;
#endif
inline constexpr int kTileCols = kTileVectors * kLanes;

// C (+)= A B for one tile.   A(r, k) = a[r*a_row + k*a_col];  B(k, c) = b[k*ldb + c];  C(r, c) = c[r*ldc + c]
template <int Rows, int Vectors>
inline void tile_product(int64_t K, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t ldb, float* c,
                         int64_t ldc, bool accumulate) {
  Vec acc[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[r][v] = accumulate ? load<Vec>(c + r * ldc + v * kLanes) : Vec{};
  for (int64_t k = 0; k < K; ++k) {
    Vec row[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) row[v] = load<Vec>(b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vec x = broadcast(a[r * a_row]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[r][v] += x * row[v];
    }
    a += a_col;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(c + r * ldc + v * kLanes, acc[r][v]);
}

template <int Vectors>
inline void tile_rows(int64_t rows, int64_t K, const float* a, int64_t a_row, int64_t a_col, const float* b,
                      int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  switch (rows) {
    case 6:
      return tile_product<6, Vectors>(K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 5:
      return tile_product<5, Vectors>(K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 4:
      return tile_product<4, Vectors>(K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 3:
      return tile_product<3, Vectors>(K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    case 2:
      return tile_product<2, Vectors>(K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    default:
      return tile_product<1, Vectors>(K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
  }
}

// C (M x N) (+)= A (M x K) B (K x N), strides as above; N is a multiple of kLanes.
inline void small_product(int64_t M, int64_t N, int64_t K, const float* a, int64_t a_row, int64_t a_col, const float* b,
                          int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  for (int64_t n = 0; n < N; n += kTileCols) {
    const int64_t vectors = (N - n) / kLanes;
    for (int64_t m = 0; m < M; m += kTileRows) {
      const int64_t rows = M - m < kTileRows ? M - m : kTileRows;
      const float* a_tile = a + m * a_row;
      float* c_tile = c + m * ldc + n;
      if (vectors >= kTileVectors) {
        tile_rows<kTileVectors>(rows, K, a_tile, a_row, a_col, b + n, ldb, c_tile, ldc, accumulate);
      } else if (vectors == 3) {
        tile_rows<3>(rows, K, a_tile, a_row, a_col, b + n, ldb, c_tile, ldc, accumulate);
      } else if (vectors == 2) {
        tile_rows<2>(rows, K, a_tile, a_row, a_col, b + n, ldb, c_tile, ldc, accumulate);
      } else {
        tile_rows<1>(rows, K, a_tile, a_row, a_col, b + n, ldb, c_tile, ldc, accumulate);
      }
    }
  }
}

}  // namespace accrete::kernels
