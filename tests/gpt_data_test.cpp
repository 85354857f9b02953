// The splits that GPT's training makes of a text.
#include <doctest/doctest.h>

#include <numeric>
#include <set>

#include "apps/gpt_family.h"
#include "tests/program_testing.h"

using namespace accrete;

TEST_CASE("The end of the training text is kept out of training") {
  const TempFolder folder;
  std::vector<uint32_t> numbers(1000);
  std::iota(numbers.begin(), numbers.end(), 0u);
  put_file(folder / "train.bin", {reinterpret_cast<const char*>(numbers.data()), 4 * numbers.size()});
  put_file(folder / "meta.json", R"({"vocab_size": 100000, "dtype": "uint32"})");
  const Family family = gpt_family();
  Recipe recipe;
  recipe.data.path = folder.path().string();
  recipe.data.length = 10;
  recipe.data.holdout = 0.1;
  recipe.model = {{"embed_dim", 8}, {"depth", 1}, {"num_heads", 1}};
  family.resolve_model(recipe);
  std::set<int32_t> seen[2];
  for (int which = 0; which < 2; ++which) {
    const auto source = family.make_source(recipe.data, which ? "held_out" : "train", 3, Purpose::train);
    for (int64_t i = 0; i < 3 * source->epoch_samples(); ++i) {
      const Batch b = source->get(i, 1);
      for (const int32_t id : b.inputs.to_vector<int32_t>()) seen[which].insert(id);
      for (const int32_t id : b.targets.to_vector<int32_t>()) seen[which].insert(id);
    }
  }
  CHECK(*seen[0].rbegin() < 900);
  CHECK(*seen[1].begin() >= 900);
  CHECK(seen[0].size() > 880);  // all but the cut ends
  CHECK(seen[1].size() > 80);
  recipe.data.holdout = 0;
  CHECK_THROWS_WITH_AS(family.make_source(recipe.data, "held_out", 3, Purpose::train),
                       doctest::Contains("data.holdout is 0"), Error);
  recipe.data.holdout = 0.005;
  CHECK_THROWS_WITH_AS(family.make_source(recipe.data, "train", 3, Purpose::train),
                       doctest::Contains("leaves 5 of 1000 tokens"), Error);
}
