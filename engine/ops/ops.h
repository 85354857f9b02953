// Differentiable operations: check, allocate, run, record. The gradient stands beside the value in the .cpp files.
//
// Activations are f32, bf16 or f16; biases, norm parameters and losses are f32; weights of products have the type of
// the activations. Every fused op has a `_plain` composition of simple ops: its definition in tests and what --plain
// runs. Shapes: N rows (all leading axes together), C the last axis. All errors are accrete::Error.
#pragma once

#include "engine/autograd/tape.h"
#include "kernels/elementwise.h"
#include "kernels/philox.h"

namespace accrete::ops {

// ---- elementwise (elementwise.cpp)
// --------------------------------------------------------------------------------------
using kernels::Binary;
using kernels::Unary;

Tensor unary(Unary f, const Tensor& x);                      // y = f(x), same shape and type
Tensor binary(Binary op, const Tensor& a, const Tensor& b);  // same shapes and types
inline Tensor add(const Tensor& a, const Tensor& b) { return binary(Binary::add, a, b); }
inline Tensor sub(const Tensor& a, const Tensor& b) { return binary(Binary::sub, a, b); }
inline Tensor mul(const Tensor& a, const Tensor& b) { return binary(Binary::mul, a, b); }
inline Tensor div(const Tensor& a, const Tensor& b) { return binary(Binary::div, a, b); }
Tensor affine(const Tensor& x, float alpha, float beta);  // alpha * x + beta
inline Tensor scale(const Tensor& x, float alpha) { return affine(x, alpha, 0.0f); }
Tensor bias_add(const Tensor& x, const Tensor& bias);       // x: (.., C), bias: (C) f32
Tensor column_scale(const Tensor& x, const Tensor& scale);  // x: (.., C), scale: (C) f32
Tensor cast(const Tensor& x, DType dtype);                  // f32 <-> bf16 or f16
// Keeps each element with probability 1 - p, scaled by 1 / (1 - p); identity for p = 0. Element i has address (key,
// first + i).
Tensor dropout(const Tensor& x, float p, const RandomKey& key, int64_t first = 0);

enum class Gelu { tanh, erf };
inline Tensor gelu(const Tensor& x, Gelu form) {
  return unary(form == Gelu::tanh ? Unary::gelu_tanh : Unary::gelu_erf, x);
}

// ---- data movement (shape.cpp)
// --------------------------------------------------------------------------------------------
Tensor reshape(const Tensor& x, Shape shape);                    // shares memory
Tensor transpose(const Tensor& x);                               // (.., R, C) -> (.., C, R)
Tensor swap_middle(const Tensor& x);                             // (A, B, C, D) -> (A, C, B, D)
Tensor slice_last(const Tensor& x, int64_t begin, int64_t end);  // columns [begin, end) of the last axis
Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end);  // entries [begin, end) of the first axis (a copy)

// ---- reductions (reduce.cpp)
// ----------------------------------------------------------------------------------------------
Tensor sum(const Tensor& x);       // () f32
Tensor mean(const Tensor& x);      // () f32
Tensor sum_rows(const Tensor& x);  // (N, C) -> (C) f32: over all rows

// ---- products (linear.cpp)
// ------------------------------------------------------------------------------------------------ op(a) op(b) for (M,
// K) (K, N), or batched with equal leading sizes (B, M, K) (B, K, N); trans_x: the matrix is stored transposed.
Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a = false, bool trans_b = false);
// y = x w^T + b.   x: (.., in), w: (out, in), b: (out) f32 or undefined
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b);
Tensor linear_plain(const Tensor& x, const Tensor& w, const Tensor& b);
// y = gelu(x w^T + b)
Tensor linear_gelu(const Tensor& x, const Tensor& w, const Tensor& b, Gelu form);
Tensor linear_gelu_plain(const Tensor& x, const Tensor& w, const Tensor& b, Gelu form);
// y = gelu(x w1^T + b1) w2^T + b2: the two layers of a transformer's MLP.
Tensor mlp(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, Gelu form);
Tensor mlp_plain(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, Gelu form);

// ---- normalisation (norm.cpp)
// --------------------------------------------------------------------------------------------- (x - mean) / sqrt(var +
// eps) * gamma + beta over the last axis.   gamma, beta: (C) f32, beta may be undefined
Tensor layernorm(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps);
Tensor layernorm_plain(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps);
// How a branch joins the residual stream: stream + drop_path(scale * branch), with LayerScale (Touvron et al. 2021) and
// stochastic depth where they are asked for.   scale: (C) f32 or undefined (1)
struct Join {
  Tensor scale;
  float drop_path = 0.0f;
  RandomKey key;
  int64_t first_sample = 0;
  bool plain() const { return !scale.defined() && drop_path == 0.0f; }
};
// {sum, layernorm(sum)} in one pass, sum = residual_branch(residual, branch, join)
struct ResidualNorm {
  Tensor sum, normed;
};
ResidualNorm residual_layernorm(const Tensor& branch, const Tensor& residual, const Tensor& gamma, const Tensor& beta,
                                float eps, const Join& join = {});
ResidualNorm residual_layernorm_plain(const Tensor& branch, const Tensor& residual, const Tensor& gamma,
                                      const Tensor& beta, float eps, const Join& join = {});
// Softmax over the last axis. causal: x is (.., T, T') and column j is visible to row i when j <= i + T' - T.
Tensor softmax(const Tensor& x, bool causal = false);

// ---- attention (attention.cpp)
// --------------------------------------------------------------------------------------------
struct AttentionOptions {
  int64_t heads = 1;
  bool causal = false;
  float dropout = 0.0f;
  RandomKey key;
  int64_t first_sample = 0;  // of the batch, for the address of its random numbers
};
// Multi-head self-attention on packed projections.   qkv: (B, T, 3 * H * D) = [q | k | v], heads consecutive -> (B, T,
// H * D). Scores are scaled by 1/sqrt(D).
Tensor attention(const Tensor& qkv, const AttentionOptions& options);
Tensor attention_plain(const Tensor& qkv, const AttentionOptions& options);
// Attention of new queries against cached keys and values, without gradient (generation).
// q: (B, Tq, H*D) packed with row stride of `qkv`; cache k, v: (B, capacity, H*D), the first `length` rows of each
// entry valid (the new tokens included).
Tensor attention_cached(const Tensor& qkv, const Tensor& k_cache, const Tensor& v_cache, int64_t length, int64_t heads);

// ---- tokens (tokens.cpp)
// -------------------------------------------------------------------------------------------- The input of a vision
// transformer: special tokens in front, positions added. x: (B, N, C); cls: (1, C) or undefined; extra: (R, C) or
// undefined (a distillation token, registers); positions: (P + N, C) with P special tokens, (N, C) for those of x only,
// or undefined -> (B, P + N, C)
Tensor sequence(const Tensor& x, const Tensor& cls, const Tensor& extra, const Tensor& positions);
Tensor slice_tokens(const Tensor& x, int64_t begin, int64_t end);  // (B, T, C) -> (B, end - begin, C)
Tensor concat_tokens(const Tensor& a, const Tensor& b);            // (B, S, C), (B, T, C) -> (B, S + T, C)
Tensor mean_tokens(const Tensor& x, int64_t begin);                // (B, T, C) -> (B, C): mean of tokens begin .. T-1
// Stochastic depth (Huang et al. 2016): keeps a sample with probability 1 - p, scaled by 1 / (1 - p), else zero; one
// draw per sample, with the address (key, first_sample + b). x: (B, ..); identity for p = 0.
Tensor drop_path(const Tensor& x, float p, const RandomKey& key, int64_t first_sample);
// x + drop_path(scale * branch): the end of a residual branch. x, branch: (B, .., C)
Tensor residual_branch(const Tensor& x, const Tensor& branch, const Join& join);
Tensor residual_branch_plain(const Tensor& x, const Tensor& branch, const Join& join);

// ---- embedding and loss (loss.cpp, embedding.cpp, soft_loss.cpp)
// ------------------------------------------------------------------------- y[b, t] = tokens[ids[b, t]] +
// positions[first_position + t].   ids: (B, T) i32; tokens: (V, C); positions: (P, C) or undefined
Tensor embedding(const Tensor& ids, const Tensor& tokens, const Tensor& positions, int64_t first_position = 0);
Tensor embedding_plain(const Tensor& ids, const Tensor& tokens, const Tensor& positions, int64_t first_position = 0);
// Mean over the rows with target >= 0 of -log softmax(logits)[target], with label smoothing.   logits: (.., V),
// targets: i32. Backward writes the gradient over the logits' memory when nobody else holds it.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, float smoothing = 0.0f);
Tensor cross_entropy_plain(const Tensor& logits, const Tensor& targets, float smoothing = 0.0f);
// cross_entropy(x w^T, targets): the output layer and its loss in one op, which keeps the logits to itself.
// x: (.., C), w: (V, C)
Tensor linear_cross_entropy(const Tensor& x, const Tensor& w, const Tensor& targets, float smoothing = 0.0f);
Tensor linear_cross_entropy_plain(const Tensor& x, const Tensor& w, const Tensor& targets, float smoothing = 0.0f);
// token_losses(x w^T, targets), below, in the same way.
Tensor linear_token_losses(const Tensor& x, const Tensor& w, const Tensor& targets);
// Mean over the rows of -sum_c targets[c] log softmax(logits)[c].   logits: (.., V); targets: (.., V) f32, rows that
// need not sum to one
Tensor soft_cross_entropy(const Tensor& logits, const Tensor& targets);
Tensor soft_cross_entropy_plain(const Tensor& logits, const Tensor& targets);
// Mean over all elements of -(t log sigmoid(z) + (1 - t) log(1 - sigmoid(z))), t = targets, z = logits; both (.., V)
Tensor binary_cross_entropy(const Tensor& logits, const Tensor& targets);
// Index of the largest element of each row, the first of equals; no gradient.   (.., V) -> (..) i32
Tensor argmax(const Tensor& x);
// The loss of every row, 0 where the target is negative; no gradient.   -> (N) f32
Tensor token_losses(const Tensor& logits, const Tensor& targets);

}  // namespace accrete::ops
