// Tiny runs of the real train_vit, for tests.
#pragma once

#include <cmath>
#include <random>

#include "engine/core/random.h"
#include "tests/train_testing.h"

namespace accrete {

// CIFAR-10 binaries with pictures whose colour, stripes and place of a bright square depend on the class: folder /
// "data".
inline void make_tiny_pictures(const TempFolder& folder, int train = 160, int test = 40) {
  const auto records = [](int count, uint64_t seed) {
    std::string bytes;
    std::mt19937_64 random(seed);
    const auto noise = [&] { return static_cast<int>(random() % 41) - 20; };
    for (int i = 0; i < count; ++i) {
      const int label = i % 10;
      bytes += static_cast<char>(label);
      for (int c = 0; c < 3; ++c)
        for (int y = 0; y < 32; ++y)
          for (int x = 0; x < 32; ++x) {
            int v = 60 + 12 * ((label * (c + 2)) % 10) + (((x * (1 + label % 3) + y * (label / 3)) / 4) % 2 ? 40 : 0);
            if (x / 8 == label % 4 && y / 8 == label / 4) v += 60;
            bytes += static_cast<char>(static_cast<uint8_t>(std::min(255, std::max(0, v + noise()))));
          }
    }
    return bytes;
  };
  std::filesystem::create_directories(folder / "data");
  put_file(folder / "data/data_batch_1.bin", records(train, 1));
  put_file(folder / "data/test_batch.bin", records(test, 2));
}

// Tiny models of every family for pictures of 16 pixels.
inline Json tiny_vit() {
  return {{"family", "vit"},
          {"model",
           {{"image_size", 16}, {"patch", 4}, {"embed_dim", 32}, {"depth", 4}, {"num_heads", 2}, {"drop_path", 0.1}}}};
}
inline Json tiny_deit() {  // distilled; without a teacher both heads learn from the targets
  Json recipe = tiny_vit();
  recipe["model"]["distilled"] = true;
  recipe["model"]["layer_scale"] = 0.1;
  return recipe;
}
inline Json tiny_volo() {
  return {{"family", "volo"},
          {"model",
           {{"image_size", 16},
            {"patch", 2},
            {"stem_dim", 8},
            {"depth", {2, 2}},
            {"embed_dim", {16, 32}},
            {"num_heads", {2, 4}},
            {"mlp_dim", {32, 64}},
            {"class_blocks", 1},
            {"drop_path", 0.1}}},
          {"data", {{"augment", {{"mixup", 0}, {"cutmix", 0}, {"mix_token", true}}}}}};
}

// A recipe of 40 steps of 8 pictures with the whole pipeline of augmentation; `more` is merged over it.
inline void put_vision_recipe(const TempFolder& folder, const Json& more) {
  Json recipe = {{"model", {{"image_size", 16}}},
                 {"data",
                  {{"path", (folder / "data").string()},
                   {"resolution", 16},
                   {"augment",
                    {{"crop", "random_resized"},
                     {"scale", {0.5, 1.0}},
                     {"auto_augment", "rand-m5-mstd0.5-inc1"},
                     {"erase", 0.25},
                     {"mixup", 0.8},
                     {"cutmix", 1.0},
                     {"smoothing", 0.1}}}}},
                 {"batch", {{"size", 8}, {"micro", 4}}},
                 {"optim", {{"lr", 2e-3}, {"weight_decay", 0.05}, {"ema", 0.9}}},
                 {"schedule", {{"warmup", "0.1run"}}},
                 {"duration", "40st"},
                 {"precision", "f32"},
                 {"eval", {{"every", "10st"}, {"batches", 4}}},
                 {"checkpoint", {{"every", "7st"}}}};
  recipe.merge_patch(more);
  put_file(folder / "recipe.json", recipe.dump(2));
}

}  // namespace accrete
