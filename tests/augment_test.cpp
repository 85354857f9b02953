// One picture to one sample: crops, flips, erasing and the evaluation pipeline, by distribution and against
// torchvision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/augment.h"
#include "data/image_decode.h"
#include "engine/core/config.h"
#include "tests/image_testing.h"
#include "tests/memory_images.h"

using namespace accrete;

namespace {

StoredImage stored(Image image) {
  StoredImage s;
  s.pixels = std::move(image);
  return s;
}

// No randomness at all, for tests to switch on what they look at.
AugmentConfig plain() {
  AugmentConfig c;
  c.crop = "center";
  c.flip = 0;
  return c;
}

// Values of a normalisation that leaves v / 255.
const Normalisation kUnit = {{0, 0, 0}, {1, 1, 1}};

std::vector<float> sample(const Augmenter& augmenter, const Image& image, uint64_t n, View* view = nullptr) {
  std::vector<float> out(static_cast<size_t>(augmenter.channels() * augmenter.size() * augmenter.size()), -99.0f);
  const View v = augmenter.train(stored(image), "test", n, out.data());
  if (view) *view = v;
  return out;
}

// (C, S, S) on [0, 1] back to a picture.
Image picture_of(const std::vector<float>& planes, int64_t S, int64_t channels) {
  Image image(S, S, channels);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < S * S; ++i)
      image.pixels[static_cast<size_t>(i * channels + c)] =
          static_cast<uint8_t>(std::lround(planes[static_cast<size_t>(c * S * S + i)] * 255));
  return image;
}

std::string refusal_of(AugmentConfig augment, ImageConfig image = {}, int64_t size = 32, Normalisation n = kUnit) {
  try {
    const Augmenter augmenter(augment, image, n, size, 1);
  } catch (const Error& error) {
    return error.what();
  }
  return "(accepted)";
}

}  // namespace

TEST_CASE("The evaluation pipeline is torchvision's to the bit") {
  const Json golden = read_json(ACCRETE_SOURCE_DIR "/tests/golden/augment.json");
  REQUIRE(golden["evaluation"].size() == 8);
  for (const Json& row : golden["evaluation"]) {
    CAPTURE(row.dump());
    ImageConfig config;
    const auto size = row[2].get<int64_t>();
    config.crop_pct = row[3].get<double>();
    config.interpolation = row[4].get<std::string>();
    const Augmenter augmenter(plain(), config, kUnit, size, 1);
    std::vector<float> out(static_cast<size_t>(3 * size * size));
    augmenter.evaluate(stored(test_picture(row[0].get<int64_t>(), row[1].get<int64_t>(), 3)), "test", out.data());
    CHECK(kept(picture_of(out, size, 3)) == row[5].get<std::string>());
  }
  // ToTensor and Normalize in f32, bit for bit.
  const Augmenter augmenter(plain(), {}, normalisation_of({}, 3), 17, 1);
  std::vector<float> out(3 * 17 * 17);
  augmenter.evaluate(stored(test_picture(17, 17, 3)), "test", out.data());
  CHECK(hash_of(out.data(), out.size() * 4) == golden["normalised"].get<std::string>());
}

TEST_CASE("Evaluation sizes: the shorter side, rounding half to even, small pictures") {
  // 500 x 375 at 224 with crop_pct 0.875: 341 x 256, crop from (58, 16); vectors spec 14.
  ImageConfig config;
  const Augmenter augmenter(plain(), config, kUnit, 224, 1);
  std::vector<float> out(3 * 224 * 224);
  const View view = augmenter.evaluate(stored(test_picture(500, 375, 3)), "test", out.data());
  CHECK(view.x0 == doctest::Approx(58.0 / 341));
  CHECK(view.y0 == doctest::Approx(16.0 / 256));
  CHECK(view.x1 == doctest::Approx((58.0 + 224) / 341));
  // A picture of 28 pixels for a model of 28 stays as it is, whatever crop_pct says.
  const Augmenter small(plain(), config, {{0}, {1}}, 28, 1);
  std::vector<float> grey(28 * 28);
  small.evaluate(stored(test_picture(28, 28, 1)), "test", grey.data());
  CHECK(kept(picture_of(grey, 28, 1)) == kept(test_picture(28, 28, 1)));
}

TEST_CASE("random_region: inside the picture, shares and shapes as asked") {
  const std::vector<double> scale = {0.08, 1.0}, ratio = {0.75, 4.0 / 3.0};
  double shares = 0, logs = 0;
  int counted = 0, fallbacks = 0;
  for (uint64_t n = 0; n < 4000; ++n) {
    Draws draws(random_key(7, "test", n));
    const Region r = random_region(400, 400, scale, ratio, draws);
    REQUIRE(r.x >= 0);
    REQUIRE(r.y >= 0);
    REQUIRE(r.w >= 1);
    REQUIRE(r.h >= 1);
    REQUIRE(r.x + r.w <= 400);
    REQUIRE(r.y + r.h <= 400);
    const double share = static_cast<double>(r.w * r.h) / 160000,
                 aspect = static_cast<double>(r.w) / static_cast<double>(r.h);
    CHECK(share > 0.079);
    CHECK(aspect > 0.74);
    CHECK(aspect < 1.35);
    fallbacks += r == Region{0, 0, 400, 400};
    if (share < 0.7) shares += share, logs += std::log(aspect), ++counted;  // nothing below 0.75 is ever refused
  }
  CHECK(fallbacks < 3);
  // Below 0.75 of the area every draw fits a square: uniform on [0.08, 0.7], mean 0.39, deviation of the mean 0.0035.
  CHECK(std::abs(shares / counted - 0.39) < 5 * 0.0035);
  // log aspect uniform on +-0.2877: mean 0, deviation of the mean 0.0033.
  CHECK(std::abs(logs / counted) < 5 * 0.0033);
  // A picture too long for the ratio: the largest centred region.
  Draws draws(random_key(1, "test"));
  CHECK(random_region(1000, 10, {1, 1}, ratio, draws) == Region{493, 0, 13, 10});
  CHECK(random_region(3, 100, {1, 1}, ratio, draws) == Region{0, 48, 3, 4});
  CHECK(random_region(1, 1, scale, ratio, draws).w == 1);
}

TEST_CASE("A sample is a function of its number and the seed, and nothing else") {
  AugmentConfig config;
  config.auto_augment = "rand-m9-mstd0.5-inc1";
  config.erase = 0.5;
  const Image image = test_picture(90, 70, 3);
  const Augmenter a(config, {}, normalisation_of({}, 3), 32, 5), b(config, {}, normalisation_of({}, 3), 32, 5);
  const Augmenter other(config, {}, normalisation_of({}, 3), 32, 6);
  int same_number = 0, same_seed = 0;
  for (uint64_t n = 0; n < 20; ++n) {
    CHECK(sample(a, image, n) == sample(b, image, n));
    same_number += sample(a, image, n) == sample(a, image, n + 1);
    same_seed += sample(a, image, n) == sample(other, image, n);
  }
  CHECK(same_number == 0);
  CHECK(same_seed == 0);
  // Another setting does not move the numbers of this one: without erasing, what is not erased is equal.
  AugmentConfig clean = config;
  clean.erase = 0;
  const Augmenter c(clean, {}, normalisation_of({}, 3), 32, 5);
  for (uint64_t n = 0; n < 20; ++n) {
    const auto x = sample(a, image, n), y = sample(c, image, n);
    size_t equal = 0;
    for (size_t i = 0; i < x.size(); ++i) equal += x[i] == y[i];
    CHECK(equal > x.size() * 6 / 10);  // an erased box has at most a third
  }
  // Nor does a filter that is drawn move a crop.
  AugmentConfig random;
  random.interpolation = "random";
  const Augmenter bicubic({}, {}, kUnit, 32, 5), either(random, {}, kUnit, 32, 5);
  int same = 0;
  for (uint64_t n = 0; n < 400; ++n) {
    View u, v;
    same += sample(bicubic, image, n, &u) == sample(either, image, n, &v);
    CHECK((u.x0 == v.x0 && u.y1 == v.y1 && u.flipped == v.flipped));
  }
  CHECK(std::abs(same - 200) < 5 * 10);
}

TEST_CASE("Encoded pictures: only the crop is decoded, and it is the crop of the whole picture") {
  if (!jpeg_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo");
    return;
  }
  const Image photo = make_picture(640, 480, 3, 5);
  const std::string bytes = make_jpeg(photo);
  StoredImage encoded;
  encoded.encoded = bytes_of(bytes);
  const Image whole = decode_image(encoded.encoded, 3, "test");
  AugmentConfig config;
  // Crops of 32 pixels are decoded at an eighth to a half; those of 400 pixels in full, where they are equal to the
  // bit.
  for (const int64_t S : {32, 400}) {
    const Augmenter augmenter(config, {}, kUnit, S, 9);
    for (uint64_t n = 0; n < 12; ++n) {
      std::vector<float> part(static_cast<size_t>(3 * S * S)), full = part;
      const View a = augmenter.train(encoded, "test", n, part.data());
      const View b = augmenter.train(stored(whole), "test", n, full.data());
      CHECK(a.x0 == b.x0);
      CHECK(a.y1 == b.y1);
      CHECK(a.flipped == b.flipped);
      double difference = 0;
      for (size_t i = 0; i < part.size(); ++i) difference += std::abs(part[i] - full[i]);
      CHECK(difference / static_cast<double>(part.size()) < (S == 32 ? 0.012 : 1e-9));
    }
  }
  // Evaluation sees the whole picture at full size.
  const Augmenter augmenter(config, {}, kUnit, 64, 9);
  std::vector<float> a(3 * 64 * 64), b = a;
  augmenter.evaluate(encoded, "test", a.data());
  augmenter.evaluate(stored(whole), "test", b.data());
  CHECK(a == b);
  const std::string half = bytes.substr(0, 300);
  StoredImage cut;
  cut.encoded = bytes_of(half);
  CHECK_THROWS_AS(augmenter.train(cut, "test", 1, a.data()), Error);
}

TEST_CASE("Flips come as often as asked and mirror exactly") {
  AugmentConfig config = plain();
  config.flip = 0.25;
  const Image image = test_picture(20, 20, 3);
  Image mirrored = image;
  pixels::flip_horizontal(mirrored);
  const Augmenter augmenter(config, {}, kUnit, 20, 3);
  int flips = 0;
  for (uint64_t n = 0; n < 2000; ++n) {
    View view;
    const Image got = picture_of(sample(augmenter, image, n, &view), 20, 3);
    REQUIRE(got.pixels == (view.flipped ? mirrored.pixels : image.pixels));
    flips += view.flipped;
  }
  CHECK(std::abs(flips - 500) < 5 * 19.4);
  // With an operation behind it the flip comes first; invert commutes with it.
  config.auto_augment = "rand-p0";
  const Augmenter with(config, {}, kUnit, 20, 3);
  for (uint64_t n = 0; n < 50; ++n) CHECK(sample(with, image, n) == sample(augmenter, image, n));
}

TEST_CASE("Padded and simple crops: every place, zeros or a mirror around") {
  AugmentConfig config = plain();
  config.crop = "padded";
  const Image image = test_picture(32, 32, 3);
  const Augmenter augmenter(config, {}, kUnit, 32, 1);
  std::vector<int> places(81);
  for (uint64_t n = 0; n < 2000; ++n) {
    View view;
    const auto got = picture_of(sample(augmenter, image, n, &view), 32, 3);
    const auto x = std::lround(view.x0 * 32), y = std::lround(view.y0 * 32);
    REQUIRE(std::abs(x) <= 4);
    REQUIRE(std::abs(y) <= 4);
    ++places[static_cast<size_t>((y + 4) * 9 + x + 4)];
    if (n < 100) CHECK(got.pixels == pixels::crop(image, x, y, 32, 32).pixels);
  }
  for (const int count : places) CHECK(std::abs(count - 2000 / 81) < 30);  // 24.7, deviation 4.9
  config.crop = "simple";
  const Augmenter simple(config, {}, kUnit, 24, 1);
  const Image wide = test_picture(60, 40, 3);
  for (uint64_t n = 0; n < 50; ++n) {
    View view;
    const auto got = picture_of(sample(simple, wide, n, &view), 24, 3);
    CHECK(view.x1 - view.x0 == doctest::Approx(24.0 / 36));  // 60 x 40 becomes 36 x 24
    const Image resized = resize_image(wide, 36, 24, Filter::bicubic);
    const auto x = std::lround(view.x0 * 36), y = std::lround(view.y0 * 24);
    CHECK(got.pixels == pixels::crop(resized, x, y, 24, 24, true).pixels);
  }
}

TEST_CASE("Random erasing: how often, how large, and what stands there") {
  AugmentConfig config = plain();
  config.erase = 0.25;
  const int64_t S = 32;
  const Image black(S, S, 3);
  const auto run = [&](const std::string& mode, int64_t count, const Normalisation& normalisation) {
    config.erase_mode = mode, config.erase_count = count;
    const Augmenter augmenter(config, {}, normalisation, S, 1);
    std::vector<std::vector<float>> all;
    for (uint64_t n = 0; n < 2000; ++n) all.push_back(sample(augmenter, black, n));
    return all;
  };
  // Untouched values are 0; noise is 0 practically never.
  double erased = 0, sum = 0, squares = 0, values = 0, area = 0;
  for (const auto& planes : run("pixel", 1, kUnit)) {
    const auto changed =
        static_cast<double>(std::count_if(planes.begin(), planes.end(), [](float v) { return v != 0; }));
    if (changed == 0) continue;
    ++erased, area += changed / 3 / static_cast<double>(S * S);
    for (const float v : planes) sum += v, squares += v * v, values += v != 0;
  }
  CHECK(std::abs(erased - 500) < 5 * 19.4);
  // Areas are uniform on [0.02, 1/3]; boxes that do not fit are drawn anew, which makes the mean a little smaller.
  CHECK(area / erased > 0.14);
  CHECK(area / erased < 0.18);
  CHECK(std::abs(sum / values) < 0.01);          // normal: mean 0 and
  CHECK(std::abs(squares / values - 1) < 0.02);  // variance 1 (deviation of both about 0.002)
  // One colour for a box: three different values at most.
  for (const auto& planes : run("rand", 1, kUnit))
    for (int64_t c = 0; c < 3; ++c) {
      std::vector<float> plane(planes.begin() + c * S * S, planes.begin() + (c + 1) * S * S);
      std::sort(plane.begin(), plane.end());
      CHECK(std::unique(plane.begin(), plane.end()) - plane.begin() <= 2);
    }
  // const is 0 after normalisation, not black.
  bool found = false;
  for (const auto& planes : run("const", 3, {{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}})) {
    CHECK(std::all_of(planes.begin(), planes.end(), [](float v) { return v == -1.0f || v == 0.0f; }));
    found = found || std::count(planes.begin(), planes.end(), 0.0f) > 0;
  }
  CHECK(found);
}

TEST_CASE("Jitter stays in its range and is left out under RandAugment; ThreeAugment takes one of three") {
  AugmentConfig config = plain();
  config.color_jitter = 0.3;
  Image grey(8, 8, 3);
  std::fill(grey.pixels.begin(), grey.pixels.end(), uint8_t{100});
  const Augmenter jitter(config, {}, kUnit, 8, 1);
  float low = 1, high = 0;
  for (uint64_t n = 0; n < 500; ++n) {
    const float v = sample(jitter, grey, n)[0] * 255;  // brightness alone changes a flat grey picture
    low = std::min(low, v), high = std::max(high, v);
    CHECK(v >= 69);
    CHECK(v <= 130.5f);
  }
  CHECK(high > 125);
  const Image image = test_picture(8, 8, 3);
  config.auto_augment = "rand-p0";
  const Augmenter under(config, {}, kUnit, 8, 1);
  CHECK(kept(picture_of(sample(under, image, 1), 8, 3)) == kept(image));
  config.magnitude = 0;
  const Augmenter none(config, {}, kUnit, 8, 1);
  CHECK(kept(picture_of(sample(none, image, 1), 8, 3)) == kept(image));

  AugmentConfig three = plain();
  three.auto_augment = "three";
  const Augmenter augmenter(three, {}, kUnit, 8, 1);
  Image grey_picture = image, solarized = image;
  pixels::to_grey(grey_picture);
  pixels::solarize(solarized, 128);
  int kinds[3] = {0, 0, 0};
  for (uint64_t n = 0; n < 900; ++n) {
    const Image got = picture_of(sample(augmenter, image, n), 8, 3);
    ++kinds[got.pixels == grey_picture.pixels ? 0 : got.pixels == solarized.pixels ? 1 : 2];
  }
  for (const int k : kinds) CHECK(std::abs(k - 300) < 5 * 14.2);
}

TEST_CASE("magnitude replaces the m of the policy") {
  AugmentConfig a = plain(), b = plain();
  a.auto_augment = "rand-m3-p1-inc1", b.auto_augment = "rand-m9-p1-inc1", b.magnitude = 3;
  const Image image = test_picture(16, 16, 3);
  const Augmenter x(a, {}, kUnit, 16, 1), y(b, {}, kUnit, 16, 1);
  for (uint64_t n = 0; n < 20; ++n) CHECK(sample(x, image, n) == sample(y, image, n));
}

TEST_CASE("Grey pictures go through everything with one channel") {
  AugmentConfig config;
  config.auto_augment = "rand-m9-p1-mstd0.5-inc1", config.erase = 1;
  const Augmenter augmenter(config, {}, normalisation_of({}, 1), 28, 1);
  for (uint64_t n = 0; n < 60; ++n) {
    const auto out = sample(augmenter, test_picture(28, 28, 1), n);
    CHECK(out.size() == 28 * 28);
    CHECK(std::all_of(out.begin(), out.end(), [](float v) { return std::isfinite(v) && v > -50; }));
  }
}

TEST_CASE("The normalisation: of the settings, of the data set, of ImageNet") {
  ImageConfig config;
  CHECK(normalisation_of(config, 3).mean == std::vector<double>{0.485, 0.456, 0.406});
  CHECK(normalisation_of(config, 1).stddev == std::vector<double>{0.226});
  CHECK(normalisation_of(config, 3, {0.1, 0.2, 0.3}, {1, 2, 3}).stddev == std::vector<double>{1, 2, 3});
  config.mean = {0.5, 0.5, 0.5};
  CHECK(normalisation_of(config, 3, {0.1, 0.2, 0.3}, {1, 2, 3}).mean == std::vector<double>{0.5, 0.5, 0.5});
  CHECK_THROWS_AS(normalisation_of(config, 1), Error);
}

TEST_CASE("Settings and pictures that cannot be are refused in a sentence") {
  CHECK(refusal_of(AugmentConfig{}) == "(accepted)");
  AugmentConfig c;
  c.scale = {0.5};
  CHECK(refusal_of(c) == "[augment] augment.scale must be two numbers, the smaller first; got 1 numbers");
  c = {}, c.ratio = {2, 1};
  CHECK(refusal_of(c) ==
        "[augment] augment.ratio must be two numbers, the smaller first; got 2 numbers in falling order");
  c = {}, c.auto_augment = "augmix";
  CHECK(refusal_of(c).find("unknown policy \"augmix\"") != std::string::npos);
  c = {}, c.magnitude = 5;
  CHECK(refusal_of(c).find("magnitude is that of RandAugment") != std::string::npos);
  c.auto_augment = "three";
  CHECK(refusal_of(c).find("magnitude is that of RandAugment") != std::string::npos);
  ImageConfig image;
  image.crop_pct = 1e-9;
  CHECK(refusal_of({}, image).find("crop_pct") != std::string::npos);
  CHECK(refusal_of({}, {}, 0).find("1..8192 pixels; got 0") != std::string::npos);

  const Augmenter augmenter(plain(), {}, kUnit, 64, 1);
  std::vector<float> out(3 * 64 * 64);
  CHECK_THROWS_WITH(augmenter.evaluate(stored(Image(4, 4, 1)), "p", out.data()), "[p] has 1 channels; expected 3");
  CHECK_THROWS_WITH(augmenter.evaluate(stored(Image(0, 0, 3)), "p", out.data()),
                    "[p] is empty; expected at least one pixel");
  CHECK_THROWS_WITH(Augmenter({}, {}, kUnit, 64, 1).train(stored({}), "p", 1, out.data()),
                    "[p] is empty; expected at least one pixel");
  CHECK_THROWS_WITH(
      augmenter.evaluate(stored(Image(1, 100000, 3)), "p", out.data()),
      "[p] is too long and thin to be resized: 1 x 100000 pixels with the shorter side to 73 make 532900000; "
      "expected at most 268435456");
}
