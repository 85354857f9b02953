// Token and position embedding.
//
// Backward without atomics on floats: the ids are cut into at most 64 chunks, and every token gets a word of 64 bits
// that says which of them hold it (integer atomics, so the words do not depend on the order). Then one warp per (token,
// slice of channels) looks through those chunks and adds the rows it finds in increasing n. Tokens that do not occur
// cost one read, rare ones a look at a 64th of the ids; a frequent one has four rows on their way at a time.
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

constexpr int kChunkWords = 2;  // of 32 bits: of the chunks that hold a token
constexpr int64_t kChunks = 32 * kChunkWords;
// Ids of a chunk: whole warps, at most kChunks of them.
int64_t chunk_size(int64_t N) { return ((N + kChunks - 1) / kChunks + kWarpSize - 1) / kWarpSize * kWarpSize; }

__global__ void zero_kernel(uint32_t* words, int64_t n) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockSize;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x; i < n; i += step) words[i] = 0;
}

__global__ void mark_chunks_kernel(uint32_t* words, const int32_t* ids, int64_t N, int64_t V, int64_t chunk) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockSize;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x; n < N; n += step) {
    const int64_t id = ids[n], k = n / chunk;
    if (id >= 0 && id < V) atomicOr(&words[id * kChunkWords + k / 32], uint32_t{1} << (k % 32));
  }
}

// Adds the rows of dy that `hits` names (bit j: row n0 + j) in their order, kRows loads before the first sum.
template <int kRows, int W, bool kWide, class T>
__device__ __forceinline__ void add_hits(float (&total)[W], uint32_t& hits, const T* dy, int64_t n0, int64_t c,
                                         int64_t C) {
  float rows[kRows][W];
  ACCRETE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    load_row<W, kWide>(rows[r], dy + (n0 + __ffs(static_cast<int>(hits)) - 1) * C, c, C);
    hits &= hits - 1;
  }
  ACCRETE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    ACCRETE_UNROLL
    for (int j = 0; j < W; ++j) total[j] += rows[r][j];
  }
}

// d_tokens[v] += sum of dy[n] over ids[n] == v. A warp per token and slice of 32 * W channels (blockIdx.y).
template <class T, bool kWide>
__global__ void token_gradient_kernel(float* d_tokens, const T* dy, const int32_t* ids, const uint32_t* words,
                                      int64_t N, int64_t C, int64_t V, int64_t chunk) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * kWarpSize + Team::rank()) * W;
  for (int64_t v = Team::first_row(); v < V; v += Team::row_step()) {
    float total[W] = {};
    bool loaded = false;
    for (int word = 0; word < kChunkWords; ++word) {
      for (uint32_t left = words[v * kChunkWords + word]; left != 0; left &= left - 1) {
        if (!loaded) load_row<W, false>(total, d_tokens + v * C, c, C);
        loaded = true;
        const int64_t begin = (word * 32 + __ffs(static_cast<int>(left)) - 1) * chunk;
        const int64_t end = begin + chunk < N ? begin + chunk : N;
        for (int64_t n0 = begin; n0 < end; n0 += kWarpSize) {
          const int64_t n = n0 + Team::rank();
          uint32_t hits = __ballot_sync(kFullWarp, n < end && ids[n] == v);
          while (__popc(hits) >= 4) add_hits<4, W, kWide>(total, hits, dy, n0, c, C);
          while (hits != 0) add_hits<1, W, kWide>(total, hits, dy, n0, c, C);
        }
      }
    }
    if (loaded) store_row<W, false>(d_tokens + v * C, c, C, total);
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
    auto* words = reinterpret_cast<uint32_t*>(scratch);
    const int64_t chunk = chunk_size(N);
    ACCRETE_LAUNCH(zero_kernel, dim3{blocks_for(V * kChunkWords, kBlockSize)}, block, 0, ctx, words, V * kChunkWords);
    ACCRETE_LAUNCH(mark_chunks_kernel, dim3{blocks_for(N, kBlockSize)}, block, 0, ctx, words, ids, N, V, chunk);
    const dim3 grid{RowTeam<false>::blocks(V), blocks_covering(C, kWarpSize * W)};
    if (wide_rows(dy, W, C)) {
      ACCRETE_LAUNCH(token_gradient_kernel<T, true>, grid, block, 0, ctx, d_tokens, dy, ids, words, N, C, V, chunk);
    } else {
      ACCRETE_LAUNCH(token_gradient_kernel<T, false>, grid, block, 0, ctx, d_tokens, dy, ids, words, N, C, V, chunk);
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
