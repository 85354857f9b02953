// GPT-2 models in the files of the Hugging Face transformers library (GPT2LMHeadModel), in and out.
//
// Layout: matrices are stored (in, out) ("Conv1D"), the transposes of ours; the output matrix is tied to the token
// embedding and not stored. models/README.md has the table of names.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "models/gpt.h"
#include "models/weights.h"

namespace accrete {

// Which way the matrices of a file lie: transformers (in, out), nanoGPT's state dict (out, in).
enum class Gpt2Layout { conv1d, linear };

// Names, shapes and layout of all tensors of such a model.
std::vector<TensorName> gpt_hf_names(const GptConfig& config, Gpt2Layout layout = Gpt2Layout::conv1d);

// config.json -> ours. Options that would change the arithmetic and that we do not have are refused by name.
GptConfig read_gpt_hf_config(const std::filesystem::path& config_json);
// Ours -> config.json. `end_of_text`: the id that begins and ends a text; null in the file when there is none.
nlohmann::json gpt_hf_config(const GptConfig& config, DType dtype = DType::f32,
                             std::optional<int64_t> end_of_text = std::nullopt);

// Reads a model. `path`: a folder with config.json and model.safetensors[.index.json], or such a weight file with
// config.json beside it. Also accepted: names without "transformer.", with "module." or "_orig_mod." in front, the mask
// buffers of old files (ignored), lm_head.weight when it equals the token embedding, nanoGPT's layout, models without
// biases; F64, F32, F16 and BF16. Everything that does not fit is listed in one Error, before memory is allocated.
std::unique_ptr<Gpt> read_gpt_hf(const std::filesystem::path& path, DType compute, Device device);

struct GptHfOptions {
  DType dtype = DType::f32;            // of the weights in the file: f32, bf16 or f16
  int64_t vocab_size = 0;              // keep only the first rows of a padded vocabulary; 0: all
  std::optional<int64_t> end_of_text;  // id for bos_token_id and eos_token_id
};
// Writes config.json, generation_config.json and model.safetensors into the folder (made when missing). A model without
// biases is written with zeros, as the library has no such form, and "bias": false, which brings it back exactly.
void write_gpt_hf(const std::filesystem::path& folder, const Gpt& model, const GptHfOptions& options = {});

}  // namespace accrete
