// prepare images: what comes out can be opened and holds the same pictures; broken ones are counted; the result does
// not depend on threads; nothing half-written looks whole.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <map>

#include "data/image_decode.h"
#include "data/image_resize.h"
#include "data/image_set.h"
#include "data/in_order.h"
#include "data/prepare_images.h"
#include "data/staging.h"
#include "engine/core/json.h"
#include "tests/image_testing.h"
#include "tests/program_testing.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

void quiet(const std::string&) {}

// Two classes; pictures of several sizes, one of them broken and one of a format that is not read.
void make_folders(const fs::path& root) {
  for (int i = 0; i < 6; ++i) {
    const std::string name = std::to_string(i);
    put_picture(root / "train/cat" / (name + ".jpg"), make_jpeg(make_picture(40 + 9 * i, 30 + 11 * i, 3, i)));
    put_picture(root / "train/dog" / (name + ".ppm"), make_pnm(make_picture(20 + i, 64, 3, 10 + i)));
  }
  put_picture(root / "train/cat/broken.jpg", make_jpeg(make_picture(40, 40, 3, 7)).substr(0, 400));
  put_picture(root / "train/dog/web.webp", "RIFF1234WEBPVP8 ");
  put_picture(root / "val/cat/v.jpg", make_jpeg(make_picture(33, 44, 1, 21)));
  put_picture(root / "val/dog/v.jpg", make_jpeg(make_picture(50, 44, 3, 22)));
}

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = entry.is_directory() ? "folder" : file_bytes(entry.path());
  return files;
}

Image decoded(const ImageSet& set, int64_t i) {
  const StoredImage stored = set.read(i);
  return stored.encoded.empty() ? stored.pixels : decode_image(stored.encoded, set.channels(), set.name(i));
}

}  // namespace

TEST_CASE("class folders become shards that hold the same pictures") {
  if (!jpeg_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo");
    return;
  }
  const TempFolder folder;
  make_folders(folder / "in");
  const ImageMeta meta = prepare_images(
      {.in = folder / "in", .out = folder / "out", .max_side = 48, .shard_bytes = 9000, .threads = 2}, quiet);
  CHECK(meta.classes == std::vector<std::string>{"cat", "dog"});
  const ImageSplitMeta& train = meta.splits.at("train");
  CHECK(train.images == 12);
  CHECK(train.shards > 2);
  CHECK(train.shrunk == 4);  // shorter sides 52, 63, 74, 85 (cat 2..5)
  REQUIRE(train.skipped.size() == 2);
  CHECK(train.skipped[0].file == "train/cat/broken.jpg");
  CHECK(train.skipped[0].why.starts_with("the JPEG file is cut short"));
  CHECK(train.skipped[1].file == "train/dog/web.webp");
  CHECK(train.skipped[1].why.starts_with("WebP is not supported"));

  const auto from = open_images(folder / "in", "train");
  const auto to = open_images(folder / "out", "train");
  CHECK(to->classes() == meta.classes);
  REQUIRE(to->size() == 12);
  double sum[3] = {}, square[3] = {}, pixels = 0;
  for (int64_t i = 0, k = 0; k < from->size(); ++k) {
    const std::string name = fs::path(from->name(k)).lexically_relative(folder / "in").generic_string();
    if (name == "train/cat/broken.jpg" || name == "train/dog/web.webp") continue;
    CHECK(to->name(i) == name);
    CHECK(to->label(i) == from->label(k));
    const Image before = decoded(*from, k), after = decoded(*to, i);
    const int64_t side = std::min(before.width, before.height);
    Image expected = before;
    if (side > 48) {
      expected = resize_image(before, before.width * 48 / side, before.height * 48 / side, Filter::bicubic);
      CHECK(std::min(after.width, after.height) == 48);
      REQUIRE(after.pixels.size() == expected.pixels.size());
      double error = 0;
      for (size_t p = 0; p < after.pixels.size(); ++p)
        error += std::abs(after.pixels[p] - expected.pixels[p]) / static_cast<double>(after.pixels.size());
      CHECK(error < 6);  // a JPEG of quality 90 of a noisy picture
    } else {
      const StoredImage a = from->read(k), b = to->read(i);
      CHECK(std::string(a.encoded.begin(), a.encoded.end()) == std::string(b.encoded.begin(), b.encoded.end()));
    }
    for (size_t p = 0; p < expected.pixels.size(); ++p) {
      sum[p % 3] += expected.pixels[p] / 255.0;
      square[p % 3] += expected.pixels[p] / 255.0 * expected.pixels[p] / 255.0;
    }
    pixels += static_cast<double>(expected.width * expected.height);
    ++i;
  }
  for (int c = 0; c < 3; ++c) {  // written with six digits
    const double mean = sum[c] / pixels;
    CHECK(std::abs(to->mean()[c] - mean) < 1e-6);
    CHECK(std::abs(to->stddev()[c] - std::sqrt(square[c] / pixels - mean * mean)) < 1e-6);
  }
  CHECK(open_images(folder / "out", "valid")->size() == 2);
  CHECK(refusal([&] { open_images(folder / "out", "test"); }).find("has no split \"test\"") != std::string::npos);

  SUBCASE("any number of threads gives the same bytes") {
    prepare_images({.in = folder / "in", .out = folder / "one", .max_side = 48, .shard_bytes = 9000, .threads = 1},
                   quiet);
    prepare_images({.in = folder / "in", .out = folder / "many", .max_side = 48, .shard_bytes = 9000, .threads = 7},
                   quiet);
    CHECK(files_in(folder / "one") == files_in(folder / "out"));
    CHECK(files_in(folder / "many") == files_in(folder / "out"));
  }
  SUBCASE("pixels: what was decoded and shrunk, without another loss") {
    const ImageMeta raw =
        prepare_images({.in = folder / "in", .out = folder / "raw", .max_side = 48, .pixels = true}, quiet);
    CHECK(raw.splits.at("train").images == 12);
    CHECK(raw.splits.at("train").shrunk == 4);
    CHECK(raw.mean == meta.mean);
    CHECK(raw.stddev == meta.stddev);
    const auto values = open_images(folder / "raw", "train");
    REQUIRE(values->size() == 12);
    for (int64_t i = 0, k = 0; i < 12; ++k) {
      if (fs::path(from->name(k)).lexically_relative(folder / "in") != values->name(i)) continue;
      Image expected = decoded(*from, k);
      if (const int64_t side = std::min(expected.width, expected.height); side > 48)
        expected = resize_image(expected, expected.width * 48 / side, expected.height * 48 / side, Filter::bicubic);
      const StoredImage stored = values->read(i++);
      CHECK(stored.encoded.empty());
      CHECK(stored.pixels.width == expected.width);
      CHECK(stored.pixels.pixels == expected.pixels);
    }
  }
  SUBCASE("shards can be prepared again; a smaller result leaves nothing of the larger one") {
    const ImageMeta again = prepare_images({.in = folder / "out", .out = folder / "again", .max_side = 48}, quiet);
    CHECK(again.splits.at("train").images == 12);
    CHECK(again.splits.at("train").shrunk == 0);
    CHECK(open_images(folder / "again", "train")->name(3) == to->name(3));
    fs::remove_all(folder / "in/val");
    prepare_images({.in = folder / "in", .out = folder / "out", .max_side = 48}, quiet);
    const auto files = files_in(folder / "out");
    CHECK(files.size() == 3);
    CHECK(files.contains("train-00000.shard"));
    CHECK(files.contains("train.index"));
    CHECK(files.contains("meta.json"));
  }
  SUBCASE("meta.json is what to_json says, and reads back") {
    const std::string text = file_bytes(folder / "out/meta.json");
    CHECK(text == meta.to_json());
    CHECK(ImageMeta::from_json(text, "meta").to_json() == text);
    const auto changed = [&](const char* key, const nlohmann::json& value) {
      nlohmann::json root = nlohmann::json::parse(text);
      root[key] = value;
      return refusal([&] { ImageMeta::from_json(root.dump(), "m"); });
    };
    CHECK(changed("version", 2).find("\"version\"") != std::string::npos);
    CHECK(changed("channels", 2).find("1 or 3") != std::string::npos);
    CHECK(changed("mean", {1, 2}).find("list of 3 numbers") != std::string::npos);
    CHECK(changed("classes", nlohmann::json::array()).find("\"classes\"") != std::string::npos);
    CHECK(changed("splits", {{"../x", nlohmann::json::object()}}).find("expected train, valid or test") !=
          std::string::npos);
    CHECK(changed("format", "other").find("accrete-images") != std::string::npos);
  }
  SUBCASE("shards that do not fit the index are refused") {
    const std::string shard = file_bytes(folder / "out/train-00001.shard");
    put_file(folder / "out/train-00001.shard", shard.substr(0, shard.size() - 1));
    CHECK(refusal([&] { open_images(folder / "out", "train"); }).find("does not lie in its shard") !=
          std::string::npos);
    put_file(folder / "out/train-00001.shard", file_bytes(folder / "out/train-00000.shard"));
    CHECK(refusal([&] { open_images(folder / "out", "train"); }).find("not shard 1 of version 1") != std::string::npos);
    fs::remove(folder / "out/train-00001.shard");
    CHECK(refusal([&] { open_images(folder / "out", "train"); }).find("train-00001.shard") != std::string::npos);
    fs::copy_file(folder / "out/valid.index", folder / "out/train.index", fs::copy_options::overwrite_existing);
    put_file(folder / "out/train-00001.shard", shard);
    CHECK(refusal([&] { open_images(folder / "out", "train"); }).starts_with("["));
  }
}

TEST_CASE("values stay values: CIFAR and grey IDX files, with their mean and deviation") {
  const TempFolder folder;
  std::string images, labels, values;
  for (const uint32_t n : {4u, 5u, 6u}) images += big_endian(n);
  for (int i = 0; i < 4 * 30; ++i) values += static_cast<char>(i % 2 == 0 ? 0 : 255);
  put_file(folder / "in", "");
  fs::remove(folder / "in");
  put_picture(folder / "in/train-images-idx3-ubyte", std::string("\0\0\x08\x03", 4) + images + values);
  put_picture(folder / "in/train-labels-idx1-ubyte",
              std::string("\0\0\x08\x01", 4) + big_endian(4) + std::string("\0\1\2\1", 4));
  const ImageMeta meta = prepare_images({.in = folder / "in", .out = folder / "out", .max_side = 2}, quiet);
  CHECK(meta.channels == 1);
  CHECK(meta.mean == std::vector<double>{0.5});
  CHECK(meta.stddev == std::vector<double>{0.5});
  CHECK(meta.splits.at("train").bytes == 120);
  const auto set = open_images(folder / "out", "train");
  CHECK(set->channels() == 1);
  CHECK(set->label(2) == 2);
  const Image image = set->read(3).pixels;
  CHECK(image.width == 6);
  CHECK(image.height == 5);
  CHECK(std::memcmp(image.pixels.data(), values.data() + 90, 30) == 0);
}

TEST_CASE("a failing run leaves an earlier result whole and nothing else behind") {
  if (!jpeg_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo");
    return;
  }
  const TempFolder folder;
  make_folders(folder / "in");
  prepare_images({.in = folder / "in", .out = folder / "out"}, quiet);
  const auto before = files_in(folder / "out");
  put_picture(folder / "bad/train/a/1.jpg", "no picture");
  put_picture(folder / "bad/train/a/2.jpg", "");
  const std::string message =
      refusal([&] { prepare_images({.in = folder / "bad", .out = folder / "out", .threads = 3}, quiet); });
  CAPTURE(message);
  CHECK(message.find("no picture of the split \"train\" can be read; the first is train/a/1.jpg: not a picture") !=
        std::string::npos);
  CHECK(files_in(folder / "out") == before);
  CHECK(refusal([&] { prepare_images({.in = folder / "in", .out = folder / "in"}, quiet); }).find("cannot lie in") !=
        std::string::npos);

  // What a killed run leaves is no result, and the next run removes it. No process has the largest number.
  fs::create_directories(folder / "killed/.prepare-2147483647");
  put_file(folder / "killed/.prepare-2147483647/meta.json", before.at("meta.json"));
  CHECK(refusal([&] { open_images(folder / "killed", "train"); }).find("holds no pictures") != std::string::npos);
  prepare_images({.in = folder / "in", .out = folder / "killed"}, quiet);
  CHECK(files_in(folder / "killed") == before);
}

TEST_CASE("in_order takes every result in order, and the first exception") {
  for (const int threads : {1, 2, 5}) {
    std::vector<int64_t> taken;
    in_order(
        100, threads, [](int64_t i) { return i * i; },
        [&](int64_t i, int64_t r) {
          REQUIRE(r == i * i);
          taken.push_back(i);
        });
    CHECK(taken.size() == 100);
    std::atomic<int> made = 0;
    const auto broken = [&](int64_t i) {
      ++made;
      if (i == 30) fail("made", i);
      return i;
    };
    int64_t last = -1;
    CHECK(refusal([&] { in_order(1000, threads, broken, [&](int64_t i, int64_t) { last = i; }); }) == "[made] 30");
    CHECK(last == 29);
    CHECK(made < 100);
    CHECK(refusal([&] {
            in_order(
                1000, threads, [](int64_t i) { return i; },
                [](int64_t i, int64_t) {
                  if (i == 5) fail("taken", i);
                });
          }) == "[taken] 5");
  }
}

TEST_CASE("the program: result as JSON, one line for bad input") {
  if (!jpeg_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo");
    return;
  }
  const TempFolder folder;
  make_folders(folder / "in");
  const std::string cd = "cd '" + folder.path().string() + "' && ";
  const RunResult good = run(cd + "$APPS/prepare images --in in --out out --max-side 48 --threads 2 --json");
  CAPTURE(good.err);
  REQUIRE(good.exit_code == 0);
  CHECK(good.out == file_bytes(folder / "out/meta.json"));
  CHECK(good.err.find("left out train/cat/broken.jpg: the JPEG file is cut short") != std::string::npos);
  CHECK(good.err.find("train: 12 pictures") != std::string::npos);
  CHECK(run(cd + "$APPS/prepare images --in in --out out --quiet").err.empty());
  const auto refused = [&](const std::string& options, const std::string& expected) {
    const RunResult result = run(cd + "$APPS/prepare images " + options);
    CAPTURE(result.err);
    CHECK(result.one_line_error());
    CHECK(result.err.find(expected) != std::string::npos);
  };
  refused("--in nowhere --out o", "nowhere does not exist");
  refused("--in out/meta.json --out o", "is not a folder");
  refused("--in in --out o --quality 0", "quality");
  refused("--in in --out o --max-side -1", "side");
  refused("--in in --out out/meta.json", "cannot create the folder");
  fs::rename(folder / "in/val/dog", folder / "in/val/wolf");
  refused("--in in --out o", "differ: only in train: \"dog\"; only in val: \"wolf\"");
  CHECK_FALSE(fs::exists(folder / "o"));
}
