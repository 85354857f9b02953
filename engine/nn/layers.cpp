#include "engine/nn/layers.h"

#include "kernels/permute.h"

namespace accrete::nn {

Linear::Linear(Scope s, int64_t in, Axis in_axis, int64_t out, Axis out_axis, Init init, bool with_bias, Marks marks,
               Init bias_init)
    : path(s.path()) {
  in_axis.input = true;
  weight = s.param("weight", Shape{out, in}, {out_axis, in_axis}, init, true, marks);
  if (with_bias) bias = s.param("bias", Shape{out}, {out_axis}, bias_init, false, marks);
}

Tensor Linear::operator()(const Tensor& x, const Context& ctx) const {
  return ctx.plain ? ops::linear_plain(x, weight(), bias()) : ops::linear(x, weight(), bias());
}

Tensor Linear::with_gelu(const Tensor& x, ops::Gelu form, const Context& ctx) const {
  return ctx.plain ? ops::linear_gelu_plain(x, weight(), bias(), form) : ops::linear_gelu(x, weight(), bias(), form);
}

LayerNorm::LayerNorm(Scope s, int64_t embed_dim, float eps_, bool with_bias, Marks marks) : eps(eps_), path(s.path()) {
  weight = s.param("weight", Shape{embed_dim}, {kEmbed}, Init::ones(), false, marks);
  if (with_bias) bias = s.param("bias", Shape{embed_dim}, {kEmbed}, Init::zeros(), false, marks);
}

Tensor LayerNorm::operator()(const Tensor& x, const Context& ctx) const {
  return ctx.plain ? ops::layernorm_plain(x, weight(), bias(), eps) : ops::layernorm(x, weight(), bias(), eps);
}

ops::ResidualNorm LayerNorm::of_sum(const Stream& s, const Context& ctx) const {
  if (!s.branch.defined()) return {s.x, (*this)(s.x, ctx)};
  return ctx.plain ? ops::residual_layernorm_plain(s.branch, s.x, weight(), bias(), eps, s.join)
                   : ops::residual_layernorm(s.branch, s.x, weight(), bias(), eps, s.join);
}

Tensor Stream::sum(const Context& ctx) const {
  if (!branch.defined()) return x;
  if (join.plain()) return ops::add(x, branch);
  return ctx.plain ? ops::residual_branch_plain(x, branch, join) : ops::residual_branch(x, branch, join);
}

SelfAttention::SelfAttention(Scope s, int64_t embed_dim, int64_t num_heads_, bool causal_, float attn_dropout_,
                             Init init, Init proj_init, bool with_bias, bool with_qkv_bias)
    : num_heads(num_heads_), causal(causal_), attn_dropout(attn_dropout_), path(s.path()) {
  check(num_heads > 0 && embed_dim % num_heads == 0, "model", "embed_dim ", embed_dim,
        " is not divisible by num_heads ", num_heads);
  const int64_t head_dim = embed_dim / num_heads;
  qkv = Linear(s / "qkv", embed_dim, kEmbed, 3 * embed_dim, heads_axis(head_dim, 3), init, with_bias && with_qkv_bias);
  proj = Linear(s / "proj", embed_dim, heads_axis(head_dim), embed_dim, kEmbed, proj_init, with_bias,
                Marks{.branch_end = true});
}

Tensor SelfAttention::operator()(const Tensor& x, const Context& ctx) const {
  const ModuleScope scope("attn");
  ops::AttentionOptions options;
  options.heads = num_heads;
  options.causal = causal;
  options.dropout = ctx.training ? attn_dropout : 0.0f;
  options.key = ctx.key(path + ".dropout");
  options.first_sample = ctx.first_sample;
  const Tensor packed = qkv(x, ctx);
  return proj(ctx.plain ? ops::attention_plain(packed, options) : ops::attention(packed, options), ctx);
}

Tensor SelfAttention::cached(const Tensor& x, KeyValueCache& cache, const Context& ctx) const {
  const Tensor packed = qkv(x, ctx);
  const int64_t B = x.size(0), T = x.size(1), width = x.size(2), capacity = cache.k.size(1);
  check(cache.length + T <= capacity, "attention", "the cache holds ", capacity, " tokens; ", cache.length + T,
        " wanted");
  on(packed, [&]<class E>(const auto& dev) {
    for (int64_t b = 0; b < B; ++b) {
      const E* row = packed.ptr<E>() + b * T * 3 * width;
      const int64_t at = (b * capacity + cache.length) * width;
      kernels::copy_rows<E>(dev, cache.k.ptr<E>() + at, width, row + width, 3 * width, T, width);
      kernels::copy_rows<E>(dev, cache.v.ptr<E>() + at, width, row + 2 * width, 3 * width, T, width);
    }
  });
  cache.length += T;
  return proj(ops::attention_cached(packed, cache.k, cache.v, cache.length, num_heads), ctx);
}

Mlp::Mlp(Scope s, int64_t embed_dim, int64_t hidden_dim, ops::Gelu form_, Init init, Init out_init, bool with_bias,
         Init bias_init)
    : form(form_), path(s.path()) {
  fc1 = Linear(s / "fc1", embed_dim, kEmbed, hidden_dim, kMlp, init, with_bias, {}, bias_init);
  fc2 =
      Linear(s / "fc2", hidden_dim, kMlp, embed_dim, kEmbed, out_init, with_bias, Marks{.branch_end = true}, bias_init);
}

Tensor Mlp::operator()(const Tensor& x, const Context& ctx) const {
  const ModuleScope scope("mlp");
  return ctx.plain ? ops::mlp_plain(x, fc1.weight(), fc1.bias(), fc2.weight(), fc2.bias(), form)
                   : ops::mlp(x, fc1.weight(), fc1.bias(), fc2.weight(), fc2.bias(), form);
}

Tensor dropout(const Tensor& x, float p, std::string_view path, const Context& ctx) {
  if (!ctx.training || p == 0.0f) return x;
  const int64_t per_sample = x.size(0) > 0 ? x.count() / x.size(0) : 0;
  return ops::dropout(x, p, ctx.key(path), ctx.first_sample * per_sample);
}

}  // namespace accrete::nn
