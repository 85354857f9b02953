// VOLO: a vision transformer whose first stage attends within windows on a fine grid (Yuan et al. 2021, arXiv
// 2106.13112), trained with a target for every patch (token labeling, Jiang et al. 2021, arXiv 2104.10858).
//
//   x = proj(stem(image))                                     patches of P x P pixels: grid (B, S/P, S/P, C1)
//   stage 1, outlookers:     x += attn.proj(outlook(attn.v(u), attn.attn(pool(u)))), u = norm1(x);   x += mlp(norm2(x))
//   x = down(x) + pos_embed                                   2 x 2 cells to one: (B, S/2P, S/2P, C2)
//   stage 2, transformers:   x += attn.proj(attention(norm1(x)));   x += mlp(norm2(x))
//   x = [cls_token | x]; class blocks: only the class token is updated, with attention to all tokens
//   class logits = head(norm(x)[0]);   patch logits = aux_head(norm(x)[1..])
//   evaluation: class logits + 0.5 * largest patch logits (class by class)
//
// Names are those of the released checkpoints: outlookers "network.0", down-sampling "network.1", groups of
// transformers "network.2" and up, class blocks "post_network".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/core/config.h"
#include "engine/nn/image_layers.h"
#include "models/image_model.h"

namespace accrete {

struct VoloConfig {
  int64_t image_size = 224;
  int64_t patch = 8;
  int64_t channels = 3;
  int64_t classes = 1000;
  int64_t stem_dim = 64;
  std::vector<int64_t> depth = {4, 4, 8, 2};
  std::vector<int64_t> embed_dim = {192, 384};
  std::vector<int64_t> num_heads = {6, 12};
  std::vector<int64_t> mlp_dim = {576, 1152};
  int64_t class_blocks = 2;
  double drop_path = 0.0;
  double layer_norm_eps = 1e-5;
  double init_std = 0.02;
  double pos_offset = 0.0;
  double class_weight = 1.0, token_weight = 0.5;

  template <class V>
  void fields(V& v) {
    v("image_size", image_size, "side of the images that the table of positions is made for; a multiple of 2 * patch",
      between(1, 1 << 16));
    v("patch", patch, "side of a patch in pixels; even", between(2, 1 << 10));
    v("channels", channels, "channels of the images", between(1, 1 << 10));
    v("classes", classes, "number of classes; 0 in a recipe: taken from the data", between(0, 1 << 24));
    v("stem_dim", stem_dim, "channels of the three convolutions before the patches", between(1, 1 << 16));
    v("depth", depth, "number of outlookers, then of transformer blocks in each further group", between(0, 100000));
    v("embed_dim", embed_dim, "width of the outlookers and of the transformer blocks", between(1, 1 << 20));
    v("num_heads", num_heads, "attention heads of both stages; each must divide its embed_dim", between(1, 1 << 16));
    v("mlp_dim", mlp_dim, "hidden width of the MLP of both stages", between(1, 1 << 22));
    v("class_blocks", class_blocks, "class-attention blocks", between(0, 1000));
    v("drop_path", drop_path,
      "stochastic depth of the last transformer block; earlier ones in proportion to their index, outlookers none",
      at_least(0), at_most(0.99));
    v("layer_norm_eps", layer_norm_eps, "added to the variance in layer norms", above(0));
    v("init_std", init_std, "standard deviation of the initial weights (convolutions: uniform by fan-in)", above(0));
    v("pos_offset", pos_offset,
      "added to the new side of the grid when positions are resampled; 0: exact ratio, 0.1: as AutoProg's release",
      between(0, 0.5));
    v("class_weight", class_weight, "weight of the class token's loss", at_least(0));
    v("token_weight", token_weight, "weight of the loss over all patches (token labeling)", at_least(0));
  }

  int64_t blocks() const;                                    // outlookers and transformers
  int64_t grid() const { return image_size / (2 * patch); }  // side of the grid of stage 2
  // Drop-path rate of block `index`, counted through all groups.
  double drop_path_of(int64_t index) const;
};

// The published sizes, at 224 pixels and 1000 classes: volo-d1 (27M) .. volo-d5 (296M), drop_path 0. Error for other
// names.
VoloConfig volo_preset(const std::string& name);

// "network.0", "network.2", "network.3", ..: the group of blocks with place `group` in VoloConfig::depth.
std::string volo_group(int64_t group);

struct OutlookAttention {
  nn::Linear v, attn, proj;
  int64_t num_heads = 1;
  float scale = 1.0f;  // of the logits: 1 / sqrt(head size)

  OutlookAttention() = default;
  OutlookAttention(Scope s, int64_t embed_dim, int64_t num_heads, Init init);
  Tensor operator()(const Tensor& x, const Context& ctx) const;  // (B, H, W, C) -> (B, H, W, C)
};

// What outlookers and transformer blocks have in common: x += attn(norm1(x)), x += mlp(norm2(x)).
struct VoloBlock {
  nn::LayerNorm norm1, norm2;
  nn::Mlp mlp;
  float drop_path = 0.0f;
  std::string path;

  VoloBlock(Scope s, const VoloConfig& config, int stage, double drop_path);
  virtual ~VoloBlock() = default;
  nn::Stream operator()(const nn::Stream& in, const Context& ctx) const;  // (B, H, W, C)

 private:
  virtual Tensor attend(const Tensor& x, const Context& ctx) const = 0;
};

struct Outlooker : VoloBlock {
  OutlookAttention attn;
  Outlooker(Scope s, const VoloConfig& config, double drop_path);

 private:
  Tensor attend(const Tensor& x, const Context& ctx) const override { return attn(x, ctx); }
};

struct VoloTransformer : VoloBlock {
  nn::SelfAttention attn;
  VoloTransformer(Scope s, const VoloConfig& config, double drop_path);

 private:
  Tensor attend(const Tensor& x, const Context& ctx) const override;
};

// Class attention (CaiT, Touvron et al. 2021): one query, made of the class token; keys and values of all tokens.
struct ClassBlock {
  nn::LayerNorm norm1, norm2;
  nn::Linear q, kv, proj;
  nn::Mlp mlp;
  int64_t num_heads = 1;
  std::string path;

  ClassBlock(Scope s, const VoloConfig& config);
  Tensor operator()(const Tensor& x, const Context& ctx) const;  // (B, 1 + T, C) -> (B, 1 + T, C), patches unchanged
};

class Volo : public ImageModel {
 public:
  Volo(const VoloConfig& config, DType compute, Device device);

  std::string family() const override { return "volo"; }
  Json config() const override { return to_json(config_); }
  const VoloConfig& settings() const { return config_; }
  ParamStore& params() override { return store_; }
  int64_t classes() const override { return config_.classes; }
  int64_t channels() const override { return config_.channels; }
  int64_t image_size() const override { return config_.image_size; }

  // class_weight * CE(class logits, soft_targets) + token_weight * CE(patch logits, token_targets), means over samples
  // and over patches. Without token_targets those of the class stand for every patch. With a mix_box the patch
  // embeddings are mixed and the patch logits un-mixed, so that token_targets are those of the images as they were and
  // soft_targets the mixed ones.
  Tensor loss(const Batch& batch, const Context& ctx) override;
  Tensor logits(const Batch& batch, const Context& ctx) const override;
  // The grid after `blocks` blocks of all groups, row by row: (B, tokens, C), of the first stage up to its last block.
  Tensor features(const Batch& batch, const Context& ctx, int64_t blocks) override;

  // What the two heads say: (B, classes) and (B, T, classes). `box`: of MixToken, or undefined.
  struct Heads {
    Tensor cls, patches;
  };
  Heads heads(const Batch& batch, const Context& ctx, const Tensor& box = {}) const;

 private:
  Tensor patch_embed(const Batch& batch, const Context& ctx) const;  // (B, S/P, S/P, C1)
  Tensor second_stage(const Tensor& x) const;  // down-sampling and positions: (B, H, W, C1) -> (B, H/2, W/2, C2)
  // Blocks begin .. end-1, counted through all groups, which lie in one stage.   (B, H, W, C) -> (B, H, W, C)
  Tensor run(const Tensor& x, const Context& ctx, int64_t begin, int64_t end) const;

  struct Place {
    std::string group;
    int index;
  };

  VoloConfig config_;
  ParamStore store_;
  std::vector<nn::Conv> stem_;
  std::vector<nn::BatchNorm> stem_norms_;
  nn::Conv proj_, down_;
  Param positions_, class_token_;
  std::vector<std::unique_ptr<VoloBlock>> blocks_;  // of all groups
  std::vector<Place> places_;
  std::vector<ClassBlock> class_blocks_;
  nn::LayerNorm norm_;
  nn::Linear head_, aux_head_;
};

// A Volo from its config JSON; its values are not initialised.
std::unique_ptr<Model> make_volo(const Json& config, DType compute, Device device);

}  // namespace accrete
