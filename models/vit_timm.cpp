#include "models/vit_timm.h"

#include <algorithm>
#include <cmath>
#include <regex>

#include "engine/core/json.h"
#include "models/hf_config.h"
#include "models/timm_files.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// ---- sizes that the shapes tell ------------------------------------------------------------------------------------
// The side of a square of `cells`; 0 when it is none.
int64_t side_of(int64_t cells) {
  const auto side = cells > 0 ? static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(cells)))) : 0;
  return side * side == cells ? side : 0;
}

VitConfig config_from_shapes(const FoundShapes& s, const std::string& where) {
  VitConfig c;
  c.embed_dim = s.size("patch_embed.proj.weight", 4, 0);
  c.channels = s.size("patch_embed.proj.weight", 4, 1);
  c.patch = s.size("patch_embed.proj.weight", 4, 2);
  c.depth = s.blocks("blocks");
  c.distilled = s.has("dist_token");
  if (s.has("reg_token")) c.registers = s.size("reg_token", 3, 1);
  if (c.depth > 0) {
    c.mlp_dim = s.size("blocks.0.mlp.fc1.weight", 2, 0);
    c.qkv_bias = s.has("blocks.0.attn.qkv.bias");
    if (s.has("blocks.0.ls1.gamma")) c.layer_scale = 1e-4;  // of DeiT III; a trained model does not show it
  }
  if (c.mlp_dim == 4 * c.embed_dim) c.mlp_dim = 0;
  if (s.has("fc_norm.weight")) c.pool = "mean";
  if (s.has("head.weight")) c.classes = s.size("head.weight", 2, 0);
  // Special tokens have positions when what is left for the patches is a square.
  const int64_t rows = s.size("pos_embed", 3, 1);
  c.position_prefix = side_of(rows - c.special_tokens()) > 0;
  const int64_t side = side_of(rows - c.position_extra());
  check(side > 0, where, "pos_embed has ", rows, " positions; expected a square grid of patches and ",
        c.special_tokens(), " special tokens, or the grid alone");
  c.image_size = side * c.patch;
  return c;
}

// ---- what config.json adds ----------------------------------------------------------------------------------------
int64_t published_heads(int64_t width) {
  static constexpr int64_t kTable[][2] = {{192, 3}, {384, 6}, {512, 8}, {768, 12}, {1024, 16}, {1280, 16}, {1408, 16}};
  for (const auto& [w, heads] : kTable)
    if (w == width) return heads;
  return 0;
}

// vit_base_patch16_224, deit_base_distilled_patch16_224, deit3_huge_patch14_224: other names stand for models with
// another arithmetic that model_args need not mention (CLIP's, SigLIP's, ...).
void check_architecture(const HfConfig& hf) {
  static const std::regex known(
      "(vit|deit|deit3)_(tiny|small|medium|base|large|huge|giant|gigantic)(_distilled)?_patch[0-9]+_[0-9]+");
  const std::string name = hf.text("architecture", "");
  check(name.size() < 100 && std::regex_match(name, known), hf.where(), "\"architecture\": \"", printable(name),
        "\" is not supported here; expected a plain vit, deit or deit3, such as vit_base_patch16_224");
}

// Arguments of timm's VisionTransformer that leave the arithmetic as it is, or that shapes tell.
constexpr const char* kHarmless[] = {"dynamic_img_size", "dynamic_img_pad", "strict_img_size", "weight_init",
                                     "fix_init",         "patch_drop_rate", "use_naflex"};

struct Flag {
  const char* name;
  bool supported;
};
constexpr Flag kFixed[] = {{"class_token", true},      {"qk_norm", false},       {"pre_norm", false},
                           {"final_norm", true},       {"proj_bias", true},      {"pool_include_prefix", false},
                           {"scale_attn_norm", false}, {"scale_mlp_norm", false}};

void apply_model_args(VitConfig& c, const HfConfig& args) {
  std::vector<std::string> read(std::begin(kHarmless), std::end(kHarmless));
  const auto integer = [&](const char* key, int64_t& value) {
    read.emplace_back(key);
    value = args.integer(key, value, 0);
  };
  const auto side = [&](const char* key, int64_t& value) {  // n or [n, n]
    if (!args.has(key) || !args.json().at(key).is_array()) return integer(key, value);
    read.emplace_back(key);
    const auto sides = args.numbers(key);
    check(sides.size() == 2 && sides[0] == sides[1] && sides[0] > 0, args.where(), "\"", key,
          "\" must be one number or two equal ones; got ", printable(args.json().at(key).dump(), 40));
    value = static_cast<int64_t>(sides[0]);
  };
  const auto rate = [&](const char* key, double& value) {
    read.emplace_back(key);
    value = args.number(key, value);
  };
  const auto flag = [&](const char* key, bool& value) {
    read.emplace_back(key);
    value = args.flag(key, value);
  };
  for (const Flag& f : kFixed) {
    read.emplace_back(f.name);
    args.refuse_unless(f.name, f.supported);
  }
  side("img_size", c.image_size);
  side("patch_size", c.patch);
  integer("in_chans", c.channels);
  integer("num_classes", c.classes);
  integer("embed_dim", c.embed_dim);
  integer("depth", c.depth);
  integer("num_heads", c.num_heads);
  integer("reg_tokens", c.registers);
  flag("qkv_bias", c.qkv_bias);
  rate("init_values", c.layer_scale);
  rate("drop_rate", c.head_dropout);
  rate("pos_drop_rate", c.embed_dropout);
  rate("proj_drop_rate", c.proj_dropout);
  rate("attn_drop_rate", c.attn_dropout);
  rate("drop_path_rate", c.drop_path);
  bool no_embed_class = !c.position_prefix, fc_norm = c.pool == "mean";
  flag("no_embed_class", no_embed_class);
  c.position_prefix = !no_embed_class;
  flag("fc_norm", fc_norm);
  c.pool = fc_norm ? "mean" : "token";
  double ratio = static_cast<double>(c.hidden_dim()) / static_cast<double>(c.embed_dim);
  const double before = ratio;
  rate("mlp_ratio", ratio);
  if (ratio != before) c.mlp_dim = static_cast<int64_t>(static_cast<double>(c.embed_dim) * ratio);
  const std::string act = args.text("act_layer", "gelu");
  read.emplace_back("act_layer");
  check(act == "gelu" || act == "gelu_tanh", args.where(), "\"act_layer\": \"", printable(act),
        "\" is not supported here; expected gelu or gelu_tanh");
  c.activation = act == "gelu" ? "gelu_erf" : "gelu_tanh";
  read.emplace_back("global_pool");
  for (const auto& [key, value] : args.json().items())
    check(value.is_null() || std::find(read.begin(), read.end(), key) != read.end(), args.where(), "\"", printable(key),
          "\" is not supported here");
}

// Class-token pooling and the mean of the patches are what we have; which it is, the tensors must say too.
void check_pool(const VitConfig& c, const HfConfig& hf) {
  const std::string pool =
      hf.child("model_args")
          .text("global_pool", hf.text("global_pool", hf.child("pretrained_cfg").text("global_pool", "")));
  const bool fits = pool.empty() || pool == (c.pool == "mean" ? "avg" : "token");
  check(fits, hf.where(), "\"global_pool\" is \"", printable(pool), "\"; expected ",
        c.pool == "mean" ? "\"avg\", as there is an fc_norm" : "\"token\", as there is no fc_norm");
}

VitConfig config_of(const fs::path& folder, const FoundTensors& found, const std::string& where,
                    const LoadOptions& options) {
  VitConfig c = config_from_shapes(FoundShapes(found, where, "a vision transformer of timm"), where);
  const int64_t heads = published_heads(c.embed_dim);
  c.num_heads = heads;
  std::string source = where;
  if (fs::exists(folder / "config.json")) {
    const HfConfig hf(folder / "config.json");
    source = hf.where();
    if (options.reset_head == 0) c.classes = hf.integer("num_classes", c.classes, 0);
    const HfConfig args = hf.child("model_args");
    apply_model_args(c, args);
    check_pool(c, hf);
    check_architecture(hf);
    if (hf.text("architecture", "").starts_with("deit3_")) c.drop_path_rule = "constant", c.init = "deit";
  }
  check(c.num_heads > 0, source, "no published model has the width ", c.embed_dim,
        "; expected \"num_heads\" in \"model_args\" of a config.json");
  VitConfig checked;
  from_json(checked, to_json(c), "", source);  // the ranges of our own fields
  check_sizes(checked);
  return checked;
}

// ---- out ----------------------------------------------------------------------------------------------------------
// A name that timm has, of the same kind and, where there is one, of the same size; model_args say the rest.
std::string architecture_of(const VitConfig& c) {
  struct Size {
    const char* name;
    int64_t width, depth, heads;
    bool vit, deit3;
  };
  static constexpr Size kSizes[] = {{"tiny", 192, 12, 3, true, false},   {"small", 384, 12, 6, true, true},
                                    {"medium", 512, 12, 8, false, true}, {"base", 768, 12, 12, true, true},
                                    {"large", 1024, 24, 16, true, true}, {"huge", 1280, 32, 16, true, true},
                                    {"giant", 1408, 40, 16, true, false}};
  const bool deit3 = c.layer_scale > 0 && !c.position_prefix;
  std::string size = "base";
  for (const Size& s : kSizes)
    if (s.width == c.embed_dim && s.depth == c.depth && s.heads == c.num_heads && (deit3 ? s.deit3 : s.vit))
      size = s.name;
  if (c.distilled) return "deit_" + (size == "tiny" || size == "small" ? size : "base") + "_distilled_patch16_224";
  return (deit3 ? "deit3_" : "vit_") + size + (size == "huge" || size == "giant" ? "_patch14_224" : "_patch16_224");
}

nlohmann::json timm_config(const VitConfig& c, const PictureInfo& info) {
  nlohmann::json args = {
      {"depth", c.depth},
      {"embed_dim", c.embed_dim},
      {"global_pool", c.pool == "mean" ? "avg" : "token"},
      {"img_size", c.image_size},
      {"init_values", c.layer_scale > 0 ? nlohmann::json(c.layer_scale) : nlohmann::json()},
      {"mlp_ratio", timm_mlp_ratio(c.hidden_dim(), c.embed_dim)},
      {"no_embed_class", !c.position_prefix},
      {"num_heads", c.num_heads},
      {"patch_size", c.patch},
      {"qkv_bias", c.qkv_bias},
      {"reg_tokens", c.registers},
  };
  if (c.channels != 3) args["in_chans"] = c.channels;
  if (c.activation == "gelu_tanh") args["act_layer"] = "gelu_tanh";
  const nlohmann::json heads = c.distilled ? nlohmann::json({"head", "head_dist"}) : nlohmann::json("head");
  nlohmann::json j = {
      {"architecture", architecture_of(c)},
      {"global_pool", args["global_pool"]},
      {"model_args", args},
      {"num_classes", c.classes},
      {"num_features", c.embed_dim},
      {"pretrained_cfg", timm_pretrained_cfg(info, c.image_size, c.channels, c.classes, heads)},
  };
  if (!info.class_names.empty()) j["label_names"] = class_labels(info, c.classes);
  return j;
}

}  // namespace

bool has_timm_vit_names(const Safetensors& file) {
  bool blocks = false, patches = false;
  for (const SafetensorsEntry& e : file.entries()) {
    const std::string name = vit_timm_name(e.name);
    blocks = blocks || name == "blocks.0.attn.qkv.weight";
    patches = patches || name == "patch_embed.proj.weight";
  }
  return blocks && patches;
}

std::unique_ptr<Vit> read_vit_timm(const fs::path& path, DType compute, Device device, const LoadOptions& options) {
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  const Safetensors file = Safetensors::open(path);
  const std::string where = path.string();
  FoundTensors found;
  for (const SafetensorsEntry& e : file.entries()) add_found(found, vit_timm_name(e.name), e, where);
  const VitConfig config = config_of(folder, found, where, options);
  check(config.depth <= static_cast<int64_t>(found.size()), where, "config.json asks for ", config.depth,
        " blocks; the file has only ", found.size(), " tensors");
  return load_vit(config, vit_timm_names(config), std::move(found), where, compute, device, options);
}

void write_vit_timm(const fs::path& folder, const Vit& model, const PictureInfo& info, DType dtype) {
  if (model.settings().head_norm) return write_vit_timm(folder, *without_head_norm(model), info, dtype);
  const VitConfig& c = model.settings();
  check(c.layer_norm_eps == 1e-6 || c.layer_norm_eps == 1e-12, "vit",
        "timm's vision transformers have layer_norm_eps 1e-06; got ", c.layer_norm_eps);
  const nlohmann::json config = timm_config(c, info);
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "vit", "cannot make the folder ", folder.string(), ": ", error.message());
  save_tensors(folder / "model.safetensors", static_cast<const Model&>(model).params(), vit_timm_names(c), dtype);
  write_hf_json(folder / "config.json", config);
}

}  // namespace accrete
