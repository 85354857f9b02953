// What all attention kernels share: where a head lies in memory, what its queries see, its random words.
#pragma once

#include "kernels/attention.h"
#include "kernels/vector.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

inline constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// One head of one batch entry: where its rows lie, what they see, and its random words.
struct AttentionHead {
  const AttentionShape& s;
  int64_t b, h;

  __device__ AttentionHead(const AttentionShape& shape, int64_t index)
      : s(shape), b(index / shape.heads), h(index % shape.heads) {}
  __device__ int64_t q_at(int64_t i) const { return b * s.q_batch + i * s.q_row + h * s.head_dim; }
  __device__ int64_t kv_at(int64_t j) const { return b * s.kv_batch + j * s.kv_row + h * s.head_dim; }
  __device__ int64_t o_row() const { return s.heads * s.head_dim; }
  __device__ int64_t o_at(int64_t i) const { return (b * s.q_len + i) * o_row() + h * s.head_dim; }
  __device__ int64_t lse_at(int64_t i) const { return (b * s.heads + h) * s.q_len + i; }
  __device__ bool sees(int64_t i, int64_t j) const {
    return i < s.q_len && j < s.kv_len && (!s.causal || j <= i + s.kv_len - s.q_len);
  }
  // 1 / (1 - dropout) where probability (i, j) is kept, else 0.
  __device__ float keep(int64_t i, int64_t j, uint32_t threshold, float kept) const {
    const uint64_t index = static_cast<uint64_t>((((s.first_batch + b) * s.heads + h) * s.q_len + i) * s.kv_len + j);
    const Philox4 words = random_words(s.key, index / 4);
    const uint32_t low = index % 2 ? words.v[1] : words.v[0], high = index % 2 ? words.v[3] : words.v[2];
    return (index % 4 < 2 ? low : high) >= threshold ? kept : 0.0f;
  }
};

// Whether every row of x can be read in wide accesses.
template <class T>
bool wide_heads(const T* x, const AttentionShape& s, int64_t row, int64_t batch) {
  constexpr int W = kLaneWidth<T>;
  return s.head_dim % W == 0 && batch % W == 0 && wide_rows(x, W, row);
}

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
