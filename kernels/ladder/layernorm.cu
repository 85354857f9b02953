// Layer normalisation, from a loop to what kernels/layernorm.cu does.   y = (x - mean) rstd gamma + beta
// y, x: (N, C); gamma, beta: (C). About 8 FLOPs an element against 8 bytes that must move: memory decides.
#include "kernels/ladder/ladder.h"
#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

constexpr float kEps = static_cast<float>(kLadderEps);

// Step 1. The formula as a loop: one thread owns a row.
// A warp's 32 threads read 32 addresses that are C * 4 bytes apart. Memory answers in sectors of 32 bytes, of which
// each thread uses 4; the caches can give the rest later, if the row is still there. Three reads and a write: 128 N C
// bytes at worst. Expect a small part of the bandwidth, and few threads: N of them.
__global__ void thread_per_row(float* y, const float* x, const float* gamma, const float* beta, int64_t N, int64_t C) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= N) return;
  const float* row = x + n * C;
  float total = 0.0f, squares = 0.0f;
  for (int64_t c = 0; c < C; ++c) total += row[c];
  const float mean = total / static_cast<float>(C);
  for (int64_t c = 0; c < C; ++c) squares += (row[c] - mean) * (row[c] - mean);
  const float rstd = 1.0f / sqrtf(squares / static_cast<float>(C) + kEps);
  for (int64_t c = 0; c < C; ++c) y[n * C + c] = (row[c] - mean) * rstd * gamma[c] + beta[c];
}

// Step 2. A warp owns a row. Lane l takes columns l, l + 32, ...: the 32 loads of an instruction are neighbours and
// arrive as one transfer of 128 bytes. The lanes' sums meet in warp_sum, five shuffles without shared memory and
// without a barrier. 16 N C bytes are asked for; the second and third read of a row mostly hit the first-level cache.
__global__ void warp_per_row(float* y, const float* x, const float* gamma, const float* beta, int64_t N, int64_t C) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.x / kWarpSize;
  if (n >= N) return;  // the whole warp
  const float* row = x + n * C;
  float total = 0.0f, squares = 0.0f;
  for (int64_t c = lane; c < C; c += kWarpSize) total += row[c];
  const float mean = warp_sum(total) / static_cast<float>(C);
  for (int64_t c = lane; c < C; c += kWarpSize) squares += (row[c] - mean) * (row[c] - mean);
  const float rstd = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(C) + kEps);
  for (int64_t c = lane; c < C; c += kWarpSize) y[n * C + c] = (row[c] - mean) * rstd * gamma[c] + beta[c];
}

// Step 3. The lane keeps its share of the row in registers (the loops are unrolled, so every index is a constant; an
// index known only at run time would move the array to memory). One read, one write: 8 N C bytes, which is the least.
// All loads of a row are also independent of each other and can be on their way together.
template <int kHeld>
__global__ void row_in_registers(float* y, const float* x, const float* gamma, const float* beta, int64_t N,
                                 int64_t C) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.x / kWarpSize;
  if (n >= N) return;
  float held[kHeld], total = 0.0f, squares = 0.0f;
  ACCRETE_UNROLL
  for (int i = 0; i < kHeld; ++i) {
    const int c = lane + kWarpSize * i;
    held[i] = c < C ? x[n * C + c] : 0.0f;
    total += held[i];
  }
  const float mean = warp_sum(total) / static_cast<float>(C);
  ACCRETE_UNROLL
  for (int i = 0; i < kHeld; ++i) {
    if (lane + kWarpSize * i < C) squares += (held[i] - mean) * (held[i] - mean);
  }
  const float rstd = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(C) + kEps);
  ACCRETE_UNROLL
  for (int i = 0; i < kHeld; ++i) {
    const int c = lane + kWarpSize * i;
    if (c < C) y[n * C + c] = (held[i] - mean) * rstd * gamma[c] + beta[c];
  }
}

// Steps 4 and 5. A lane moves 16 bytes at a time: 4 floats (step 4) or 8 bf16 (step 5). Step 4 asks for the same bytes
// with a quarter of the instructions. Step 5 halves the bytes, 4 N C; sums stay in f32, so only storing rounds.
template <class T, int kPacks, bool kWide>
__global__ void wide_row(T* y, const T* x, const float* gamma, const float* beta, int64_t N, int64_t C) {
  constexpr int W = kLaneWidth<T>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.x / kWarpSize;
  if (n >= N) return;
  float held[kPacks][W], total = 0.0f, squares = 0.0f;
  ACCRETE_UNROLL
  for (int i = 0; i < kPacks; ++i) {
    load_row<W, kWide>(held[i], x + n * C, (lane + kWarpSize * i) * W, C);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) total += held[i][j];
  }
  const float mean = warp_sum(total) / static_cast<float>(C);
  ACCRETE_UNROLL
  for (int i = 0; i < kPacks; ++i) {
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) {
      if ((lane + kWarpSize * i) * W + j < C) squares += (held[i][j] - mean) * (held[i][j] - mean);
    }
  }
  const float rstd = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(C) + kEps);
  ACCRETE_UNROLL
  for (int i = 0; i < kPacks; ++i) {
    const int64_t c = (lane + kWarpSize * i) * W;
    float scale[W], shift[W];
    load_row<W, kWide>(scale, gamma, c, C);
    load_row<W, kWide>(shift, beta, c, C);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) held[i][j] = (held[i][j] - mean) * rstd * scale[j] + shift[j];
    store_row<W, kWide>(y + n * C, c, C, held[i]);
  }
}

template <class T>
void run_wide(const Gpu& ctx, T* y, const T* x, const float* gamma, const float* beta, int64_t N, int64_t C) {
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{blocks_covering(N, kBlockWarps)}, block{kBlockSize};
  const bool wide = wide_rows(y, W, C) && wide_rows(x, W, C) && wide_rows(gamma, W) && wide_rows(beta, W);
  const auto run = [&]<int kPacks>() {
    if (wide) {
      ACCRETE_LAUNCH(wide_row<T, kPacks, true>, grid, block, 0, ctx, y, x, gamma, beta, N, C);
    } else {
      ACCRETE_LAUNCH(wide_row<T, kPacks, false>, grid, block, 0, ctx, y, x, gamma, beta, N, C);
    }
  };
  if (C <= 2 * kWarpSize * W) return run.template operator()<2>();
  run.template operator()<32 / W>();
}

}  // namespace

void ladder_layernorm(const Gpu& ctx, int step, const LadderSizes& sizes, void* const* data) {
  const int64_t N = sizes[0], C = sizes[1];
  if (N <= 0 || C <= 0) return;
  if (step >= 3 && C > 1024) throw std::runtime_error("[ladder] steps 3 to 5 of layernorm hold up to 1024 columns");
  const auto* gamma = static_cast<const float*>(data[2]);
  const auto* beta = static_cast<const float*>(data[3]);
  const dim3 rows{blocks_covering(N, kBlockWarps)}, block{kBlockSize};
  if (step == 5) {
    return run_wide(ctx, static_cast<bf16*>(data[0]), static_cast<const bf16*>(data[1]), gamma, beta, N, C);
  }
  auto* y = static_cast<float*>(data[0]);
  const auto* x = static_cast<const float*>(data[1]);
  if (step == 1) {
    ACCRETE_LAUNCH(thread_per_row, dim3{blocks_covering(N, kBlockSize)}, block, 0, ctx, y, x, gamma, beta, N, C);
  } else if (step == 2) {
    ACCRETE_LAUNCH(warp_per_row, rows, block, 0, ctx, y, x, gamma, beta, N, C);
  } else if (step == 3 && C <= 256) {
    ACCRETE_LAUNCH(row_in_registers<8>, rows, block, 0, ctx, y, x, gamma, beta, N, C);
  } else if (step == 3) {
    ACCRETE_LAUNCH(row_in_registers<32>, rows, block, 0, ctx, y, x, gamma, beta, N, C);
  } else if (step == 4) {
    run_wide(ctx, y, x, gamma, beta, N, C);
  }
}

}  // namespace accrete::kernels
