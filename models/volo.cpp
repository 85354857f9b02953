#include "models/volo.h"

#include <algorithm>
#include <cmath>

namespace accrete {
namespace {

Init linear_init(const VoloConfig& c) { return Init::normal(static_cast<float>(c.init_std)); }

nn::LayerNorm layer_norm(const Scope& s, const VoloConfig& c, int stage) {
  return {s, c.embed_dim[static_cast<size_t>(stage)], static_cast<float>(c.layer_norm_eps)};
}

nn::Mlp mlp_of(const Scope& s, const VoloConfig& c, int stage) {
  const auto i = static_cast<size_t>(stage);
  return {s, c.embed_dim[i], c.mlp_dim[i], ops::Gelu::erf, linear_init(c), linear_init(c)};
}

VoloConfig checked(const VoloConfig& c) {
  check(c.classes > 0, "volo", "classes is 0; expected the number of classes of the data");
  check(c.patch % 2 == 0, "volo", "patch must be even; got ", c.patch);
  check(c.image_size % (2 * c.patch) == 0, "volo", "image_size ", c.image_size,
        " is not a multiple of twice the patch; expected a multiple of ", 2 * c.patch);
  check(c.depth.size() >= 2, "volo", "depth has ", c.depth.size(),
        " numbers; expected that of outlookers and one for each group of transformer blocks");
  check(c.embed_dim.size() == 2 && c.num_heads.size() == 2 && c.mlp_dim.size() == 2, "volo",
        "embed_dim, num_heads and mlp_dim have ", c.embed_dim.size(), ", ", c.num_heads.size(), " and ",
        c.mlp_dim.size(), " numbers; expected two each, for outlookers and transformer blocks");
  for (size_t i = 0; i < 2; ++i)
    check(c.embed_dim[i] % c.num_heads[i] == 0, "volo", "embed_dim ", c.embed_dim[i], " is not divisible by num_heads ",
          c.num_heads[i], "; expected a multiple");
  return c;
}

const Tensor* extra(const Batch& batch, const char* name) {
  const auto it = batch.extra.find(name);
  return it != batch.extra.end() ? &it->second : nullptr;
}

Tensor on_grid(const Tensor& tokens, int64_t h, int64_t w) {
  return ops::reshape(tokens, Shape{tokens.size(0), h, w, tokens.size(-1)});
}

Tensor as_tokens(const Tensor& grid) {
  return ops::reshape(grid, Shape{grid.size(0), grid.size(1) * grid.size(2), grid.size(3)});
}

}  // namespace

int64_t VoloConfig::blocks() const {
  int64_t n = 0;
  for (const int64_t d : depth) n += d;
  return n;
}

double VoloConfig::drop_path_of(int64_t index) const {
  if (index < depth.at(0)) return 0.0;
  return drop_path * static_cast<double>(index) / static_cast<double>(std::max<int64_t>(1, blocks() - 1));
}

VoloConfig volo_preset(const std::string& name) {
  struct Size {
    const char* name;
    std::vector<int64_t> depth;
    int64_t width, heads1, heads2, mlp_ratio, stem;
  };
  static const Size kSizes[] = {{"volo-d1", {4, 4, 8, 2}, 192, 6, 12, 3, 64},
                                {"volo-d2", {6, 4, 10, 4}, 256, 8, 16, 3, 64},
                                {"volo-d3", {8, 8, 16, 4}, 256, 8, 16, 3, 64},
                                {"volo-d4", {8, 8, 16, 4}, 384, 12, 16, 3, 64},
                                {"volo-d5", {12, 12, 20, 4}, 384, 12, 16, 4, 128}};
  for (const Size& s : kSizes) {
    if (name != s.name) continue;
    VoloConfig c;
    c.depth = s.depth;
    c.embed_dim = {s.width, 2 * s.width};
    c.num_heads = {s.heads1, s.heads2};
    c.mlp_dim = {s.mlp_ratio * s.width, 2 * s.mlp_ratio * s.width};
    c.stem_dim = s.stem;
    return c;
  }
  fail("volo", "unknown model \"", name, "\"; expected volo-d1, volo-d2, volo-d3, volo-d4 or volo-d5");
}

// The down-sampling took the name network.1.
std::string volo_group(int64_t group) { return "network." + std::to_string(group == 0 ? 0 : group + 1); }

OutlookAttention::OutlookAttention(Scope s, int64_t embed_dim, int64_t num_heads_, Init init)
    : num_heads(num_heads_), scale(1.0f / std::sqrt(static_cast<float>(embed_dim / num_heads_))) {
  constexpr int64_t kPerHead = 81;  // 9 places of a window, 9 values each
  const Axis heads = heads_axis(embed_dim / num_heads);
  v = nn::Linear(s / "v", embed_dim, kEmbed, embed_dim, heads, init, false);
  attn = nn::Linear(s / "attn", embed_dim, kEmbed, kPerHead * num_heads, heads_axis(kPerHead), init);
  proj = nn::Linear(s / "proj", embed_dim, heads, embed_dim, kEmbed, init, true, Marks{.branch_end = true});
}

Tensor OutlookAttention::operator()(const Tensor& x, const Context& ctx) const {
  const ModuleScope scope("attn");
  const Tensor values = v(x, ctx), logits = attn(ops::average_pool2(x), ctx);
  return proj(ctx.plain ? ops::outlook_attention_plain(values, logits, num_heads, scale)
                        : ops::outlook_attention(values, logits, num_heads, scale),
              ctx);
}

VoloBlock::VoloBlock(Scope s, const VoloConfig& c, int stage, double rate)
    : norm1(layer_norm(s / "norm1", c, stage)),
      norm2(layer_norm(s / "norm2", c, stage)),
      mlp(mlp_of(s / "mlp", c, stage)),
      drop_path(static_cast<float>(rate)),
      path(s.path()) {}

nn::Stream VoloBlock::operator()(const nn::Stream& in, const Context& ctx) const {
  const ModuleScope scope(path);
  const auto join = [&](const char* name) {
    return ops::Join{{}, ctx.training ? drop_path : 0.0f, ctx.key(path + name), ctx.first_sample};
  };
  const auto [x, normed1] = norm1.of_sum(in, ctx);
  const auto [middle, normed2] = norm2.of_sum({x, attend(normed1, ctx), join(".drop_path1")}, ctx);
  return {middle, mlp(normed2, ctx), join(".drop_path2")};
}

Outlooker::Outlooker(Scope s, const VoloConfig& c, double rate)
    : VoloBlock(s, c, 0, rate), attn(s / "attn", c.embed_dim[0], c.num_heads[0], linear_init(c)) {}

// Only the second layer of the attention has a bias.
VoloTransformer::VoloTransformer(Scope s, const VoloConfig& c, double rate)
    : VoloBlock(s, c, 1, rate),
      attn(s / "attn", c.embed_dim[1], c.num_heads[1], false, 0.0f, linear_init(c), linear_init(c), true, false) {}

Tensor VoloTransformer::attend(const Tensor& x, const Context& ctx) const {
  return on_grid(attn(as_tokens(x), ctx), x.size(1), x.size(2));
}

ClassBlock::ClassBlock(Scope s, const VoloConfig& c)
    : norm1(layer_norm(s / "norm1", c, 1)),
      norm2(layer_norm(s / "norm2", c, 1)),
      mlp(mlp_of(s / "mlp", c, 1)),
      num_heads(c.num_heads[1]),
      path(s.path()) {
  const int64_t C = c.embed_dim[1], head_dim = C / num_heads;
  const Scope attn = s / "attn";
  q = nn::Linear(attn / "q", C, kEmbed, C, heads_axis(head_dim), linear_init(c), false);
  kv = nn::Linear(attn / "kv", C, kEmbed, 2 * C, heads_axis(head_dim, 2), linear_init(c), false);
  proj = nn::Linear(attn / "proj", C, heads_axis(head_dim), C, kEmbed, linear_init(c), true, Marks{.branch_end = true});
}

Tensor ClassBlock::operator()(const Tensor& x, const Context& ctx) const {
  const ModuleScope scope(path);
  const int64_t tokens = x.size(1);
  const Tensor u = norm1(x, ctx), query = q(ops::slice_tokens(u, 0, 1), ctx), all = kv(u, ctx);
  const Tensor a =
      ctx.plain ? ops::cross_attention_plain(query, all, num_heads) : ops::cross_attention(query, all, num_heads);
  const auto [sum, normed] = norm2.of_sum({ops::slice_tokens(x, 0, 1), proj(a, ctx), {}}, ctx);
  return ops::concat_tokens(ops::add(sum, mlp(normed, ctx)), ops::slice_tokens(x, 1, tokens));
}

Volo::Volo(const VoloConfig& config, DType compute, Device device) : config_(checked(config)), store_(compute, device) {
  const VoloConfig& c = config_;
  const Init init = linear_init(c);
  const Scope root(store_), first = root.in_stage(0), second = root.in_stage(1);
  // What comes before the blocks, the way from the first stage to the second included.
  const Scope embed = first / "patch_embed";
  for (int i = 0; i < 3; ++i) {
    const auto layer = [&](int place) { return embed / "conv" / std::to_string(3 * i + place); };
    const ops::ConvOptions shape{.kernel = i == 0 ? 7 : 3, .stride = i == 0 ? 2 : 1, .pad = i == 0 ? 3 : 1};
    stem_.emplace_back(layer(0), i == 0 ? c.channels : c.stem_dim, kNone, c.stem_dim, kNone, shape, false);
    stem_norms_.emplace_back(layer(1), c.stem_dim);
  }
  const int64_t half = c.patch / 2;  // the stem has halved the image
  proj_ = nn::Conv(embed / "proj", c.stem_dim, kNone, c.embed_dim[0], kEmbed, {.kernel = half, .stride = half});
  down_ = nn::Conv(second / "network" / "1" / "proj", c.embed_dim[0], kEmbed, c.embed_dim[1], kEmbed,
                   {.kernel = 2, .stride = 2});
  positions_ = second.param("pos_embed", Shape{c.grid() * c.grid(), c.embed_dim[1]}, {kGrid, kEmbed}, init, false);

  for (size_t g = 0; g < c.depth.size(); ++g) {
    const std::string group = volo_group(static_cast<int64_t>(g));
    for (int i = 0; i < c.depth[g]; ++i) {
      const Scope s = ((g == 0 ? first : second) / group / std::to_string(i)).in_block(i);
      const double rate = c.drop_path_of(static_cast<int64_t>(blocks_.size()));
      if (g == 0)
        blocks_.push_back(std::make_unique<Outlooker>(s, c, rate));
      else
        blocks_.push_back(std::make_unique<VoloTransformer>(s, c, rate));
      places_.push_back({group, i});
    }
  }

  class_token_ = second.param("cls_token", Shape{1, c.embed_dim[1]}, {kNone, kEmbed}, init, false);
  for (int i = 0; i < c.class_blocks; ++i) class_blocks_.emplace_back(second / "post_network" / std::to_string(i), c);
  norm_ = layer_norm(second / "norm", c, 1);
  head_ = nn::Linear(second / "head", c.embed_dim[1], kEmbed, c.classes, kNone, init, true, Marks{.head = true});
  aux_head_ =
      nn::Linear(second / "aux_head", c.embed_dim[1], kEmbed, c.classes, kNone, init, true, Marks{.head = true});
  store_.allocate();
}

Tensor Volo::patch_embed(const Batch& batch, const Context& ctx) const {
  const ModuleScope scope("patch_embed");
  Tensor x = network_input(batch, store_.compute_dtype());
  const int64_t B = x.size(0), channels = x.size(1), H = x.size(2), W = x.size(3), unit = 2 * config_.patch;
  check(channels == config_.channels, "volo", "images with ", channels, " channels; expected ", config_.channels);
  check(H > 0 && W > 0 && H % unit == 0 && W % unit == 0, "volo", "images of ", H, " x ", W,
        "; expected sides that are multiples of twice the patch, ", unit);
  x = on_grid(ops::transpose(ops::reshape(x, Shape{B, channels, H * W})), H, W);
  for (size_t i = 0; i < stem_.size(); ++i) x = ops::unary(ops::Unary::relu, stem_norms_[i](stem_[i](x), ctx));
  return proj_(x);
}

Tensor Volo::second_stage(const Tensor& x) const {
  const ModuleScope scope("network.1");
  const Tensor y = down_(x);
  const ops::GridSize grid{y.size(1), y.size(2)}, table{config_.grid(), config_.grid()};
  const Tensor positions = ops::resample_grid(positions_(), 0, table, grid, config_.pos_offset);
  return on_grid(ops::sequence(as_tokens(y), Tensor(), Tensor(), positions), grid.h, grid.w);
}

Tensor Volo::run(const Tensor& x, const Context& ctx, int64_t begin, int64_t end) const {
  nn::Stream stream{x, {}, {}};
  for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
    if (!ctx.skips(places_[i].group, places_[i].index)) stream = nn::run_block(*blocks_[i], stream, ctx);
  return stream.sum(ctx);
}

Tensor Volo::features(const Batch& batch, const Context& ctx, int64_t blocks) {
  const int64_t outlookers = config_.depth[0];
  check(blocks >= 0 && blocks <= config_.blocks(), "volo", "features after ", blocks, " of ", config_.blocks(),
        " blocks; expected 0 to ", config_.blocks());
  Tensor x = run(patch_embed(batch, ctx), ctx, 0, std::min(blocks, outlookers));
  if (blocks > outlookers) x = run(second_stage(x), ctx, outlookers, blocks);
  return as_tokens(x);
}

Volo::Heads Volo::heads(const Batch& batch, const Context& ctx, const Tensor& box) const {
  Tensor x = patch_embed(batch, ctx);
  if (box.defined()) x = ops::mix_tokens(x, box, 2);
  x = second_stage(run(x, ctx, 0, config_.depth[0]));
  x = run(x, ctx, config_.depth[0], config_.blocks());
  const int64_t B = x.size(0), H = x.size(1), W = x.size(2);
  x = ops::sequence(as_tokens(x), class_token_(), Tensor(), Tensor());
  for (const ClassBlock& block : class_blocks_) {
    if (ctx.recompute)
      x = recompute([&block, ctx](const Tensor& in) { return block(in, ctx); }, x);
    else
      x = block(x, ctx);
  }
  const ModuleScope scope("head");
  x = norm_(x, ctx);
  Heads h;
  h.cls = ops::reshape(head_(ops::slice_tokens(x, 0, 1), ctx), Shape{B, config_.classes});
  h.patches = aux_head_(ops::slice_tokens(x, 1, 1 + H * W), ctx);
  if (box.defined()) h.patches = as_tokens(ops::mix_tokens(on_grid(h.patches, H, W), box, 1));
  return h;
}

Tensor Volo::logits(const Batch& batch, const Context& ctx) const {
  const Heads h = heads(batch, ctx);
  return ops::add(h.cls, ops::scale(ops::max_tokens(h.patches), 0.5f));
}

Tensor Volo::loss(const Batch& batch, const Context& ctx) {
  const Tensor *soft = extra(batch, "soft_targets"), *patch = extra(batch, "token_targets"),
               *box = extra(batch, "mix_box");
  check(!box || (soft && patch), "volo",
        "a batch with a mix_box needs targets for both heads; expected mixed soft_targets for the class and "
        "token_targets of the images as they were");
  const Heads h = heads(batch, ctx, box ? *box : Tensor());
  const int64_t B = h.patches.size(0), T = h.patches.size(1);
  const ModuleScope scope("loss");
  if (!patch) patch = soft;
  Tensor patch_loss;
  if (!patch) {
    patch_loss = ops::cross_entropy(h.patches, ops::repeat_tokens(batch.targets, T));
  } else {
    check(patch->rank() == 2 || (patch->rank() == 3 && patch->size(1) == T), "volo", "token_targets of shape ",
          patch->shape(), "; expected ", Shape{B, config_.classes}, " or ", Shape{B, T, config_.classes});
    patch_loss = ops::soft_cross_entropy(h.patches, patch->rank() == 3 ? *patch : ops::repeat_tokens(*patch, T));
  }
  return ops::add(ops::scale(class_loss(h.cls, batch, false), static_cast<float>(config_.class_weight)),
                  ops::scale(patch_loss, static_cast<float>(config_.token_weight)));
}

std::unique_ptr<Model> make_volo(const Json& config, DType compute, Device device) {
  VoloConfig c;
  from_json(c, config, "model");
  return std::make_unique<Volo>(c, compute, device);
}

}  // namespace accrete
