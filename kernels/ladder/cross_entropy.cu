// Softmax and cross-entropy with its gradient, from three loops to what kernels/cross_entropy.cu does.
//   loss = lse - x[target],  dx = exp(x - lse) - [v = target],  lse = log sum exp x
// loss: (N); dx, x: (N, V); targets: (N). Two exponentials an element against 8 bytes that must move: memory decides,
// and a row is long (V = 50,257 for GPT-2).
#include "kernels/ladder/ladder.h"
#include "kernels/online_softmax.h"
#include "kernels/vector.h"

namespace accrete::kernels {

namespace {

// Step 1. One thread per row, three loops. The maximum is taken out first, or exp would overflow. As in the first step
// of layernorm a warp's loads lie a row apart: 128 N V bytes at worst, and N threads are all there is to hide the
// waiting.
__global__ void thread_per_row(float* loss, float* dx, const float* x, const int32_t* targets, int64_t N, int64_t V) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= N) return;
  const float* row = x + n * V;
  float top = -INFINITY, sum = 0.0f;
  for (int64_t v = 0; v < V; ++v) top = fmaxf(top, row[v]);
  for (int64_t v = 0; v < V; ++v) sum += exp_f32(row[v] - top);
  const float lse = top + logf(sum);
  loss[n] = lse - row[targets[n]];
  for (int64_t v = 0; v < V; ++v) dx[n * V + v] = exp_f32(row[v] - lse) - (v == targets[n] ? 1.0f : 0.0f);
}

// Step 2. A block of 256 threads per row: neighbours read neighbours, and eight warps share the waiting. block_max and
// block_sum meet twice at a barrier each. 16 N V bytes: three reads, one write; a row of 200 KB does not stay in the
// first-level cache, so unlike layernorm's the later reads do go to the second level.
__global__ void block_per_row(float* loss, float* dx, const float* x, const int32_t* targets, int64_t V) {
  ACCRETE_SHARED(float, part, kBlockWarps);
  const int64_t n = blockIdx.x;
  const float* row = x + n * V;
  float top = -INFINITY, sum = 0.0f;
  for (int64_t v = threadIdx.x; v < V; v += kBlockSize) top = fmaxf(top, row[v]);
  top = block_max(top, part);
  for (int64_t v = threadIdx.x; v < V; v += kBlockSize) sum += exp_f32(row[v] - top);
  const float lse = top + logf(block_sum(sum, part));
  const int64_t target = targets[n];
  if (threadIdx.x == 0) loss[n] = lse - row[target];
  for (int64_t v = threadIdx.x; v < V; v += kBlockSize) {
    dx[n * V + v] = exp_f32(row[v] - lse) - (v == target ? 1.0f : 0.0f);
  }
}

// Steps 3 (W = 1) and 4 (W = 4). Online softmax: a thread that meets a larger value multiplies its sum by exp(old -
// new), so one pass gives maximum and sum. 12 N V bytes. Step 4 moves them 16 bytes at a time, and rescales once for
// four.
template <int W, bool kWide>
__global__ void online(float* loss, float* dx, const float* x, const int32_t* targets, int64_t V) {
  ACCRETE_SHARED(float, part, kBlockWarps);
  const int64_t n = blockIdx.x;
  const float* row = x + n * V;
  float v[W];
  OnlineSoftmax softmax;
  for (int64_t c = threadIdx.x * W; c < V; c += kBlockSize * W) {
    load_row<W, kWide>(v, row, c, V, -INFINITY);
    softmax.add(v);
  }
  softmax.template join<RowTeam<true>>(part);
  const float lse = softmax.m + logf(softmax.s);
  const int64_t target = targets[n];
  if (threadIdx.x == 0) loss[n] = lse - row[target];
  for (int64_t c = threadIdx.x * W; c < V; c += kBlockSize * W) {
    load_row<W, kWide>(v, row, c, V);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) v[j] = exp_f32(v[j] - lse) - (c + j == target ? 1.0f : 0.0f);
    store_row<W, kWide>(dx + n * V, c, V, v);
  }
}

// Step 5. Logits in bf16, and the row waits in shared memory while maximum and sum are formed: one read, one write,
// 4 N V bytes, the least there is. 100 KB of shared memory for V = 50,257 leave room for two blocks on a
// multiprocessor. Each thread reads back only what it wrote, so no barrier is needed for the row. In training dx
// replaces x in place, which saves memory but no traffic.
template <bool kWide>
__global__ void row_in_shared_memory(float* loss, bf16* dx, const bf16* x, const int32_t* targets, int64_t V) {
  constexpr int W = 8;
  ACCRETE_SHARED(float, part, kBlockWarps);
  SharedCarver shared;
  const auto kept = shared.take<bf16>("kept", (V + W - 1) / W * W);
  const int64_t n = blockIdx.x;
  float v[W];
  OnlineSoftmax softmax;
  for (int64_t c = threadIdx.x * W; c < V; c += kBlockSize * W) {
    load_row<W, kWide>(v, x + n * V, c, V, -INFINITY);
    softmax.add(v);
    store_vec(&kept[c], v);
  }
  softmax.template join<RowTeam<true>>(part);
  const float lse = softmax.m + logf(softmax.s);
  const int64_t target = targets[n];
  if (threadIdx.x == 0) loss[n] = lse - to_float(x[n * V + target]);
  for (int64_t c = threadIdx.x * W; c < V; c += kBlockSize * W) {
    load_vec(v, &kept[c]);
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) v[j] = exp_f32(v[j] - lse) - (c + j == target ? 1.0f : 0.0f);
    store_row<W, kWide>(dx + n * V, c, V, v);
  }
}

}  // namespace

void ladder_cross_entropy(const Gpu& ctx, int step, const LadderSizes& sizes, void* const* data) {
  const int64_t N = sizes[0], V = sizes[1];
  if (N <= 0 || V <= 0) return;
  auto* loss = static_cast<float*>(data[0]);
  const auto* targets = static_cast<const int32_t*>(data[3]);
  const dim3 rows{static_cast<uint32_t>(N)}, block{kBlockSize};
  if (step == 5) {
    auto* dx = static_cast<bf16*>(data[1]);
    const auto* x = static_cast<const bf16*>(data[2]);
    const int64_t bytes = shared_bytes<bf16>((V + 7) / 8 * 8);
    if (wide_rows(x, 8, V) && wide_rows(dx, 8, V)) {
      ACCRETE_LAUNCH(row_in_shared_memory<true>, rows, block, bytes, ctx, loss, dx, x, targets, V);
    } else {
      ACCRETE_LAUNCH(row_in_shared_memory<false>, rows, block, bytes, ctx, loss, dx, x, targets, V);
    }
    return;
  }
  auto* dx = static_cast<float*>(data[1]);
  const auto* x = static_cast<const float*>(data[2]);
  if (step == 1) {
    ACCRETE_LAUNCH(thread_per_row, dim3{blocks_covering(N, kBlockSize)}, block, 0, ctx, loss, dx, x, targets, N, V);
  } else if (step == 2) {
    ACCRETE_LAUNCH(block_per_row, rows, block, 0, ctx, loss, dx, x, targets, V);
  } else if (step == 3) {
    ACCRETE_LAUNCH((online<1, true>), rows, block, 0, ctx, loss, dx, x, targets, V);
  } else if (step == 4 && wide_rows(x, 4, V) && wide_rows(dx, 4, V)) {
    ACCRETE_LAUNCH((online<4, true>), rows, block, 0, ctx, loss, dx, x, targets, V);
  } else if (step == 4) {
    ACCRETE_LAUNCH((online<4, false>), rows, block, 0, ctx, loss, dx, x, targets, V);
  }
}

}  // namespace accrete::kernels
