// Files of vision transformers, timm's and transformers': round trips, accepted variants, and everything refused.
//   ACCRETE_EXPORT_VIT=FOLDER build/tests/vit_files_test    leaves folders that tests/golden/check_vit.py loads
#include <cstdlib>

#include "engine/core/json.h"
#include "models/hf_config.h"
#include "models/vit_hf.h"
#include "models/vit_timm.h"
#include "tests/vit_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

const std::vector<std::string> kTimm = {"vit_timm", "vit_distilled", "vit_deit3", "vit_mean"};
const std::vector<std::string> kHf = {"vit_hf", "deit_hf", "deit_plain_hf"};

nlohmann::json read_config(const fs::path& folder) { return parse_json(read_text(folder / "config.json"), "test"); }

// A copy of a golden model in a folder of its own, to be bent.
struct Copy {
  TempFolder folder;
  fs::path path = folder.path();
  Weights weights;
  nlohmann::json config;
  explicit Copy(const std::string& source) {
    weights = read_weights(golden(source) / "model.safetensors");
    config = read_config(golden(source));
  }
  std::unique_ptr<Model> read(const LoadOptions& options = {}) const {
    write_weights(path / "model.safetensors", weights);
    if (config.is_null())
      fs::remove(path / "config.json");
    else
      write_hf_json(path / "config.json", config);
    return load_model(path, DType::f32, kCpu, options);
  }
  std::string error(const LoadOptions& options = {}) const {
    return error_of([&] { read(options); });
  }
  template <class Fn>
  void rename(const Weights& from, Fn&& fn) {
    weights.clear();
    for (const auto& [name, t] : from) weights[fn(name)] = t;
  }
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

Vit& vit(const std::unique_ptr<Model>& model) { return dynamic_cast<Vit&>(*model); }

// Names, shapes and bits; timm's writer leaves out the metadata, which others want.
bool same_tensors(const fs::path& a, const fs::path& b) {
  const Weights x = read_weights(a / "model.safetensors"), y = read_weights(b / "model.safetensors");
  return x.size() == y.size() && std::all_of(x.begin(), x.end(), [&](const auto& t) {
           const auto it = y.find(t.first);
           return it != y.end() && it->second.shape == t.second.shape && same_bits(it->second.values, t.second.values);
         });
}

std::vector<float> reference_values(const std::string& name) { return all_values(*load_golden_vit(name)); }

}  // namespace

TEST_CASE("timm -> engine -> timm has the tensors of the library's own file") {
  for (const std::string& name : kTimm) {
    CAPTURE(name);
    const TempFolder folder;
    const auto model = load_golden_vit(name);
    const PictureInfo info = read_picture_info(golden(name));
    CHECK(info.class_names.size() == 7);
    write_vit_timm(folder.path(), *model, info);
    CHECK(same_tensors(folder.path(), golden(name)));
    const auto again = load_model(folder.path(), DType::f32, kCpu);
    CHECK(again->config() == model->config());
    CHECK(same_bits(all_values(*again), all_values(*model)));
    CHECK(read_picture_info(folder.path()) == info);
  }
}

TEST_CASE("transformers -> engine -> transformers has the bytes of the library's own file") {
  for (const std::string& name : kHf) {
    CAPTURE(name);
    const TempFolder folder;
    const auto model = load_golden_vit(name);
    write_vit_hf(folder.path(), *model, read_picture_info(golden(name)));
    CHECK(read_text(folder.path() / "model.safetensors") == read_text(golden(name) / "model.safetensors"));
    const auto again = load_model(folder.path(), DType::f32, kCpu);
    CHECK(again->config() == model->config());
    CHECK(same_bits(all_values(*again), all_values(*model)));
    CHECK(read_picture_info(folder.path()).class_names == read_picture_info(golden(name)).class_names);
    // Every field that the library wrote has its value, but for what it says of itself and of its unused parts.
    const auto theirs = read_config(golden(name)), ours = read_config(folder.path());
    for (const auto& [key, value] : theirs.items())
      if (key != "dtype" && key != "transformers_version" && key != "encoder_stride" && !key.starts_with("pooler_"))
        CHECK_MESSAGE(ours.at(key) == value, key);
  }
  CHECK(read_picture_info(golden("vit_hf")).class_names[3] == "thing 3");
  CHECK(read_picture_info(golden("deit_hf")).class_names.empty());  // LABEL_3
}

TEST_CASE("timm -> engine -> transformers -> engine -> timm is bit-identical") {
  for (const char* name : {"vit_timm", "vit_distilled"}) {
    const TempFolder hf, back;
    write_vit_hf(hf.path(), *load_golden_vit(name), read_picture_info(golden(name)));
    const auto model = load_model(hf.path(), DType::f32, kCpu);
    write_vit_timm(back.path(), vit(model), read_picture_info(hf.path()));
    CHECK(same_tensors(back.path(), golden(name)));
    auto config = load_model(back.path(), DType::f32, kCpu)->config();
    CHECK(config == load_golden_vit(name)->config());
  }
}

TEST_CASE("exported models for the libraries themselves") {
  const char* out = std::getenv("ACCRETE_EXPORT_VIT");
  const TempFolder folder;
  const fs::path root = out ? fs::path(out) : folder.path();
  for (const auto& list : {kTimm, kHf})
    for (const std::string& name : list) {
      const auto model = load_golden_vit(name);
      write_vit_timm(root / (name + "-as-timm"), *model, {.mean = {0.1, 0.2, 0.3}, .stddev = {0.4, 0.5, 0.6}});
      CHECK(same_bits(all_values(*load_model(root / (name + "-as-timm"), DType::f32, kCpu)), all_values(*model)));
      if (name == "vit_deit3" || name == "vit_mean") continue;
      write_vit_hf(root / (name + "-as-hf"), *model, {.mean = {0.1, 0.2, 0.3}, .stddev = {0.4, 0.5, 0.6}});
      CHECK(same_bits(all_values(*load_model(root / (name + "-as-hf"), DType::f32, kCpu)), all_values(*model)));
    }
}

TEST_CASE("names: wrappers, the DeiT III release, state dicts without config.json") {
  Copy c("vit_deit3");
  const Weights original = c.weights;
  const auto want = reference_values("vit_deit3");
  const auto unchanged = [&] { CHECK(same_bits(all_values(*c.read()), want)); };
  c.rename(original, [](const std::string& n) { return "module." + n; });
  unchanged();
  c.rename(original, [](const std::string& n) { return "model_ema.module._orig_mod." + n; });
  unchanged();
  c.rename(original, [](const std::string& n) {
    return "model." + replaced(replaced(n, "ls1.gamma", "gamma_1"), "ls2.gamma", "gamma_2");
  });
  unchanged();
  c.weights["cls_token"] = original.at("cls_token");
  check_sentence(c.error(), {"\"cls_token\"", "\"model.cls_token\"", "are the same tensor"});
  c.weights = original;
  // No config.json: the heads of the published model of the same width, where there is one.
  c.config = nullptr;
  check_sentence(c.error(), {"no published model has the width 24", "\"num_heads\""});
  VitConfig tiny = vit_preset("deit-tiny");
  tiny.depth = 1, tiny.image_size = 64, tiny.classes = 3;
  Vit model(tiny, DType::f32, kCpu);
  model.params().initialise(1);
  const TempFolder folder;
  write_vit_timm(folder.path(), model);
  fs::remove(folder.path() / "config.json");
  const auto bare = load_model(folder.path(), DType::f32, kCpu);
  CHECK(vit(bare).settings().num_heads == 3);
  CHECK(vit(bare).settings().image_size == 64);
  CHECK(same_bits(all_values(*bare), all_values(model)));
  CHECK(same_bits(all_values(*load_model(folder.path() / "model.safetensors", DType::f32, kCpu)), all_values(model)));
}

TEST_CASE("names: transformers' new ones, without prefix, wrapped") {
  for (const char* name : {"vit_hf", "deit_hf"}) {
    Copy c(name);
    const Weights original = c.weights;
    const auto want = reference_values(name);
    c.rename(original, [](const std::string& n) {
      std::string r = replaced(n, "encoder.layer.", "layers.");
      for (const auto& [from, to] :
           std::vector<std::pair<std::string, std::string>>{{"attention.attention.query", "attention.q_proj"},
                                                            {"attention.attention.key", "attention.k_proj"},
                                                            {"attention.attention.value", "attention.v_proj"},
                                                            {"attention.output.dense", "attention.o_proj"},
                                                            {"intermediate.dense", "mlp.fc1"},
                                                            {".output.dense", ".mlp.fc2"}})
        r = replaced(r, from, to);
      return r;
    });
    CHECK(c.weights.size() == original.size());
    CHECK(std::any_of(c.weights.begin(), c.weights.end(),
                      [](const auto& t) { return t.first.ends_with(".layers.1.mlp.fc2.weight"); }));
    CHECK(same_bits(all_values(*c.read()), want));
    c.rename(original, [](const std::string& n) { return "module." + replaced(replaced(n, "deit.", ""), "vit.", ""); });
    CHECK(same_bits(all_values(*c.read()), want));
  }
}

TEST_CASE("a new classifier, on request only") {
  for (const std::string name : {"vit_timm", "vit_distilled", "vit_hf", "deit_hf"}) {
    CAPTURE(name);
    Copy c(name);
    const auto model = c.read({.reset_head = 11, .seed = 4});
    CHECK(vit(model).settings().classes == 11);
    const auto old = load_golden_vit(name);
    Vit fresh(vit(model).settings(), DType::f32, kCpu);
    fresh.params().initialise(4);
    for (const ParamEntry& e : model->params().entries()) {
      const auto value = [&](const Model& m) { return m.params().value(m.params().find(e.name)).to_vector<float>(); };
      CHECK_MESSAGE(same_bits(value(*model), is_vit_head(e.name) ? value(fresh) : value(*old)), e.name);
    }
    // A model without a classifier, with the pooling layer that transformers' bare model has.
    std::erase_if(c.weights, [](const auto& t) {
      return t.first.find("head") == 0 || t.first.find("classifier") != std::string::npos;
    });
    if (is_hf(name)) c.weights["pooler.dense.weight"] = {{24, 24}, std::vector<float>(24 * 24)};
    CHECK(same_bits(all_values(*c.read({.reset_head = 11, .seed = 4})), all_values(*model)));
    check_sentence(c.error(), {"missing", is_hf(name) ? "classifier.weight" : "head.weight"});
  }
  // The stored number of classes is not ours to change silently.
  Copy c("vit_hf");
  c.config["id2label"] = {{"0", "a"}, {"1", "b"}};
  check_sentence(c.error(), {"classifier.weight (expected (2, 24), got (7, 24))"});
  CHECK(vit(c.read({.reset_head = 2})).settings().classes == 2);
  Copy t("vit_timm");
  t.config["num_classes"] = t.config["model_args"]["num_classes"] = 9;
  check_sentence(t.error(), {"head.weight (expected (9, 24), got (7, 24))"});
  // Checkpoints of ours; models without a classifier.
  const TempFolder folder;
  const auto model = load_golden_vit("vit_distilled");
  const ParamStore& store = static_cast<const Model&>(*model).params();
  save_tensors(folder / "params.safetensors", store, own_names(store), DType::f32);
  write_text(folder / "state.json", Json({{"family", "vit"}, {"model", model->config()}}).dump());
  write_text(folder / "COMPLETE", "");
  CHECK(same_bits(all_values(*load_model(folder.path(), DType::f32, kCpu)), all_values(*model)));
  const auto reset = load_model(folder.path(), DType::f32, kCpu, {.reset_head = 11, .seed = 4});
  CHECK(same_bits(all_values(*reset), all_values(*Copy("vit_distilled").read({.reset_head = 11, .seed = 4}))));
  check_sentence(error_of([] { load_model(golden("gpt2_b"), DType::f32, kCpu, {.reset_head = 2}); }),
                 {"a new classifier was asked for"});
}

TEST_CASE("class names and preprocessing") {
  const TempFolder folder;
  const auto model = load_golden_vit("vit_timm");
  PictureInfo info;
  info.class_names = {"ant", "bee", "cat", "dog", "elk", "fox", "gnu"};
  info.mean = {0.485, 0.456, 0.406}, info.stddev = {0.229, 0.224, 0.225};
  info.crop_pct = 0.8, info.interpolation = "bilinear";
  write_vit_timm(folder / "timm", *model, info);
  CHECK(read_picture_info(folder / "timm") == info);
  write_vit_hf(folder / "hf", *model, info);
  CHECK(read_picture_info(folder / "hf") == info);
  CHECK(read_config(folder / "hf")["label2id"]["dog"] == 3);
  const auto pictures = parse_json(read_text(folder / "hf" / "preprocessor_config.json"), "test");
  CHECK(pictures["size"]["shortest_edge"] == 20);
  CHECK(pictures["crop_size"]["height"] == 16);
  info.class_names.pop_back();
  check_sentence(error_of([&] { write_vit_timm(folder / "x", *model, info); }), {"6 names for 7 classes"});
  check_sentence(error_of([&] { write_vit_hf(folder / "x", *model, info); }), {"6 names for 7 classes"});
  info.class_names.clear();
  info.mean = {0.5};
  check_sentence(error_of([&] { write_vit_hf(folder / "x", *model, info); }), {"one for each of 3 channels"});
  CHECK_FALSE(fs::exists(folder / "x"));  // nothing is begun that cannot be ended
  // Squashed to a square without a crop, as google/vit-base-patch16-224; resized to 256 and cropped, as DeiT.
  const auto read = [&](const nlohmann::json& j) {
    write_hf_json(folder / "preprocessor_config.json", j);
    return read_picture_info(folder.path());
  };
  CHECK(read({{"size", {{"height", 224}, {"width", 224}}}, {"resample", 2}}).crop_pct == 1.0);
  CHECK(read({{"size", 224}, {"resample", 2}}).interpolation == "bilinear");
  CHECK(read({{"size", 256}, {"do_center_crop", true}, {"crop_size", 224}}).crop_pct == 0.875);
  CHECK(read({{"image_mean", {0.5, 0.25}}}).mean == std::vector<double>{0.5, 0.25});
  CHECK(read({{"image_mean", {0.5}}, {"do_normalize", false}}).mean == std::vector<double>{0, 0, 0});
  check_sentence(error_of([&] { read({{"image_mean", {"a"}}}); }), {"\"image_mean\" must be a list of numbers"});
  CHECK(read_picture_info(folder / "nowhere") == PictureInfo());
  Copy c("vit_hf");
  c.config["id2label"] = {{"0", "a"}, {"2", "b"}};
  c.read({.reset_head = 2});
  check_sentence(error_of([&] { read_picture_info(c.path); }), {"id2label", "no \"1\""});
}

TEST_CASE("bf16 export rounds once") {
  const auto model = load_golden_vit("vit_timm");
  auto want = all_values(*model);
  for (float& x : want) x = to_float(from_float<bf16>(x));
  const TempFolder folder;
  write_vit_hf(folder / "hf", *model, {}, DType::bf16);
  CHECK(read_config(folder / "hf")["torch_dtype"] == "bfloat16");
  CHECK(same_bits(all_values(*load_model(folder / "hf", DType::f32, kCpu)), want));
  write_vit_timm(folder / "timm", *model, {}, DType::bf16);
  CHECK(same_bits(all_values(*load_model(folder / "timm", DType::f32, kCpu)), want));
}

TEST_CASE("what transformers has no place for, and what timm has not") {
  const TempFolder folder;
  const auto refuses = [&](auto change) {
    VitConfig c = small_vit();
    change(c);
    Vit model(c, DType::f32, kCpu);
    const std::string m = error_of([&] { write_vit_hf(folder / "hf", model); });
    CHECK_FALSE(fs::exists(folder / "hf"));
    return m;
  };
  check_sentence(refuses([](VitConfig& c) { c.layer_scale = 0.1; }), {"have no LayerScale", "in the style of timm"});
  check_sentence(refuses([](VitConfig& c) { c.pool = "mean"; }), {"have no mean pooling"});
  check_sentence(refuses([](VitConfig& c) { c.position_prefix = false; }), {"positions for patches only"});
  check_sentence(refuses([](VitConfig& c) { c.registers = 2; }), {"several registers"});
  VitConfig c = small_vit();
  c.layer_norm_eps = 1e-5;
  check_sentence(error_of([&] { write_vit_timm(folder / "x", Vit(c, DType::f32, kCpu)); }), {"1e-06", "got 1e-05"});
}

TEST_CASE("timm's config.json: what it may say, and what is refused") {
  const auto with = [](const char* key, const nlohmann::json& value, const std::string& source = "vit_timm") {
    Copy c(source);
    c.config["model_args"][key] = value;
    return c.error();
  };
  CHECK(with("drop_path_rate", 0.1) + with("dynamic_img_size", true) + with("qk_norm", false) +
            with("init_values", nullptr) ==
        "");
  CHECK(with("img_size", 16) == "");
  check_sentence(with("img_size", {16, 20}), {"\"img_size\" must be one number or two equal ones", "[16,20]"});
  check_sentence(with("img_size", 32), {"pos_embed (expected (1, 65, 24), got (1, 17, 24))"});
  check_sentence(with("patch_size", 2), {"patch_embed.proj.weight (expected (24, 3, 2, 2), got (24, 3, 4, 4))"});
  check_sentence(with("embed_dim", 48), {"blocks.0.attn.qkv.weight (expected (144, 48), got (72, 24))"});
  check_sentence(with("depth", 4), {"missing", "blocks.3.attn.proj.weight"});
  check_sentence(with("depth", 2), {"not known to this model", "blocks.2.attn.proj.weight"});
  check_sentence(with("depth", 99'999), {"asks for 99999 blocks"});
  check_sentence(with("num_heads", 5), {"embed_dim 24 is not divisible by num_heads 5"});
  check_sentence(with("mlp_ratio", 2.0), {"blocks.0.mlp.fc1.weight (expected (48, 24), got (96, 24))"});
  check_sentence(with("qkv_bias", false), {"not known to this model", "blocks.0.attn.qkv.bias"});
  check_sentence(with("qk_norm", true), {"\"qk_norm\": true is not supported"});
  check_sentence(with("class_token", false), {"\"class_token\": false is not supported"});
  check_sentence(with("pre_norm", true), {"\"pre_norm\": true is not supported"});
  check_sentence(with("block_fn", "ParallelScalingBlock"), {"\"block_fn\" is not supported"});
  check_sentence(with("act_layer", "quick_gelu"), {"\"act_layer\": \"quick_gelu\" is not supported"});
  check_sentence(with("global_pool", "avg"), {"\"global_pool\" is \"avg\"", "no fc_norm"});
  check_sentence(with("global_pool", "token", "vit_mean"), {"\"global_pool\" is \"token\"", "an fc_norm"});
  check_sentence(with("reg_tokens", 1, "vit_mean"), {"reg_token (expected (1, 1, 24), got (1, 2, 24))"});
  check_sentence(with("no_embed_class", false, "vit_deit3"), {"pos_embed (expected (1, 17, 24), got (1, 16, 24))"});
  Copy c("vit_timm");
  for (const char* name :
       {"vit_base_patch16_clip_quickgelu_224", "eva02_base_patch14_224", "vit_base_patch16_gap_224"}) {
    c.config["architecture"] = name;
    check_sentence(c.error(), {"\"architecture\"", name, "is not supported"});
  }
  Copy odd("vit_timm");
  odd.weights["pos_embed"] = {{1, 15, 24}, std::vector<float>(15 * 24)};
  check_sentence(odd.error(), {"pos_embed has 15 positions", "a square grid"});
  odd.weights.erase("pos_embed");
  check_sentence(odd.error(), {"no tensor \"pos_embed\""});
}

TEST_CASE("transformers' config.json: wrong types, other models, unsupported options; parts of a projection") {
  const auto with = [](const char* key, const nlohmann::json& value) {
    Copy c("vit_hf");
    c.config[key] = value;
    return c.error();
  };
  check_sentence(with("hidden_act", "relu"), {"\"hidden_act\": \"relu\" is not supported"});
  CHECK(with("hidden_act", "gelu_new") == "");
  check_sentence(with("image_size", {16, 16}), {"\"image_size\" must be a whole number"});
  check_sentence(with("patch_size", 3), {"patch 3 does not divide image_size 16"});
  check_sentence(with("num_attention_heads", 5), {"not divisible by num_heads 5"});
  check_sentence(with("num_hidden_layers", 1'000), {"asks for 1000 blocks"});
  check_sentence(with("qkv_bias", false),
                 {"6 not known to this model", "encoder.layer.0.attention.attention.key.bias"});
  check_sentence(with("model_type", "swin"), {"\"model_type\" is \"swin\""});
  check_sentence(with("id2label", 7), {"\"id2label\" must be an object"});
  Copy c("vit_hf");
  c.weights.erase("vit.encoder.layer.1.attention.attention.key.weight");
  c.weights["vit.encoder.layer.0.attention.attention.value.weight"] = {{24, 23}, std::vector<float>(24 * 23)};
  check_sentence(c.error(), {"1 missing: encoder.layer.1.attention.attention.key.weight",
                             "encoder.layer.0.attention.attention.value.weight (expected (24, 24), got (24, 23))"});
}
