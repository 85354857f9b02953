// Operations on pictures, compared bit for bit with Pillow, timm and torchvision (tests/golden/make_augment.py).
#include <doctest/doctest.h>

#include <cmath>
#include <map>

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

TEST_CASE("Operations are drawn evenly, with replacement; weighted ones without") {
  // Of 4 000 draws of 2 operations at probability 1, each of 15 comes 533 times, standard deviation 22.3.
  RandAugment policy("rand-m9-p1-n2-inc1");
  const Image image = test_picture(29, 23, 3);
  std::map<std::string, int> kinds;
  policy.ops = {RandAugment::Op::invert, RandAugment::Op::equalize};
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    Image out = image;
    Draws draws(random_key(seed, "test"));
    policy(out, draws, Surroundings{});
    ++kinds[kept(out)];
  }
  // Pairs of {invert, equalize}: invert twice changes nothing; the other three differ or coincide.
  CHECK(std::abs(kinds[kept(image)] - 1000) < 5 * 28);
  // Without replacement no operation comes twice.
  policy.weights = {1, 1};
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Image out = image;
    Draws draws(random_key(seed, "test"));
    policy(out, draws, Surroundings{});
    CHECK(kept(out) != kept(image));
  }
  // Probability 0: as it is.
  policy.probability = 0;
  Image out = image;
  Draws draws(random_key(3, "test"));
  policy(out, draws, Surroundings{});
  CHECK(kept(out) == kept(image));
}
