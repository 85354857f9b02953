#include "models/gpt.h"

#include <cmath>

namespace accrete {
namespace {

Init residual_init(const GptConfig& c) {
  const double depth = static_cast<double>(std::max<int64_t>(1, c.depth));
  return Init::normal(static_cast<float>(c.init_std / std::sqrt(2.0 * depth)));
}

ops::Gelu gelu_form(const GptConfig& c) { return c.activation == "gelu_tanh" ? ops::Gelu::tanh : ops::Gelu::erf; }

}  // namespace

GptConfig gpt_preset(const std::string& name) {
  struct Size {
    const char* name;
    int64_t depth, heads, width;
  };
  static constexpr Size kSizes[] = {
      {"gpt2", 12, 12, 768}, {"gpt2-medium", 24, 16, 1024}, {"gpt2-large", 36, 20, 1280}, {"gpt2-xl", 48, 25, 1600}};
  for (const Size& s : kSizes) {
    if (name != s.name) continue;
    GptConfig c;
    c.depth = s.depth;
    c.num_heads = s.heads;
    c.embed_dim = s.width;
    return c;
  }
  fail("gpt", "unknown model \"", name, "\"; expected gpt2, gpt2-medium, gpt2-large or gpt2-xl");
}

GptBlock::GptBlock(Scope s, const GptConfig& c) : resid_dropout(c.resid_dropout), path(s.path()) {
  const Init init = Init::normal(static_cast<float>(c.init_std));
  const float eps = static_cast<float>(c.layer_norm_eps);
  norm1 = nn::LayerNorm(s / "norm1", c.embed_dim, eps, c.bias);
  attn = nn::SelfAttention(s / "attn", c.embed_dim, c.num_heads, true, static_cast<float>(c.attn_dropout), init,
                           residual_init(c), c.bias);
  norm2 = nn::LayerNorm(s / "norm2", c.embed_dim, eps, c.bias);
  mlp = nn::Mlp(s / "mlp", c.embed_dim, c.hidden_dim(), gelu_form(c), init, residual_init(c), c.bias);
}

nn::Stream GptBlock::operator()(const nn::Stream& in, const Context& ctx) const {
  const ModuleScope scope(path);
  const float p = static_cast<float>(resid_dropout);
  const auto [x, normed1] = norm1.of_sum(in, ctx);
  const Tensor a = nn::dropout(attn(normed1, ctx), p, path + ".dropout1", ctx);
  const auto [middle, normed2] = norm2.of_sum({x, a, {}}, ctx);
  return {middle, nn::dropout(mlp(normed2, ctx), p, path + ".dropout2", ctx), {}};
}

Tensor GptBlock::cached(const Tensor& x, nn::KeyValueCache& cache, const Context& ctx) const {
  const ModuleScope scope(path);
  const auto [sum, normed] = norm2.of_sum({x, attn.cached(norm1(x, ctx), cache, ctx), {}}, ctx);
  return ops::add(sum, mlp(normed, ctx));
}

Gpt::Gpt(const GptConfig& config, DType compute, Device device) : config_(config), store_(compute, device) {
  check(config.vocab_size > 0, "gpt", "vocab_size is 0; expected the size of the tokenizer");
  const Scope root(store_);
  const Init init = Init::normal(static_cast<float>(config.init_std));
  tokens_ = (root / "tokens")
                .param("weight", Shape{config.vocab_size, config.embed_dim}, {kVocab, kEmbed}, init, true,
                       {.tie = config.tied ? Tie::table : Tie::none});
  positions_ =
      (root / "positions").param("weight", Shape{config.context, config.embed_dim}, {kGrid, kEmbed}, init, true);
  for (int i = 0; i < config.depth; ++i)
    blocks_.emplace_back((root / "blocks" / std::to_string(i)).in_block(i), config);
  norm_ = nn::LayerNorm(root / "norm", config.embed_dim, static_cast<float>(config.layer_norm_eps), config.bias,
                        Marks{.tie = config.tied ? Tie::input : Tie::none});
  Axis read = kEmbed;
  read.input = true;
  if (!config.tied)
    head_ = (root / "head")
                .param("weight", Shape{config.vocab_size, config.embed_dim}, {kVocab, read}, init, true,
                       Marks{.head = true});
  store_.allocate();
}

nn::Stream Gpt::stream(const Tensor& ids, const Context& ctx, int64_t blocks) const {
  check(ids.size(1) <= config_.context, "gpt", "sequence of ", ids.size(1), " tokens exceeds the context of ",
        config_.context);
  Tensor x =
      ctx.plain ? ops::embedding_plain(ids, tokens_(), positions_()) : ops::embedding(ids, tokens_(), positions_());
  nn::Stream stream{nn::dropout(x, static_cast<float>(config_.embed_dropout), "embed.dropout", ctx), {}, {}};
  for (int i = 0; i < blocks; ++i)
    if (!ctx.skips("blocks", i)) stream = nn::run_block(blocks_[static_cast<size_t>(i)], stream, ctx);
  return stream;
}

Tensor Gpt::features(const Batch& batch, const Context& ctx, int64_t blocks) {
  check(blocks >= 0 && blocks <= config_.depth, "gpt", "features after ", blocks, " of ", config_.depth, " blocks");
  return stream(batch.inputs, ctx, blocks).sum(ctx);
}

Tensor Gpt::normed(const Tensor& ids, const Context& ctx) const {
  const nn::Stream x = stream(ids, ctx, config_.depth);
  const ModuleScope scope("norm");
  return norm_.of_sum(x, ctx).normed;
}

Tensor Gpt::logits(const Tensor& ids, const Context& ctx) const {
  const Tensor x = normed(ids, ctx);
  const ModuleScope scope("head");
  return ctx.plain ? ops::linear_plain(x, output_matrix(), Tensor()) : ops::linear(x, output_matrix(), Tensor());
}

Tensor Gpt::loss(const Batch& batch, const Context& ctx) {
  const Tensor x = normed(batch.inputs, ctx);
  const ModuleScope scope("head");
  return ctx.plain ? ops::linear_cross_entropy_plain(x, output_matrix(), batch.targets)
                   : ops::linear_cross_entropy(x, output_matrix(), batch.targets);
}

EvalSums Gpt::evaluate(const Batch& batch, const Context& ctx) {
  const NoGrad quiet;
  const Tensor losses = ctx.plain ? ops::token_losses(logits(batch.inputs, ctx), batch.targets)
                                  : ops::linear_token_losses(normed(batch.inputs, ctx), output_matrix(), batch.targets);
  EvalSums sums;
  for (const float l : losses.to_vector<float>()) sums.loss += l;
  for (const int32_t t : batch.targets.to_vector<int32_t>()) sums.count += t >= 0;
  return sums;
}

Gpt::Cache Gpt::make_cache(int64_t batch) const {
  Cache cache;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Shape shape{batch, config_.context, config_.embed_dim};
    cache.layers.push_back({Tensor::zeros(shape, store_.compute_dtype(), store_.device()),
                            Tensor::zeros(shape, store_.compute_dtype(), store_.device()), 0});
  }
  return cache;
}

Tensor Gpt::next_logits(const Tensor& ids, Cache& cache) const {
  const NoGrad quiet;
  const Context ctx;
  const int64_t B = ids.size(0), T = ids.size(1), past = cache.length();
  check(past + T <= config_.context, "gpt", "no position left: the context has ", config_.context, " tokens");
  Tensor x = ops::embedding(ids, tokens_(), positions_(), past);
  for (size_t i = 0; i < blocks_.size(); ++i) x = blocks_[i].cached(x, cache.layers[i], ctx);
  x = norm_(x, ctx);
  // Only the last position is wanted: columns (T-1)*C .. T*C of the rows seen as (B, T*C).
  const Tensor last =
      ops::slice_last(x.view(Shape{B, T * config_.embed_dim}), (T - 1) * config_.embed_dim, T * config_.embed_dim);
  return ops::linear(last, output_matrix(), Tensor());
}

std::unique_ptr<Model> make_gpt(const Json& config, DType compute, Device device) {
  GptConfig c;
  from_json(c, config, "model");
  return std::make_unique<Gpt>(c, compute, device);
}

}  // namespace accrete
