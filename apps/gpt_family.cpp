#include "apps/gpt_family.h"

#include <cmath>

#include "apps/initial_weights.h"
#include "data/token_source.h"
#include "data/tokenizer.h"
#include "engine/core/random.h"
#include "models/gpt_hf.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

// The model's configuration: a preset, what the recipe says, and sizes that follow from the data.
void resolve_model(Recipe& recipe) {
  const DataConfig none;
  check(to_json(recipe.data.augment) == to_json(none.augment) && to_json(recipe.data.images) == to_json(none.images) &&
            recipe.data.resolution == 0 && recipe.data.crop_resolution == 0 && recipe.distill.teacher.empty(),
        "recipe",
        "\"data.augment\", \"data.images\", \"data.resolution\" and \"distill\" are for pictures; gpt trains on "
        "texts");
  Json given = recipe.model;
  GptConfig config;
  const bool preset = given.contains("preset");
  if (preset) {
    check(given["preset"].is_string(), "recipe", "\"model.preset\" must be text; got ", given["preset"].dump());
    config = gpt_preset(given["preset"].get<std::string>());
    given.erase("preset");
  } else {
    config.context = recipe.data.length;
    config.vocab_size = 0;
  }
  from_json(config, given, "model", "recipe");
  if (config.vocab_size == 0) {
    check(
        !recipe.data.path.empty(), "recipe",
        "\"data.path\" is missing; expected a folder made by `prepare`, e.g. data.path=wikitext (or model.vocab_size)");
    config.vocab_size = TokenStream::open(recipe.data.path, "train").vocab_size();
  }
  check(recipe.data.length <= config.context, "recipe", "data.length (", recipe.data.length,
        ") exceeds model.context (", config.context, ")");
  check(config.embed_dim % config.num_heads == 0, "recipe", "model.num_heads (", config.num_heads,
        ") does not divide model.embed_dim (", config.embed_dim, ")");
  recipe.model = to_json(config);
}

// The tokens of a split. The end of the training text may be kept out of training as the split "held_out".
TokenStream open_split(const DataConfig& data, const std::string& split, int64_t vocab_size) {
  check(split != "held_out" || data.holdout > 0, "config",
        "the split \"held_out\" is empty: data.holdout is 0; expected the share of the training text to keep out of "
        "training, e.g. data.holdout=0.02");
  const bool part = data.holdout > 0 && (split == "train" || split == "held_out");
  const TokenStream all = TokenStream::open(data.path, part ? "train" : split, vocab_size);
  if (!part) return all;
  const auto held_out = static_cast<int64_t>(std::llround(data.holdout * static_cast<double>(all.size())));
  check(held_out > data.length, "config", "data.holdout (", data.holdout, ") leaves ", held_out, " of ", all.size(),
        " tokens for the split \"held_out\"; expected more than data.length (", data.length, ")");
  const int64_t train = all.size() - held_out;
  return split == "train" ? all.slice(0, train) : all.slice(train, held_out);
}

// Opens a split; ids that the model has no embedding for are refused here, before anything runs.
std::shared_ptr<const Source> make_source(const DataConfig& data, const std::string& split, uint64_t seed,
                                          Purpose purpose, int64_t vocab_size) {
  WindowOptions options;
  options.length = data.length;
  options.sampling = purpose == Purpose::judge ? Sampling::sequential : sampling_of(data.sampling);
  options.seed = seed;
  return std::make_shared<TokenSource>(open_split(data, split, vocab_size), options);
}

bool has_tokenizer(const Recipe& recipe) { return fs::exists(fs::path(recipe.data.path) / "tokenizer.json"); }

void export_model(const Model& model, const Recipe& recipe, const fs::path& folder) {
  GptHfOptions options;
  if (has_tokenizer(recipe)) options.end_of_text = load_tokenizer(recipe.data.path)->end_of_text();
  write_gpt_hf(folder, dynamic_cast<const Gpt&>(model), options);
}

void prepare_folder(const Recipe& recipe, const fs::path& folder) {
  if (!has_tokenizer(recipe)) return;
  fs::create_directories(folder);
  load_tokenizer(recipe.data.path)->save(folder, recipe.model.at("context").get<int64_t>());
}

// Random ids.
Batch random_batch(const Recipe& recipe, const Stage& stage, int64_t rows) {
  const int64_t T = stage.data.length;
  const auto vocab = stage.model.at("vocab_size").get<uint64_t>();
  const SegmentScope segment(Segment::data);
  Batch batch;
  batch.inputs = Tensor::empty(Shape{rows, T}, DType::i32);
  batch.targets = Tensor::empty(Shape{rows, T}, DType::i32);
  const RandomKey key = random_key(static_cast<uint64_t>(recipe.seed), "step_batch");
  for (int64_t i = 0; i < rows * T; ++i) {
    const auto n = static_cast<uint64_t>(i);
    batch.inputs.ptr<int32_t>()[i] = static_cast<int32_t>(random_below(key, 2 * n, vocab));
    batch.targets.ptr<int32_t>()[i] = static_cast<int32_t>(random_below(key, 2 * n + 1, vocab));
  }
  batch.samples = rows;
  batch.tokens = rows * T;
  return batch;
}

}  // namespace

Family gpt_family() {
  Family family;
  family.name = "train_gpt";
  family.families = {"gpt"};
  family.make_model = make_gpt;
  const auto vocab_size = std::make_shared<int64_t>(0);  // of the model, known once the recipe is resolved
  family.make_source = [vocab_size](const DataConfig& data, const std::string& split, uint64_t seed, Purpose purpose) {
    return make_source(data, split, seed, purpose, *vocab_size);
  };
  family.resolve_model = [vocab_size](Recipe& recipe) {
    resolve_model(recipe);
    *vocab_size = recipe.model.at("vocab_size").get<int64_t>();
  };
  family.export_model = export_model;
  family.prepare_folder = prepare_folder;
  family.initial_weights = initial_weights;
  family.random_batch = random_batch;
  return family;
}

}  // namespace accrete
