// Depths in several groups: how VOLO's blocks divide (autoprog spec 2.2), and how sizes of pictures grow.
#include <doctest/doctest.h>

#include "engine/core/error.h"
#include "training/depth_split.h"
#include "training/extent.h"

using namespace accrete;
using Depths = std::vector<int64_t>;

TEST_CASE("the released rule for VOLO-D1, and every published depth") {
  const Depths d1 = {4, 14};
  CHECK(split_depth(d1, 18) == Depths{4, 14});
  CHECK(split_depth(d1, 15) == Depths{4, 11});
  CHECK(split_depth(d1, 12) == Depths{4, 8});
  CHECK(split_depth(d1, 9) == Depths{2, 7});
  for (const Depths& full : {Depths{6, 18}, Depths{8, 28}, Depths{12, 36}})
    CHECK(split_depth(full, full[0] + full[1]) == full);
}

TEST_CASE("other networks keep their own share, every group grows, nothing exceeds the whole") {
  for (const Depths& full : {Depths{1, 2}, Depths{1, 3}, Depths{2, 2}, Depths{3, 3}, Depths{2, 6}, Depths{5, 1}}) {
    const int64_t all = full[0] + full[1];
    CHECK(split_depth(full, all) == full);
    Depths before = {0, 0};
    for (int64_t n = 2; n <= all; ++n) {
      CAPTURE(n);
      if (n - std::min(full[0], n - 1) > full[1]) continue;
      const Depths now = split_depth(full, n);
      CHECK(now[0] + now[1] == n);
      CHECK(now[0] >= std::max<int64_t>(1, before[0]));
      CHECK(now[1] >= std::max<int64_t>(1, before[1]));
      before = now;
    }
  }
  CHECK(split_depth({12}, 7) == Depths{7});
  CHECK_THROWS_WITH_AS(split_depth({4, 4, 8, 2}, 9), doctest::Contains("model.depth=[4,14]"), Error);
}

TEST_CASE("depths of a configuration, as a number or as a list") {
  CHECK(group_depths({{"depth", 12}}) == Depths{12});
  CHECK(group_depths({{"depth", {4, 14}}}) == Depths{4, 14});
  CHECK(total_depth({{"depth", {4, 4, 8, 2}}}) == 18);
  CHECK(with_group_depths({{"depth", 12}}, {6})["depth"] == 6);
  CHECK(with_group_depths({{"depth", {4, 14}}}, {2, 7})["depth"] == Json{2, 7});
  for (const Json& model :
       {Json{{"width", 3}}, Json{{"depth", "deep"}}, Json{{"depth", Json::array()}}, Json{{"depth", 1.5}}})
    CHECK_THROWS_WITH_AS(group_depths(model), doctest::Contains("depth"), Error);
}

TEST_CASE("smaller pictures: the step keeps its samples, crops stay full where the model resizes them") {
  DataConfig data;
  data.resolution = 224;
  BatchConfig batch;
  batch.size = 64;
  batch.micro = 16;
  CHECK(extent(data) == 224);
  set_extent(data, batch, 128);
  CHECK(data.resolution == 128);
  CHECK(data.crop_resolution == 224);
  CHECK(batch.size == 64);
  CHECK(batch.micro == 16);
  set_extent(data, batch, 224);
  CHECK(data.crop_resolution == 224);  // the same as none
  DataConfig direct;
  direct.resolution = 224;
  direct.images.resize = "crop_direct";
  set_extent(direct, batch, 160);
  CHECK(direct.crop_resolution == 0);
}
