// Tokens of a sequence: (B, T, C), a token is a row of C channels.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// y[b, y_begin + t] = x[b, x_begin + t] for t = 0 .. count-1; with `zero_rest` all other tokens of y become 0.
// y: (B, y_tokens, C); x: (B, x_tokens, C); no aliasing
ACCRETE_KERNEL(copy_tokens, T* y, int64_t y_tokens, int64_t y_begin, const T* x, int64_t x_tokens, int64_t x_begin,
               int64_t count, int64_t B, int64_t C, bool zero_rest);

// What stands in a sequence: `cls` rows (0 or 1), `extra` rows, then the tokens of x. The first `unplaced` of these
// have no position.
struct SequenceShape {
  int64_t batch = 0, tokens = 0, channels = 0;
  int64_t cls = 0, extra = 0, unplaced = 0;
  int64_t front() const { return cls + extra; }
  int64_t length() const { return cls + extra + tokens; }
};

// y[b, t] = row t of [cls | extra | x[b]] + positions[t - unplaced].   y: (B, length, C); x: (B, tokens, C); cls: (1,
// C); extra: (extra, C); positions: (length - unplaced, C) or null; no aliasing
ACCRETE_KERNEL(sequence_forward, T* y, const T* x, const T* cls, const T* extra, const T* positions, SequenceShape s);
// dx[b, n] = dy[b, front + n]; dcls, dextra and dpositions += the sum over b of their rows of dy, in an order that
// depends on the sizes only. dx: (B, tokens, C); dcls, dextra, dpositions: f32, as in forward; each may be null.
ACCRETE_KERNEL(sequence_backward, T* dx, float* dcls, float* dextra, float* dpositions, const T* dy, SequenceShape s);

// y[b] = mean of x[b, begin .. tokens-1].   y: (B, C); x: (B, tokens, C); begin < tokens
ACCRETE_KERNEL(mean_tokens, T* y, const T* x, int64_t B, int64_t tokens, int64_t begin, int64_t C);
// dx[b, t] = dy[b] / (tokens - begin) from token `begin` on, 0 before.   dx: (B, tokens, C); dy: (B, C)
ACCRETE_KERNEL(mean_tokens_backward, T* dx, const T* dy, int64_t B, int64_t tokens, int64_t begin, int64_t C);

}  // namespace accrete::kernels
