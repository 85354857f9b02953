// Layers of transformers: small structs that declare their parameters in a Scope and apply ops to them.
// Legend: B batch, T tokens, C channels (embed_dim), H heads, D head size. Weights are (out, in).
#pragma once

#include "engine/nn/context.h"
#include "engine/nn/params.h"
#include "engine/ops/ops.h"

namespace accrete::nn {

struct Linear {
  Param weight, bias;
  std::string path;

  Linear() = default;
  Linear(Scope s, int64_t in, Axis in_axis, int64_t out, Axis out_axis, Init init, bool with_bias = true,
         Marks marks = {}, Init bias_init = Init::zeros());
  Tensor operator()(const Tensor& x, const Context& ctx) const;                 // (.., in) -> (.., out)
  Tensor with_gelu(const Tensor& x, ops::Gelu form, const Context& ctx) const;  // gelu(linear(x))
};

// The residual stream between blocks. Its last branch has not joined it yet: the norm that reads the stream next adds
// it in the same pass.
struct Stream {
  Tensor x, branch;  // (B, .., C); branch may be undefined
  ops::Join join;
  Tensor sum(const Context& ctx) const;  // with its branch
};

struct LayerNorm {
  Param weight, bias;
  float eps = 1e-5f;
  std::string path;

  LayerNorm() = default;
  LayerNorm(Scope s, int64_t embed_dim, float eps, bool with_bias = true, Marks marks = {});
  Tensor operator()(const Tensor& x, const Context& ctx) const;
  // {s.sum(), norm(s.sum())}
  ops::ResidualNorm of_sum(const Stream& s, const Context& ctx) const;
};

// Keys and values of one layer while generating: (B, capacity, H*D) each.
struct KeyValueCache {
  Tensor k, v;
  int64_t length = 0;  // tokens held
};

// Multi-head self-attention with one fused projection [q | k | v].
struct SelfAttention {
  Linear qkv, proj;
  int64_t num_heads = 1;
  bool causal = false;
  float attn_dropout = 0.0f;
  std::string path;

  SelfAttention() = default;
  SelfAttention(Scope s, int64_t embed_dim, int64_t num_heads, bool causal, float attn_dropout, Init init,
                Init proj_init, bool with_bias = true, bool with_qkv_bias = true);
  Tensor operator()(const Tensor& x, const Context& ctx) const;  // (B, T, C) -> (B, T, C)
  // The same with a cache: x holds the newest tokens, which are appended. No gradient.
  Tensor cached(const Tensor& x, KeyValueCache& cache, const Context& ctx) const;
};

// fc2(gelu(fc1(x)))
struct Mlp {
  Linear fc1, fc2;
  ops::Gelu form = ops::Gelu::erf;
  std::string path;

  Mlp() = default;
  Mlp(Scope s, int64_t embed_dim, int64_t hidden_dim, ops::Gelu form, Init init, Init out_init, bool with_bias = true,
      Init bias_init = Init::zeros());
  Tensor operator()(const Tensor& x, const Context& ctx) const;
};

// One block of a model, nn::Stream block(nn::Stream, ctx); with ctx.recompute it keeps only its input, the whole
// stream.
template <class Block>
Stream run_block(const Block& block, const Stream& stream, const Context& ctx) {
  if (!ctx.recompute) return block(stream, ctx);
  const auto whole = [&block, ctx](const Tensor& x) { return block(Stream{x, {}, {}}, ctx).sum(ctx); };
  return {recompute(whole, stream.sum(ctx)), {}, {}};
}

// Dropout of a residual branch with the address of `path`.   x: (B, ...)
Tensor dropout(const Tensor& x, float p, std::string_view path, const Context& ctx);

}  // namespace accrete::nn
