// GPT-2 family: decoder-only transformer, pre-norm, learned positions, tied output matrix (Radford et al. 2019; its own
// output matrix with tied = false).
//
//   x = tokens[ids] + positions
//   per block:  x += proj(attention(norm1(x)));   x += fc2(gelu(fc1(norm2(x))))
//   logits = norm(x) tokens^T
//
// Dropout after the position sum, on the attention probabilities, and on both residual branches.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/core/config.h"
#include "engine/nn/layers.h"
#include "engine/nn/model.h"

namespace accrete {

struct GptConfig {
  int64_t vocab_size = 50257;
  int64_t context = 1024;  // longest sequence
  int64_t embed_dim = 768;
  int64_t depth = 12;
  int64_t num_heads = 12;
  int64_t mlp_dim = 0;  // 0: 4 * embed_dim
  std::string activation = "gelu_tanh";
  double layer_norm_eps = 1e-5;
  bool bias = true;
  bool tied = true;
  double embed_dropout = 0.0, attn_dropout = 0.0, resid_dropout = 0.0;
  double init_std = 0.02;

  template <class V>
  void fields(V& v) {
    v("vocab_size", vocab_size, "number of token ids; 0 in a recipe: taken from the data", between(0, 1 << 24));
    v("context", context, "longest sequence in tokens", between(1, 1 << 24));
    v("embed_dim", embed_dim, "width of the residual stream", between(1, 1 << 20));
    v("depth", depth, "number of blocks", between(0, 100000));
    v("num_heads", num_heads, "attention heads; must divide embed_dim", between(1, 1 << 16));
    v("mlp_dim", mlp_dim, "hidden width of the MLP; 0: 4 * embed_dim", between(0, 1 << 22));
    v("activation", activation, "form of GELU", one_of("gelu_tanh", "gelu_erf"));
    v("layer_norm_eps", layer_norm_eps, "added to the variance in layer norms", above(0));
    v("bias", bias, "biases in linear layers and layer norms");
    v("tied", tied, "the token table is also the output matrix");
    v("embed_dropout", embed_dropout, "dropout after the embeddings", at_least(0), at_most(0.99));
    v("attn_dropout", attn_dropout, "dropout on attention probabilities", at_least(0), at_most(0.99));
    v("resid_dropout", resid_dropout, "dropout on the residual branches", at_least(0), at_most(0.99));
    v("init_std", init_std, "standard deviation of the initial weights (residual projections: / sqrt(2 depth))",
      above(0));
  }
  int64_t hidden_dim() const { return mlp_dim > 0 ? mlp_dim : 4 * embed_dim; }
};

// The published sizes: gpt2 (124M), gpt2-medium (355M), gpt2-large (774M), gpt2-xl (1558M), dropout 0. Error for other
// names.
GptConfig gpt_preset(const std::string& name);

struct GptBlock {
  nn::LayerNorm norm1, norm2;
  nn::SelfAttention attn;
  nn::Mlp mlp;
  double resid_dropout = 0;
  std::string path;

  GptBlock(Scope s, const GptConfig& config);
  nn::Stream operator()(const nn::Stream& in, const Context& ctx) const;  // (B, T, C)
  Tensor cached(const Tensor& x, nn::KeyValueCache& cache, const Context& ctx) const;
};

class Gpt : public Model {
 public:
  Gpt(const GptConfig& config, DType compute, Device device);

  std::string family() const override { return "gpt"; }
  Json config() const override { return to_json(config_); }
  const GptConfig& settings() const { return config_; }
  ParamStore& params() override { return store_; }
  // batch.inputs, targets: (B, T) i32, T <= context
  Tensor loss(const Batch& batch, const Context& ctx) override;
  Tensor features(const Batch& batch, const Context& ctx, int64_t blocks) override;
  EvalSums evaluate(const Batch& batch, const Context& ctx) override;

  Tensor logits(const Tensor& ids, const Context& ctx) const;  // (B, T) i32 -> (B, T, vocab_size)

  // Generation: `ids` (B, T) are appended to what the caches hold; logits of the last position, (B, vocab_size).
  struct Cache {
    std::vector<nn::KeyValueCache> layers;
    int64_t length() const { return layers.empty() ? 0 : layers[0].length; }
  };
  Cache make_cache(int64_t batch) const;
  Tensor next_logits(const Tensor& ids, Cache& cache) const;

 private:
  Tensor normed(const Tensor& ids, const Context& ctx) const;  // (B, T) -> (B, T, C), what the output layer reads
  nn::Stream stream(const Tensor& ids, const Context& ctx, int64_t blocks) const;  // (B, T) -> (B, T, C)
  const Tensor& output_matrix() const { return config_.tied ? tokens_() : head_(); }

  GptConfig config_;
  ParamStore store_;
  Param tokens_, positions_, head_;
  std::vector<GptBlock> blocks_;
  nn::LayerNorm norm_;
};

// A Gpt from its config JSON; its values are not initialised.
std::unique_ptr<Model> make_gpt(const Json& config, DType compute, Device device);

}  // namespace accrete
