// Operations on pictures, compared bit for bit with Pillow, timm and torchvision (tests/golden/make_augment.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "data/augment.h"
#include "data/augment_ops.h"
#include "data/rand_augment.h"
#include "engine/core/config.h"
#include "tests/memory_images.h"

using namespace accrete;

namespace {

const Json& golden() {
  static const Json json = read_json(ACCRETE_SOURCE_DIR "/tests/golden/augment.json");
  return json;
}

// "shear_x 0.27 bicubic" -> that operation on the picture.
Image operated(const Image& image, const std::string& name) {
  std::vector<std::string> words(1);
  for (const char c : name)
    if (c == ' ')
      words.emplace_back();
    else
      words.back() += c;
  const double v = words.size() > 1 ? std::stod(words[1]) : 0;
  const Filter filter = words.size() > 2 ? filter_of(words[2]) : Filter::bicubic;
  const pixels::Colour fill = {124, 116, 104};
  const auto w = static_cast<double>(image.width), h = static_cast<double>(image.height);
  const std::string& op = words[0];
  Image out = image;
  if (op == "picture") return out;
  if (op == "invert") return pixels::invert(out), out;
  if (op == "equalize") return pixels::equalize(out), out;
  if (op == "autocontrast") return pixels::autocontrast(out), out;
  if (op == "flip") return pixels::flip_horizontal(out), out;
  if (op == "grey") return pixels::to_grey(out), out;
  if (op == "solarize") return pixels::solarize(out, static_cast<int>(v)), out;
  if (op == "solarize_add") return pixels::solarize_add(out, static_cast<int>(v)), out;
  if (op == "posterize") return pixels::posterize(out, static_cast<int>(v)), out;
  if (op == "color") return pixels::adjust_color(out, v), out;
  if (op == "contrast") return pixels::adjust_contrast(out, v), out;
  if (op == "brightness") return pixels::adjust_brightness(out, v), out;
  if (op == "sharpness") return pixels::adjust_sharpness(out, v), out;
  if (op == "blur") return pixels::gaussian_blur(out, v), out;
  if (op == "shear_x") return pixels::transform(image, {1, v, 0, 0, 1, 0}, filter, fill);
  if (op == "shear_y") return pixels::transform(image, {1, 0, 0, v, 1, 0}, filter, fill);
  if (op == "translate_x") return pixels::transform(image, {1, 0, v * w, 0, 1, 0}, filter, fill);
  if (op == "translate_y") return pixels::transform(image, {1, 0, 0, 0, 1, v * h}, filter, fill);
  if (op == "rotate") return pixels::rotate(image, v, filter, fill);
  FAIL("unknown operation ", name);
  return out;
}

int check_all(const std::string& which, const Image& image) {
  int checked = 0;
  for (const auto& item : golden()[which].items()) {
    const std::string name = item.key(), expected = item.value().get<std::string>();
    CHECK_MESSAGE(kept(operated(image, name)) == expected, which << ": " << name);
    ++checked;
  }
  return checked;
}

Image applied(RandAugment::Op op, double m, const Image& image, bool increasing = true, uint64_t seed = 1) {
  RandAugment policy("rand");
  policy.increasing = increasing;
  Image out = image;
  Draws draws(random_key(seed, "test"));
  policy.apply(op, m, out, draws, Surroundings{});
  return out;
}

// What the policy makes of the picture with the numbers of this seed.
Image driven(const RandAugment& policy, Image image, uint64_t seed) {
  Draws draws(random_key(seed, "test"));
  policy(image, draws, Surroundings{});
  return image;
}

// Pixels as a key of a map.
std::string text_of(const Image& image) { return {image.pixels.begin(), image.pixels.end()}; }

}  // namespace

TEST_CASE("Every operation is Pillow's to the bit: RGB, square and grey pictures") {
  CHECK(check_all("rgb", test_picture(29, 23, 3)) > 90);
  CHECK(check_all("square", test_picture(19, 19, 3)) > 90);
  CHECK(check_all("grey", test_picture(21, 26, 1)) > 90);
}

TEST_CASE("Grey of the three colours") {
  Image image(3, 1, 3);
  image.pixels = {255, 0, 0, 0, 255, 0, 0, 0, 255};
  pixels::to_grey(image);
  CHECK(image.pixels == std::vector<uint8_t>{76, 76, 76, 150, 150, 150, 29, 29, 29});
}

TEST_CASE("Pictures of one colour, of one pixel and of two rows") {
  Image flat(5, 4, 3);
  std::fill(flat.pixels.begin(), flat.pixels.end(), uint8_t{77});
  for (const char* name : {"equalize", "autocontrast", "sharpness 1.9", "blur 2.0", "color 0.1"})
    CHECK_MESSAGE(operated(flat, name).pixels == flat.pixels, name);
  const Image one = test_picture(1, 1, 3);
  for (const char* name : {"equalize", "autocontrast", "sharpness 0.1", "blur 5.3", "flip", "rotate 0.0 bicubic"})
    CHECK_MESSAGE(operated(one, name).pixels == one.pixels, name);
  CHECK(operated(test_picture(7, 2, 3), "sharpness 0.1").pixels == test_picture(7, 2, 3).pixels);
  Image black = test_picture(3, 3, 1);
  pixels::posterize(black, 0);
  CHECK(std::count(black.pixels.begin(), black.pixels.end(), 0) == 9);
  const Image none(0, 0, 3);
  for (const char* name : {"equalize", "autocontrast", "contrast 0.5", "blur 2.0", "invert"})
    CHECK(operated(none, name).pixels.empty());
}

TEST_CASE("Borders: zeros and mirrors as torchvision pads") {
  const Image image = test_picture(17, 13, 3);
  CHECK(kept(pixels::crop(image, -4, -4, 25, 21)) == golden()["pad"]["constant"].get<std::string>());
  CHECK(kept(pixels::crop(image, -4, -4, 25, 21, true)) == golden()["pad"]["reflect"].get<std::string>());
  CHECK(kept(pixels::crop(image, 0, 0, 17, 13)) == kept(image));
  CHECK(kept(pixels::crop(image, -100, 2, 9, 5)) == kept(Image(9, 5, 3)));  // nothing of the picture
  CHECK(pixels::crop(test_picture(1, 1, 1), -3, -3, 7, 7, true).pixels ==
        std::vector<uint8_t>(49, test_picture(1, 1, 1).pixels[0]));
}

TEST_CASE("Arguments of RandAugment at full and at usual strength") {
  using Op = RandAugment::Op;
  const Image image = test_picture(29, 23, 3);
  const auto is = [&](const Image& a, const std::string& name) { return a.pixels == operated(image, name).pixels; };
  CHECK(is(applied(Op::posterize, 9, image), "posterize 1"));
  CHECK(is(applied(Op::solarize, 9, image), "solarize 26"));
  CHECK(is(applied(Op::solarize_add, 9, image), "solarize_add 99"));
  CHECK(is(applied(Op::solarize, 10, image), "solarize 0"));
  CHECK(is(applied(Op::posterize, 9, image, false), "posterize 3"));
  CHECK(is(applied(Op::solarize, 9, image, false), "solarize 230"));
  // Signed arguments: both signs come, and nothing else.
  const auto both = [&](Op op, const std::string& plus, const std::string& minus) {
    int seen[2] = {0, 0};
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const Image a = applied(op, 9, image, true, seed);
      const bool p = is(a, plus), m = is(a, minus);
      CHECK_MESSAGE(p != m, plus);
      ++seen[p ? 0 : 1];
    }
    CHECK(seen[0] > 5);
    CHECK(seen[1] > 5);
  };
  both(Op::rotate, "rotate 27", "rotate -27");
  both(Op::shear_x, "shear_x 0.27", "shear_x -0.27");
  both(Op::shear_y, "shear_y 0.27", "shear_y -0.27");
  both(Op::translate_x, "translate_x 0.405", "translate_x -0.405");
  both(Op::translate_y, "translate_y 0.405", "translate_y -0.405");
  both(Op::color, "color 1.81", "color 0.19");
  both(Op::contrast, "contrast 1.81", "contrast 0.19");
  both(Op::brightness, "brightness 1.81", "brightness 0.19");
  both(Op::sharpness, "sharpness 1.81", "sharpness 0.19");
  CHECK(is(applied(Op::brightness, 5, image, false), "brightness 1.0"));
  CHECK(is(applied(Op::gaussian_blur, 10, image), "blur 2.0"));
  CHECK(is(applied(Op::desaturate, 0, image), "color 0.5"));
}

TEST_CASE("The grammar of RandAugment") {
  const RandAugment deit("rand-m9-mstd0.5-inc1");
  CHECK(deit.magnitude == 9);
  CHECK(deit.deviation == 0.5);
  CHECK(deit.increasing);
  CHECK(deit.count == 2);
  CHECK(deit.probability == 0.5);
  CHECK(deit.largest == 10);
  CHECK(deit.ops.size() == 15);
  const RandAugment other("rand-n3-p0.25-mmax30-m15-mstd101-inc0-tweights");
  CHECK(other.count == 3);
  CHECK(other.probability == 0.25);
  CHECK(other.largest == 30);
  CHECK(std::isinf(other.deviation));
  CHECK(other.weights.size() == 15);
  // As in timm, where any text behind "inc" counts as true (recipes spec 1.5): inc0 is no way to turn it off.
  CHECK(RandAugment("rand-inc0").increasing);
  CHECK(!RandAugment("rand-m9").increasing);
  CHECK(RandAugment("rand-t3a").ops.size() == 3);
  CHECK(RandAugment("rand-t3aw").ops.size() == 14);
  for (const char* wrong :
       {"", "augmix-m3", "rand-x5", "rand-m", "rand-mfoo", "rand-m9x", "rand-n0", "rand-n2.5", "rand-p2", "rand--m9",
        "rand-m-9", "rand-tfoo", "rand-mmax0", "rand-m9-mstd", "rand-n99-t3aw", "original"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(RandAugment{wrong}, Error);
  }
  CHECK_THROWS_WITH(
      RandAugment("rand-m9-w0"),
      "[augment] unknown part \"w0\" in \"rand-m9-w0\"; expected m, n, p, mstd, mmax or inc and a number, "
      "or tweights, t3a, t3aw");
}

TEST_CASE("An operation may come twice, weighted ones only once; none at probability 0") {
  RandAugment policy("rand-m9-p1-n2-inc1");
  const Image image = test_picture(29, 23, 3);
  policy.ops = {RandAugment::Op::invert, RandAugment::Op::equalize};
  // Of the four equally frequent pairs only two inversions change nothing: 1000 of 4000, deviation 27.4.
  int unchanged = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) unchanged += driven(policy, image, seed).pixels == image.pixels;
  CHECK(std::abs(unchanged - 1000) < 5 * 27.4);
  policy.weights = {1, 1};
  for (uint64_t seed = 0; seed < 100; ++seed) CHECK(driven(policy, image, seed).pixels != image.pixels);
  policy.probability = 0;
  CHECK(driven(policy, image, 3).pixels == image.pixels);
}

TEST_CASE("Every operation is applied with the probability, independently of the others") {
  // solarize_add at magnitude 1 adds 11 to black: the value counts the operations. k of n come with the binomial
  // probability; counts are within 5 deviations.
  const auto binomial = [](int n, int k, double p) {
    double ways = 1;
    for (int i = 1; i <= k; ++i) ways *= static_cast<double>(n - k + i) / i;
    return ways * std::pow(p, k) * std::pow(1 - p, n - k);
  };
  struct Case {
    const char* text;
    int n;
    double p;
  };
  const Case cases[] = {
      {"rand-m1-inc1", 2, 0.5}, {"rand-m1-p0.5", 2, 0.5}, {"rand-m1-p0.25-n3", 3, 0.25}, {"rand-m1-p1-n5", 5, 1}};
  for (const Case& c : cases) {
    CAPTURE(c.text);
    const int n = c.n;
    const double p = c.p;
    RandAugment policy(c.text);
    policy.ops = {RandAugment::Op::solarize_add};
    std::map<int, int> counts;
    constexpr int kRuns = 4000;
    for (uint64_t seed = 0; seed < kRuns; ++seed) ++counts[driven(policy, Image(1, 1, 3), seed).pixels[0]];
    int seen = 0;
    for (int k = 0; k <= n; ++k) {
      const double share = binomial(n, k, p);
      CHECK(std::abs(counts[11 * k] - kRuns * share) <= 5 * std::sqrt(kRuns * share * (1 - share)));
      seen += counts[11 * k];
    }
    CHECK(seen == kRuns);
  }
}

TEST_CASE("A stream of filters: both come, and the numbers of the operations stay") {
  const Image image = test_picture(29, 23, 3);
  const auto filtered = [&](const RandAugment& policy, uint64_t seed) {
    Image out = image;
    Draws draws(random_key(seed, "test")), filters(random_key(seed, "filters"));
    policy(out, draws, Surroundings{.filters = &filters});
    return out;
  };
  RandAugment rotation("rand-m9-n1-p1-inc1");
  rotation.ops = {RandAugment::Op::rotate};
  int bilinear = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const Image got = filtered(rotation, seed), bicubic = driven(rotation, image, seed);
    const bool minus = bicubic.pixels == operated(image, "rotate -27 bicubic").pixels;
    const bool linear = got.pixels == operated(image, minus ? "rotate -27 bilinear" : "rotate 27 bilinear").pixels;
    CHECK((linear || got.pixels == bicubic.pixels));
    bilinear += linear;
  }
  CHECK(std::abs(bilinear - 200) < 5 * 10);
  // At magnitude 0 geometry changes nothing whatever the filter, so a difference would come from other operations.
  const RandAugment policy("rand-m0-n4-p1-inc1");
  int changed = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Image got = filtered(policy, seed);
    CHECK(got.pixels == driven(policy, image, seed).pixels);
    changed += got.pixels != image.pixels;
  }
  CHECK(changed > 60);  // inversion and equalisation, for instance, are as strong as ever
}

TEST_CASE("The magnitude: normal with its deviation, within 0 and its bound, or uniform") {
  // Brightness at magnitude m takes white to trunc(255 (0.18 m + 0.1)): the value tells m to 0.011 up to m = 5.
  constexpr int kRuns = 4000;
  const auto magnitudes = [](const char* text) {
    RandAugment policy(text);
    policy.ops = {RandAugment::Op::brightness};
    Image white(1, 1, 3);
    std::fill(white.pixels.begin(), white.pixels.end(), uint8_t{255});
    std::vector<double> all;
    for (uint64_t seed = 0; seed < kRuns; ++seed)
      all.push_back((driven(policy, white, seed).pixels[0] + 0.5 - 25.5) / 45.9);
    return all;
  };
  const auto mean_and_deviation = [](const std::vector<double>& v) {
    double sum = 0, squares = 0;
    for (const double m : v) sum += m, squares += m * m;
    const double mean = sum / kRuns;
    return std::pair{mean, std::sqrt(std::max(0.0, squares / kRuns - mean * mean))};
  };
  const auto share = [](const std::vector<double>& v, double low, double high) {
    return static_cast<double>(std::count_if(v.begin(), v.end(), [&](double m) { return m > low && m < high; })) /
           kRuns;
  };
  const auto [mean, deviation] = mean_and_deviation(magnitudes("rand-m3-mstd0.5-p1-n1"));
  CHECK(std::abs(mean - 3) < 5 * 0.5 / std::sqrt(kRuns));
  CHECK(std::abs(deviation - 0.5) < 5 * 0.5 / std::sqrt(2 * kRuns));
  const auto [fixed, none] = mean_and_deviation(magnitudes("rand-m3-p1-n1"));
  CHECK(std::abs(fixed - 3) < 0.011);
  CHECK(none < 1e-5);
  // N(9, 3) lies above 4 with probability 0.9522, N(1, 3) below 0 with 0.3694; 5 deviations are 0.017 and 0.038.
  const auto high = magnitudes("rand-m9-mstd3-mmax4-p1-n1"), low = magnitudes("rand-m1-mstd3-mmax5-p1-n1");
  CHECK(*std::max_element(high.begin(), high.end()) < 4.02);
  CHECK(std::abs(share(high, 3.98, 4.02) - 0.9522) < 0.018);
  CHECK(*std::min_element(low.begin(), low.end()) > -0.02);
  CHECK(std::abs(share(low, -0.02, 0.011) - 0.3694) < 0.04);
  // Uniform over [0, 5]: mean 2.5, deviation 5 / sqrt(12); and a quarter in each quarter.
  const auto even = magnitudes("rand-m5-mstd101-p1-n1");
  const auto [middle, width] = mean_and_deviation(even);
  CHECK(std::abs(middle - 2.5) < 5 * 1.443 / std::sqrt(kRuns));
  CHECK(std::abs(width - 1.443) < 0.06);  // 5 deviations of it are 0.051
  for (int k = 0; k < 4; ++k)
    CHECK(std::abs(share(even, 1.25 * k - 0.02, 1.25 * k + 1.23) - 0.25) < 5 * std::sqrt(0.1875 / kRuns) + 0.01);
}

TEST_CASE("Operations come evenly from the list of 15, and as their weights say from a weighted one") {
  const Image image = test_picture(29, 23, 3);
  const RandAugment even("rand-m9-n1-p1-inc1"), weighted("rand-m9-n1-p1-tweights");
  // What each makes of the picture, with either sign.
  std::map<std::string, RandAugment::Op> results;
  for (const RandAugment::Op op : even.ops)
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const auto [found, added] = results.emplace(text_of(applied(op, 9, image, true, seed)), op);
      REQUIRE(found->second == op);
    }
  constexpr int kRuns = 6000;
  for (const RandAugment* policy : {&even, &weighted}) {
    std::map<RandAugment::Op, int> counts;
    for (uint64_t seed = 0; seed < kRuns; ++seed) {
      const auto found = results.find(text_of(driven(*policy, image, seed)));
      REQUIRE(found != results.end());
      ++counts[found->second];
    }
    CHECK(policy->ops.size() == 15);
    double total = 0;
    for (const double w : policy->weights) total += w;
    for (size_t i = 0; i < policy->ops.size(); ++i) {
      const double share = policy->weights.empty() ? 1.0 / 15 : policy->weights[i] / total;
      CAPTURE(i);
      CHECK(std::abs(counts[policy->ops[i]] - kRuns * share) < 5 * std::sqrt(kRuns * share * (1 - share)));
    }
  }
}

TEST_CASE("Weighted operations: the second is drawn by the weights of those that are left") {
  using Op = RandAugment::Op;
  const Image image = test_picture(29, 23, 3);
  RandAugment policy("rand-m9-n2-p1-inc1");
  policy.ops = {Op::solarize_add, Op::equalize, Op::invert};
  policy.weights = {3, 2, 1};
  std::map<std::string, size_t> missing;  // the operation that a result lacks
  for (size_t first = 0; first < 3; ++first)
    for (size_t second = 0; second < 3; ++second) {
      if (first == second) continue;
      const Image result = applied(policy.ops[second], 9, applied(policy.ops[first], 9, image));
      const auto [found, added] = missing.emplace(text_of(result), 3 - first - second);
      REQUIRE(found->second == 3 - first - second);
    }
  // Without 0: 2/6 1/4 + 1/6 2/5; without 1: 3/6 1/3 + 1/6 3/5; without 2: 3/6 2/3 + 2/6 3/4.
  const double shares[] = {3.0 / 20, 4.0 / 15, 7.0 / 12};
  constexpr int kRuns = 4000;
  int counts[3] = {0, 0, 0};
  for (uint64_t seed = 0; seed < kRuns; ++seed) {
    const auto found = missing.find(text_of(driven(policy, image, seed)));
    REQUIRE(found != missing.end());
    ++counts[found->second];
  }
  for (size_t i = 0; i < 3; ++i)
    CHECK(std::abs(counts[i] - kRuns * shares[i]) < 5 * std::sqrt(kRuns * shares[i] * (1 - shares[i])));
}
