// Token and position embedding.
//
// Backward without atomics on floats: first every token's rows are counted (integer atomics, so the counts do not
// depend on the order), then one warp per (token, slice of channels) looks through the ids from the start, adds the
// rows it finds in increasing n, and stops when it has found them all. Tokens that do not occur cost one read.
#include "kernels/embedding.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

// y[n] = tokens[ids[n]] + positions[first_position + n % T]. A warp per row.
template <class T, bool kWide>
__global__ void embedding_kernel(T* y, const T* tokens, const T* positions, const int32_t* ids, int64_t N,
                                 int64_t tokens_per_seq, int64_t first_position, int64_t C, int64_t V) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const int64_t id = ids[n];
    const bool known = id >= 0 && id < V;
    const T* token = tokens + (known ? id * C : 0);
    const T* position = positions ? positions + (first_position + n % tokens_per_seq) * C : nullptr;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      float v[W], p[W] = {};
      load_row<W, kWide>(v, token, c, C);
      if (position) load_row<W, kWide>(p, position, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) v[j] = known ? v[j] + p[j] : NAN;
      store_row<W, kWide>(y + n * C, c, C, v);
    }
  }
}

__global__ void zero_kernel(int32_t* counts, int64_t V) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockSize;
  for (int64_t v = static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x; v < V; v += step) counts[v] = 0;
}

__global__ void count_kernel(int32_t* counts, const int32_t* ids, int64_t N, int64_t V) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockSize;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x; n < N; n += step) {
    const int32_t id = ids[n];
    if (id >= 0 && id < V) atomicAdd(&counts[id], 1);
  }
}

// d_tokens[v] += sum of dy[n] over ids[n] == v. A warp per token and slice of 32 * W channels (blockIdx.y).
template <class T, bool kWide>
__global__ void token_gradient_kernel(float* d_tokens, const T* dy, const int32_t* ids, const int32_t* counts,
                                      int64_t N, int64_t C, int64_t V) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * kWarpSize + Team::rank()) * W;
  for (int64_t v = Team::first_row(); v < V; v += Team::row_step()) {
    int missing = counts[v];
    if (missing == 0) continue;
    float total[W], row[W];
    load_row<W, false>(total, d_tokens + v * C, c, C);
    for (int64_t n0 = 0; missing > 0; n0 += kWarpSize) {
      const int64_t n = n0 + Team::rank();
      uint32_t found = __ballot_sync(kFullWarp, n < N && ids[n] == v);
      missing -= __popc(found);
      for (; found != 0; found &= found - 1) {
        const int64_t hit = n0 + __ffs(static_cast<int>(found)) - 1;
        load_row<W, kWide>(row, dy + hit * C, c, C);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) total[j] += row[j];
      }
    }
    store_row<W, false>(d_tokens + v * C, c, C, total);
  }
}

// d_positions[t] += sum of dy[n] over n % T == t. One thread per element.
template <class T>
__global__ void position_gradient_kernel(float* d_positions, const T* dy, int64_t N, int64_t tokens_per_seq, int64_t C,
                                         int64_t elements) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockSize;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x; i < elements; i += step) {
    float total = d_positions[i];
    for (int64_t j = i; j < N * C; j += tokens_per_seq * C) total += to_float(dy[j]);
    d_positions[i] = total;
  }
}

}  // namespace

template <class T>
void embedding_forward(const Gpu& ctx, T* y, const T* tokens, const T* positions, const int32_t* ids, int64_t N,
                       int64_t tokens_per_seq, int64_t first_position, int64_t C, int64_t V) {
  if (N <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(N)}, block{kBlockSize};
  if (wide_rows(y, W, C) && wide_rows(tokens, W, C) && wide_rows(positions, W, C)) {
    ACCRETE_LAUNCH(embedding_kernel<T, true>, grid, block, 0, ctx, y, tokens, positions, ids, N, tokens_per_seq,
                   first_position, C, V);
  } else {
    ACCRETE_LAUNCH(embedding_kernel<T, false>, grid, block, 0, ctx, y, tokens, positions, ids, N, tokens_per_seq,
                   first_position, C, V);
  }
}

template <class T>
void embedding_backward(const Gpu& ctx, float* d_tokens, float* d_positions, const T* dy, const int32_t* ids,
                        int32_t* scratch, int64_t N, int64_t tokens_per_seq, int64_t C, int64_t V) {
  if (N <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 block{kBlockSize};
  if (d_tokens) {
    ACCRETE_LAUNCH(zero_kernel, dim3{blocks_for(V, kBlockSize)}, block, 0, ctx, scratch, V);
    ACCRETE_LAUNCH(count_kernel, dim3{blocks_for(N, kBlockSize)}, block, 0, ctx, scratch, ids, N, V);
    const dim3 grid{RowTeam<false>::blocks(V), blocks_covering(C, kWarpSize * W)};
    if (wide_rows(dy, W, C)) {
      ACCRETE_LAUNCH(token_gradient_kernel<T, true>, grid, block, 0, ctx, d_tokens, dy, ids, scratch, N, C, V);
    } else {
      ACCRETE_LAUNCH(token_gradient_kernel<T, false>, grid, block, 0, ctx, d_tokens, dy, ids, scratch, N, C, V);
    }
  }
  if (d_positions) {
    const int64_t elements = (tokens_per_seq < N ? tokens_per_seq : N) * C;
    ACCRETE_LAUNCH(position_gradient_kernel<T>, dim3{blocks_for(elements, kBlockSize)}, block, 0, ctx, d_positions, dy,
                   N, tokens_per_seq, C, elements);
  }
}

#define ACCRETE_INSTANTIATE(T)                                                                                       \
  template void embedding_forward(const Gpu&, T*, const T*, const T*, const int32_t*, int64_t, int64_t, int64_t,     \
                                  int64_t, int64_t);                                                                 \
  template void embedding_backward(const Gpu&, float*, float*, const T*, const int32_t*, int32_t*, int64_t, int64_t, \
                                   int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
