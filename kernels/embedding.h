// Token and position embedding.   Legend: N rows (= batch * T), T tokens per sequence, C channels, V vocabulary.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y[n] = tokens[ids[n]] + positions[first_position + n % T].   y: (N, C); tokens: (V, C); positions: (>= first_position
// + T, C) or null; ids: (N); one outside [0, V) makes its row NaN.
ACCRETE_KERNEL(embedding_forward, T* y, const T* tokens, const T* positions, const int32_t* ids, int64_t N,
               int64_t tokens_per_seq, int64_t first_position, int64_t C, int64_t V);
// Rows of ids outside [0, V) are left out.
// d_tokens[ids[n]] += dy[n]; d_positions[n % T] += dy[n] (either may be null).   d_tokens: (V, C) f32; d_positions: (T,
// C) f32; dy: (N, C). Deterministic: contributions of one row are added in increasing n. `scratch`:
// (embedding_scratch(N, V)) i32.
ACCRETE_KERNEL(embedding_backward, float* d_tokens, float* d_positions, const T* dy, const int32_t* ids,
               int32_t* scratch, int64_t N, int64_t tokens_per_seq, int64_t C, int64_t V);
// i32 elements of scratch memory that embedding_backward needs.
inline int64_t embedding_scratch(int64_t N, int64_t V) { return N + 2 * V + 1; }

}  // namespace accrete::kernels
