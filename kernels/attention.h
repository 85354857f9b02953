// Scaled dot-product attention, tiled: no (q_len x kv_len) matrix ever exists in memory (online softmax; Dao et al.
// 2022).
//   s = scale * q k^T (causal: key j is visible to query i when j <= i + kv_len - q_len);  o = dropout(softmax(s)) v
// q, k, v may be slices of one packed tensor: element (b, t, h, d) of q is q[b*q_batch + t*q_row + h*head_dim + d], of
// k and v k[b*kv_batch + t*kv_row + h*head_dim + d]. For a packed (B, T, 3, H, D): q_row = kv_row = 3*H*D, q_batch =
// kv_batch = T*3*H*D. f32 inside. head_dim up to 128 (any size); q_len, kv_len any, including 0 and odd numbers.
#pragma once

#include "kernels/device.h"
#include "kernels/philox.h"

namespace accrete::kernels {

struct AttentionShape {
  int64_t batch = 0, heads = 0, head_dim = 0;
  int64_t q_len = 0, kv_len = 0;
  int64_t q_row = 0, kv_row = 0;      // elements from one token to the next
  int64_t q_batch = 0, kv_batch = 0;  // elements from one batch entry to the next
  bool causal = false;
  float scale = 1.0f;
  float dropout = 0.0f;  // on the probabilities; the word of (b, h, i, j) has index ((first_batch + b)*heads +
                         // h)*q_len*kv_len + i*kv_len + j
  RandomKey key;
  int64_t first_batch = 0;
};

// o: (batch, q_len, heads*head_dim); lse: (batch, heads, q_len) f32 log-sum-exp of the scaled scores, for the backward
// pass
ACCRETE_KERNEL(attention_forward, T* o, float* lse, const T* q, const T* k, const T* v, const AttentionShape& s);
// dq laid out like q, dk and dv like k and v (they may be slices of one packed gradient). All are overwritten.
// d_o: (batch, q_len, heads*head_dim); delta: scratch (batch, heads, q_len) f32, becomes rowsum(d_o * o).
// Deterministic.
ACCRETE_KERNEL(attention_backward, T* dq, T* dk, T* dv, float* delta, const T* d_o, const T* q, const T* k, const T* v,
               const T* o, const float* lse, const AttentionShape& s);

}  // namespace accrete::kernels
