// The matrix product, from a loop to tensor cores.   C = A B;  A: (M, K), B: (K, N), C: (M, N), row-major
// 2 M N K FLOPs on 4 (M K + K N + M N) bytes: at 4096^3 that is 680 FLOPs for every byte, so with enough reuse the
// multipliers decide and not memory. Everything below is about reuse. Training takes its products from cuBLASLt.
#include "kernels/ladder/ladder.h"
#include "kernels/mma.h"
#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

// Step 1. One thread per element of C. Neighbouring threads have neighbouring columns, so B is read 32 columns at a
// time and the A value is the same for the whole warp (one sector of 32 bytes). Each multiply-add asks for 4 + 1 bytes:
// 5 M N K in all. Even from the first-level cache that is far more than a multiprocessor can load while it multiplies.
__global__ void thread_per_element(float* c, const float* a, const float* b, int64_t M, int64_t N, int64_t K) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int64_t m = static_cast<int64_t>(blockIdx.y) * 8 + threadIdx.y;
  if (m >= M || n >= N) return;
  float sum = 0.0f;
  for (int64_t k = 0; k < K; ++k) sum += a[m * K + k] * b[k * N + n];
  c[m * N + n] = sum;
}

// Step 2. A block computes 16 x 16 elements. It brings a 16 x 16 tile of A and of B into shared memory, every thread
// loading one number of each, and uses each number 16 times: M N K / 2 bytes from memory. Two barriers per tile: nobody
// may read before all have written, nobody may overwrite before all have read. Now shared memory is the limit: two
// reads for each multiply-add.
__global__ void tile_16(float* c, const float* a, const float* b, int64_t M, int64_t N, int64_t K) {
  constexpr int kTile = 16;
  ACCRETE_SHARED(float, a_tile, kTile* kTile);
  ACCRETE_SHARED(float, b_tile, kTile* kTile);
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int64_t m = static_cast<int64_t>(blockIdx.y) * kTile + ty, n = static_cast<int64_t>(blockIdx.x) * kTile + tx;
  float sum = 0.0f;
  for (int64_t k0 = 0; k0 < K; k0 += kTile) {
    a_tile[ty * kTile + tx] = m < M && k0 + tx < K ? a[m * K + k0 + tx] : 0.0f;
    b_tile[ty * kTile + tx] = k0 + ty < K && n < N ? b[(k0 + ty) * N + n] : 0.0f;
    __syncthreads();
    ACCRETE_UNROLL
    for (int k = 0; k < kTile; ++k) sum += a_tile[ty * kTile + k] * b_tile[k * kTile + tx];
    __syncthreads();
  }
  if (m < M && n < N) c[m * N + n] = sum;
}

// Step 3. Each thread computes 4 x 4 elements from 4 + 4 numbers in registers: 16 multiply-adds for 8 reads of shared
// memory, four times as many as before. The block's tile is 64 x 64, so a number from memory is used 64 times: M N K /
// 8 bytes. A thread's rows and columns are 16 apart, so that neighbouring threads read neighbouring numbers: no bank is
// asked twice.
__global__ void registers_4x4(float* c, const float* a, const float* b, int64_t M, int64_t N, int64_t K) {
  constexpr int kTile = 64, kDepth = 16, kOwn = 4, kThreads = 16;
  ACCRETE_SHARED(float, a_tile, kTile*(kDepth + 1));  // one more column: rows begin in different banks
  ACCRETE_SHARED(float, b_tile, kDepth* kTile);
  const int thread = static_cast<int>(threadIdx.x), tx = thread % kThreads, ty = thread / kThreads;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTile, n0 = static_cast<int64_t>(blockIdx.x) * kTile;
  float sum[kOwn][kOwn] = {};
  for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
    for (int i = thread; i < kTile * kDepth; i += kBlockSize) {
      const int row = i / kDepth, k = i % kDepth;
      a_tile[row * (kDepth + 1) + k] = m0 + row < M && k0 + k < K ? a[(m0 + row) * K + k0 + k] : 0.0f;
    }
    for (int i = thread; i < kTile * kDepth; i += kBlockSize) {
      const int k = i / kTile, column = i % kTile;
      b_tile[i] = k0 + k < K && n0 + column < N ? b[(k0 + k) * N + n0 + column] : 0.0f;
    }
    __syncthreads();
    ACCRETE_UNROLL_BY_4
    for (int k = 0; k < kDepth; ++k) {
      float row[kOwn], column[kOwn];
      ACCRETE_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        row[i] = a_tile[(ty + kThreads * i) * (kDepth + 1) + k];
        column[i] = b_tile[k * kTile + tx + kThreads * i];
      }
      ACCRETE_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        ACCRETE_UNROLL
        for (int j = 0; j < kOwn; ++j) sum[i][j] += row[i] * column[j];
      }
    }
    __syncthreads();
  }
  ACCRETE_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    ACCRETE_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int64_t m = m0 + ty + kThreads * i, n = n0 + tx + kThreads * j;
      if (m < M && n < N) c[m * N + n] = sum[i][j];
    }
  }
}

// Step 4. 128 x 128 elements per block, 8 x 8 per thread: 64 multiply-adds for 16 numbers, which four 16-byte reads of
// shared memory bring (A is stored transposed for that). M N K / 16 bytes. Two buffers: the loads of the next tiles are
// issued before the present ones are multiplied and stored to the other buffer after it, so their 500 or so cycles pass
// behind 512 multiply-adds per thread, and one barrier per tile is enough.
constexpr int kWideTile = 128, kWideDepth = 8;

template <bool kWide>
__global__ void __launch_bounds__(kBlockSize)
    double_buffered(float* c, const float* a, const float* b, int64_t M, int64_t N, int64_t K) {
  constexpr int kTile = kWideTile, kDepth = kWideDepth, kBuffer = kTile * kDepth;
  ACCRETE_SHARED(float, a_tile, 2 * kBuffer);  // [buffer][k][row]
  ACCRETE_SHARED(float, b_tile, 2 * kBuffer);  // [buffer][k][column]
  const int thread = static_cast<int>(threadIdx.x), tx = thread % 16, ty = thread / 16;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTile, n0 = static_cast<int64_t>(blockIdx.x) * kTile;
  // What this thread carries: 4 numbers along k of one row of A, 4 columns of one row of B.
  const int a_row = thread / 2, a_k = thread % 2 * 4, b_k = thread / 32, b_column = thread % 32 * 4;
  float from_a[4], from_b[4], sum[8][8] = {};

  const auto fetch = [&](int64_t k0) {
    ACCRETE_UNROLL
    for (int j = 0; j < 4; ++j) from_a[j] = from_b[j] = 0.0f;
    if (m0 + a_row < M) load_row<4, kWide>(from_a, a + (m0 + a_row) * K, k0 + a_k, K);
    if (k0 + b_k < K) load_row<4, kWide>(from_b, b + (k0 + b_k) * N, n0 + b_column, N);
  };
  const auto put = [&](int buffer) {
    ACCRETE_UNROLL
    for (int j = 0; j < 4; ++j) a_tile[buffer * kBuffer + (a_k + j) * kTile + a_row] = from_a[j];
    store_vec(&b_tile[buffer * kBuffer + b_k * kTile + b_column], from_b);
  };

  fetch(0);
  put(0);
  __syncthreads();
  int buffer = 0;
  for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
    const bool more = k0 + kDepth < K;
    if (more) fetch(k0 + kDepth);
    ACCRETE_UNROLL
    for (int k = 0; k < kDepth; ++k) {
      float row[2][4], column[2][4];
      ACCRETE_UNROLL
      for (int half = 0; half < 2; ++half) {
        load_vec(row[half], &a_tile[buffer * kBuffer + k * kTile + half * 64 + ty * 4]);
        load_vec(column[half], &b_tile[buffer * kBuffer + k * kTile + half * 64 + tx * 4]);
      }
      ACCRETE_UNROLL
      for (int i = 0; i < 8; ++i) {
        ACCRETE_UNROLL
        for (int j = 0; j < 8; ++j) sum[i][j] += row[i / 4][i % 4] * column[j / 4][j % 4];
      }
    }
    buffer ^= 1;
    if (more) put(buffer);
    __syncthreads();
  }
  ACCRETE_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int64_t m = m0 + i / 4 * 64 + ty * 4 + i % 4;
    ACCRETE_UNROLL
    for (int half = 0; half < 2; ++half) {
      float out[4];
      ACCRETE_UNROLL
      for (int j = 0; j < 4; ++j) out[j] = sum[i][half * 4 + j];
      if (m < M) store_row<4, kWide>(c + m * N, n0 + half * 64 + tx * 4, N, out);
    }
  }
}

// Step 5. bf16 operands on the tensor cores, f32 sums. mma.sync multiplies a 16 x 16 by a 16 x 8 tile per warp and
// instruction: 2048 multiply-adds, where step 4 issues 32. A block of 8 warps computes 128 x 128, each warp 64 x 32 (4
// x 4 products, 64 sums per lane). Tiles of 32 along K travel by cp.async from global to shared memory past the
// registers, two buffers deep. ldmatrix brings the fragments in the layout of mma.h; rows are padded by 16 bytes so
// that its eight rows fall into different banks. M N K / 32 bytes. A matrix kernel on Hopper that wants all of the chip
// uses wgmma and the bulk copy engine; mma.sync reaches about two thirds of them at best.
constexpr int kMmaTile = 128, kMmaDepth = 32, kPitchA = kMmaDepth + 8, kPitchB = kMmaTile + 8;
constexpr int kBufferA = kMmaTile * kPitchA, kBufferB = kMmaDepth * kPitchB;

// rows x columns numbers of x (row_limit x column_limit, at row0, column0) into tile, zeros beyond the edge.
template <bool kWide>
__device__ __forceinline__ void bring(AsyncCopies& copies, Shared<bf16> tile, int offset, int pitch, const bf16* x,
                                      int64_t row0, int64_t column0, int64_t row_limit, int64_t column_limit, int rows,
                                      int columns) {
  const int chunks = columns / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks; i += kBlockSize) {
    const int row = i / chunks, column = i % chunks * 8, at = offset + row * pitch + column;
    const bool inside = row0 + row < row_limit;
    const bf16* from = x + (row0 + row) * column_limit + column0 + column;
    if constexpr (kWide) {
      const bool valid = inside && column0 + column < column_limit;
      copies.template copy16<bf16>(tile, at, valid ? from : x, valid);
    } else {
      ACCRETE_UNROLL
      for (int j = 0; j < 8; ++j) {
        tile[at + j] = inside && column0 + column + j < column_limit ? from[j] : bf16{};
      }
    }
  }
}

template <bool kWide>
__global__ void __launch_bounds__(kBlockSize)
    tensor_cores(float* c, const bf16* a, const bf16* b, int64_t M, int64_t N, int64_t K) {
  SharedCarver shared;
  const auto a_tile = shared.take<bf16>("a_tile", 2 * kBufferA);
  const auto b_tile = shared.take<bf16>("b_tile", 2 * kBufferB);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kMmaTile, n0 = static_cast<int64_t>(blockIdx.x) * kMmaTile;
  const int warp_m = warp / 4 * 64, warp_n = warp % 4 * 32;
  // The row of an 8 x 8 matrix that this lane points ldmatrix at, in a 16 x 16 tile.
  const int at_row = lane / 8 % 2 * 8 + lane % 8, at_column = lane / 16 * 8;
  float sum[4][4][4] = {};
  AsyncCopies copies;
  const auto start = [&](int buffer, int64_t k0) {
    bring<kWide>(copies, a_tile, buffer * kBufferA, kPitchA, a, m0, k0, M, K, kMmaTile, kMmaDepth);
    bring<kWide>(copies, b_tile, buffer * kBufferB, kPitchB, b, k0, n0, K, N, kMmaDepth, kMmaTile);
    copies.commit();
  };

  start(0, 0);
  int buffer = 0;
  for (int64_t k0 = 0; k0 < K; k0 += kMmaDepth) {
    start(buffer ^ 1, k0 + kMmaDepth);  // the last one brings zeros
    copies.template wait<1>();
    __syncthreads();
    ACCRETE_UNROLL
    for (int k = 0; k < kMmaDepth; k += 16) {
      uint32_t fragment_a[4][4], fragment_b[2][4];
      ACCRETE_UNROLL
      for (int i = 0; i < 4; ++i) {
        ldmatrix<bf16>(fragment_a[i], a_tile, buffer * kBufferA + (warp_m + 16 * i + at_row) * kPitchA + k + at_column);
      }
      ACCRETE_UNROLL
      for (int j = 0; j < 2; ++j) {
        ldmatrix_transposed<bf16>(fragment_b[j], b_tile,
                                  buffer * kBufferB + (k + at_row) * kPitchB + warp_n + 16 * j + at_column);
      }
      ACCRETE_UNROLL
      for (int i = 0; i < 4; ++i) {
        ACCRETE_UNROLL
        for (int j = 0; j < 4; ++j) {
          mma<bf16>(sum[i][j], fragment_a[i], fragment_b[j / 2][j % 2 * 2], fragment_b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
    __syncthreads();  // the buffer that the next round fills is free
    buffer ^= 1;
  }
  copies.template wait<0>();
  ACCRETE_UNROLL
  for (int i = 0; i < 4; ++i) {
    ACCRETE_UNROLL
    for (int j = 0; j < 4; ++j) {
      ACCRETE_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int64_t m = m0 + warp_m + 16 * i + lane / 4 + e / 2 * 8;
        const int64_t n = n0 + warp_n + 8 * j + lane % 4 * 2 + e % 2;
        if (m < M && n < N) c[m * N + n] = sum[i][j][e];
      }
    }
  }
}

}  // namespace

void ladder_matmul(const Gpu& ctx, int step, const LadderSizes& sizes, void* const* data) {
  const int64_t M = sizes[0], N = sizes[1], K = sizes[2];
  if (M <= 0 || N <= 0) return;
  auto* c = static_cast<float*>(data[0]);
  const auto grid = [&](int64_t columns, int64_t rows) {
    return dim3{blocks_covering(N, columns), blocks_covering(M, rows)};
  };
  if (step == 5) {
    const auto* a = static_cast<const bf16*>(data[1]);
    const auto* b = static_cast<const bf16*>(data[2]);
    const int64_t bytes = shared_bytes<bf16>(2 * kBufferA) + shared_bytes<bf16>(2 * kBufferB);
    if (wide_rows(a, 8, K) && wide_rows(b, 8, N)) {
      ACCRETE_LAUNCH(tensor_cores<true>, grid(kMmaTile, kMmaTile), dim3{kBlockSize}, bytes, ctx, c, a, b, M, N, K);
    } else {
      ACCRETE_LAUNCH(tensor_cores<false>, grid(kMmaTile, kMmaTile), dim3{kBlockSize}, bytes, ctx, c, a, b, M, N, K);
    }
    return;
  }
  const auto* a = static_cast<const float*>(data[1]);
  const auto* b = static_cast<const float*>(data[2]);
  if (step == 1) {
    ACCRETE_LAUNCH(thread_per_element, grid(32, 8), (dim3{32, 8}), 0, ctx, c, a, b, M, N, K);
  } else if (step == 2) {
    ACCRETE_LAUNCH(tile_16, grid(16, 16), (dim3{16, 16}), 0, ctx, c, a, b, M, N, K);
  } else if (step == 3) {
    ACCRETE_LAUNCH(registers_4x4, grid(64, 64), dim3{kBlockSize}, 0, ctx, c, a, b, M, N, K);
  } else if (step == 4 && wide_rows(a, 4, K) && wide_rows(b, 4, N) && wide_rows(c, 4, N)) {
    ACCRETE_LAUNCH(double_buffered<true>, grid(kWideTile, kWideTile), dim3{kBlockSize}, 0, ctx, c, a, b, M, N, K);
  } else if (step == 4) {
    ACCRETE_LAUNCH(double_buffered<false>, grid(kWideTile, kWideTile), dim3{kBlockSize}, 0, ctx, c, a, b, M, N, K);
  }
}

}  // namespace accrete::kernels
