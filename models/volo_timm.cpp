#include "models/volo_timm.h"

#include <algorithm>

#include "engine/core/json.h"
#include "models/hf_config.h"
#include "models/timm_files.h"

namespace accrete {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct Architecture {
  const char* ours;
  std::vector<int64_t> sizes;  // of the names volo_d1_224, ..
};
const std::vector<Architecture>& architectures() {
  static const std::vector<Architecture> all = {{"volo-d1", {224, 384}},
                                                {"volo-d2", {224, 384}},
                                                {"volo-d3", {224, 448}},
                                                {"volo-d4", {224, 448}},
                                                {"volo-d5", {224, 448, 512}}};
  return all;
}

std::string timm_name(const Architecture& a, int64_t size) {
  std::string name = a.ours + ("_" + std::to_string(size));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// One value per group of blocks: that of the outlookers, then that of the transformers.
template <class T>
std::vector<T> per_group(const std::vector<T>& two, size_t groups) {
  std::vector<T> all(groups, two[1]);
  all[0] = two[0];
  return all;
}

// The settings of timm's VOLO class, all of them.
json class_args(const VoloConfig& c) {
  const size_t groups = c.depth.size();
  const std::vector<double> ratios = {timm_mlp_ratio(c.mlp_dim[0], c.embed_dim[0]),
                                      timm_mlp_ratio(c.mlp_dim[1], c.embed_dim[1])};
  json args = {{"layers", c.depth},
               {"embed_dims", per_group(c.embed_dim, groups)},
               {"num_heads", per_group(c.num_heads, groups)},
               {"mlp_ratio", per_group(ratios, groups)},
               {"downsamples", per_group<int>({1, 0}, groups)},
               {"outlook_attention", per_group<int>({1, 0}, groups)},
               {"post_layers", std::vector<std::string>(static_cast<size_t>(c.class_blocks), "ca")},
               {"patch_size", c.patch},
               {"stem_hidden_dim", c.stem_dim},
               {"img_size", c.image_size},
               {"in_chans", c.channels}};
  for (const char* key : {"downsamples", "outlook_attention"})
    for (json& flag : args[key]) flag = flag == 1;
  return args;
}

// ---- reading: every value of the file is looked at with its type in mind
struct Reader {
  std::string where;

  [[noreturn]] void wrong(const std::string& key, const json& value, const char* expected) const {
    fail(where, "\"", key, "\" must be ", expected, "; got ", printable(value.dump(), 40));
  }
  int64_t integer(const std::string& key, const json& value) const {
    if (!value.is_number_integer() || value < 0 || value > (int64_t{1} << 24)) wrong(key, value, "a whole number");
    return value.get<int64_t>();
  }
  double number(const std::string& key, const json& value) const {
    if (!value.is_number() || !(value >= 0) || value > 1e6) wrong(key, value, "a number from 0");
    return value.get<double>();
  }
  // A list, or one value that stands for `count` equal ones.
  json list(const std::string& key, const json& value, size_t count) const {
    json all = value.is_array() ? value : json(std::vector<json>(count, value));
    if (all.size() != count) wrong(key, value, "as long as \"layers\"");
    return all;
  }
  // The values of the outlookers and of the transformers, which have one for all their groups.
  std::pair<json, json> two(const std::string& key, const json& value, size_t groups) const {
    const json all = list(key, value, groups);
    for (size_t i = 2; i < groups; ++i)
      if (all[i] != all[1]) wrong(key, value, "the same for all groups of transformer blocks");
    return {all[0], all[1]};
  }
};

void refuse_unless(const Reader& r, const std::string& key, const json& value, const json& supported) {
  check(value == supported, r.where, "\"", key, "\": ", printable(value.dump(), 40),
        " is not supported here; expected ", supported.dump());
}

// What model_args change of the architecture.
void apply_args(const Reader& r, VoloConfig& c, const json& args) {
  if (args.contains("layers")) {
    const json& layers = args["layers"];
    if (!layers.is_array() || layers.size() < 2 || layers.size() > 1000) r.wrong("layers", layers, "a list of numbers");
    c.depth.clear();
    for (const json& n : layers) c.depth.push_back(r.integer("layers", n));
  }
  const size_t groups = c.depth.size();
  const auto pair_of = [&](const char* key, std::vector<int64_t>& ours) {
    if (!args.contains(key)) return;
    const auto [first, second] = r.two(key, args[key], groups);
    ours = {r.integer(key, first), r.integer(key, second)};
  };
  std::vector<double> ratios = {timm_mlp_ratio(c.mlp_dim[0], c.embed_dim[0]),
                                timm_mlp_ratio(c.mlp_dim[1], c.embed_dim[1])};
  pair_of("embed_dims", c.embed_dim);
  pair_of("num_heads", c.num_heads);
  for (const auto& [key, value] : args.items()) {
    if (key == "layers" || key == "embed_dims" || key == "num_heads" || key == "use_mix_token" ||
        key == "num_classes") {
      continue;
    } else if (key == "mlp_ratio") {
      const auto [first, second] = r.two(key, value, groups);
      ratios = {r.number(key, first), r.number(key, second)};
    } else if (key == "img_size") {
      const json sides = r.list(key, value, value.is_array() ? value.size() : 1);
      if (sides.empty() || sides.size() > 2 || sides.front() != sides.back()) r.wrong(key, value, "one side");
      c.image_size = r.integer(key, sides.front());
    } else if (key == "in_chans") {
      c.channels = r.integer(key, value);
    } else if (key == "patch_size") {
      c.patch = r.integer(key, value);
    } else if (key == "stem_hidden_dim") {
      c.stem_dim = r.integer(key, value);
    } else if (key == "drop_path_rate") {
      c.drop_path = r.number(key, value);
    } else if (key == "post_layers") {
      if (!value.is_array()) r.wrong(key, value, "a list of \"ca\"");
      for (const json& kind : value) refuse_unless(r, key, kind, "ca");
      c.class_blocks = static_cast<int64_t>(value.size());
    } else if (key == "downsamples" || key == "outlook_attention") {
      const auto [first, second] = r.two(key, value, groups);
      refuse_unless(r, key, first, true);
      refuse_unless(r, key, second, false);
    } else if (key == "global_pool") {
      refuse_unless(r, key, value, "token");
    } else if (key == "use_aux_head") {
      refuse_unless(r, key, value, true);
    } else if (key == "pooling_scale") {
      refuse_unless(r, key, value, 2);
    } else if (key == "qkv_bias") {
      refuse_unless(r, key, value, false);
    } else if (key == "drop_rate" || key == "pos_drop_rate" || key == "attn_drop_rate") {
      check(r.number(key, value) == 0, r.where, "\"", key, "\" is not supported here; expected 0");
    } else {
      fail(r.where, "model_args has \"", printable(key), "\", which is not known here");
    }
  }
  for (size_t i = 0; i < 2; ++i) c.mlp_dim[i] = static_cast<int64_t>(static_cast<double>(c.embed_dim[i]) * ratios[i]);
}

// ---- a file without config.json: what the shapes tell
std::string_view plain_name(std::string_view name) {
  for (size_t before = 0; before != name.size();) {
    before = name.size();
    name = without_wrappers(name);
    if (name.starts_with("state_dict.")) name.remove_prefix(11);
  }
  return name;
}

VoloConfig config_from_shapes(const FoundShapes& s, const std::string& where) {
  VoloConfig c;
  c.stem_dim = s.size("patch_embed.conv.0.weight", 4, 0);
  c.channels = s.size("patch_embed.conv.0.weight", 4, 1);
  c.patch = 2 * s.size("patch_embed.proj.weight", 4, 2);
  c.image_size = 2 * c.patch * s.size("pos_embed", 4, 1);
  c.classes = s.size("head.weight", 2, 0);
  c.embed_dim = {s.size("patch_embed.proj.weight", 4, 0), s.size("pos_embed", 4, 3)};
  c.depth = {s.blocks(volo_group(0)), s.blocks(volo_group(1))};
  while (const int64_t n = s.blocks(volo_group(static_cast<int64_t>(c.depth.size())))) c.depth.push_back(n);
  c.class_blocks = s.blocks("post_network");
  check(c.depth[0] > 0 && c.depth[1] > 0, where,
        "no outlookers or no transformers; expected a VOLO with both, or a "
        "config.json");
  c.mlp_dim = {s.size("network.0.0.mlp.fc1.weight", 2, 0), s.size("network.2.0.mlp.fc1.weight", 2, 0)};
  int64_t heads = 0;
  for (const Architecture& a : architectures())
    if (const VoloConfig known = volo_preset(a.ours); known.embed_dim[1] == c.embed_dim[1]) heads = known.num_heads[1];
  check(heads > 0, where, "no published model has the width ", c.embed_dim[1], "; expected a config.json");
  c.num_heads = {s.size("network.0.0.attn.attn.weight", 2, 0) / 81, heads};
  VoloConfig checked;
  from_json(checked, to_json(c), "", where);  // the ranges of our own fields
  return checked;
}

// Settings of ours that timm has no place for, where they differ from the defaults.
constexpr const char* kOwn = "accrete";
constexpr const char* kOwnFields[] = {"init_std", "pos_offset", "class_weight", "token_weight"};

}  // namespace

std::vector<TensorName> volo_timm_names(const Volo& model) {
  const VoloConfig& c = model.settings();
  std::vector<TensorName> names = own_names(static_cast<const Model&>(model).params());
  for (TensorName& n : names) {
    if (n.ours == "pos_embed") n.stored = Shape{1, c.grid(), c.grid(), c.embed_dim[1]};
    if (n.ours == "cls_token") n.stored = Shape{1, 1, c.embed_dim[1]};
    if (n.ours == "patch_embed.conv.0.weight") n.kernel = 7;
    if (n.ours == "patch_embed.conv.3.weight" || n.ours == "patch_embed.conv.6.weight") n.kernel = 3;
    if (n.ours == "patch_embed.proj.weight") n.kernel = c.patch / 2;
    if (n.ours == "network.1.proj.weight") n.kernel = 2;
  }
  return names;
}

VoloConfig read_volo_timm_config(const fs::path& path) {
  const HfConfig hf(path);
  const Reader r{path.string()};
  const std::string name = hf.text("architecture", "");
  std::string known;
  VoloConfig c;
  bool found = false;
  for (const Architecture& a : architectures())
    for (const int64_t size : a.sizes) {
      known += (known.empty() ? "" : ", ") + timm_name(a, size);
      if (name != timm_name(a, size)) continue;
      c = volo_preset(a.ours);
      c.image_size = size;
      found = true;
    }
  check(found, r.where, "\"architecture\" is \"", printable(name), "\"; expected one of ", known);

  const json& file = hf.json();
  const json args = hf.child("model_args").json(), pretrained = hf.child("pretrained_cfg").json();
  if (pretrained.contains("input_size")) {
    const json& size = pretrained["input_size"];
    if (!size.is_array() || size.size() != 3) r.wrong("input_size", size, "three numbers");
    c.channels = r.integer("input_size", size[0]);
    c.image_size = r.integer("input_size", size[1]);
  }
  for (const json* place : {&pretrained, &file, &args})
    if (place->contains("num_classes")) c.classes = r.integer("num_classes", (*place)["num_classes"]);
  apply_args(r, c, args);

  Json ours = to_json(c);
  const json own = hf.child(kOwn).json();
  for (const char* key : kOwnFields)
    if (own.contains(key)) ours[key] = own[key];
  VoloConfig checked;
  from_json(checked, ours, "", r.where);  // the ranges of our own fields
  return checked;
}

json volo_timm_config(const VoloConfig& c, const PictureInfo& info) {
  check(c.layer_norm_eps == VoloConfig().layer_norm_eps, "volo", "layer_norm_eps is ", c.layer_norm_eps,
        "; expected 1e-05, as timm's VOLO has no other");
  const json all = class_args(c);
  json args = all;
  std::string architecture = timm_name(architectures().front(), 224);
  for (const Architecture& a : architectures()) {
    VoloConfig preset = volo_preset(a.ours);
    preset.image_size = c.image_size, preset.channels = c.channels, preset.patch = c.patch;
    preset.class_blocks = c.class_blocks;
    if (class_args(preset) != all) continue;
    const bool named = std::find(a.sizes.begin(), a.sizes.end(), c.image_size) != a.sizes.end();
    architecture = timm_name(a, named ? c.image_size : 224);
    args = json::object();  // what timm's function of that name takes, and only where it differs
    const VoloConfig usual;
    if (!named) args["img_size"] = c.image_size;
    if (c.channels != usual.channels) args["in_chans"] = c.channels;
    if (c.patch != usual.patch) args["patch_size"] = c.patch;
    if (c.class_blocks != usual.class_blocks) args["post_layers"] = all["post_layers"];
  }
  if (c.drop_path > 0) args["drop_path_rate"] = c.drop_path;

  json pretrained = timm_pretrained_cfg(info, c.image_size, c.channels, c.classes, {"head", "aux_head"});
  pretrained["first_conv"] = "patch_embed.conv.0";
  json j = {{"architecture", architecture},
            {"global_pool", "token"},
            {"num_classes", c.classes},
            {"num_features", c.embed_dim.at(1)},
            {"pretrained_cfg", pretrained}};
  if (!args.empty()) j["model_args"] = args;
  if (!info.class_names.empty()) j["label_names"] = class_labels(info, c.classes);
  const Json ours = to_json(c), usual = to_json(VoloConfig());
  for (const char* key : kOwnFields)
    if (ours[key] != usual[key]) j[kOwn][key] = ours[key];
  return j;
}

bool is_volo_head(std::string_view ours) { return ours.starts_with("head.") || ours.starts_with("aux_head."); }

bool has_volo_names(const Safetensors& file) {
  return std::any_of(file.entries().begin(), file.entries().end(),
                     [](const SafetensorsEntry& e) { return plain_name(e.name) == "patch_embed.conv.0.weight"; });
}

std::unique_ptr<Volo> read_volo_timm(const fs::path& path, DType compute, Device device, const LoadOptions& options) {
  const fs::path description = (fs::is_directory(path) ? path : path.parent_path()) / "config.json";
  const Safetensors file = Safetensors::open(path);
  const std::string where = path.string();
  FoundTensors found;
  for (const SafetensorsEntry& e : file.entries())
    if (!e.name.ends_with(".num_batches_tracked")) add_found(found, plain_name(e.name), e, where);
  VoloConfig config = fs::exists(description) ? read_volo_timm_config(description)
                                              : config_from_shapes(FoundShapes(found, where, "a VOLO"), where);
  check(config.blocks() + config.class_blocks <= static_cast<int64_t>(found.size()), where, "config.json asks for ",
        config.blocks() + config.class_blocks, " blocks; the file has only ", found.size(), " tensors");
  const bool new_heads = options.reset_head > 0;
  if (new_heads) config.classes = options.reset_head;
  auto names = volo_timm_names(Volo(config, compute, kDry));  // without memory
  if (new_heads) {
    std::erase_if(names, [](const TensorName& n) { return is_volo_head(n.ours); });
    std::erase_if(found, [](const auto& t) { return is_volo_head(t.first); });
  }
  check_tensors(names, found, where);
  auto model = std::make_unique<Volo>(config, compute, device);
  if (new_heads) model->params().initialise(options.seed);
  load_tensors(model->params(), names, found);
  return model;
}

void write_volo_timm(const fs::path& folder, const Volo& model, const PictureInfo& info, DType dtype) {
  const json config = volo_timm_config(model.settings(), info);
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "volo", "cannot make the folder ", folder.string(), ": ", error.message());
  save_tensors(folder / "model.safetensors", static_cast<const Model&>(model).params(), volo_timm_names(model), dtype);
  write_hf_json(folder / "config.json", config);
}

}  // namespace accrete
