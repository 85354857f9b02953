// Sizes, roles, shapes, initial values and cost of VOLO models (volo spec 2 to 4), without their memory where they are
// large (dry device).
#include "models/volo.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/op_testing.h"

using namespace accrete;

namespace {

const ParamStore& store_of(const Model& model) { return model.params(); }

int64_t parameters(const VoloConfig& config) { return Volo(config, DType::f32, kDry).params().parameter_count(); }

// Parameters whose names begin so.
int64_t counted(const VoloConfig& config, const std::vector<std::string>& prefixes) {
  const Volo model(config, DType::f32, kDry);
  int64_t n = 0;
  for (const ParamEntry& e : store_of(model).entries())
    for (const std::string& p : prefixes) n += !e.buffer && e.name.starts_with(p) ? e.count() : 0;
  return n;
}

// The spec's model for tests and CIFAR-10.
VoloConfig small() {
  VoloConfig c;
  c.image_size = 32, c.patch = 4, c.classes = 10, c.stem_dim = 32;
  c.depth = {2, 6}, c.embed_dim = {96, 192}, c.num_heads = {3, 6}, c.mlp_dim = {288, 576};
  return c;
}

Batch dry_batch(const VoloConfig& c, int64_t B, int64_t size) {
  Batch b;
  b.inputs = Tensor::empty(Shape{B, c.channels, size, size}, DType::f32, kDry);
  b.targets = Tensor::empty(Shape{B}, DType::i32, kDry);
  return b;
}

bool says(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("parameter counts of the published sizes") {
  struct Row {
    const char* name;
    int64_t outlooker, transformer, at224, at384, at448, at512;
  };
  const Row rows[] = {{"volo-d1", 390'438, 1'478'016, 26'632'040, 26'777'960, 26'857'832, 26'949'992},
                      {"volo-d2", 693'128, 2'626'048, 58'678'336, 58'872'896, 58'979'392, 59'102'272},
                      {"volo-d3", 693'128, 2'626'048, 86'325'072, 86'519'632, 86'626'128, 86'749'008},
                      {"volo-d4", 1'557'324, 5'905'152, 192'961'520, 193'253'360, 193'413'104, 193'597'424},
                      {"volo-d5", 1'852'620, 7'085'568, 295'455'584, 295'747'424, 295'907'168, 296'091'488}};
  for (const Row& row : rows) {
    CAPTURE(row.name);
    VoloConfig c = volo_preset(row.name);
    CHECK(counted(c, {"network.0.1."}) == row.outlooker);
    CHECK(counted(c, {"network.3.2."}) == row.transformer);
    CHECK(counted(c, {"post_network.1."}) == row.transformer);
    for (const auto& [size, want] :
         {std::pair(224, row.at224), std::pair(384, row.at384), std::pair(448, row.at448), std::pair(512, row.at512)}) {
      c.image_size = size;
      CHECK(parameters(c) == want);
    }
  }
  CHECK_THROWS_WITH_AS(volo_preset("volo-d6"), doctest::Contains("expected volo-d1, volo-d2"), Error);
}

TEST_CASE("parameter counts by component") {
  const VoloConfig d1 = volo_preset("volo-d1");
  CHECK(counted(d1, {"patch_embed.conv.0.", "patch_embed.conv.3.", "patch_embed.conv.6."}) == 83'136);
  CHECK(counted(d1, {"patch_embed.conv.1.", "patch_embed.conv.4.", "patch_embed.conv.7."}) == 384);
  CHECK(counted(d1, {"patch_embed.proj."}) == 196'800);
  CHECK(counted(d1, {"network.0."}) == 1'561'752);
  CHECK(counted(d1, {"network.1."}) == 295'296);
  CHECK(counted(d1, {"pos_embed"}) == 75'264);
  CHECK(counted(d1, {"network.2.", "network.3.", "network.4."}) == 20'692'224);
  CHECK(counted(d1, {"post_network."}) == 2'956'032);
  CHECK(counted(d1, {"cls_token"}) == 384);
  CHECK(counted(d1, {"norm."}) == 768);
  CHECK(counted(d1, {"head.", "aux_head."}) == 770'000);
  VoloConfig ten = d1;
  ten.classes = 10;
  CHECK(parameters(ten) == 25'869'740);
  VoloConfig one_group = d1;  // the same computation with one list of transformers
  one_group.depth = {4, 14};
  CHECK(parameters(one_group) == 26'632'040);

  CHECK(parameters(small()) == 3'276'410);
  CHECK(counted(small(), {"patch_embed.conv."}) == 23'328);
  CHECK(counted(small(), {"patch_embed.proj."}) == 12'384);
  CHECK(counted(small(), {"network.0."}) == 196'326);
  CHECK(counted(small(), {"network.1."}) == 73'920);
  CHECK(counted(small(), {"pos_embed"}) == 3'072);
  CHECK(counted(small(), {"network.2."}) == 2'222'208);
  CHECK(counted(small(), {"post_network."}) == 740'736);
  CHECK(counted(small(), {"cls_token", "norm.", "head.", "aux_head."}) == 4'436);
}

TEST_CASE("entries declare roles, blocks, stages and decay") {
  const Volo model(volo_preset("volo-d1"), DType::f32, kDry);
  const ParamStore& store = store_of(model);
  std::map<std::string, int> blocks;  // by group
  int64_t buffers = 0;
  for (const ParamEntry& e : store.entries()) {
    CAPTURE(e.name);
    const bool first = e.name.starts_with("patch_embed.") || e.name.starts_with("network.0.");
    CHECK(e.stage == (first ? 0 : 1));
    CHECK(e.decay == (e.shape.rank() >= 2 && e.name != "pos_embed" && e.name != "cls_token"));
    const bool end = e.name.starts_with("post_network.") || e.name.starts_with("norm.") || e.name == "cls_token" ||
                     e.name.starts_with("head.") || e.name.starts_with("aux_head.");
    CHECK(e.last == end);  // the way between the stages belongs to what comes before the blocks
    if (e.name.starts_with("network.") && !e.name.starts_with("network.1.")) {
      CHECK(e.name == e.group + "." + std::to_string(e.block) + "." + e.local_name());
      blocks[e.group] = std::max(blocks[e.group], e.block + 1);
    } else {
      CHECK(e.block == -1);
    }
    if (e.buffer) buffers += e.count();
  }
  CHECK(blocks == std::map<std::string, int>{{"network.0", 4}, {"network.2", 4}, {"network.3", 8}, {"network.4", 2}});
  CHECK(buffers == 3 * 2 * 64);
  const auto entry = [&](const char* name) { return store.entries()[static_cast<size_t>(store.find(name))]; };
  const auto axis = [&](const char* name, size_t i, Role role, int parts, int64_t unit, bool input) {
    const Axis a = entry(name).axes.at(i);
    CAPTURE(name);
    CHECK(a.role == role);
    CHECK(a.parts == parts);
    CHECK(a.unit == unit);
    CHECK(a.input == input);
  };
  CHECK(entry("network.0.3.attn.attn.weight").shape == Shape{486, 192});
  axis("network.0.3.attn.attn.weight", 0, Role::heads, 1, 81, false);
  axis("network.0.3.attn.attn.bias", 0, Role::heads, 1, 81, false);
  axis("network.0.3.attn.v.weight", 0, Role::heads, 1, 32, false);
  axis("network.0.3.attn.proj.weight", 1, Role::heads, 1, 32, true);
  axis("network.0.3.mlp.fc1.weight", 0, Role::mlp, 1, 1, false);
  CHECK(entry("network.1.proj.weight").shape == Shape{384, 4 * 192});
  axis("network.1.proj.weight", 0, Role::embed, 1, 1, false);
  axis("network.1.proj.weight", 1, Role::embed, 4, 1, true);
  axis("network.3.7.attn.qkv.weight", 0, Role::heads, 3, 32, false);
  CHECK(entry("post_network.0.attn.kv.weight").shape == Shape{768, 384});
  axis("post_network.0.attn.kv.weight", 0, Role::heads, 2, 32, false);
  axis("post_network.0.attn.q.weight", 0, Role::heads, 1, 32, false);
  CHECK(entry("patch_embed.proj.weight").shape == Shape{192, 1024});
  axis("patch_embed.proj.weight", 0, Role::embed, 1, 1, false);
  CHECK(entry("patch_embed.proj.weight").axes[1].role == Role::none);
  CHECK(entry("patch_embed.conv.0.weight").shape == Shape{64, 147});
  CHECK(entry("pos_embed").shape == Shape{196, 384});
  axis("pos_embed", 0, Role::grid, 1, 1, false);
  CHECK(entry("network.0.3.attn.proj.weight").marks.branch_end);
  CHECK(entry("network.4.1.mlp.fc2.bias").marks.branch_end);
  CHECK(store.find("network.0.0.attn.v.bias") < 0);
  CHECK(store.find("network.2.0.attn.qkv.bias") < 0);
}

TEST_CASE("shapes of a forward pass, at the model's own size and others") {
  const auto check_shapes = [](const VoloConfig& c, int64_t size) {
    CAPTURE(size);
    Volo model(c, DType::f32, kDry);
    const Batch batch = dry_batch(c, 3, size);
    const int64_t fine = size / c.patch, coarse = fine / 2, D = c.depth[0], L = c.blocks();
    CHECK(model.features(batch, {}, 0).shape() == Shape{3, fine * fine, c.embed_dim[0]});
    CHECK(model.features(batch, {}, D).shape() == Shape{3, fine * fine, c.embed_dim[0]});
    CHECK(model.features(batch, {}, D + 1).shape() == Shape{3, coarse * coarse, c.embed_dim[1]});
    CHECK(model.features(batch, {}, L).shape() == Shape{3, coarse * coarse, c.embed_dim[1]});
    const Volo::Heads h = model.heads(batch, {});
    CHECK(h.cls.shape() == Shape{3, c.classes});
    CHECK(h.patches.shape() == Shape{3, coarse * coarse, c.classes});
    CHECK(model.logits(batch, {}).shape() == Shape{3, c.classes});
    CHECK(model.loss(batch, {}).shape() == Shape{});
    Batch resized = dry_batch(c, 3, 2 * size);  // the model brings images to batch.resolution
    resized.resolution = size;
    CHECK(model.heads(resized, {}).patches.shape() == h.patches.shape());
    CHECK(says(error_of([&] { model.features(batch, {}, L + 1); }), "blocks"));
  };
  for (const int64_t size : {224, 160, 128}) check_shapes(volo_preset("volo-d1"), size);
  for (const int64_t size : {32, 24, 16}) check_shapes(small(), size);
  const VoloConfig c = small();
  const Volo model(c, DType::f32, kDry);
  CHECK(says(error_of([&] { model.logits(dry_batch(c, 1, 28), {}); }), "multiples of twice the patch, 8"));
  VoloConfig grey = c;
  grey.channels = 1;
  CHECK(says(error_of([&] { model.logits(dry_batch(grey, 1, 32), {}); }), "images with 1 channels; expected 3"));
}

TEST_CASE("what a configuration must not say") {
  const auto message = [](const std::function<void(VoloConfig&)>& change) {
    VoloConfig c = small();
    change(c);
    return error_of([&] { Volo(c, DType::f32, kDry); });
  };
  CHECK(message([](VoloConfig&) {}) == "");
  CHECK(says(message([](VoloConfig& c) { c.classes = 0; }), "classes is 0"));
  CHECK(says(message([](VoloConfig& c) { c.patch = 5; }), "patch must be even; got 5"));
  CHECK(says(message([](VoloConfig& c) { c.image_size = 36; }), "image_size 36 is not a multiple of twice the patch"));
  CHECK(says(message([](VoloConfig& c) { c.depth = {3}; }), "depth has 1 numbers"));
  CHECK(says(message([](VoloConfig& c) { c.mlp_dim = {3}; }), "2, 2 and 1 numbers"));
  CHECK(says(message([](VoloConfig& c) { c.num_heads = {3, 5}; }), "embed_dim 192 is not divisible by num_heads 5"));
}

TEST_CASE("drop-path rates") {
  VoloConfig c = volo_preset("volo-d1");
  c.drop_path = 0.1;
  for (int i = 0; i < 4; ++i) CHECK(c.drop_path_of(i) == 0.0);
  CHECK(c.drop_path_of(4) == doctest::Approx(0.1 * 4 / 17));
  CHECK(c.drop_path_of(4) == doctest::Approx(0.023529).epsilon(1e-4));
  CHECK(c.drop_path_of(17) == 0.1);
  c.depth = {0, 1};
  CHECK(c.drop_path_of(0) == 0.0);  // one block in all
}

TEST_CASE("multiply-adds, by component and in total") {
  // FLOPs of products, convolutions and attention in one forward pass, halved.
  const auto macs = [](const VoloConfig& c) {
    const Volo model(c, DType::f32, kDry);
    const Tape tape({.keep_nodes = true});
    model.logits(dry_batch(c, 1, c.image_size), {});
    std::map<std::string, double> by_module;
    for (const auto& node : tape.nodes()) {
      const bool product = node->name == "conv2d" || node->name == "linear" || node->name == "mlp" ||
                           node->name == "attention" || node->name == "cross_attention" ||
                           node->name == "outlook_attention";
      const std::string module = node->module.substr(0, node->module.find('.', node->module.find('.') + 1));
      by_module[module.starts_with("post_network") ? "post_network" : module] += product ? node->cost.flops / 2 : 0;
    }
    return by_module;
  };
  const auto total = [&](const VoloConfig& c) {
    double n = 0;
    for (const auto& [module, value] : macs(c)) n += value;
    return n;
  };
  // The spec gives two digits behind the point of 10^6.
  const auto near = [](double got, double millions) { return std::abs(got / 1e6 - millions) <= 0.0051; };
  auto d1 = macs(volo_preset("volo-d1"));
  CHECK(near(d1["patch_embed"], 1042.86 + 154.14));
  CHECK(near(d1["network.0"], 1010.19));
  CHECK(near(d1["network.1"], 57.80));
  CHECK(near(d1["network.2"] + d1["network.3"] + d1["network.4"], 4459.24));
  CHECK(near(d1["post_network"], 118.86));
  CHECK(near(d1["head"], 75.65));
  struct Row {
    const char* name;
    double at224, at384, at448, at512;  // 10^9
  };
  const Row rows[] = {{"volo-d1", 6.919, 22.680, 32.622, 45.249},
                      {"volo-d2", 14.305, 46.064, 65.701, 90.342},
                      {"volo-d3", 20.732, 67.191, 96.129, 132.600},
                      {"volo-d4", 44.263, 139.468, 196.841, 267.664},
                      {"volo-d5", 72.301, 224.551, 314.651, 424.558}};
  for (const Row& row : rows)
    for (const auto& [size, want] :
         {std::pair(224, row.at224), std::pair(384, row.at384), std::pair(448, row.at448), std::pair(512, row.at512)}) {
      CAPTURE(row.name);
      CAPTURE(size);
      VoloConfig c = volo_preset(row.name);
      c.image_size = size;
      CHECK(std::abs(total(c) / 1e9 - want) <= 0.00051);
    }
}

TEST_CASE("initial values") {
  const VoloConfig c = small();
  Volo model(c, DType::f32, kCpu);
  model.params().initialise(3);
  for (size_t i = 0; i < model.params().entries().size(); ++i) {
    const ParamEntry& e = model.params().entries()[i];
    CAPTURE(e.name);
    const auto v = model.params().value(static_cast<int>(i)).to_vector<float>();
    const auto all = [&](float x) { return std::all_of(v.begin(), v.end(), [x](float y) { return x == y; }); };
    const bool stem = e.name.starts_with("patch_embed.conv.");
    const bool conv =
        (stem && e.shape.rank() == 2) || e.name.starts_with("patch_embed.proj.") || e.name.starts_with("network.1.");
    double square = 0, largest = 0;
    for (const float x : v) square += x * x, largest = std::max(largest, std::abs(static_cast<double>(x)));
    const double n = static_cast<double>(v.size()), spread = std::sqrt(square / n);
    if (conv) {  // uniform in +-bound: a spread of bound / sqrt 3
      const std::string weight = e.name.substr(0, e.name.rfind('.')) + ".weight";
      const int64_t fan_in = model.params().entries()[static_cast<size_t>(model.params().find(weight))].shape[1];
      const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
      CHECK(largest <= bound * (1 + 1e-6));
      CHECK(largest > 0.9 * bound);
      CHECK(std::abs(spread * std::sqrt(3.0) / bound - 1) < 5 / std::sqrt(n));
    } else if (e.shape.rank() >= 2) {
      CHECK(std::abs(spread / 0.02 - 1) < 5 / std::sqrt(2 * n));  // five standard errors
    } else {
      CHECK(all(e.name.ends_with(".weight") || e.name.ends_with("running_var") ? 1.0f : 0.0f));
    }
  }
}
