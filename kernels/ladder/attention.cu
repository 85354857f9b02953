// Causal attention, from three kernels to tensor cores.   o = softmax(q k^T / sqrt(D)) v
// o, q, k, v: (H, T, D), D <= 64; query i sees keys 0 .. i. With P = H T (T + 1) / 2 pairs of a query and a key: 4 P D
// FLOPs. The T x T scores are what to avoid: at T = 1024, D = 64 they are 16 times as large as q.
#include "kernels/ladder/ladder.h"
#include "kernels/mma.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

constexpr int kMaxD = 64;

__device__ __forceinline__ float scale_of(int64_t D) { return 1.0f / sqrtf(static_cast<float>(D)); }

// Step 1. As the formula is read: all scores, then softmax of each row, then the weighted sum. 20 bytes of scores a
// pair (written; read twice and written by softmax; read). The scores kernel also reads keys that lie D apart, 32 bytes
// for every 4, and the last kernel reads v well: 36 D bytes a pair. Memory for T x T scores is what ends this first.
__global__ void scores_kernel(float* s, const float* q, const float* k, int64_t T, int64_t D) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, i = blockIdx.y, h = blockIdx.z;
  if (j > i) return;
  float dot = 0.0f;
  for (int64_t d = 0; d < D; ++d) dot += q[(h * T + i) * D + d] * k[(h * T + j) * D + d];
  s[(h * T + i) * T + j] = dot * scale_of(D);
}
__global__ void softmax_kernel(float* s, int64_t T) {  // a warp per row
  const int64_t i = blockIdx.x;
  float* row = s + (blockIdx.y * T + i) * T;
  float top = -INFINITY, sum = 0.0f;
  for (int64_t j = threadIdx.x; j <= i; j += kWarpSize) top = fmaxf(top, row[j]);
  top = warp_max(top);
  for (int64_t j = threadIdx.x; j <= i; j += kWarpSize) sum += expf(row[j] - top);
  sum = warp_sum(sum);
  for (int64_t j = threadIdx.x; j <= i; j += kWarpSize) row[j] = expf(row[j] - top) / sum;
}
__global__ void weighted_sum_kernel(float* o, const float* s, const float* v, int64_t T, int64_t D) {
  const int64_t d = threadIdx.x, i = blockIdx.x, h = blockIdx.y;
  float sum = 0.0f;
  for (int64_t j = 0; j <= i; ++j) sum += s[(h * T + i) * T + j] * v[(h * T + j) * D + d];
  o[(h * T + i) * D + d] = sum;
}

// A query's running state: maximum m, sum l of exp(score - m), and the result acc that belongs to them. A larger score
// shrinks both by exp(m - new m); at the end o = acc / l. Nothing of size T is kept.
struct Running {
  float m = -INFINITY, l = 0.0f, acc[kMaxD] = {};

  // Takes in one key with its value: V(d) reads element d.
  template <class V>
  __device__ __forceinline__ void add(float score, const V& value) {
    const float top = fmaxf(m, score), shrink = expf(m - top), weight = expf(score - top);
    m = top;
    l = l * shrink + weight;
    ACCRETE_UNROLL
    for (int d = 0; d < kMaxD; ++d) acc[d] = acc[d] * shrink + weight * value(d);
  }
};

// Step 2. One thread per query, its q and its result in registers, keys one after the other. The lanes of a warp are 32
// queries that read the same key at the same time, so a transfer serves all: P D / 4 bytes, and no scores in memory.
// But each step waits for a load, and 180 registers a thread leave few warps to wait beside it.
__global__ void thread_per_query(float* o, const float* q, const float* k, const float* v, int64_t T, int64_t D) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, h = blockIdx.y;
  if (i >= T) return;
  float own[kMaxD];
  ACCRETE_UNROLL
  for (int d = 0; d < kMaxD; ++d) own[d] = d < D ? q[(h * T + i) * D + d] * scale_of(D) : 0.0f;
  Running running;
  for (int64_t j = 0; j <= i; ++j) {
    const int64_t at = (h * T + j) * D;
    float score = 0.0f;
    ACCRETE_UNROLL
    for (int d = 0; d < kMaxD; ++d) score += d < D ? own[d] * k[at + d] : 0.0f;
    running.add(score, [&](int d) { return d < D ? v[at + d] : 0.0f; });
  }
  ACCRETE_UNROLL
  for (int d = 0; d < kMaxD; ++d) {
    if (d < D) o[(h * T + i) * D + d] = running.acc[d] / running.l;
  }
}

// Step 3. The block's 64 queries bring 32 keys and values at a time into shared memory, together and in order: P D / 8
// bytes, and the inner loop no longer waits for memory. All 64 threads take part in every barrier, also those whose
// query lies beyond the end or sees none of the keys.
constexpr int kQueries = 64, kKeys = 32;

__global__ void __launch_bounds__(kQueries)
    shared_tiles(float* o, const float* q, const float* k, const float* v, int64_t T, int64_t D) {
  ACCRETE_SHARED(float, k_tile, kKeys* kMaxD);
  ACCRETE_SHARED(float, v_tile, kKeys* kMaxD);
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * kQueries, i = i0 + threadIdx.x, h = blockIdx.y;
  float own[kMaxD];
  ACCRETE_UNROLL
  for (int d = 0; d < kMaxD; ++d) own[d] = i < T && d < D ? q[(h * T + i) * D + d] * scale_of(D) : 0.0f;
  Running running;
  for (int64_t j0 = 0; j0 < i0 + kQueries && j0 < T; j0 += kKeys) {
    for (int at = static_cast<int>(threadIdx.x); at < kKeys * kMaxD; at += kQueries) {
      const int64_t j = j0 + at / kMaxD, d = at % kMaxD;
      const bool inside = j < T && d < D;
      k_tile[at] = inside ? k[(h * T + j) * D + d] : 0.0f;
      v_tile[at] = inside ? v[(h * T + j) * D + d] : 0.0f;
    }
    __syncthreads();
    for (int64_t j = j0; j < j0 + kKeys && j <= i && i < T; ++j) {
      const int at = static_cast<int>(j - j0) * kMaxD;
      float score = 0.0f;
      ACCRETE_UNROLL
      for (int d = 0; d < kMaxD; ++d) score += own[d] * k_tile[at + d];
      running.add(score, [&](int d) -> float { return v_tile[at + d]; });
    }
    __syncthreads();
  }
  ACCRETE_UNROLL
  for (int d = 0; d < kMaxD; ++d) {
    if (i < T && d < D) o[(h * T + i) * D + d] = running.acc[d] / running.l;
  }
}

// Step 4. Both products on tensor cores, bf16 in, f32 sums. A warp has 16 queries, a block four warps; 32 keys pass at
// a time. The 16 x 32 scores of a warp are four C fragments in registers; after the exponentials they are rounded to
// bf16 and are, without moving, the A fragments of the product with v (mma.h). Four lanes share a row, so its maximum
// and sum take two shuffles. P D / 16 bytes. kernels/attention_mma.cu goes on from here: copies that overlap, no
// padding, dropout, backward.
constexpr int kPitch = kMaxD + 8;  // 16 bytes more than a row: ldmatrix reads eight rows without bank conflicts

// Rows first .. first + rows - 1 of a head into the tile, zeros beyond T and D.
__device__ __forceinline__ void bring(Shared<bf16> tile, const bf16* x, int64_t first, int rows, int64_t T, int64_t D) {
  for (int at = static_cast<int>(threadIdx.x); at < rows * kMaxD; at += 4 * kWarpSize) {
    const int64_t row = first + at / kMaxD, d = at % kMaxD;
    tile[at / kMaxD * kPitch + at % kMaxD] = row < T && d < D ? x[row * D + d] : bf16{};
  }
}

__global__ void __launch_bounds__(4 * kWarpSize)
    tensor_cores(bf16* o, const bf16* q, const bf16* k, const bf16* v, int64_t T, int64_t D) {
  ACCRETE_SHARED(bf16, q_tile, kQueries * kPitch);
  ACCRETE_SHARED(bf16, k_tile, kKeys * kPitch);
  ACCRETE_SHARED(bf16, v_tile, kKeys * kPitch);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * kQueries, head = blockIdx.y * T * D;
  const int64_t row = i0 + warp_row + lane / 4;  // this lane's first row; the other is 8 further
  const float scale = scale_of(D);
  bring(q_tile, q + head, i0, kQueries, T, D);
  __syncthreads();
  uint32_t queries[kMaxD / 16][4];
  ACCRETE_UNROLL
  for (int s = 0; s < kMaxD / 16; ++s) {
    ldmatrix<bf16>(queries[s], q_tile, (warp_row + lane / 8 % 2 * 8 + lane % 8) * kPitch + 16 * s + lane / 16 * 8);
  }

  float acc[kMaxD / 8][4] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {};
  for (int64_t j0 = 0; j0 < i0 + kQueries && j0 < T; j0 += kKeys) {
    __syncthreads();  // the tiles of the round before are free
    bring(k_tile, k + head, j0, kKeys, T, D);
    bring(v_tile, v + head, j0, kKeys, T, D);
    __syncthreads();

    float score[kKeys / 8][4] = {};
    ACCRETE_UNROLL
    for (int s = 0; s < kMaxD / 16; ++s) {
      ACCRETE_UNROLL
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        uint32_t keys[4];  // two fragments: keys 16 pair .. + 7, and the next eight
        ldmatrix<bf16>(keys, k_tile, (16 * pair + lane / 16 * 8 + lane % 8) * kPitch + 16 * s + lane / 8 % 2 * 8);
        mma<bf16>(score[2 * pair], queries[s], keys[0], keys[1]);
        mma<bf16>(score[2 * pair + 1], queries[s], keys[2], keys[3]);
      }
    }

    ACCRETE_UNROLL
    for (int r = 0; r < 2; ++r) {  // the lane's two rows
      float top = m[r];
      ACCRETE_UNROLL
      for (int t = 0; t < kKeys / 8; ++t) {
        ACCRETE_UNROLL
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          const bool sees = j0 + 8 * t + lane % 4 * 2 + e % 2 <= row + 8 * r;
          score[t][e] = sees ? score[t][e] * scale : -INFINITY;
          top = fmaxf(top, score[t][e]);
        }
      }
      top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 2));
      const float base = top == -INFINITY ? 0.0f : top;  // a row that sees none of these keys
      const float shrink = expf(m[r] - base);
      float sum = 0.0f;
      ACCRETE_UNROLL
      for (int t = 0; t < kKeys / 8; ++t) {
        ACCRETE_UNROLL
        for (int e = 2 * r; e < 2 * r + 2; ++e) sum += score[t][e] = expf(score[t][e] - base);
      }
      m[r] = top;
      l[r] = l[r] * shrink + sum;
      ACCRETE_UNROLL
      for (int t = 0; t < kMaxD / 8; ++t) {
        acc[t][2 * r] *= shrink;
        acc[t][2 * r + 1] *= shrink;
      }
    }

    ACCRETE_UNROLL
    for (int s = 0; s < kKeys / 16; ++s) {
      const uint32_t weights[4] = {pack_pair<bf16>(score[2 * s][0], score[2 * s][1]),
                                   pack_pair<bf16>(score[2 * s][2], score[2 * s][3]),
                                   pack_pair<bf16>(score[2 * s + 1][0], score[2 * s + 1][1]),
                                   pack_pair<bf16>(score[2 * s + 1][2], score[2 * s + 1][3])};
      ACCRETE_UNROLL
      for (int pair = 0; pair < kMaxD / 16; ++pair) {
        uint32_t values[4];
        ldmatrix_transposed<bf16>(values, v_tile,
                                  (16 * s + lane / 8 % 2 * 8 + lane % 8) * kPitch + 16 * pair + lane / 16 * 8);
        mma<bf16>(acc[2 * pair], weights, values[0], values[1]);
        mma<bf16>(acc[2 * pair + 1], weights, values[2], values[3]);
      }
    }
  }

  ACCRETE_UNROLL
  for (int r = 0; r < 2; ++r) {
    float total = l[r];
    total += __shfl_xor_sync(kFullWarp, total, 1);
    total += __shfl_xor_sync(kFullWarp, total, 2);
    ACCRETE_UNROLL
    for (int t = 0; t < kMaxD / 8; ++t) {
      ACCRETE_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int64_t i = row + 8 * r, d = 8 * t + lane % 4 * 2 + e;
        if (i < T && d < D) o[head + i * D + d] = from_float<bf16>(acc[t][2 * r + e] / total);
      }
    }
  }
}

}  // namespace

void ladder_attention(const Gpu& ctx, int step, const LadderSizes& sizes, void* const* data) {
  const int64_t H = sizes[0], T = sizes[1], D = sizes[2];
  if (H <= 0 || T <= 0 || D <= 0) return;
  if (D > kMaxD) throw std::runtime_error("[ladder] attention takes heads of up to 64");
  const auto h = static_cast<uint32_t>(H), t = static_cast<uint32_t>(T);
  const dim3 tiles{blocks_covering(T, kQueries), h};
  if (step == 4) {
    ACCRETE_LAUNCH(tensor_cores, tiles, dim3{4 * kWarpSize}, 0, ctx, static_cast<bf16*>(data[0]),
                   static_cast<const bf16*>(data[1]), static_cast<const bf16*>(data[2]),
                   static_cast<const bf16*>(data[3]), T, D);
    return;
  }
  auto* o = static_cast<float*>(data[0]);
  const auto* q = static_cast<const float*>(data[1]);
  const auto* k = static_cast<const float*>(data[2]);
  const auto* v = static_cast<const float*>(data[3]);
  auto* s = static_cast<float*>(data[4]);
  if (step == 1) {
    ACCRETE_LAUNCH(scores_kernel, (dim3{blocks_covering(T, 128), t, h}), dim3{128}, 0, ctx, s, q, k, T, D);
    ACCRETE_LAUNCH(softmax_kernel, (dim3{t, h}), dim3{kWarpSize}, 0, ctx, s, T);
    ACCRETE_LAUNCH(weighted_sum_kernel, (dim3{t, h}), dim3{static_cast<uint32_t>(D)}, 0, ctx, o, s, v, T, D);
  } else if (step == 2) {
    ACCRETE_LAUNCH(thread_per_query, (dim3{blocks_covering(T, 128), h}), dim3{128}, 0, ctx, o, q, k, v, T, D);
  } else if (step == 3) {
    ACCRETE_LAUNCH(shared_tiles, tiles, dim3{kQueries}, 0, ctx, o, q, k, v, T, D);
  }
}

}  // namespace accrete::kernels
