// Pictures as a Source: order, repeats, mixing, held-out pictures, broken ones; the same whatever the threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "data/image_decode.h"
#include "data/image_source.h"
#include "data/loader.h"
#include "engine/core/error.h"
#include "tests/memory_images.h"
#include "tests/program_testing.h"

using namespace accrete;

namespace {

// Picture i is the colour i everywhere, so that a sample tells which picture it shows.
std::shared_ptr<MemoryImages> numbered(int64_t n, int64_t classes = 10, int64_t side = 8) {
  return std::make_shared<MemoryImages>(n, classes, [side](int64_t i) { return numbered_picture(i, side); });
}

ImageOptions options(int64_t side = 8) {
  ImageOptions o;
  o.resolution = side;
  o.image.mean = {0, 0, 0}, o.image.stddev = {1, 1, 1};
  o.seed = 3;
  return o;
}

// Which picture each sample of a batch shows.
std::vector<int64_t> shown(const Batch& batch) {
  const auto values = batch.inputs.to_vector<float>();
  const auto size = static_cast<size_t>(batch.inputs.count() / std::max<int64_t>(1, batch.samples));
  std::vector<int64_t> out;
  for (int64_t b = 0; b < batch.samples; ++b) out.push_back(std::lround(values[static_cast<size_t>(b) * size] * 255));
  return out;
}

std::string refusal(const ImageOptions& o, std::shared_ptr<const ImageSet> set = numbered(20)) {
  try {
    const ImageSource source(std::move(set), o);
    source.get(0, 2);
  } catch (const Error& error) {
    return error.what();
  }
  return "(accepted)";
}

bool same(const Batch& a, const Batch& b) {
  if (a.inputs.to_vector<float>() != b.inputs.to_vector<float>()) return false;
  if (a.targets.to_vector<int32_t>() != b.targets.to_vector<int32_t>()) return false;
  if (a.extra.size() != b.extra.size() || a.resolution != b.resolution) return false;
  for (const auto& [name, t] : a.extra) {
    const Tensor& other = b.extra.at(name);
    if (t.dtype() == DType::i32 ? t.to_vector<int32_t>() != other.to_vector<int32_t>()
                                : t.to_vector<float>() != other.to_vector<float>())
      return false;
  }
  return true;
}

}  // namespace

TEST_CASE("An epoch shows every picture once, in a new order each time") {
  const ImageSource source(numbered(50), options());
  CHECK(source.epoch_samples() == 50);
  std::vector<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    const Batch batch = source.get(epoch * 50, 50);
    const auto pictures = shown(batch);
    CHECK(std::set<int64_t>(pictures.begin(), pictures.end()).size() == 50);
    const auto targets = batch.targets.to_vector<int32_t>();
    for (size_t i = 0; i < 50; ++i) {
      CHECK(targets[i] == pictures[i] % 10);
      CHECK(source.picture(epoch * 50 + static_cast<int64_t>(i)) == pictures[i]);
    }
    CHECK(batch.samples == 50);
    CHECK(batch.tokens == 50);
    CHECK(batch.resolution == 0);
    CHECK(batch.extra.empty());
    orders.push_back(pictures);
  }
  CHECK(orders[0] != orders[1]);
  CHECK(orders[1] != orders[2]);
  ImageOptions other = options();
  other.seed = 4;
  CHECK(shown(ImageSource(numbered(50), other).get(0, 50)) != orders[0]);
}

TEST_CASE("Repeats: an epoch keeps its length, copies stand in a row and differ") {
  ImageOptions o = options();
  o.augment.repeats = 3;
  const auto set = std::make_shared<MemoryImages>(50, 10, [](int64_t i) {
    Image image = test_picture(24, 20, 3);
    image.pixels[0] = static_cast<uint8_t>(i);
    return image;
  });
  const ImageSource source(set, o);
  CHECK(source.epoch_samples() == 50);
  std::set<int64_t> distinct;
  for (int64_t n = 0; n < 50; ++n) {
    CHECK(source.picture(n) == source.picture(n / 3 * 3));
    distinct.insert(source.picture(n));
  }
  CHECK(distinct.size() == 17);
  const Batch batch = source.get(0, 3);
  const auto v = batch.inputs.to_vector<float>();
  const size_t size = v.size() / 3;
  CHECK(std::vector<float>(v.begin(), v.begin() + size) != std::vector<float>(v.begin() + size, v.begin() + 2 * size));
  // The next epoch begins anew with other pictures.
  CHECK(source.picture(50) == source.picture(52));
  std::set<int64_t> next;
  for (int64_t n = 50; n < 100; ++n) next.insert(source.picture(n));
  CHECK(next != distinct);
}

TEST_CASE("Random sampling is with replacement, sequential training wraps around") {
  ImageOptions o = options();
  o.sampling = Sampling::random;
  const auto pictures = shown(ImageSource(numbered(100), o).get(0, 1000));
  std::map<int64_t, int> counts;
  for (const int64_t p : pictures) ++counts[p];
  CHECK(counts.size() > 95);  // each is missing with probability e^-10
  for (const auto& count : counts) CHECK(count.second < 30);
  o.sampling = Sampling::sequential;
  CHECK(shown(ImageSource(numbered(5), o).get(3, 4)) == std::vector<int64_t>{3, 4, 0, 1});
}

TEST_CASE("Neither threads nor the position of the first call change a sample") {
  ImageOptions o = options(16);
  o.augment.auto_augment = "rand-m9-mstd0.5-inc1", o.augment.erase = 0.25;
  o.augment.mixup = 0.8, o.augment.cutmix = 1, o.augment.smoothing = 0.1;
  const auto set = std::make_shared<MemoryImages>(37, 10, [](int64_t i) { return test_picture(20 + i % 7, 24, 3); });
  set->broken = {4, 5, 20};
  const auto make = [&] { return std::make_shared<ImageSource>(set, o); };
  std::vector<Batch> plain;
  for (int64_t k = 0; k < 12; ++k) plain.push_back(make()->get(k * 4, 4));
  for (const int threads : {0, 1, 3}) {
    Loader loader(make(), 0, 4, 0, threads);
    for (int64_t k = 0; k < 12; ++k) CHECK(same(loader.next(), plain[static_cast<size_t>(k)]));
  }
  Loader resumed(make(), 28, 4, 0, 2);  // as a run that continues does
  for (int64_t k = 7; k < 12; ++k) CHECK(same(resumed.next(), plain[static_cast<size_t>(k)]));
  // Without mixing, the size of a call changes nothing either.
  o.augment.mixup = o.augment.cutmix = 0;
  const auto source = make();
  const auto eight = source->get(8, 8).inputs.to_vector<float>(), four = source->get(12, 4).inputs.to_vector<float>();
  CHECK(std::equal(four.begin(), four.end(), eight.begin() + static_cast<int64_t>(four.size())));
}

TEST_CASE("Held-out pictures: the same in every run, never in training") {
  ImageOptions train = options(), held = options();
  train.holdout = held.holdout = 0.2, held.held_out = true;
  const ImageSource a(numbered(50), train), b(numbered(50), held);
  CHECK(a.epoch_samples() == 40);
  CHECK(b.epoch_samples() == 10);
  const auto pa = shown(a.get(0, 40)), pb = shown(b.get(0, 10));
  std::set<int64_t> all(pa.begin(), pa.end());
  all.insert(pb.begin(), pb.end());
  CHECK(all.size() == 50);
  held.seed = 99;
  auto sorted = shown(ImageSource(numbered(50), held).get(0, 10)), first = pb;
  std::sort(sorted.begin(), sorted.end());
  std::sort(first.begin(), first.end());
  CHECK(sorted == first);
  CHECK(sorted == held_out_pictures(50, 0.2));
  CHECK(first.front() < 25);  // spread over the data, not its end
  held.train = false, held.sampling = Sampling::sequential;
  CHECK(shown(ImageSource(numbered(50), held).get(0, 10)) == sorted);  // evaluation keeps the order of the data
  CHECK(refusal([] {
          ImageOptions o = options();
          o.held_out = true;
          return o;
        }())
            .find("nothing is held out") != std::string::npos);
  train.holdout = 0.999;
  CHECK(refusal(train).find("leaves none for training") != std::string::npos);
}

TEST_CASE("Broken pictures: replaced in training, not counted in evaluation, listed once") {
  const auto set = numbered(10);
  set->broken = {3, 4, 9};
  std::vector<std::string> lines;
  ImageOptions o = options();
  o.sampling = Sampling::sequential;
  o.log = [&](const std::string& line) { lines.push_back(line); };
  const ImageSource train(set, o);
  for (int epoch = 0; epoch < 2; ++epoch) {
    const Batch batch = train.get(epoch * 10, 10);
    CHECK(shown(batch) == std::vector<int64_t>{0, 1, 2, 5, 5, 5, 6, 7, 8, 0});
    CHECK(batch.targets.to_vector<int32_t>() == std::vector<int32_t>{0, 1, 2, 5, 5, 5, 6, 7, 8, 0});
  }
  CHECK(train.unreadable() == 3);
  CHECK(lines ==
        std::vector<std::string>{"[picture 3] is cut short", "[picture 4] is cut short", "[picture 9] is cut short"});

  lines.clear();
  o.train = false;
  const ImageSource evaluation(set, o);
  const Batch batch = evaluation.get(0, 100);
  CHECK(batch.samples == 10);
  CHECK(batch.targets.to_vector<int32_t>() == std::vector<int32_t>{0, 1, 2, -1, -1, 5, 6, 7, 8, -1});
  CHECK(shown(batch)[3] == 0);
  CHECK(lines.size() == 3);
  CHECK(evaluation.get(8, 4).samples == 2);
  CHECK(evaluation.get(10, 4).samples == 0);
  CHECK(evaluation.unreadable() == 3);

  set->broken.resize(10);
  std::iota(set->broken.begin(), set->broken.end(), 0);
  CHECK(refusal(options(), set).starts_with("[images] none of the 10 pictures can be read; the last: [picture "));
  CHECK(refusal(o, set) == "(accepted)");  // an evaluation that looks at two of ten
  CHECK_THROWS_WITH(ImageSource(set, o).get(0, 100),
                    "[images] none of the 10 pictures can be read; the last: [picture 9] is cut short");
}

TEST_CASE("Many broken pictures: twenty are told, a thousand in a row end the run") {
  const auto set = numbered(2500);
  std::vector<std::string> lines;
  ImageOptions o = options();
  o.sampling = Sampling::sequential;
  o.log = [&](const std::string& line) { lines.push_back(line); };
  for (int64_t i = 100; i < 1099; ++i) set->broken.push_back(i);
  const ImageSource source(set, o);
  CHECK(shown(source.get(100, 1)) == std::vector<int64_t>{1099 % 256});
  CHECK(source.unreadable() == 999);
  REQUIRE(lines.size() == 21);
  CHECK(lines[19] == "[picture 119] is cut short");
  CHECK(lines[20] == "further broken pictures are counted only");
  set->broken.push_back(1099);
  CHECK_THROWS_WITH(ImageSource(set, o).get(100, 1),
                    "[images] 1000 pictures in a row cannot be read; the last: [picture 1099] is cut short");
  // Evaluation goes on when others could be read.
  o.train = false;
  const ImageSource evaluation(set, o);
  CHECK(evaluation.get(0, 2500).samples == 2500);
  CHECK(evaluation.unreadable() == 1000);
  CHECK_THROWS_WITH(ImageSource(set, o).get(100, 1000),
                    "[images] 1000 pictures in a row cannot be read; the last: [picture 1099] is cut short");
}

TEST_CASE("A format that this build cannot read ends the run and is no broken picture") {
  struct Foreign : MemoryImages {
    using MemoryImages::MemoryImages;
    StoredImage read(int64_t i) const override {
      if (i == 2) throw MissingLibrary("[" + name(i) + "] this program was built without it; install it");
      return MemoryImages::read(i);
    }
  };
  const auto set = std::make_shared<Foreign>(5, 5, [](int64_t i) { return numbered_picture(i, 8); });
  ImageOptions o = options();
  o.sampling = Sampling::sequential;
  for (const bool train : {true, false}) {
    o.train = train;
    const ImageSource source(set, o);
    CHECK(source.get(0, 2).samples == 2);
    CHECK_THROWS_WITH(source.get(1, 2), "[picture 2] this program was built without it; install it");
    CHECK(source.unreadable() == 0);
  }
}

TEST_CASE("Batch mixing: inputs and soft targets belong together") {
  ImageOptions o = options();
  o.augment.mixup = 0.8, o.augment.smoothing = 0.1;
  const ImageSource source(numbered(100, 100), o);
  for (int64_t k = 0; k < 10; ++k) {
    const Batch batch = source.get(k * 4, 4);
    const auto x = batch.inputs.to_vector<float>();
    const auto soft = batch.extra.at("soft_targets").to_vector<float>();
    const auto targets = batch.targets.to_vector<int32_t>();
    for (size_t b = 0; b < 4; ++b) {
      // lambda from the target, then the colour that it must give: (lambda c_b + (1 - lambda) c_partner) / 255
      const auto mine = static_cast<size_t>(targets[b]), other = static_cast<size_t>(targets[3 - b]);
      const double lambda = (soft[b * 100 + mine] - 0.001) / 0.9;
      CHECK(soft[b * 100 + other] == doctest::Approx(0.001 + 0.9 * (1 - lambda)).epsilon(1e-4));
      const double value = (lambda * static_cast<double>(mine) + (1 - lambda) * static_cast<double>(other)) / 255;
      CHECK(std::abs(x[b * 192 + 17] - value) < 1e-5);
      CHECK(std::accumulate(soft.begin() + static_cast<int64_t>(b) * 100,
                            soft.begin() + static_cast<int64_t>(b + 1) * 100, 0.0) == doctest::Approx(1).epsilon(1e-5));
    }
  }
  CHECK_THROWS_WITH(
      source.get(0, 3),
      "[augment] mixup and cutmix mix pairs of pictures; expected an even number in a micro-batch; got 3");
  // Smoothing alone, and targets for every class on demand.
  o.augment.mixup = 0;
  const auto smooth = ImageSource(numbered(100, 100), o).get(0, 1).extra.at("soft_targets").to_vector<float>();
  CHECK(*std::max_element(smooth.begin(), smooth.end()) == doctest::Approx(0.901));
  o.augment.smoothing = 0;
  CHECK(ImageSource(numbered(100, 100), o).get(0, 1).extra.empty());
  o.soft_targets = true;
  const auto hard = ImageSource(numbered(100, 100), o).get(0, 1).extra.at("soft_targets").to_vector<float>();
  CHECK(std::accumulate(hard.begin(), hard.end(), 0.0) == 1.0);
}

TEST_CASE("MixToken: a box for the model, a mixed class target, patch targets as they are") {
  ImageOptions o = options(32);
  o.augment.mix_token = true, o.augment.smoothing = 0.1, o.token_grid = 14;
  const ImageSource source(numbered(100, 100), o);
  int boxes = 0;
  for (int64_t k = 0; k < 20; ++k) {
    const Batch batch = source.get(k * 4, 4);
    CHECK(shown(batch) == std::vector<int64_t>{source.picture(k * 4), source.picture(k * 4 + 1),
                                               source.picture(k * 4 + 2),
                                               source.picture(k * 4 + 3)});  // pictures are not touched
    const auto box = batch.extra.at("mix_box").to_vector<int32_t>();
    REQUIRE(box.size() == 4);
    const int area = (box[1] - box[0]) * (box[3] - box[2]);
    CHECK(box[0] >= 0);
    CHECK(box[1] <= 14);
    boxes += area > 0;
    const float lambda = 1.0f - static_cast<float>(area) / 196.0f;
    const auto soft = batch.extra.at("soft_targets").to_vector<float>();
    const auto tokens = batch.extra.at("token_targets").to_vector<float>();
    CHECK(batch.extra.at("token_targets").shape() == Shape{4, 100});
    const auto targets = batch.targets.to_vector<int32_t>();
    for (size_t b = 0; b < 4; ++b) {
      const auto mine = static_cast<size_t>(targets[b]);
      CHECK(tokens[b * 100 + mine] == doctest::Approx(0.901));
      CHECK(soft[b * 100 + mine] == doctest::Approx(0.001 + 0.9 * lambda).epsilon(1e-4));
    }
  }
  CHECK(boxes > 10);
  o.augment.mix_prob = 0;
  CHECK(ImageSource(numbered(9), o).get(0, 3).extra.at("mix_box").to_vector<int32_t>() ==
        std::vector<int32_t>{0, 0, 0, 0});
}

TEST_CASE("Below the full resolution: the model resizes, or crops are smaller") {
  ImageOptions o = options(16);
  o.crop_resolution = 32;
  Batch batch = ImageSource(numbered(10), o).get(0, 2);
  CHECK(batch.inputs.shape() == Shape{2, 3, 32, 32});
  CHECK(batch.resolution == 16);
  o.image.resize = "crop_direct";
  batch = ImageSource(numbered(10), o).get(0, 2);
  CHECK(batch.inputs.shape() == Shape{2, 3, 16, 16});
  CHECK(batch.resolution == 0);
  o.image.resize = "batch_bilinear", o.crop_resolution = 16;
  CHECK(ImageSource(numbered(10), o).get(0, 2).resolution == 0);
  o.crop_resolution = 32, o.train = false, o.sampling = Sampling::sequential;
  CHECK(ImageSource(numbered(10), o).get(0, 2).inputs.shape() == Shape{2, 3, 16, 16});
}

TEST_CASE("Token labels: targets of the view of every sample") {
  const TempFolder folder;
  const int64_t n = 6, classes = 4;
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < n; ++i) labels.push_back(static_cast<int32_t>(i % classes));
  {
    // The upper half of every map says class 1, the lower half class 2.
    TokenLabelWriter writer(folder / "token_labels.bin", {classes, 2, 2, 1}, labels);
    for (int64_t i = 0; i < n; ++i) writer.append(std::vector<float>{8, 8, 8, 8}, std::vector<int32_t>{1, 1, 2, 2});
    writer.commit();
  }
  ImageOptions o = options(8);
  o.augment.crop = "center", o.augment.flip = 0.5, o.image.crop_pct = 1;
  o.image.token_labels = folder.path().string(), o.token_grid = 2, o.augment.mix_token = true;
  const ImageSource source(numbered(n, classes), o);
  const Batch batch = source.get(0, 4);
  CHECK(batch.extra.at("token_targets").shape() == Shape{4, 4, 4});
  const auto tokens = batch.extra.at("token_targets").to_vector<float>();
  for (size_t b = 0; b < 4; ++b)
    for (size_t cell = 0; cell < 4; ++cell) CHECK(tokens[(b * 4 + cell) * 4 + (cell < 2 ? 1 : 2)] > 0.99f);
  const auto soft = batch.extra.at("soft_targets").to_vector<float>();
  CHECK(soft[1] == doctest::Approx(soft[2]));  // both halves, mixed or not: every map is the same
  CHECK(soft[1] > 0.45f);
  // Maps of another data set.
  CHECK(refusal(o, numbered(n + 1, classes)).find("has token labels of 6 pictures; expected 7") != std::string::npos);
  CHECK(refusal(o, numbered(n, 5)).find("tell 4 classes apart; expected 5") != std::string::npos);
  o.augment.mix_token = false;
  CHECK(ImageSource(numbered(n, classes), o).get(0, 1).extra.count("mix_box") == 0);
}

TEST_CASE("Options that contradict each other are refused in a sentence") {
  const auto with = [](const std::function<void(ImageOptions&)>& change) {
    ImageOptions o = options();
    change(o);
    return refusal(o);
  };
  CHECK(with([](ImageOptions&) {}) == "(accepted)");
  CHECK(with([](ImageOptions& o) { o.train = false; }) == "[image] evaluation takes pictures in order");
  CHECK(with([](ImageOptions& o) { o.holdout = 1; }).find("a share below 1") != std::string::npos);
  CHECK(with([](ImageOptions& o) { o.augment.mix_token = true; }).find("models with a grid of patches") !=
        std::string::npos);
  CHECK(with([](ImageOptions& o) {
          o.augment.mix_token = true, o.token_grid = 2, o.augment.mixup = 1;
        }).find("takes the place of mixup") != std::string::npos);
  CHECK(with([](ImageOptions& o) { o.image.token_labels = "nowhere"; }).find("a head for every patch") !=
        std::string::npos);
  CHECK(with([](ImageOptions& o) { o.image.token_labels = "nowhere", o.token_grid = 2; }) != "(accepted)");
  CHECK(with([](ImageOptions& o) { o.image.mean = {1}; }).find("a number for each channel") != std::string::npos);
  CHECK_THROWS_AS(ImageSource(numbered(3), options()).get(-1, 2), Error);
}
