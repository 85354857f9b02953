#include "models/vit_names.h"

#include <algorithm>
#include <utility>

namespace accrete {
namespace {

// What both libraries share: our shape, and what is stored where it has other axes.
class Table {
 public:
  explicit Table(const VitConfig& config) : c_(config) {}

  void tokens(const std::string& theirs, const std::string& ours, int64_t rows) {
    rows_.push_back({theirs, ours, Shape{rows, c_.embed_dim}, false, 0, Shape{1, rows, c_.embed_dim}});
  }
  void vector(const std::string& theirs, const std::string& ours, int64_t n) {
    rows_.push_back({theirs, ours, Shape{n}});
  }
  void norm(const std::string& theirs, const std::string& ours) {
    vector(theirs + ".weight", ours + ".weight", c_.embed_dim);
    vector(theirs + ".bias", ours + ".bias", c_.embed_dim);
  }
  // Rows [first, first + out) of a Linear.
  void linear(const std::string& theirs, const std::string& ours, int64_t in, int64_t out, bool bias = true,
              int64_t first = 0) {
    rows_.push_back({theirs + ".weight", ours + ".weight", Shape{out, in}, false, first});
    if (bias) rows_.push_back({theirs + ".bias", ours + ".bias", Shape{out}, false, first});
  }
  void patches(const std::string& theirs) {
    const int64_t C = c_.embed_dim, P = c_.patch;
    rows_.push_back({theirs + ".weight", "patch_embed.proj.weight", Shape{C, c_.channels * P * P}, false, 0,
                     Shape{C, c_.channels, P, P}});
    vector(theirs + ".bias", "patch_embed.proj.bias", C);
  }
  std::vector<TensorName> take() { return std::move(rows_); }

 private:
  const VitConfig& c_;
  std::vector<TensorName> rows_;
};

// Replaces a prefix: true when the text began with it.
bool swap_prefix(std::string& text, std::string_view from, std::string_view to) {
  if (!text.starts_with(from)) return false;
  text.replace(0, from.size(), to);
  return true;
}

}  // namespace

std::vector<TensorName> vit_timm_names(const VitConfig& c) {
  const int64_t C = c.embed_dim, F = c.hidden_dim();
  Table t(c);
  t.tokens("cls_token", "cls_token", 1);
  if (c.distilled) t.tokens("dist_token", "dist_token", 1);
  if (c.registers > 0) t.tokens("reg_token", "reg_token", c.registers);
  t.tokens("pos_embed", "pos_embed", c.position_rows());
  t.patches("patch_embed.proj");
  for (int64_t i = 0; i < c.depth; ++i) {
    const std::string b = "blocks." + std::to_string(i);
    t.norm(b + ".norm1", b + ".norm1");
    t.linear(b + ".attn.qkv", b + ".attn.qkv", C, 3 * C, c.qkv_bias);
    t.linear(b + ".attn.proj", b + ".attn.proj", C, C);
    if (c.layer_scale > 0) t.vector(b + ".ls1.gamma", b + ".ls1.gamma", C);
    t.norm(b + ".norm2", b + ".norm2");
    t.linear(b + ".mlp.fc1", b + ".mlp.fc1", C, F);
    t.linear(b + ".mlp.fc2", b + ".mlp.fc2", F, C);
    if (c.layer_scale > 0) t.vector(b + ".ls2.gamma", b + ".ls2.gamma", C);
  }
  const std::string norm = c.pool == "mean" ? "fc_norm" : "norm";
  t.norm(norm, norm);
  t.linear("head", "head", C, c.classes);
  if (c.distilled) t.linear("head_dist", "head_dist", C, c.classes);
  return t.take();
}

std::vector<TensorName> vit_hf_names(const VitConfig& c) {
  const int64_t C = c.embed_dim, F = c.hidden_dim();
  Table t(c);
  t.tokens("embeddings.cls_token", "cls_token", 1);
  if (c.distilled) t.tokens("embeddings.distillation_token", "dist_token", 1);
  if (c.registers == 1) t.tokens("embeddings.distillation_token", "reg_token", 1);  // a token that no head reads
  t.tokens("embeddings.position_embeddings", "pos_embed", c.position_rows());
  t.patches("embeddings.patch_embeddings.projection");
  for (int64_t i = 0; i < c.depth; ++i) {
    const std::string h = "encoder.layer." + std::to_string(i), b = "blocks." + std::to_string(i);
    t.norm(h + ".layernorm_before", b + ".norm1");
    int64_t first = 0;
    for (const char* part : {"query", "key", "value"}) {
      t.linear(h + ".attention.attention." + part, b + ".attn.qkv", C, C, c.qkv_bias, first);
      first += C;
    }
    t.linear(h + ".attention.output.dense", b + ".attn.proj", C, C);
    t.norm(h + ".layernorm_after", b + ".norm2");
    t.linear(h + ".intermediate.dense", b + ".mlp.fc1", C, F);
    t.linear(h + ".output.dense", b + ".mlp.fc2", F, C);
  }
  t.norm("layernorm", "norm");
  t.linear(c.distilled ? "cls_classifier" : "classifier", "head", C, c.classes);
  if (c.distilled) t.linear("distillation_classifier", "head_dist", C, c.classes);
  return t.take();
}

bool is_vit_head(std::string_view ours) { return ours.starts_with("head.") || ours.starts_with("head_dist."); }

std::string vit_timm_name(std::string_view stored) {
  std::string name(stored);
  for (bool again = true; again;) {
    again = false;
    for (const char* wrapper : {"module.", "_orig_mod.", "model.", "state_dict.", "model_ema.", "backbone."})
      again = swap_prefix(name, wrapper, "") || again;
  }
  if (name.ends_with(".gamma_1")) name.replace(name.size() - 7, 7, "ls1.gamma");
  if (name.ends_with(".gamma_2")) name.replace(name.size() - 7, 7, "ls2.gamma");
  return name;
}

std::string vit_hf_name(std::string_view stored) {
  std::string name(without_wrappers(stored));
  if (!swap_prefix(name, "vit.", "")) swap_prefix(name, "deit.", "");
  if (!name.starts_with("layers.")) return name;
  const size_t dot = name.find('.', 7);
  if (dot == std::string::npos) return name;
  const std::string layer = "encoder.layer." + name.substr(7, dot - 7) + ".";
  std::string inner = name.substr(dot + 1);
  static constexpr std::pair<const char*, const char*> kNew[] = {{"attention.q_proj.", "attention.attention.query."},
                                                                 {"attention.k_proj.", "attention.attention.key."},
                                                                 {"attention.v_proj.", "attention.attention.value."},
                                                                 {"attention.o_proj.", "attention.output.dense."},
                                                                 {"mlp.fc1.", "intermediate.dense."},
                                                                 {"mlp.fc2.", "output.dense."}};
  for (const auto& [now, on_disk] : kNew)
    if (swap_prefix(inner, now, on_disk)) break;
  return layer + inner;
}

std::unique_ptr<Vit> load_vit(VitConfig config, std::vector<TensorName> names, FoundTensors found,
                              const std::string& where, DType compute, Device device, const LoadOptions& options) {
  if (options.reset_head > 0) {
    config.classes = options.reset_head;
    for (const TensorName& n : names)
      if (is_vit_head(n.ours)) found.erase(n.theirs);
    std::erase_if(names, [](const TensorName& n) { return is_vit_head(n.ours); });
  }
  check_tensors(names, found, where);
  auto model = std::make_unique<Vit>(config, compute, device);
  if (options.reset_head > 0) model->params().initialise(options.seed);
  load_tensors(model->params(), names, found);
  return model;
}

}  // namespace accrete
