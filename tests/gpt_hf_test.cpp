// GPT-2 files of the Hugging Face libraries and of nanoGPT: round trips, accepted variants, and everything refused.
#include <fstream>
#include <map>

#include "engine/core/json.h"
#include "models/gpt_llmc.h"
#include "models/hf_config.h"
#include "models/registry.h"
#include "tests/gpt_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

Stored transposed(const Stored& t) {
  const auto rows = static_cast<size_t>(t.shape[0]), cols = static_cast<size_t>(t.shape[1]);
  Stored r{{t.shape[1], t.shape[0]}, std::vector<float>(t.values.size())};
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < cols; ++j) r.values[j * rows + i] = t.values[i * cols + j];
  return r;
}

nlohmann::json read_config(const fs::path& folder) { return parse_json(read_text(folder / "config.json"), "test"); }

// A copy of the golden model in a folder of its own, to be bent.
struct Copy {
  TempFolder folder;
  fs::path path = folder.path();
  Weights weights;
  nlohmann::json config;
  explicit Copy(const std::string& source = "gpt2_b") {
    weights = read_weights(golden(source) / "model.safetensors");
    config = read_config(golden(source));
  }
  void write() const {
    write_weights(path / "model.safetensors", weights);
    write_hf_json(path / "config.json", config);
  }
  std::unique_ptr<Gpt> read() const {
    write();
    return read_gpt_hf(path, DType::f32, kCpu);
  }
  std::string error() const {
    return error_of([&] { read(); });
  }
};

bool values_of_entry_is(const Model& model, const std::string& name, const std::vector<float>& values) {
  return same_bits(model.params().value(model.params().find(name)).to_vector<float>(), values);
}

std::vector<float> reference_values(const std::string& name = "gpt2_b") {
  return all_values(*read_gpt_hf(golden(name), DType::f32, kCpu));
}

}  // namespace

TEST_CASE("engine -> Hugging Face -> engine is bit-identical") {
  const TempFolder folder;
  for (const char* name : {"gpt2_a", "gpt2_b", "gpt2_c"}) {
    const auto model = read_gpt_hf(golden(name), DType::f32, kCpu);
    write_gpt_hf(folder.path(), *model);
    const auto again = read_gpt_hf(folder.path(), DType::f32, kCpu);
    CHECK(same_bits(all_values(*model), all_values(*again)));
    CHECK(model->config() == again->config());
    // and the weight file has the bytes of the library's own
    CHECK(read_text(folder.path() / "model.safetensors") == read_text(golden(name) / "model.safetensors"));
  }
}

TEST_CASE("config.json is written with the fields of the library, sorted") {
  const TempFolder folder;
  GptConfig c = gpt_preset("gpt2");
  c.embed_dropout = c.attn_dropout = c.resid_dropout = 0.1;
  const std::string text = gpt_hf_config(c, DType::f32, 50256).dump();
  CHECK(
      text ==
      R"({"activation_function":"gelu_new","architectures":["GPT2LMHeadModel"],"attn_pdrop":0.1,"bos_token_id":50256,)"
      R"("embd_pdrop":0.1,"eos_token_id":50256,"initializer_range":0.02,"layer_norm_epsilon":1e-05,)"
      R"("model_type":"gpt2","n_ctx":1024,"n_embd":768,"n_head":12,"n_inner":null,"n_layer":12,"n_positions":1024,)"
      R"("resid_pdrop":0.1,"scale_attn_weights":true,"torch_dtype":"float32","use_cache":true,"vocab_size":50257})");
  write_hf_json(folder.path() / "config.json", gpt_hf_config(c));
  CHECK(to_json(read_gpt_hf_config(folder.path() / "config.json")) == to_json(c));
  CHECK(read_text(folder.path() / "config.json").starts_with("{\n  \"activation_function\": \"gelu_new\",\n"));
  // Every field that is ours comes back.
  c.vocab_size = 11, c.context = 12, c.embed_dim = 20, c.depth = 3, c.num_heads = 5, c.mlp_dim = 7;
  c.activation = "gelu_erf", c.layer_norm_eps = 1e-6, c.init_std = 0.5, c.bias = false;
  c.embed_dropout = 0.25, c.attn_dropout = 0.5, c.resid_dropout = 0.75;
  write_hf_json(folder.path() / "config.json", gpt_hf_config(c));
  CHECK(to_json(read_gpt_hf_config(folder.path() / "config.json")) == to_json(c));
  // Absent fields have the library's defaults.
  write_hf_json(folder.path() / "config.json", {{"model_type", "gpt2"}});
  GptConfig usual = gpt_preset("gpt2");
  usual.embed_dropout = usual.attn_dropout = usual.resid_dropout = 0.1;
  CHECK(to_json(read_gpt_hf_config(folder.path() / "config.json")) == to_json(usual));
}

TEST_CASE("bf16 export rounds once; a padded vocabulary is cut back") {
  const TempFolder folder;
  const auto model = read_gpt_hf(golden("gpt2_b"), DType::f32, kCpu);
  write_gpt_hf(folder.path(), *model, {.dtype = DType::bf16});
  CHECK(read_config(folder.path())["torch_dtype"] == "bfloat16");
  auto want = all_values(*model);
  for (float& x : want) x = to_float(from_float<bf16>(x));
  CHECK(same_bits(all_values(*read_gpt_hf(folder.path(), DType::f32, kCpu)), want));

  write_gpt_hf(folder.path(), *model, {.vocab_size = 23, .end_of_text = 22});
  const auto cut = read_gpt_hf(folder.path(), DType::f32, kCpu);
  CHECK(cut->settings().vocab_size == 23);
  CHECK(read_config(folder.path())["eos_token_id"] == 22);
  CHECK(parse_json(read_text(folder.path() / "generation_config.json"), "test")["bos_token_id"] == 22);
  const Tensor ids = Tensor::from(std::vector<int32_t>{1, 22, 7}, Shape{1, 3});
  const auto whole = model->logits(ids, {}).to_vector<float>(), part = cut->logits(ids, {}).to_vector<float>();
  for (size_t t = 0; t < 3; ++t)
    for (size_t v = 0; v < 23; ++v) CHECK(part[t * 23 + v] == doctest::Approx(whole[t * 29 + v]).epsilon(1e-5));
  check_sentence(error_of([&] { write_gpt_hf(folder.path(), *model, {.vocab_size = 30}); }), {"30", "29"});
}

TEST_CASE("names: no prefix, wrappers, masks of old files, the tied head") {
  const auto want = reference_values();
  Copy c;
  const Weights original = c.weights;
  const auto renamed = [&](auto rename) {
    c.weights.clear();
    for (const auto& [name, t] : original) c.weights[rename(name)] = t;
  };
  const auto unchanged = [&] { CHECK(same_bits(all_values(*c.read()), want)); };
  renamed([](const std::string& n) { return n.substr(std::string("transformer.").size()); });
  c.weights["h.0.attn.bias"] = {{1, 1, 11, 11}, std::vector<float>(121, 1.0f)};
  c.weights["h.0.attn.masked_bias"] = {{}, {-1e4f}};
  unchanged();
  renamed([](const std::string& n) { return "_orig_mod." + n; });
  unchanged();
  renamed([](const std::string& n) { return "module._orig_mod.module." + n; });
  c.weights["module.lm_head.weight"] = original.at("transformer.wte.weight");
  unchanged();
  c.weights["module.lm_head.weight"].values[3] += 1e-3f;
  check_sentence(c.error(), {"lm_head.weight differs from wte.weight"});
  c.weights = original;
  c.weights["wpe.weight"] = original.at("transformer.wpe.weight");
  check_sentence(c.error(), {"\"transformer.wpe.weight\"", "\"wpe.weight\"", "are the same tensor"});
}

TEST_CASE("nanoGPT's layout, and models without biases") {
  Copy c("gpt2_a");
  for (auto& [name, t] : c.weights)
    if (name.find(".h.") != std::string::npos && t.shape.size() == 2) t = transposed(t);
  CHECK(same_bits(all_values(*c.read()), reference_values("gpt2_a")));

  std::erase_if(c.weights, [](const auto& t) { return t.first.ends_with(".bias"); });
  const auto bare = c.read();
  CHECK_FALSE(bare->settings().bias);
  CHECK(bare->params().entries().size() == 2 + 6 * 3 + 1);
  // Written with zeros for a library that has no other form, and read back as it was.
  const TempFolder folder;
  write_gpt_hf(folder.path(), *bare);
  CHECK(read_weights(folder.path() / "model.safetensors").size() == 4 + 12 * 3);
  const auto again = read_gpt_hf(folder.path(), DType::f32, kCpu);
  CHECK(again->config() == bare->config());
  CHECK(same_bits(all_values(*again), all_values(*bare)));
  // The library's view, with biases, computes the same.
  auto config = read_config(folder.path());
  config.erase("bias");
  write_hf_json(folder.path() / "config.json", config);
  const auto with_zeros = read_gpt_hf(folder.path(), DType::f32, kCpu);
  CHECK(with_zeros->settings().bias);
  const Tensor ids = Tensor::from(std::vector<int32_t>{5, 96, 0, 41}, Shape{1, 4});
  CHECK(relative_error(with_zeros->logits(ids, {}).to_vector<float>(), bare->logits(ids, {}).to_vector<float>()) <
        1e-6);
  config["bias"] = false;
  write_hf_json(folder.path() / "config.json", config);
  auto weights = read_weights(folder.path() / "model.safetensors");
  weights["transformer.ln_f.bias"].values[0] = 1;
  write_weights(folder.path() / "model.safetensors", weights);
  check_sentence(error_of([&] { read_gpt_hf(folder.path(), DType::f32, kCpu); }),
                 {"transformer.ln_f.bias", "not zero"});
}

TEST_CASE("an output matrix of its own: lm_head.weight, tie_word_embeddings false") {
  Copy c("gpt2_c");
  const Weights original = c.weights;
  const auto model = c.read();
  CHECK_FALSE(model->settings().tied);
  CHECK(model->params().entries().back().name == "head.weight");
  CHECK(values_of_entry_is(*model, "head.weight", original.at("lm_head.weight").values));
  CHECK_FALSE(values_of_entry_is(*model, "tokens.weight", original.at("lm_head.weight").values));
  // A cut vocabulary cuts both; the configuration comes back.
  const TempFolder folder;
  write_gpt_hf(folder.path(), *model, {.vocab_size = 17});
  CHECK(read_config(folder.path())["tie_word_embeddings"] == false);
  CHECK(read_weights(folder.path() / "model.safetensors").at("lm_head.weight").shape == std::vector<int64_t>{17, 12});
  CHECK(read_gpt_hf(folder.path(), DType::f32, kCpu)->settings().vocab_size == 17);
  GptConfig changed = model->settings();
  changed.bias = false;
  write_hf_json(folder.path() / "config.json", gpt_hf_config(changed));
  CHECK(to_json(read_gpt_hf_config(folder.path() / "config.json")) == to_json(changed));

  c.weights.erase("lm_head.weight");
  check_sentence(c.error(), {"1 missing", "lm_head.weight"});
  c.weights = original;
  c.config["tie_word_embeddings"] = true;
  check_sentence(c.error(), {"lm_head.weight differs from wte.weight"});
  c.weights["lm_head.weight"] = original.at("transformer.wte.weight");
  CHECK(c.read()->settings().tied);
}

TEST_CASE("number types") {
  Copy c;
  c.write();
  // Values that all types hold exactly, also zero, subnormal halves, infinities and large numbers.
  const float exact[] = {0.0f, -0.0f, 1.0f, -2.5f, 0x1p-24f, -0x1.8p-20f, 0x1p-14f, 61440.0f, INFINITY, -INFINITY};
  const uint16_t halves[] = {0, 0x8000, 0x3c00, 0xc100, 0x0001, 0x8018, 0x0400, 0x7b80, 0x7c00, 0xfc00};
  std::vector<uint16_t> half, brain;
  std::vector<double> wide;
  std::vector<float> want;
  const size_t n = 11 * 16;
  for (size_t i = 0; i < n; ++i) {
    want.push_back(exact[i % 10]);
    half.push_back(halves[i % 10]);
    brain.push_back(from_float<bf16>(want[i]).bits);
    wide.push_back(static_cast<double>(want[i]));
  }
  const auto read_as = [&](const char* dtype, const void* data) {
    std::vector<SafetensorsEntry> entries;
    for (const auto& [name, t] : c.weights) {
      const bool chosen = name == "transformer.wpe.weight";
      const void* p = chosen ? data : t.values.data();
      entries.push_back({name, chosen ? dtype : "F32", t.shape, static_cast<const std::byte*>(p), 0});
    }
    save_safetensors(c.path / "model.safetensors", entries);
    const auto model = read_gpt_hf(c.path, DType::f32, kCpu);
    return model->params().value(model->params().find("positions.weight")).to_vector<float>();
  };
  CHECK(same_bits(read_as("F16", half.data()), want));
  CHECK(same_bits(read_as("BF16", brain.data()), want));
  CHECK(same_bits(read_as("F64", wide.data()), want));
  CHECK(same_bits(read_as("F32", want.data()), want));
  check_sentence(error_of([&] { read_as("I32", want.data()); }), {"transformer.wpe.weight", "I32", "expected F32"});
}

TEST_CASE("shards") {
  Copy c;
  c.write();
  fs::remove(c.path / "model.safetensors");
  const char* files[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  Weights parts[2];
  nlohmann::json map;
  int i = 0;
  for (const auto& [name, t] : c.weights) {
    parts[i % 2][name] = t;
    map[name] = files[i++ % 2];
  }
  for (const int k : {0, 1}) write_weights(c.path / files[k], parts[k]);
  write_hf_json(c.path / "model.safetensors.index.json", {{"metadata", {{"total_size", 1}}}, {"weight_map", map}});
  CHECK(same_bits(all_values(*read_gpt_hf(c.path, DType::f32, kCpu)), reference_values()));
  CHECK(same_bits(all_values(*load_model(c.path / "model.safetensors.index.json", DType::f32, kCpu)),
                  reference_values()));
}

TEST_CASE("missing, surplus and mis-shaped tensors come in one sentence with the nearest names") {
  Copy c;
  auto& w = c.weights;
  w["transformer.h.0.ln_1.wieght"] = w["transformer.h.0.ln_1.weight"];
  w.erase("transformer.h.0.ln_1.weight");
  w.erase("transformer.wpe.weight");
  w["transformer.h.0.mlp.c_fc.bias"] = {{21}, std::vector<float>(21)};
  w["extra"] = {{1}, {0}};
  check_sentence(c.error(),
                 {"2 missing: ", "wpe.weight", "h.0.ln_1.weight (the file has h.0.ln_1.wieght)",
                  "1 of another shape: h.0.mlp.c_fc.bias (expected (20), got (21))", "2 not known", "extra"});
}

TEST_CASE("config.json: missing, broken, wrong types, other models, unsupported options") {
  Copy c;
  c.write();
  const auto with = [&](const char* key, const nlohmann::json& value) {
    Copy bent;
    bent.config[key] = value;
    return bent.error();
  };
  check_sentence(with("n_layer", "one"), {"config.json", "\"n_layer\" must be a whole number", "got \"one\""});
  check_sentence(with("n_layer", 1.5), {"\"n_layer\"", "1.5"});
  check_sentence(with("n_embd", 0), {"\"n_embd\"", "from 1"});
  check_sentence(with("n_embd", -16), {"\"n_embd\"", "-16"});
  check_sentence(with("n_head", 3), {"\"n_embd\" (16) is not divisible by \"n_head\" (3)"});
  check_sentence(with("n_layer", 1'000'000'000), {"depth", "1000000000"});
  check_sentence(with("n_layer", 99'999), {"asks for 99999 blocks", "16 tensors"});
  check_sentence(with("n_layer", 2), {"12 missing", "h.1.attn.c_attn.weight"});
  check_sentence(with("vocab_size", 30), {"wte.weight (expected (30, 16), got (29, 16))"});
  check_sentence(with("vocab_size", int64_t{1} << 60), {"\"vocab_size\""});
  check_sentence(with("n_inner", 24), {"h.0.mlp.c_fc.weight (expected (16, 24), got (16, 20))"});
  check_sentence(with("layer_norm_epsilon", "small"), {"\"layer_norm_epsilon\" must be a number"});
  check_sentence(with("resid_pdrop", 1.5), {"resid_dropout", "1.5"});
  check_sentence(with("use_cache", 1) + with("scale_attn_weights", 1),
                 {"\"scale_attn_weights\" must be true or false"});
  check_sentence(with("scale_attn_weights", false), {"\"scale_attn_weights\": false is not supported"});
  check_sentence(with("scale_attn_by_inverse_layer_idx", true), {"scale_attn_by_inverse_layer_idx", "not supported"});
  check_sentence(with("reorder_and_upcast_attn", true), {"reorder_and_upcast_attn", "not supported"});
  check_sentence(with("add_cross_attention", true), {"add_cross_attention", "not supported"});
  check_sentence(with("activation_function", "relu"), {"activation_function", "relu", "expected gelu_new"});
  check_sentence(with("activation_function", 3), {"activation_function", "must be text"});
  check_sentence(with("model_type", "bert"), {"\"model_type\" is \"bert\"", "expected \"gpt2\""});

  const auto with_text = [&](const std::string& text) {
    write_text(c.path / "config.json", text);
    return error_of([&] { read_gpt_hf(c.path, DType::f32, kCpu); });
  };
  check_sentence(with_text("[1, 2]"), {"config.json", "expected a JSON object; got array"});
  check_sentence(with_text("{\"n_layer\": 1"), {"config.json"});
  check_sentence(with_text("{\"n_layer\": 1, \"n_layer\": 1}"), {"config.json", "n_layer"});
  fs::remove(c.path / "config.json");
  check_sentence(error_of([&] { read_gpt_hf(c.path, DType::f32, kCpu); }), {"config.json", "the file is missing"});
}

TEST_CASE("weight files: missing, empty, truncated") {
  Copy c;
  c.write();
  const fs::path file = c.path / "model.safetensors";
  const std::string bytes = read_text(file);
  const auto message = [&] { return error_of([&] { read_gpt_hf(c.path, DType::f32, kCpu); }); };
  for (const size_t keep : {size_t{0}, size_t{5}, size_t{100}, bytes.size() - 1}) {
    std::ofstream(file, std::ios::binary) << bytes.substr(0, keep);
    check_sentence(message(), {"model.safetensors"});
  }
  fs::remove(file);
  check_sentence(message(), {"model.safetensors"});
}

TEST_CASE("model files of llm.c, f32 and bf16, with a padded vocabulary") {
  const TempFolder folder;
  const fs::path file = folder / "gpt2_tiny.bin";
  const auto model = read_gpt_hf(golden("gpt2_a"), DType::f32, kCpu);
  // Written here as llm.c's script does: header, then each tensor of all blocks.
  const auto bytes_of = [&](int version, bool narrow) {
    std::vector<int32_t> header(256, 0);
    const int32_t begin[] = {20240326, version, 33, 97, 3, 3, 24, 128};
    std::copy(std::begin(begin), std::end(begin), header.begin());
    std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
    const auto add = [&](const std::string& name, size_t padding = 0) {
      auto v = model->params().value(model->params().find(name)).to_vector<float>();
      v.resize(v.size() + padding);
      for (const float x : v) {
        const uint16_t half = from_float<bf16>(x).bits;
        bytes.append(narrow ? reinterpret_cast<const char*>(&half) : reinterpret_cast<const char*>(&x), narrow ? 2 : 4);
      }
    };
    add("tokens.weight", 31 * 24);
    add("positions.weight");
    for (const char* name : {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"})
      for (const char* kind : {".weight", ".bias"})
        for (const char* block : {"blocks.0.", "blocks.1.", "blocks.2."}) add(std::string(block) + name + kind);
    add("norm.weight");
    add("norm.bias");
    return bytes;
  };
  const std::string whole = bytes_of(3, false);
  put_file(file, whole);
  const auto read = load_model(file, DType::f32, kCpu);
  CHECK(same_bits(all_values(*read), all_values(*model)));
  CHECK(dynamic_cast<Gpt&>(*read).settings().vocab_size == 97);
  put_file(file, bytes_of(5, true));
  auto rounded = all_values(*model);
  for (float& x : rounded) x = to_float(from_float<bf16>(x));
  CHECK(same_bits(all_values(*load_model(file, DType::f32, kCpu)), rounded));

  const auto message = [&](std::string bytes) {
    put_file(file, bytes);
    return error_of([&] { read_llmc(file, DType::f32, kCpu); });
  };
  const auto with = [&](size_t field, int32_t value) {
    std::string bytes = whole;
    std::memcpy(bytes.data() + 4 * field, &value, 4);
    return message(bytes);
  };
  check_sentence(message(whole.substr(0, whole.size() - 4)), {"expected " + std::to_string(whole.size()) + " bytes"});
  check_sentence(message(whole + "1234"), {"got " + std::to_string(whole.size() + 4)});
  check_sentence(message(whole.substr(0, 100)), {"too short"});
  check_sentence(with(0, 20240520), {"magic number 20240326; got 20240520"});
  check_sentence(with(1, 4), {"version 4"});
  check_sentence(with(4, 100000), {"bytes for these sizes"});
  check_sentence(with(6, -24), {"width out of range", "-24"});
  check_sentence(with(7, 96), {"padded vocabulary (96) is smaller"});
  check_sentence(error_of([&] { load_model(file, DType::f32, kCpu); }), {"padded vocabulary"});
  put_file(file, "text");
  check_sentence(error_of([&] { load_model(file, DType::f32, kCpu); }), {"is no model", "llm.c"});
}

TEST_CASE("load_model finds models in folders, files, checkpoints and runs") {
  const auto want = reference_values();
  const auto same = [&](const fs::path& p) { return same_bits(all_values(*load_model(p, DType::f32, kCpu)), want); };
  CHECK(same(golden("gpt2_b")));
  CHECK(same(golden("gpt2_b") / "model.safetensors"));
  CHECK(load_model(golden("gpt2_b"), DType::bf16, kCpu)->params().compute_dtype() == DType::bf16);

  const auto model = read_gpt_hf(golden("gpt2_b"), DType::f32, kCpu);
  const TempFolder run;
  const auto message = [](const fs::path& p) { return error_of([&] { load_model(p, DType::f32, kCpu); }); };
  check_sentence(message(run.path()), {"is no model"});
  check_sentence(message(run.path() / "nowhere"), {"does not exist"});
  write_text(run.path() / "config.json", "{\"family\": \"gpt\", \"model\": {}}");
  const auto write_checkpoint = [&](const std::string& step, bool complete, float shift) {
    const fs::path folder = run.path() / "ckpt" / step;
    fs::create_directories(folder);
    const auto other = read_gpt_hf(golden("gpt2_b"), DType::f32, kCpu);
    other->params().value(0).ptr<float>()[0] += shift;
    const ParamStore& store = other->params();
    save_tensors(folder / "params.safetensors", store, own_names(store), DType::f32);
    write_text(folder / "state.json", Json({{"family", "gpt"}, {"model", other->config()}, {"step", 1}}).dump());
    if (complete) write_text(folder / "COMPLETE", "");
    return folder;
  };
  fs::create_directories(run.path() / "ckpt");
  check_sentence(message(run.path()), {"no finished checkpoint yet"});
  write_checkpoint("00000009", true, 1);
  const fs::path good = write_checkpoint("00000010", true, 0);
  const fs::path half = write_checkpoint("00000011", false, 2);
  fs::create_directories(run.path() / "ckpt" / "00000012.tmp");
  CHECK(newest_checkpoint(run.path()) == good);
  CHECK(same(run.path()));
  CHECK(same(good));
  CHECK(same(good / "params.safetensors"));
  CHECK_FALSE(same(run.path() / "ckpt" / "00000009"));
  check_sentence(message(half), {"was not finished"});

  CHECK(find_tokenizer(run.path()) == fs::path());
  write_gpt_hf(run.path() / "model", *model);
  write_text(run.path() / "model" / "tokenizer.json", "{}");
  for (const fs::path& p : {run.path(), good, run.path() / "model", run.path() / "model" / "model.safetensors"})
    CHECK(find_tokenizer(p) == fs::absolute(run.path() / "model").lexically_normal());
  fs::remove_all(run.path() / "ckpt");
  CHECK(same(run.path()));

  const fs::path again = write_checkpoint("00000010", true, 0);
  write_text(again / "state.json", "{\"family\": \"gtp\", \"model\": {}}");
  check_sentence(message(again), {"unknown family \"gtp\""});
  write_text(again / "state.json", "{\"family\": \"gpt\"}");
  check_sentence(message(again), {"state.json", "expected an object with \"family\" and \"model\""});
  auto smaller = model->config();
  smaller["depth"] = 0;
  write_text(again / "state.json", Json({{"family", "gpt"}, {"model", smaller}}).dump());
  check_sentence(message(again), {"params.safetensors", "12 not known", "blocks.0.attn.qkv.weight"});
}
