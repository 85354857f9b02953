// VOLO in the files of timm: round trips, accepted variants, and everything refused.
#include "engine/core/json.h"
#include "models/hf_config.h"
#include "models/registry.h"
#include "models/volo_timm.h"
#include "tests/model_testing.h"

using namespace accrete;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// Without the counters of the batch norms, which are integers.
Weights read_floats(const fs::path& path) {
  Weights w;
  const Safetensors file = Safetensors::open(path);
  for (const auto& e : file.entries())
    if (!e.name.ends_with("num_batches_tracked")) w[e.name] = {e.shape, values_of(e)};
  return w;
}

// A copy of a golden model in a folder of its own, to be bent.
struct Copy {
  TempFolder folder;
  fs::path path = folder.path();
  Weights weights;
  json config;
  explicit Copy(const std::string& source = "volo_a") {
    weights = read_floats(golden(source) / "model.safetensors");
    config = parse_json(read_text(golden(source) / "config.json"), "test");
  }
  std::unique_ptr<Volo> read() const {
    write_weights(path / "model.safetensors", weights);
    write_hf_json(path / "config.json", config);
    return read_volo_timm(path, DType::f32, kCpu);
  }
  std::string error() const {
    return error_of([&] { read(); });
  }
};

VoloConfig read_back(const json& config) {
  const TempFolder folder;
  write_hf_json(folder.path() / "config.json", config);
  return read_volo_timm_config(folder.path() / "config.json");
}

std::string config_error(const json& config) {
  return error_of([&] { read_back(config); });
}

}  // namespace

TEST_CASE("timm -> engine -> timm -> engine is bit-identical") {
  for (const char* name : {"volo_a", "volo_b"}) {
    const TempFolder folder;
    const auto model = read_volo_timm(golden(name), DType::f32, kCpu);
    write_volo_timm(folder.path(), *model);
    const Weights before = read_floats(golden(name) / "model.safetensors"),
                  after = read_floats(folder.path() / "model.safetensors");
    REQUIRE(before.size() == after.size());
    for (const auto& [key, t] : before) {
      CAPTURE(key);
      REQUIRE(after.contains(key));
      CHECK(after.at(key).shape == t.shape);
      CHECK(same_bits(after.at(key).values, t.values));
    }
    const auto again = read_volo_timm(folder.path(), DType::f32, kCpu);
    CHECK(same_bits(all_values(*again), all_values(*model)));
    CHECK(again->config() == model->config());
    // The registry finds it, as a folder, as a file and by its family.
    for (const fs::path& path : {folder.path(), folder.path() / "model.safetensors"}) {
      const auto found = load_model(path, DType::f32, kCpu);
      CHECK(found->family() == "volo");
      CHECK(same_bits(all_values(*found), all_values(*model)));
    }
    CHECK(make_model("volo", model->config(), DType::f32, kDry)->config() == model->config());
  }
}

TEST_CASE("a convolution is stored (out, in, row, column)") {
  const Weights file = read_floats(golden("volo_a") / "model.safetensors");
  const auto model = read_volo_timm(golden("volo_a"), DType::f32, kCpu);
  for (const auto& [name, in, kernel] :
       {std::tuple("patch_embed.conv.0.weight", 3, 7), std::tuple("patch_embed.conv.6.weight", 4, 3),
        std::tuple("patch_embed.proj.weight", 4, 2), std::tuple("network.1.proj.weight", 6, 2)}) {
    const Stored& t = file.at(name);
    const auto ours = model->params().value(model->params().find(name)).to_vector<float>();
    const int64_t out = t.shape[0];
    CHECK(t.shape == std::vector<int64_t>{out, in, kernel, kernel});
    for (int64_t o = 0; o < out; ++o)
      for (int64_t c = 0; c < in; ++c)
        for (int64_t i = 0; i < kernel; ++i)
          for (int64_t j = 0; j < kernel; ++j)
            CHECK(ours[static_cast<size_t>(((o * kernel + i) * kernel + j) * in + c)] ==
                  t.values[static_cast<size_t>(((o * in + c) * kernel + i) * kernel + j)]);
  }
}

TEST_CASE("bf16 export rounds once") {
  const TempFolder folder;
  const auto model = read_volo_timm(golden("volo_b"), DType::f32, kCpu);
  write_volo_timm(folder.path(), *model, {}, DType::bf16);
  auto want = all_values(*model);
  for (float& x : want) x = to_float(from_float<bf16>(x));
  CHECK(same_bits(all_values(*read_volo_timm(folder.path(), DType::f32, kCpu)), want));
}

TEST_CASE("published sizes keep their names, others are described in full") {
  struct Row {
    const char* ours;
    int64_t size;
    const char* theirs;
    json args;
  };
  const Row rows[] = {{"volo-d1", 224, "volo_d1_224", nullptr},
                      {"volo-d1", 384, "volo_d1_384", nullptr},
                      {"volo-d2", 384, "volo_d2_384", nullptr},
                      {"volo-d3", 448, "volo_d3_448", nullptr},
                      {"volo-d4", 224, "volo_d4_224", nullptr},
                      {"volo-d5", 512, "volo_d5_512", nullptr},
                      {"volo-d1", 160, "volo_d1_224", {{"img_size", 160}}},
                      {"volo-d5", 384, "volo_d5_224", {{"img_size", 384}}}};
  for (const Row& row : rows) {
    CAPTURE(row.theirs);
    VoloConfig c = volo_preset(row.ours);
    c.image_size = row.size;
    const json j = volo_timm_config(c);
    CHECK(j["architecture"] == row.theirs);
    CHECK(j.value("model_args", json()) == row.args);
    CHECK(to_json(read_back(j)) == to_json(c));
  }
  VoloConfig c;  // every field that has a place
  c.image_size = 48, c.patch = 4, c.channels = 1, c.classes = 11, c.stem_dim = 5, c.class_blocks = 1;
  c.depth = {1, 2}, c.embed_dim = {6, 14}, c.num_heads = {3, 2}, c.mlp_dim = {7, 29}, c.drop_path = 0.25;
  c.init_std = 0.5, c.pos_offset = 0.1, c.class_weight = 2, c.token_weight = 0.25;
  const json j =
      volo_timm_config(c, {.class_names = std::vector<std::string>(11, "x"), .mean = {0.5}, .stddev = {0.25}});
  CHECK(to_json(read_back(j)) == to_json(c));
  CHECK(j["model_args"]["downsamples"] == json({true, false}));
  CHECK(j["model_args"]["post_layers"] == json({"ca"}));
  CHECK(j["num_features"] == 14);
  CHECK(j["pretrained_cfg"]["input_size"] == json({1, 48, 48}));
  CHECK(j["pretrained_cfg"]["mean"] == json({0.5}));
  CHECK(j["pretrained_cfg"]["first_conv"] == "patch_embed.conv.0");
  CHECK(j["label_names"].size() == 11);
  // Ratios that no double hits exactly still give the width, as timm computes it.
  for (const int64_t hidden : {1, 5, 29, 100, 577}) {
    c.mlp_dim = {hidden, hidden};
    CHECK(read_back(volo_timm_config(c)).mlp_dim == c.mlp_dim);
  }
  c.layer_norm_eps = 1e-6;
  check_sentence(error_of([&] { volo_timm_config(c); }), {"layer_norm_eps", "1e-05"});
}

TEST_CASE("a config.json of timm's own") {
  const json hub = {{"architecture", "volo_d3_448"},
                    {"num_classes", 1000},
                    {"num_features", 512},
                    {"global_pool", "token"},
                    {"pretrained_cfg",
                     {{"tag", "sail_in1k"},
                      {"custom_load", false},
                      {"input_size", {3, 448, 448}},
                      {"fixed_input_size", true},
                      {"crop_pct", 1.0},
                      {"mean", {0.485, 0.456, 0.406}},
                      {"num_classes", 1000},
                      {"pool_size", nullptr},
                      {"classifier", {"head", "aux_head"}}}}};
  VoloConfig d3 = volo_preset("volo-d3");
  d3.image_size = 448;
  CHECK(to_json(read_back(hub)) == to_json(d3));
  CHECK(read_back({{"architecture", "volo_d1_384"}}).image_size == 384);
  json args = hub;
  args["num_classes"] = 10;
  args["model_args"] = {{"img_size", {96, 96}},  {"in_chans", 1},     {"drop_path_rate", 0.1},
                        {"use_mix_token", true}, {"qkv_bias", false}, {"mlp_ratio", 2.5}};
  const VoloConfig c = read_back(args);
  CHECK(c.image_size == 96);
  CHECK(c.channels == 1);
  CHECK(c.classes == 10);
  CHECK(c.drop_path == 0.1);
  CHECK(c.mlp_dim == std::vector<int64_t>{640, 1280});
}

TEST_CASE("what a config.json must not say") {
  const auto with_arg = [](const char* key, const json& value) {
    return config_error({{"architecture", "volo_d1_224"}, {"model_args", {{key, value}}}});
  };
  check_sentence(config_error({{"architecture", "vit_base_patch16_224"}}), {"vit_base_patch16_224", "volo_d1_224"});
  check_sentence(config_error({{"architecture", "volo_d1_224"}, {"model_args", 3}}), {"model_args", "an object"});
  check_sentence(with_arg("qkv_bias", true), {"qkv_bias", "not supported"});
  check_sentence(with_arg("drop_rate", 0.1), {"drop_rate", "not supported"});
  check_sentence(with_arg("attn_drop_rate", 0.1), {"attn_drop_rate", "not supported"});
  check_sentence(with_arg("global_pool", "avg"), {"global_pool", "avg"});
  check_sentence(with_arg("use_aux_head", false), {"use_aux_head"});
  check_sentence(with_arg("pooling_scale", 1), {"pooling_scale"});
  check_sentence(with_arg("post_layers", {"sa"}), {"post_layers", "sa"});
  check_sentence(with_arg("downsamples", {true, true, false, false}), {"downsamples"});
  check_sentence(with_arg("downsamples", {true, false, true, false}), {"downsamples", "the same"});
  check_sentence(with_arg("embed_dims", {192, 384}), {"embed_dims", "as long as"});
  check_sentence(with_arg("embed_dims", {192, 384, 384, 500}), {"embed_dims", "the same"});
  check_sentence(with_arg("layers", {4}), {"layers"});
  check_sentence(with_arg("layers", {4, -1}), {"layers", "a whole number"});
  check_sentence(with_arg("mlp_ratio", "3"), {"mlp_ratio", "a number"});
  check_sentence(with_arg("img_size", {224, 192}), {"img_size", "one side"});
  check_sentence(with_arg("swiglu", true), {"swiglu", "not known"});
}

TEST_CASE("a release without config.json: sizes from the shapes") {
  const TempFolder folder;
  VoloConfig c = volo_preset("volo-d1");
  c.depth = {1, 2, 1}, c.image_size = 32, c.stem_dim = 3, c.mlp_dim = {20, 30}, c.classes = 7, c.class_blocks = 1;
  Volo model(c, DType::f32, kCpu);
  model.params().initialise(2);
  write_volo_timm(folder.path(), model);
  Weights wrapped;
  for (const auto& [name, t] : read_floats(folder.path() / "model.safetensors"))
    wrapped["state_dict.module." + name] = t;
  write_weights(folder.path() / "model.safetensors", wrapped);
  fs::remove(folder.path() / "config.json");
  const auto again = load_model(folder.path(), DType::f32, kCpu);
  CHECK(again->family() == "volo");
  CHECK(again->config() == model.config());
  CHECK(same_bits(all_values(*again), all_values(model)));
  // The narrow golden model has no published number of heads.
  Copy golden_copy;
  golden_copy.read();
  fs::remove(golden_copy.path / "config.json");
  check_sentence(error_of([&] { load_model(golden_copy.path, DType::f32, kCpu); }), {"width 10", "config.json"});
}

TEST_CASE("new heads for other classes") {
  const auto old = read_volo_timm(golden("volo_a"), DType::f32, kCpu);
  const auto made = load_model(golden("volo_a"), DType::f32, kCpu, {.reset_head = 3, .seed = 5});
  const ParamStore& now = static_cast<const Model&>(*made).params();
  for (size_t i = 0; i < now.entries().size(); ++i) {
    const ParamEntry& e = now.entries()[i];
    CAPTURE(e.name);
    const int before = old->params().find(e.name);
    if (is_volo_head(e.name))
      CHECK(e.shape[0] == 3);
    else
      CHECK(
          same_bits(now.value(static_cast<int>(i)).to_vector<float>(), old->params().value(before).to_vector<float>()));
  }
  const auto head = now.value(now.find("aux_head.weight")).to_vector<float>();
  CHECK(std::any_of(head.begin(), head.end(), [](float x) { return x != 0; }));
}

TEST_CASE("names: wrappers and counters; everything that does not fit is listed") {
  const auto want = all_values(*read_volo_timm(golden("volo_a"), DType::f32, kCpu));
  Copy c;
  const Weights original = c.weights;
  c.weights.clear();
  for (const auto& [name, t] : original) c.weights["module." + name] = t;
  c.weights["module.patch_embed.conv.1.num_batches_tracked"] = {{}, {7.0f}};
  CHECK(same_bits(all_values(*c.read()), want));

  c.weights = original;
  c.weights.erase("cls_token");
  c.weights["pos_embed"].shape = {1, 9, 10};
  c.weights["network.5.0.norm1.weight"] = {{2}, {1.0f, 1.0f}};
  check_sentence(c.error(), {"1 missing: cls_token", "pos_embed (expected (1, 3, 3, 10), got (1, 9, 10))",
                             "not known to this model: network.5.0.norm1.weight"});
  c.weights = original;
  c.weights.erase("patch_embed.conv.4.running_var");
  check_sentence(c.error(), {"patch_embed.conv.4.running_var"});
  c.weights = original;
  c.config["num_classes"] = 8;
  c.config["model_args"].erase("num_classes");
  check_sentence(c.error(), {"head.weight (expected (8, 10), got (7, 10))", "aux_head.weight"});
  c.config["model_args"]["layers"] = {2, 1, 0, 100000};
  check_sentence(c.error(), {"100005 blocks"});
}
