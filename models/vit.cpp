#include "models/vit.h"

#include <algorithm>
#include <cmath>

#include "engine/ops/images.h"

namespace accrete {
namespace {

Init normal(double stddev) { return Init::normal(static_cast<float>(stddev)); }
Init uniform(double half_width) { return Init::uniform(static_cast<float>(half_width)); }
// Glorot & Bengio 2010
Init xavier(int64_t in, int64_t out) { return uniform(std::sqrt(6.0 / static_cast<double>(in + out))); }

// Initial values of everything but biases of 0 and norms (models spec 2.4).
struct VitInit {
  Init patch, patch_bias, cls, qkv, proj, fc1, fc2, mlp_bias, head;

  explicit VitInit(const VitConfig& c) {
    const int64_t C = c.embed_dim, F = c.hidden_dim(), pixels = c.channels * c.patch * c.patch;
    const double fan = 1.0 / std::sqrt(static_cast<double>(pixels));
    patch = patch_bias = uniform(fan);  // PyTorch's default for convolutions
    cls = normal(c.init == "deit" || c.init == "mae" ? 0.02 : 1e-6);
    qkv = proj = fc1 = fc2 = head = normal(0.02);
    if (c.init == "timm" || c.init == "deit") return;
    qkv = xavier(C, 3 * C), proj = xavier(C, C), fc1 = xavier(C, F), fc2 = xavier(F, C), head = xavier(C, c.classes);
    if (c.init == "mae") {
      patch = xavier(pixels, C);
    } else if (c.init == "moco") {
      qkv = xavier(C, C);  // each of the three a square matrix of its own
    } else {
      patch = Init::truncated(static_cast<float>(fan / 0.87962566));  // variance 1 / pixels after the truncation
      patch_bias = head = Init::zeros();
      mlp_bias = normal(1e-6);
    }
  }
};

constexpr float kHeadNormEps = 1e-6f;

ops::Gelu gelu_form(const VitConfig& c) { return c.activation == "gelu_tanh" ? ops::Gelu::tanh : ops::Gelu::erf; }

}  // namespace

void check_sizes(const VitConfig& c) {
  check(c.classes > 0 && c.channels > 0, "vit", "classes is ", c.classes, " and channels is ", c.channels,
        "; expected those of the data");
  check(c.image_size % c.patch == 0, "vit", "patch ", c.patch, " does not divide image_size ", c.image_size,
        "; expected a divisor");
  check(c.embed_dim % c.num_heads == 0, "vit", "embed_dim ", c.embed_dim, " is not divisible by num_heads ",
        c.num_heads, "; expected a multiple");
  check(c.positions == "learned" || c.embed_dim % 4 == 0, "vit", "sincos positions need an embed_dim that 4 divides; ",
        "got ", c.embed_dim);
  check(!c.distilled || !c.head_norm, "vit", "head_norm goes with one head; expected distilled false");
  check(!c.distilled || (c.registers == 0 && c.pool == "token"), "vit",
        "a distilled model has no registers and reads its tokens; expected registers 0 and pool \"token\"");
}

double drop_path_rate(const VitConfig& c, int64_t block) {
  if (c.drop_path_rule == "constant") return c.drop_path;
  return c.depth > 1 ? c.drop_path * static_cast<double>(block) / static_cast<double>(c.depth - 1) : 0.0;
}

VitConfig vit_preset(const std::string& name) {
  struct Size {
    const char* name;
    int64_t depth, heads, width, patch, mlp;
  };
  static constexpr Size kSizes[] = {{"tiny", 12, 3, 192, 16, 0},      {"small", 12, 6, 384, 16, 0},
                                    {"medium", 12, 8, 512, 16, 0},    {"base", 12, 12, 768, 16, 0},
                                    {"large", 24, 16, 1024, 16, 0},   {"huge", 32, 16, 1280, 14, 0},
                                    {"giant", 40, 16, 1408, 14, 6144}};
  struct Family {
    const char* name;
    std::vector<std::string> sizes;
  };
  static const Family kFamilies[] = {{"vit-", {"tiny", "small", "base", "large", "huge", "giant"}},
                                     {"deit-", {"tiny", "small", "base"}},
                                     {"deit3-", {"small", "medium", "base", "large", "huge"}}};
  VitConfig c;
  for (const Family& family : kFamilies) {
    if (!name.starts_with(family.name)) continue;
    const bool deit = family.name == std::string("deit-"), deit3 = family.name == std::string("deit3-");
    std::string size = name.substr(std::string(family.name).size());
    if (deit && size.ends_with("-distilled")) {
      c.distilled = true;
      size.erase(size.size() - std::string("-distilled").size());
    }
    if (std::find(family.sizes.begin(), family.sizes.end(), size) == family.sizes.end()) break;
    const Size& s = *std::find_if(std::begin(kSizes), std::end(kSizes), [&](const Size& k) { return size == k.name; });
    c.depth = s.depth, c.num_heads = s.heads, c.embed_dim = s.width, c.patch = s.patch, c.mlp_dim = s.mlp;
    if (deit || deit3) c.init = "deit";
    if (deit3) c.layer_scale = 1e-4, c.position_prefix = false, c.drop_path_rule = "constant";
    return c;
  }
  fail("vit", "unknown model \"", name, "\"; expected vit-tiny, vit-small, vit-base, vit-large, vit-huge, vit-giant, ",
       "deit-tiny, deit-small or deit-base (also with -distilled), deit3-small, deit3-medium, deit3-base, deit3-large ",
       "or deit3-huge");
}

VitBlock::VitBlock(Scope s, const VitConfig& c, int index)
    : drop_path(static_cast<float>(drop_path_rate(c, index))),
      proj_dropout(static_cast<float>(c.proj_dropout)),
      path(s.path()) {
  const VitInit init(c);
  const auto eps = static_cast<float>(c.layer_norm_eps);
  const auto layer_scale = [&](const char* name) {
    if (c.layer_scale <= 0) return Param();
    return (s / name).param("gamma", Shape{c.embed_dim}, {kEmbed}, Init::constant(static_cast<float>(c.layer_scale)),
                            false);
  };
  norm1 = nn::LayerNorm(s / "norm1", c.embed_dim, eps);
  attn = nn::SelfAttention(s / "attn", c.embed_dim, c.num_heads, false, static_cast<float>(c.attn_dropout), init.qkv,
                           init.proj, true, c.qkv_bias);
  scale1 = layer_scale("ls1");
  norm2 = nn::LayerNorm(s / "norm2", c.embed_dim, eps);
  mlp = nn::Mlp(s / "mlp", c.embed_dim, c.hidden_dim(), gelu_form(c), init.fc1, init.fc2, true, init.mlp_bias);
  scale2 = layer_scale("ls2");
}

Tensor VitBlock::mlp_branch(const Tensor& x, const Context& ctx) const {
  if (!ctx.training || proj_dropout == 0.0f) return mlp(x, ctx);
  const ModuleScope scope("mlp");
  const Tensor hidden = nn::dropout(mlp.fc1.with_gelu(x, mlp.form, ctx), proj_dropout, path + ".mlp.dropout", ctx);
  return nn::dropout(mlp.fc2(hidden, ctx), proj_dropout, path + ".dropout2", ctx);
}

ops::Join VitBlock::join(const Param& scale, const char* name, const Context& ctx) const {
  return {scale(), ctx.training ? drop_path : 0.0f, ctx.key(path + name), ctx.first_sample};
}

nn::Stream VitBlock::operator()(const nn::Stream& in, const Context& ctx) const {
  const ModuleScope scope(path);
  const auto [x, normed1] = norm1.of_sum(in, ctx);
  const Tensor a = nn::dropout(attn(normed1, ctx), proj_dropout, path + ".dropout1", ctx);
  const auto [middle, normed2] = norm2.of_sum({x, a, join(scale1, ".drop_path1", ctx)}, ctx);
  return {middle, mlp_branch(normed2, ctx), join(scale2, ".drop_path2", ctx)};
}

Vit::Vit(const VitConfig& config, DType compute, Device device) : config_(config), store_(compute, device) {
  check_sizes(config);
  const Scope root(store_);
  const VitInit init(config);
  const int64_t C = config.embed_dim;
  cls_ = root.param("cls_token", Shape{1, C}, {kNone, kEmbed}, init.cls, false);
  if (config.distilled) extra_ = root.param("dist_token", Shape{1, C}, {kNone, kEmbed}, normal(0.02), false);
  if (config.registers > 0)
    extra_ = root.param("reg_token", Shape{config.registers, C}, {kNone, kEmbed}, normal(1e-6), false);
  const Shape table{config.position_rows(), C};
  if (config.positions == "sincos")
    positions_ =
        root.buffer("pos_embed", table, {kGrid, kEmbed}, Init::sincos2d(static_cast<int>(config.position_extra())));
  else
    positions_ = root.param("pos_embed", table, {kGrid, kEmbed}, normal(0.02), false);
  patch_ = nn::Linear(root / "patch_embed" / "proj", config.channels * config.patch * config.patch, kNone, C, kEmbed,
                      init.patch, true, {}, init.patch_bias);
  for (int i = 0; i < config.depth; ++i)
    blocks_.emplace_back((root / "blocks" / std::to_string(i)).in_block(i), config, i);
  norm_ =
      nn::LayerNorm(root / (config.pool == "mean" ? "fc_norm" : "norm"), C, static_cast<float>(config.layer_norm_eps));
  if (config.head_norm) head_norm_ = nn::BatchNorm::before_head(root / "head_norm", C, kHeadNormEps);
  head_ = nn::Linear(root / "head", C, kEmbed, config.classes, kNone, init.head, true, Marks{.head = true});
  if (config.distilled)
    head_dist_ = nn::Linear(root / "head_dist", C, kEmbed, config.classes, kNone, init.head, true, Marks{.head = true});
  store_.allocate();
}

Tensor Vit::embed(const Batch& batch, const Context& ctx) const {
  const Tensor images = network_input(batch, store_.compute_dtype());
  check(images.rank() == 4 && images.size(1) == config_.channels, "vit", "pictures of shape ", images.shape(),
        "; expected (B, ", config_.channels, ", H, W)");
  const int64_t H = images.size(2), W = images.size(3), P = config_.patch;
  check(H % P == 0 && W % P == 0, "vit", "pictures of ", W, " x ", H, " pixels cannot be cut into patches of ", P,
        "; expected multiples of ", P);
  const ModuleScope scope("patch_embed");
  const Tensor patches = patch_(ops::patchify(images, P), ctx);
  const Tensor table =
      ops::resample_grid(positions_(), config_.position_extra(), {config_.grid(), config_.grid()}, {H / P, W / P});
  const Tensor x = ops::sequence(patches, cls_(), extra_(), table);
  return nn::dropout(x, static_cast<float>(config_.embed_dropout), "embed.dropout", ctx);
}

Tensor Vit::stream(const Batch& batch, const Context& ctx, int64_t blocks) const {
  nn::Stream stream{embed(batch, ctx), {}, {}};
  for (int i = 0; i < blocks; ++i)
    if (!ctx.skips("blocks", i)) stream = nn::run_block(blocks_[static_cast<size_t>(i)], stream, ctx);
  return stream.sum(ctx);
}

Tensor Vit::features(const Batch& batch, const Context& ctx, int64_t blocks) {
  check(blocks >= 0 && blocks <= config_.depth, "vit", "features after ", blocks, " of ", config_.depth,
        " blocks; expected 0 to ", config_.depth);
  return stream(batch, ctx, blocks);
}

// Only what a head reads is normalised.
Tensor Vit::pooled(const Tensor& x, int64_t token, const Context& ctx) const {
  const Tensor read = config_.pool == "mean"
                          ? ops::mean_tokens(x, config_.special_tokens())
                          : ops::reshape(ops::slice_tokens(x, token, token + 1), Shape{x.size(0), x.size(2)});
  Tensor normed = norm_(read, ctx);
  if (config_.head_norm) normed = head_norm_(normed, ctx);
  const char* name = token == 0 ? "head.dropout" : "head_dist.dropout";
  return nn::dropout(normed, static_cast<float>(config_.head_dropout), name, ctx);
}

Vit::Heads Vit::heads(const Batch& batch, const Context& ctx) const {
  const Tensor x = stream(batch, ctx, config_.depth);
  const ModuleScope scope("head");
  Heads z;
  z.cls = head_(pooled(x, 0, ctx), ctx);
  if (config_.distilled) z.dist = head_dist_(pooled(x, 1, ctx), ctx);
  return z;
}

Tensor Vit::logits(const Batch& batch, const Context& ctx) const { return heads(batch, ctx).mean(); }

Tensor Vit::loss(const Batch& batch, const Context& ctx) {
  const Heads z = heads(batch, ctx);
  const bool bce = config_.loss == "bce";
  if (has_teacher() && ctx.training) return distilled_loss(class_loss(z.cls, batch, bce), z.dist, batch);
  return class_loss(z.mean(), batch, bce);
}

// W ((x - m) / s) + b = (W / s) x + (b - (W / s) m)
std::unique_ptr<Vit> without_head_norm(const Vit& model) {
  const ParamStore& from = static_cast<const Model&>(model).params();
  VitConfig config = model.settings();
  config.head_norm = false;
  auto out = std::make_unique<Vit>(config, DType::f32, kCpu);
  ParamStore& to = out->params();
  for (size_t i = 0; i < to.entries().size(); ++i)
    to.value(static_cast<int>(i)).copy_from(from.value(from.find(to.entries()[i].name)));
  const auto mean = from.value(from.find("head_norm.running_mean")).to_vector<float>();
  const auto variance = from.value(from.find("head_norm.running_var")).to_vector<float>();
  const Tensor weight = to.value(to.find("head.weight")), bias = to.value(to.find("head.bias"));
  for (int64_t k = 0; k < config.classes; ++k) {
    float* row = weight.ptr<float>() + k * config.embed_dim;
    double shift = 0;
    for (size_t c = 0; c < mean.size(); ++c) {
      const double w = double{row[c]} / std::sqrt(double{variance[c]} + double{kHeadNormEps});
      row[c] = static_cast<float>(w);
      shift += w * double{mean[c]};
    }
    bias.ptr<float>()[k] -= static_cast<float>(shift);
  }
  to.refresh();
  return out;
}

std::unique_ptr<Model> make_vit(const Json& config, DType compute, Device device) {
  VitConfig c;
  from_json(c, config, "model");
  return std::make_unique<Vit>(c, compute, device);
}

}  // namespace accrete
