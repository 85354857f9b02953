#include "models/gpt_hf.h"

#include <algorithm>

#include "engine/core/json.h"
#include "models/hf_config.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

// "h.12.attn.bias" -> "attn.bias"; "" when the name belongs to no block.
std::string_view inside_block(std::string_view name) {
  if (!name.starts_with("h.")) return {};
  name.remove_prefix(2);
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  return digits > 0 && digits < name.size() && name[digits] == '.' ? name.substr(digits + 1) : std::string_view{};
}

// The causal mask, which old files store as if it were a weight.
bool is_mask(std::string_view name) {
  const std::string_view inner = inside_block(name);
  return inner == "attn.bias" || inner == "attn.masked_bias";
}

bool all_zero(const SafetensorsEntry& e) {
  const auto v = values_of(e);
  return std::all_of(v.begin(), v.end(), [](float x) { return x == 0.0f; });
}

// The tied output matrix: dropped when equal to the embedding.
void drop_tied_head(FoundTensors& found, const std::string& where) {
  const auto head = found.find("lm_head.weight"), tokens = found.find("wte.weight");
  if (head == found.end() || tokens == found.end()) return;
  check(head->second.shape == tokens->second.shape && values_of(head->second) == values_of(tokens->second), where,
        "lm_head.weight differs from wte.weight; expected equal values: this model has one matrix for both");
  found.erase(head);
}

// Zero biases of a model that has none ("bias": false in config.json).
void drop_zero_biases(FoundTensors& found, const std::string& where) {
  for (auto it = found.begin(); it != found.end();) {
    if (!it->first.ends_with(".bias")) {
      ++it;
      continue;
    }
    check(all_zero(it->second), where, "\"", printable(it->second.name),
          "\" is not zero although config.json says \"bias\": false");
    it = found.erase(it);
  }
}

FoundTensors find_gpt_tensors(const Safetensors& file, const std::string& where) {
  FoundTensors found;
  for (const SafetensorsEntry& e : file.entries()) {
    std::string_view name = without_wrappers(e.name);
    if (name.starts_with("transformer.")) name.remove_prefix(12);
    if (!is_mask(name)) add_found(found, name, e, where);
  }
  return found;
}

// c_attn is the one matrix whose shape tells: (C, 3C) for Conv1D, (3C, C) for Linear.
Gpt2Layout layout_of(const FoundTensors& found, const GptConfig& config) {
  const auto it = found.find("h.0.attn.c_attn.weight");
  const std::vector<int64_t> linear = {3 * config.embed_dim, config.embed_dim};
  return it != found.end() && it->second.shape == linear ? Gpt2Layout::linear : Gpt2Layout::conv1d;
}

}  // namespace

std::vector<TensorName> gpt_hf_names(const GptConfig& c, Gpt2Layout layout) {
  const int64_t C = c.embed_dim, F = c.hidden_dim();
  const bool transposed = layout == Gpt2Layout::conv1d;
  std::vector<TensorName> names = {{"wte.weight", "tokens.weight", Shape{c.vocab_size, C}},
                                   {"wpe.weight", "positions.weight", Shape{c.context, C}}};
  const auto norm = [&](const std::string& theirs, const std::string& ours) {
    names.push_back({theirs + ".weight", ours + ".weight", Shape{C}});
    if (c.bias) names.push_back({theirs + ".bias", ours + ".bias", Shape{C}});
  };
  const auto linear = [&](const std::string& theirs, const std::string& ours, int64_t in, int64_t out) {
    names.push_back({theirs + ".weight", ours + ".weight", Shape{out, in}, transposed});
    if (c.bias) names.push_back({theirs + ".bias", ours + ".bias", Shape{out}});
  };
  for (int64_t i = 0; i < c.depth; ++i) {
    const std::string h = "h." + std::to_string(i), b = "blocks." + std::to_string(i);
    norm(h + ".ln_1", b + ".norm1");
    linear(h + ".attn.c_attn", b + ".attn.qkv", C, 3 * C);
    linear(h + ".attn.c_proj", b + ".attn.proj", C, C);
    norm(h + ".ln_2", b + ".norm2");
    linear(h + ".mlp.c_fc", b + ".mlp.fc1", C, F);
    linear(h + ".mlp.c_proj", b + ".mlp.fc2", F, C);
  }
  norm("ln_f", "norm");
  if (!c.tied) names.push_back({"lm_head.weight", "head.weight", Shape{c.vocab_size, C}});
  return names;
}

GptConfig read_gpt_hf_config(const fs::path& path) {
  const HfConfig hf(path);
  const std::string type = hf.text("model_type", "gpt2");
  check(type == "gpt2", hf.where(), "\"model_type\" is \"", printable(type), "\"; expected \"gpt2\"");
  hf.refuse_unless("scale_attn_weights", true);
  hf.refuse_unless("scale_attn_by_inverse_layer_idx", false);
  hf.refuse_unless("reorder_and_upcast_attn", false);
  hf.refuse_unless("add_cross_attention", false);

  GptConfig c;
  c.vocab_size = hf.integer("vocab_size", 50257);
  c.context = hf.integer("n_positions", hf.integer("n_ctx", 1024));
  c.embed_dim = hf.integer("n_embd", 768);
  c.depth = hf.integer("n_layer", 12, 0);
  c.num_heads = hf.integer("n_head", 12);
  c.mlp_dim = hf.integer("n_inner", 0);
  c.layer_norm_eps = hf.number("layer_norm_epsilon", 1e-5);
  c.init_std = hf.number("initializer_range", 0.02);
  c.embed_dropout = hf.number("embd_pdrop", 0.1);
  c.attn_dropout = hf.number("attn_pdrop", 0.1);
  c.resid_dropout = hf.number("resid_pdrop", 0.1);
  c.tied = hf.flag("tie_word_embeddings", true);
  c.bias = hf.flag("bias", true);  // ours and nanoGPT's; the library always has them
  const std::string activation = hf.text("activation_function", "gelu_new");
  if (activation == "gelu_new" || activation == "gelu_pytorch_tanh") {
    c.activation = "gelu_tanh";
  } else if (activation == "gelu") {
    c.activation = "gelu_erf";
  } else {
    fail(hf.where(), "\"activation_function\": \"", printable(activation),
         "\" is not supported here; expected gelu_new, gelu_pytorch_tanh or gelu");
  }
  GptConfig checked;
  from_json(checked, to_json(c), "", hf.where());  // the ranges of our own fields
  check(c.embed_dim % c.num_heads == 0, hf.where(), "\"n_embd\" (", c.embed_dim, ") is not divisible by \"n_head\" (",
        c.num_heads, ")");
  return checked;
}

nlohmann::json gpt_hf_config(const GptConfig& c, DType dtype, std::optional<int64_t> end_of_text) {
  const nlohmann::json end = end_of_text ? nlohmann::json(*end_of_text) : nlohmann::json();
  nlohmann::json j = {
      {"activation_function", c.activation == "gelu_tanh" ? "gelu_new" : "gelu"},
      {"architectures", {"GPT2LMHeadModel"}},
      {"attn_pdrop", c.attn_dropout},
      {"bos_token_id", end},
      {"embd_pdrop", c.embed_dropout},
      {"eos_token_id", end},
      {"initializer_range", c.init_std},
      {"layer_norm_epsilon", c.layer_norm_eps},
      {"model_type", "gpt2"},
      {"n_ctx", c.context},
      {"n_embd", c.embed_dim},
      {"n_head", c.num_heads},
      {"n_inner", c.mlp_dim > 0 ? nlohmann::json(c.mlp_dim) : nlohmann::json()},
      {"n_layer", c.depth},
      {"n_positions", c.context},
      {"resid_pdrop", c.resid_dropout},
      {"scale_attn_weights", true},
      {"torch_dtype", dtype == DType::bf16  ? "bfloat16"
                      : dtype == DType::f16 ? "float16"
                                            : "float32"},
      {"use_cache", true},
      {"vocab_size", c.vocab_size},
  };
  if (!c.bias) j["bias"] = false;
  if (!c.tied) j["tie_word_embeddings"] = false;
  return j;
}

std::unique_ptr<Gpt> read_gpt_hf(const fs::path& path, DType compute, Device device) {
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  GptConfig config = read_gpt_hf_config(folder / "config.json");
  const Safetensors file = Safetensors::open(path);
  const std::string where = path.string();
  FoundTensors found = find_gpt_tensors(file, where);
  check(config.depth <= static_cast<int64_t>(found.size()), where, "config.json asks for ", config.depth,
        " blocks; the file has only ", found.size(), " tensors");
  if (config.tied) drop_tied_head(found, where);
  if (!config.bias) drop_zero_biases(found, where);
  // nanoGPT's models without biases do not say so in a config.json of this library.
  const bool any_bias =
      std::any_of(found.begin(), found.end(), [](const auto& t) { return t.first.ends_with(".bias"); });
  if (!any_bias) config.bias = false;
  const auto names = gpt_hf_names(config, layout_of(found, config));
  check_tensors(names, found, where);
  auto model = std::make_unique<Gpt>(config, compute, device);
  load_tensors(model->params(), names, found);
  return model;
}

void write_gpt_hf(const fs::path& folder, const Gpt& model, const GptHfOptions& options) {
  const GptConfig& ours = model.settings();
  GptConfig written = ours;
  if (options.vocab_size > 0) written.vocab_size = options.vocab_size;
  check(written.vocab_size <= ours.vocab_size, "gpt", "cannot write ", written.vocab_size, " rows of a vocabulary of ",
        ours.vocab_size);
  GptConfig stored = written;  // what the file holds: biases always
  stored.bias = true;
  auto names = gpt_hf_names(stored);
  for (TensorName& n : names) {
    if (n.theirs != "lm_head.weight") n.theirs = "transformer." + n.theirs;
    if (!ours.bias && n.ours.ends_with(".bias")) n.ours.clear();
  }
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "gpt", "cannot make the folder ", folder.string(), ": ", error.message());
  save_tensors(folder / "model.safetensors", static_cast<const Model&>(model).params(), names, options.dtype);
  nlohmann::json generation = {{"_from_model_config", true}};
  if (options.end_of_text) generation["bos_token_id"] = generation["eos_token_id"] = *options.end_of_text;
  write_hf_json(folder / "generation_config.json", generation);
  write_hf_json(folder / "config.json", gpt_hf_config(written, options.dtype, options.end_of_text));
}

}  // namespace accrete
