#include "models/vit_hf.h"

#include <algorithm>

#include "engine/core/json.h"
#include "models/hf_config.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// The activation functions that we have under the library's names.
std::string activation_of(const HfConfig& hf) {
  const std::string name = hf.text("hidden_act", "gelu");
  if (name == "gelu") return "gelu_erf";
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return "gelu_tanh";
  fail(hf.where(), "\"hidden_act\": \"", printable(name),
       "\" is not supported here; expected gelu, gelu_new or gelu_pytorch_tanh");
}

bool with_teacher(const HfConfig& hf, const FoundTensors& found) {
  const auto classes = hf.texts("architectures");
  return found.contains("distillation_classifier.weight") ||
         std::find(classes.begin(), classes.end(), "DeiTForImageClassificationWithTeacher") != classes.end();
}

// The number of classes: of the labels, else of the classifier.
int64_t classes_of(const HfConfig& hf, const FoundTensors& found) {
  if (hf.has("id2label")) return static_cast<int64_t>(hf.child("id2label").json().size());
  for (const char* name : {"classifier.weight", "cls_classifier.weight"})
    if (const auto it = found.find(name); it != found.end() && it->second.shape.size() == 2) return it->second.shape[0];
  return hf.integer("num_labels", 2);  // the library's default
}

VitConfig config_of(const HfConfig& hf, const FoundTensors& found) {
  const std::string type = hf.text("model_type", "");
  check(type == "vit" || type == "deit", hf.where(), "\"model_type\" is \"", printable(type),
        "\"; expected \"vit\" or \"deit\"");
  VitConfig c;
  c.image_size = hf.integer("image_size", 224);
  c.patch = hf.integer("patch_size", 16);
  c.channels = hf.integer("num_channels", 3);
  c.embed_dim = hf.integer("hidden_size", 768);
  c.depth = hf.integer("num_hidden_layers", 12, 0);
  c.num_heads = hf.integer("num_attention_heads", 12);
  c.mlp_dim = hf.integer("intermediate_size", 3072);
  c.activation = activation_of(hf);
  c.layer_norm_eps = hf.number("layer_norm_eps", 1e-12);
  c.qkv_bias = hf.flag("qkv_bias", true);
  c.embed_dropout = c.proj_dropout = hf.number("hidden_dropout_prob", 0.0);
  c.attn_dropout = hf.number("attention_probs_dropout_prob", 0.0);
  c.classes = classes_of(hf, found);
  if (type == "deit") {
    c.distilled = with_teacher(hf, found);
    c.registers = c.distilled ? 0 : 1;
  }
  if (c.mlp_dim == 4 * c.embed_dim) c.mlp_dim = 0;
  VitConfig checked;
  from_json(checked, to_json(c), "", hf.where());  // the ranges of our own fields
  check_sizes(checked);
  return checked;
}

nlohmann::json hf_config(const VitConfig& c, const PictureInfo& info, DType dtype) {
  const bool deit = c.special_tokens() == 2;
  nlohmann::json j = {
      {"architectures",
       {c.distilled ? "DeiTForImageClassificationWithTeacher"
        : deit      ? "DeiTForImageClassification"
                    : "ViTForImageClassification"}},
      {"attention_probs_dropout_prob", c.attn_dropout},
      {"encoder_stride", c.patch},
      {"hidden_act", c.activation == "gelu_tanh" ? "gelu_pytorch_tanh" : "gelu"},
      {"hidden_dropout_prob", c.proj_dropout},
      {"hidden_size", c.embed_dim},
      {"image_size", c.image_size},
      {"initializer_range", 0.02},
      {"intermediate_size", c.hidden_dim()},
      {"layer_norm_eps", c.layer_norm_eps},
      {"model_type", deit ? "deit" : "vit"},
      {"num_attention_heads", c.num_heads},
      {"num_channels", c.channels},
      {"num_hidden_layers", c.depth},
      {"patch_size", c.patch},
      {"qkv_bias", c.qkv_bias},
      {"torch_dtype", dtype == DType::bf16  ? "bfloat16"
                      : dtype == DType::f16 ? "float16"
                                            : "float32"},
  };
  add_hf_labels(j, info, c.classes);
  return j;
}

// What the library's models have no place for.
void check_representable(const VitConfig& c) {
  const char* extra = c.layer_scale > 0    ? "LayerScale"
                      : c.pool == "mean"   ? "mean pooling"
                      : !c.position_prefix ? "positions for patches only"
                      : c.registers > 1    ? "several registers"
                                           : nullptr;
  check(!extra, "vit", "transformers' ViT and DeiT have no ", extra ? extra : "",
        "; expected a model without, or a folder in the style of timm");
}

}  // namespace

std::unique_ptr<Vit> read_vit_hf(const fs::path& path, DType compute, Device device, const LoadOptions& options) {
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  const HfConfig hf(folder / "config.json");
  const Safetensors file = Safetensors::open(path);
  const std::string where = path.string();
  FoundTensors found;
  for (const SafetensorsEntry& e : file.entries()) add_found(found, vit_hf_name(e.name), e, where);
  const VitConfig config = config_of(hf, found);
  check(config.depth <= static_cast<int64_t>(found.size()), where, "config.json asks for ", config.depth,
        " blocks; the file has only ", found.size(), " tensors");
  // The pooling layer of a model that was stored without a classifier.
  if (options.reset_head > 0) std::erase_if(found, [](const auto& t) { return t.first.starts_with("pooler."); });
  return load_vit(config, vit_hf_names(config), std::move(found), where, compute, device, options);
}

void write_vit_hf(const fs::path& folder, const Vit& model, const PictureInfo& info, DType dtype) {
  if (model.settings().head_norm) return write_vit_hf(folder, *without_head_norm(model), info, dtype);
  const VitConfig& c = model.settings();
  check_representable(c);
  const nlohmann::json config = hf_config(c, info, dtype);
  const nlohmann::json pictures = hf_preprocessor(info, c.image_size, c.channels);
  auto names = vit_hf_names(c);
  for (TensorName& n : names)
    if (!is_vit_head(n.ours)) n.theirs = (c.special_tokens() == 2 ? "deit." : "vit.") + n.theirs;
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "vit", "cannot make the folder ", folder.string(), ": ", error.message());
  save_tensors(folder / "model.safetensors", static_cast<const Model&>(model).params(), names, dtype);
  write_hf_json(folder / "preprocessor_config.json", pictures);
  write_hf_json(folder / "config.json", config);
}

}  // namespace accrete
