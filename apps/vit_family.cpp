#include "apps/vit_family.h"

#include <iostream>
#include <map>

#include "apps/initial_weights.h"
#include "engine/core/random.h"
#include "models/registry.h"
#include "models/vit_hf.h"
#include "models/vit_timm.h"
#include "models/volo_timm.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// Opened data sets by path and split: a folder of a million pictures is listed once, whatever the number of stages.
using ImageSets = std::map<std::pair<std::string, std::string>, std::shared_ptr<const ImageSet>>;

std::shared_ptr<const ImageSet> opened(ImageSets& sets, const std::string& path, const std::string& split) {
  auto& set = sets[{path, split}];
  if (!set) set = open_images(path, split);
  return set;
}

// Pixels of a side that a model takes in multiples of.
int64_t side_unit(const std::string& family, const Json& model) {
  const auto patch = model.at("patch").get<int64_t>();
  return family == "volo" ? 2 * patch : patch;
}

Json preset(const std::string& family, const std::string& name) {
  return family == "volo" ? to_json(volo_preset(name)) : to_json(vit_preset(name));
}

template <class Config>
Json completed(Json start, const Json& given) {
  Config config;
  from_json(config, start, "model", "recipe");
  from_json(config, given, "model", "recipe");
  return to_json(config);
}

void check_settings(const Recipe& recipe) {
  const DataConfig none;
  check(recipe.data.length == none.length, "recipe", "\"data.length\" is for texts; pictures have data.resolution");
  const AugmentConfig& a = recipe.data.augment;
  const int64_t unit = side_unit(recipe.family, recipe.model), side = recipe.data.resolution;
  check(side % unit == 0, "recipe", "data.resolution (", side, ") is no multiple of ", unit, ", which ", recipe.family,
        recipe.family == "volo" ? " needs (twice the patch)" : " needs (the patch)");
  check(recipe.data.crop_resolution == 0 ||
            (recipe.data.images.resize == "batch_bilinear" && recipe.data.crop_resolution >= recipe.data.resolution),
        "recipe", "data.crop_resolution (", recipe.data.crop_resolution, ") is the side of pictures that the model ",
        "resizes; expected data.images.resize=batch_bilinear and at least data.resolution (", recipe.data.resolution,
        ")");
  check(recipe.family == "volo" || !a.mix_token, "recipe",
        "data.augment.mix_token is for volo; expected mixup or cutmix");
  check(recipe.family == "volo" || recipe.data.images.token_labels.empty(), "recipe",
        "data.images.token_labels is for volo, which has a head for every patch");
  const bool bce = recipe.model.value("loss", "") == "bce";
  check(!bce || a.smoothing == 0, "recipe",
        "with model.loss=bce every target above 0 counts as 1; expected data.augment.smoothing=0");
  check(recipe.distill.teacher.empty() || recipe.model.value("distilled", false), "recipe",
        "a teacher (distill.teacher) needs a head that learns from it; expected model.distilled=true");
}

// The model's configuration: a preset, what the recipe says, and sizes that follow from the data.
void resolve_model(Recipe& recipe, ImageSets& sets) {
  Json given = recipe.model;
  Json start = Json::object();
  const bool sized = given.contains("image_size");
  if (given.contains("preset")) {
    check(given["preset"].is_string(), "recipe", "\"model.preset\" must be text; got ", given["preset"].dump());
    start = preset(recipe.family, given["preset"].get<std::string>());
    given.erase("preset");
  }
  const bool volo = recipe.family == "volo";
  start["classes"] = given.value("classes", Json(0));
  start["channels"] = given.value("channels", Json(0));
  if (!sized && recipe.data.resolution > 0) start["image_size"] = recipe.data.resolution;
  const bool open = !recipe.data.path.empty();
  if (open) {
    const auto set = opened(sets, recipe.data.path, "train");
    const auto classes = static_cast<int64_t>(set->classes().size());
    for (const auto& [key, found] :
         {std::pair<const char*, int64_t>{"classes", classes}, {"channels", set->channels()}}) {
      check(start[key].is_number_integer(), "recipe", "\"model.", key, "\" must be a number; got ", start[key].dump());
      const auto wanted = start[key].get<int64_t>();
      check(wanted == 0 || wanted == found, "recipe", "\"model.", key, "\" is ", wanted, "; the data in ",
            recipe.data.path, " has ", found);
      start[key] = wanted == 0 ? found : wanted;
      given.erase(key);
    }
    // As resolved: what is measured later on other pictures is normalised as in training.
    const Normalisation n = normalisation_of(recipe.data.images, set->channels(), set->mean(), set->stddev());
    recipe.data.images.mean = n.mean;
    recipe.data.images.stddev = n.stddev;
  }
  check(start["classes"] != 0, "recipe",
        "\"data.path\" is missing; expected a folder of pictures, e.g. data.path=imagenette (or model.classes and "
        "model.channels)");
  recipe.model = volo ? completed<VoloConfig>(start, given) : completed<VitConfig>(start, given);
  if (recipe.data.resolution == 0) recipe.data.resolution = recipe.model.at("image_size").get<int64_t>();
  check_settings(recipe);
}

ModelFactory factory(std::shared_ptr<const Recipe> recipe) {
  // The teacher, once for each device and number type.
  const auto teachers = std::make_shared<std::map<std::pair<int, int>, std::shared_ptr<ImageModel>>>();
  return [recipe, teachers](const Json& config, DType compute, Device device) -> std::unique_ptr<Model> {
    auto model = make_model(recipe->family, config, compute, device);
    if (recipe->distill.teacher.empty()) return model;
    auto& teacher = (*teachers)[{static_cast<int>(device.kind), static_cast<int>(compute)}];
    if (!teacher) {
      auto loaded = load_model(recipe->distill.teacher, compute, device == kDry ? kCpu : device);
      if (device == kDry) loaded = make_model(loaded->family(), loaded->config(), compute, kDry);  // shapes are enough
      teacher = std::shared_ptr<ImageModel>(dynamic_cast<ImageModel*>(loaded.get()));
      check(teacher != nullptr, "distill", recipe->distill.teacher, " is a model of ", loaded->family(),
            "; expected one of pictures");
      loaded.release();
      for (size_t i = 0; i < teacher->params().entries().size(); ++i)
        teacher->params().set_trainable(static_cast<int>(i), false);
    }
    dynamic_cast<ImageModel&>(*model).set_teacher(teacher, recipe->distill);
    return model;
  };
}

PictureInfo picture_info(const Recipe& recipe, const ImageSet& set) {
  PictureInfo info;
  info.class_names = set.classes();
  const Normalisation n = normalisation_of(recipe.data.images, set.channels(), set.mean(), set.stddev());
  info.mean = n.mean;
  info.stddev = n.stddev;
  info.crop_pct = recipe.data.images.crop_pct;
  info.interpolation = recipe.data.images.interpolation;
  return info;
}

bool has_hf_form(const VitConfig& c) {
  return c.layer_scale == 0 && c.pool == "token" && c.position_prefix && c.registers <= 1;
}

// transformers' layout where the library has such a model, else timm's.
void export_model(const Model& model, const PictureInfo& info, const fs::path& folder) {
  if (const auto* volo = dynamic_cast<const Volo*>(&model)) {
    write_volo_timm(folder, *volo, info);
    return;
  }
  const auto& vit = dynamic_cast<const Vit&>(model);
  if (has_hf_form(vit.settings()))
    write_vit_hf(folder, vit, info);
  else
    write_vit_timm(folder, vit, info);
}

Batch random_batch(const Recipe& recipe, const Stage& stage, int64_t rows) {
  const auto classes = stage.model.at("classes").get<int64_t>(), channels = stage.model.at("channels").get<int64_t>();
  const int64_t side = stage.data.crop_resolution > 0 ? stage.data.crop_resolution : stage.data.resolution;
  const AugmentConfig& a = stage.data.augment;
  const SegmentScope segment(Segment::data);
  Batch batch;
  batch.samples = batch.tokens = rows;
  batch.inputs = Tensor::empty(Shape{rows, channels, side, side});
  batch.targets = Tensor::empty(Shape{rows}, DType::i32);
  if (side != stage.data.resolution) batch.resolution = stage.data.resolution;
  const RandomKey key = random_key(static_cast<uint64_t>(recipe.seed), "step_batch");
  float* x = batch.inputs.ptr<float>();
  for (int64_t i = 0; i < batch.inputs.count(); i += 4) {
    const Philox4 w = random_words(key, static_cast<uint64_t>(i));
    for (int64_t k = i; k < std::min(i + 4, batch.inputs.count()); ++k) x[k] = 4 * to_uniform(w.v[k - i]) - 2;
  }
  const bool soft =
      a.smoothing > 0 || a.mixup > 0 || a.cutmix > 0 || a.mix_token || stage.model.value("loss", "") == "bce";
  Tensor targets;
  if (soft) targets = Tensor::zeros(Shape{rows, classes});
  for (int64_t b = 0; b < rows; ++b) {
    const auto c = static_cast<int64_t>(
        random_below(key, static_cast<uint64_t>(batch.inputs.count() + b), static_cast<uint64_t>(classes)));
    batch.targets.ptr<int32_t>()[b] = static_cast<int32_t>(c);
    if (soft) targets.ptr<float>()[b * classes + c] = 1;
  }
  if (soft) batch.extra["soft_targets"] = targets;
  if (a.mix_token) {  // a quarter of the grid
    const auto g = static_cast<int32_t>(stage.data.resolution / side_unit(recipe.family, stage.model));
    batch.extra["mix_box"] = Tensor::from<int32_t>({0, (g + 1) / 2, 0, (g + 1) / 2}, Shape{4});
    batch.extra["token_targets"] = targets.clone();
  }
  return batch;
}

}  // namespace

ImageOptions image_options(const std::string& family, const Json& model, const DataConfig& data,
                           const std::string& split, uint64_t seed, Purpose purpose) {
  ImageOptions o;
  o.resolution = data.resolution;
  o.crop_resolution = data.crop_resolution;
  o.augment = data.augment;
  o.image = data.images;
  o.train = purpose != Purpose::judge;
  if (purpose == Purpose::score) {
    o.augment.mixup = o.augment.cutmix = o.augment.erase = 0;
    o.augment.mix_token = false;
  }
  o.sampling = o.train ? sampling_of(data.sampling) : Sampling::sequential;
  o.seed = seed;
  o.holdout = data.holdout;
  o.held_out = split == "held_out";
  o.soft_targets = model.value("loss", "") == "bce";
  if (family == "volo") o.token_grid = data.resolution / side_unit(family, model);
  return o;
}

Family vit_family() {
  Family family;
  family.name = "train_vit";
  family.families = {"vit", "volo"};
  family.task = Task::classes;
  const auto recipe = std::make_shared<Recipe>();  // as resolved: what models and sources are made for
  const auto sets = std::make_shared<ImageSets>();
  family.resolve_model = [recipe, sets](Recipe& r) {
    resolve_model(r, *sets);
    *recipe = r;
  };
  family.make_model = factory(recipe);
  family.make_source = [recipe, sets](const DataConfig& data, const std::string& split, uint64_t seed,
                                      Purpose purpose) {
    check(split != "held_out" || data.holdout > 0, "config",
          "the split \"held_out\" is empty: data.holdout is 0; expected the share of the training pictures to keep out "
          "of training, e.g. data.holdout=0.02");
    ImageOptions options = image_options(recipe->family, recipe->model, data, split, seed, purpose);
    options.log = [](const std::string& line) { std::cerr << "\ntrain_vit: " << line << "\n"; };
    return std::make_shared<ImageSource>(opened(*sets, data.path, split == "held_out" ? "train" : split), options);
  };
  family.initial_weights = initial_weights;
  family.export_model = [sets](const Model& model, const Recipe& r, const fs::path& folder) {
    export_model(model, picture_info(r, *opened(*sets, r.data.path, "train")), folder);
  };
  family.random_batch = random_batch;
  return family;
}

}  // namespace accrete
