// Vision transformers: ViT (Dosovitskiy et al. 2020), DeiT with and without distillation (Touvron et al. 2020), DeiT
// III (Touvron et al. 2022). Parameters have the names of timm.
//
//   x = [class token, distillation token or registers, patches] + positions
//   per block:  x += drop_path(ls1 * proj(attention(norm1(x))));   x += drop_path(ls2 * fc2(gelu(fc1(norm2(x)))))
//   logits = head(norm(x[class token])), or head(fc_norm(mean of the patches))
//   head_norm: a batch norm without factors in front of the head (linear probes of MAE, He et al. 2021)
//   distilled: a second head reads the distillation token; an evaluation averages the logits of both
//
// Dropout after the position sum, on the attention probabilities, after proj, gelu and fc2, and before the heads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/core/config.h"
#include "engine/nn/image_layers.h"
#include "models/image_model.h"

namespace accrete {

struct VitConfig {
  int64_t image_size = 224, patch = 16, channels = 3, classes = 1000;
  int64_t embed_dim = 768, depth = 12, num_heads = 12;
  int64_t mlp_dim = 0;  // 0: 4 * embed_dim
  std::string activation = "gelu_erf";
  double layer_norm_eps = 1e-6;
  bool qkv_bias = true;
  bool distilled = false;
  int64_t registers = 0;
  std::string pool = "token";
  bool head_norm = false;
  bool position_prefix = true;
  std::string positions = "learned";
  double layer_scale = 0.0;
  double drop_path = 0.0;
  std::string drop_path_rule = "linear";
  double embed_dropout = 0.0, attn_dropout = 0.0, proj_dropout = 0.0, head_dropout = 0.0;
  std::string init = "timm";
  std::string loss = "cross_entropy";

  template <class V>
  void fields(V& v) {
    v("image_size", image_size, "side of the pictures; others are taken too, with positions resampled",
      between(1, 1 << 16));
    v("patch", patch, "side of a patch; must divide image_size", between(1, 1 << 12));
    v("channels", channels, "of the pictures; 0 in a recipe: taken from the data", between(0, 1 << 12));
    v("classes", classes, "number of classes; 0 in a recipe: taken from the data", between(0, 1 << 24));
    v("embed_dim", embed_dim, "width of the residual stream", between(1, 1 << 20));
    v("depth", depth, "number of blocks", between(0, 100000));
    v("num_heads", num_heads, "attention heads; must divide embed_dim", between(1, 1 << 16));
    v("mlp_dim", mlp_dim, "hidden width of the MLP; 0: 4 * embed_dim", between(0, 1 << 22));
    v("activation", activation, "form of GELU", one_of("gelu_erf", "gelu_tanh"));
    v("layer_norm_eps", layer_norm_eps, "added to the variance in layer norms", above(0));
    v("qkv_bias", qkv_bias, "biases of queries, keys and values");
    v("distilled", distilled, "a distillation token and a head that reads it (DeiT)");
    v("registers", registers, "further tokens that nothing reads", between(0, 1 << 12));
    v("pool", pool, "what the head reads: the class token, or the mean of the patches", one_of("token", "mean"));
    v("head_norm", head_norm, "a batch norm without factors in front of the head (linear probes)");
    v("position_prefix", position_prefix, "special tokens have positions too; false: patches only (DeiT III)");
    v("positions", positions, "a trained table, or fixed sines and cosines of row and column",
      one_of("learned", "sincos"));
    v("layer_scale", layer_scale, "initial factor of every channel of a residual branch, trained; 0: none",
      at_least(0));
    v("drop_path", drop_path, "probability that a sample skips a residual branch", at_least(0), at_most(0.99));
    v("drop_path_rule", drop_path_rule, "linear: from 0 in the first block to drop_path in the last; constant",
      one_of("linear", "constant"));
    v("embed_dropout", embed_dropout, "dropout after the position sum", at_least(0), at_most(0.99));
    v("attn_dropout", attn_dropout, "dropout on attention probabilities", at_least(0), at_most(0.99));
    v("proj_dropout", proj_dropout, "dropout after attention's projection, the GELU and the MLP", at_least(0),
      at_most(0.99));
    v("head_dropout", head_dropout, "dropout before the heads", at_least(0), at_most(0.99));
    v("init", init, "initial values: timm; deit (timm with a class token of 0.02); jax and moco as timm has them; mae",
      one_of("timm", "deit", "jax", "moco", "mae"));
    v("loss", loss, "bce: binary cross-entropy, targets above 0 count as 1, so without smoothing (DeiT III)",
      one_of("cross_entropy", "bce"));
  }
  int64_t hidden_dim() const { return mlp_dim > 0 ? mlp_dim : 4 * embed_dim; }
  int64_t grid() const { return image_size / patch; }  // patches on a side
  int64_t special_tokens() const { return 1 + (distilled ? 1 : 0) + registers; }
  int64_t position_extra() const { return position_prefix ? special_tokens() : 0; }  // rows before those of the grid
  int64_t position_rows() const { return position_extra() + grid() * grid(); }
};

// Error in one sentence when the sizes do not fit each other.
void check_sizes(const VitConfig& config);
// The probability with which block `block` of the model drops a residual branch of a sample.
double drop_path_rate(const VitConfig& config, int64_t block);

// The published sizes for 224 x 224 pictures of 1000 classes, patches of 16 (huge and giant: 14), dropout and drop-path
// 0: vit-tiny, -small, -base, -large, -huge, -giant; deit-tiny, -small, -base, each also with -distilled behind it;
// deit3-small, -medium, -base, -large, -huge. Error for other names.
VitConfig vit_preset(const std::string& name);

struct VitBlock {
  nn::LayerNorm norm1, norm2;
  nn::SelfAttention attn;
  nn::Mlp mlp;
  Param scale1, scale2;  // LayerScale, (C) each; absent without it
  float drop_path = 0, proj_dropout = 0;
  std::string path;

  VitBlock(Scope s, const VitConfig& config, int index);
  nn::Stream operator()(const nn::Stream& in, const Context& ctx) const;  // (B, T, C)

 private:
  Tensor mlp_branch(const Tensor& x, const Context& ctx) const;
  ops::Join join(const Param& scale, const char* name, const Context& ctx) const;
};

class Vit : public ImageModel {
 public:
  Vit(const VitConfig& config, DType compute, Device device);

  std::string family() const override { return "vit"; }
  Json config() const override { return to_json(config_); }
  const VitConfig& settings() const { return config_; }
  ParamStore& params() override { return store_; }
  int64_t classes() const override { return config_.classes; }
  int64_t channels() const override { return config_.channels; }
  int64_t image_size() const override { return config_.image_size; }
  bool learns_from_teacher() const override { return config_.distilled; }

  // batch.inputs: (B, channels, H, W) f32; the patch must divide H and W. With a teacher, in training, the class head
  // learns from the targets and the distillation head from the teacher; else their mean learns from the targets.
  Tensor loss(const Batch& batch, const Context& ctx) override;
  Tensor features(const Batch& batch, const Context& ctx, int64_t blocks) override;
  Tensor logits(const Batch& batch, const Context& ctx) const override;

 private:
  struct Heads {
    Tensor cls, dist;  // (B, classes); dist undefined without distillation
    Tensor mean() const { return dist.defined() ? ops::scale(ops::add(cls, dist), 0.5f) : cls; }
  };
  Tensor embed(const Batch& batch, const Context& ctx) const;                   // (B, T, C)
  Tensor stream(const Batch& batch, const Context& ctx, int64_t blocks) const;  // (B, T, C), before the norm
  Tensor pooled(const Tensor& x, int64_t token, const Context& ctx) const;      // (B, T, C) -> (B, C), normed
  Heads heads(const Batch& batch, const Context& ctx) const;

  VitConfig config_;
  ParamStore store_;
  Param cls_, extra_, positions_;  // extra: the distillation token or the registers
  nn::Linear patch_;
  std::vector<VitBlock> blocks_;
  nn::LayerNorm norm_;
  nn::BatchNorm head_norm_;
  nn::Linear head_, head_dist_;
};

// The same model, computing as in evaluations, whose head does the work of its head_norm.
std::unique_ptr<Vit> without_head_norm(const Vit& model);

// A Vit from its config JSON; its values are not initialised.
std::unique_ptr<Model> make_vit(const Json& config, DType compute, Device device);

}  // namespace accrete
