// Every format behind open_images: class folders, CIFAR binaries, IDX files, the shard index; and one sentence for each
// way in which they can be wrong.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <set>

#include "data/image_decode.h"
#include "data/image_formats.h"
#include "data/image_shards.h"
#include "data/text_file.h"
#include "tests/image_testing.h"
#include "tests/shared_data.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string open_refusal(const fs::path& path, const std::string& split) {
  return refusal([&] { open_images(path, split); });
}

std::string cifar_record(int label_bytes, int label, int seed) {
  std::string record(static_cast<size_t>(label_bytes - 1), '\x07');
  record += static_cast<char>(label);
  for (int i = 0; i < 3072; ++i) record += static_cast<char>(i * 3 + seed);
  return record;
}

std::string idx(const std::vector<uint32_t>& shape, const std::string& values) {
  std::string out = std::string("\0\0\x08", 3) + static_cast<char>(shape.size());
  for (const uint32_t n : shape) out += big_endian(n);
  return out + values;
}

Image decoded(const ImageSet& set, int64_t i) {
  const StoredImage stored = set.read(i);
  return stored.encoded.empty() ? stored.pixels : decode_image(stored.encoded, set.channels(), set.name(i));
}

}  // namespace

TEST_CASE("class folders: classes by rank, pictures by path, any case of the ending, folders below") {
  const TempFolder folder;
  const std::string a = make_pnm(make_picture(4, 3, 3, 1)), b = make_pnm(make_picture(5, 3, 3, 2));
  put_picture(folder / "d/train/zebra/2.PPM", a);
  put_picture(folder / "d/train/zebra/10.jpg", b);
  put_picture(folder / "d/train/ant/below/x.Jpeg", a);
  put_picture(folder / "d/train/ant/notes.txt", "no picture");
  put_picture(folder / "d/train/.hidden/x.ppm", a);
  put_file(folder / "d/train/list.ppm", "not in a class");
  put_picture(folder / "d/val/zebra/v.ppm", b);
  put_picture(folder / "d/val/ant/v.ppm", b);
  const auto train = open_images(folder / "d", "train");
  CHECK(train->classes() == std::vector<std::string>{"ant", "zebra"});
  REQUIRE(train->size() == 3);
  CHECK(train->name(0) == (folder / "d/train/ant/below/x.Jpeg").string());
  CHECK(train->name(1) == (folder / "d/train/zebra/10.jpg").string());
  CHECK(train->name(2) == (folder / "d/train/zebra/2.PPM").string());
  CHECK(train->label(0) == 0);
  CHECK(train->label(2) == 1);
  CHECK(train->channels() == 3);
  CHECK(train->mean().empty());
  const StoredImage stored = train->read(1);
  CHECK(std::string(stored.encoded.begin(), stored.encoded.end()) == b);
  CHECK(open_images(folder / "d", "valid")->size() == 2);
  CHECK(image_splits(folder / "d") == std::vector<std::string>{"train", "valid"});
  CHECK(holds(open_refusal(folder / "d", "test"), "(class folders) has no split \"test\"; it has train, valid"));
  CHECK(holds(open_refusal(folder / "d", "eval"), "unknown split \"eval\""));

  // A picture that disappears is told when it is asked for.
  fs::remove(folder / "d/train/zebra/10.jpg");
  CHECK(holds(refusal([&] { train->read(1); }), "10.jpg"));

  // "valid" is what the data set holds out.
  fs::rename(folder / "d/val", folder / "d/test");
  CHECK(open_images(folder / "d", "valid")->size() == 2);
}

TEST_CASE("class folders: no file with the ending of a picture is left out silently") {
  const TempFolder folder;
  const std::string a = make_pnm(make_picture(4, 3, 3, 1));
  const std::vector<std::string> names = {"a.jpe",  "b.JFIF", "c.webp", "d.tif", "e.tiff", "f.avif",
                                          "g.heic", "h.heif", "i.jp2",  "j.jxl", "k.ppm"};
  for (const std::string& name : names) put_picture(folder / "d/train/a" / name, a);
  fs::create_symlink(folder / "nowhere", folder / "d/train/a/l.jpg");
  fs::create_symlink(folder / "d/train/a/k.ppm", folder / "d/train/a/m.ppm");
  put_picture(folder / "d/train/a/n.jpg/o.ppm", a);  // a folder with the name of a picture
  put_picture(folder / "d/train/a/notes.txt", "no picture");
  const auto set = open_images(folder / "d", "train");
  REQUIRE(set->size() == 14);
  for (size_t i = 0; i < names.size(); ++i)
    CHECK(set->name(static_cast<int64_t>(i)) == (folder / "d/train/a" / names[i]).string());
  CHECK(set->name(13) == (folder / "d/train/a/n.jpg/o.ppm").string());
  for (const int64_t i : {0, 1, 9, 10, 12, 13}) CHECK(decoded(*set, i).width == 4);  // the content decides
  CHECK(holds(refusal([&] { set->read(11); }), "l.jpg: No such file"));
  CHECK(mkfifo((folder / "d/train/a/p.png").c_str(), 0600) == 0);
  CHECK(holds(open_refusal(folder / "d", "train"), "p.png is a pipe; expected a file"));
}

TEST_CASE("class folders: what is wrong is said in one sentence") {
  const TempFolder folder;
  const std::string a = make_pnm(make_picture(4, 3, 3, 1));
  CHECK(holds(open_refusal(folder / "none", "train"), "does not exist"));
  put_file(folder / "file", "x");
  CHECK(holds(open_refusal(folder / "file", "train"), "is not a folder"));
  CHECK(holds(open_refusal(folder.path(), "train"), "holds no pictures that are known here"));
  put_picture(folder / "d/train/a/1.ppm", a);
  for (const char* name : {"b", "c", "d", "e", "f"}) put_picture(folder / (std::string("d/val/") + name + "/1.ppm"), a);
  for (const char* split : {"train", "valid"}) {
    const std::string message = open_refusal(folder / "d", split);
    CAPTURE(message);
    CHECK(holds(message, "differ: only in train: \"a\"; only in val: \"b\", \"c\", \"d\" and 2 more"));
  }
  fs::create_directories(folder / "e/train/a");
  put_picture(folder / "e/train/b/1.ppm", a);
  CHECK(holds(open_refusal(folder / "e", "train"), "train/a has no picture"));
  // A link to a folder above it would never end.
  put_picture(folder / "f/train/a/1.ppm", a);
  fs::create_directory_symlink(folder / "f/train/a", folder / "f/train/a/again");
  CHECK(holds(open_refusal(folder / "f", "train"), "f/train/a"));
  // Token files of a text are no pictures.
  fs::create_directories(folder / "t");
  put_file(folder / "t/meta.json", "{\"format\": \"accrete-tokens\"}");
  CHECK(holds(open_refusal(folder / "t", "train"), "the tokens of a text"));
}

TEST_CASE("CIFAR-10: count from the size of the files, planes to pixels, names, bad labels") {
  const TempFolder folder;
  fs::create_directories(folder / "c");
  put_file(folder / "c/data_batch_1.bin", cifar_record(1, 3, 1) + cifar_record(1, 9, 2));
  put_file(folder / "c/data_batch_2.bin", cifar_record(1, 0, 5));
  put_file(folder / "c/test_batch.bin", cifar_record(1, 7, 6));
  const auto train = open_images(folder / "c", "train");
  REQUIRE(train->size() == 3);
  CHECK(train->label(0) == 3);
  CHECK(train->label(1) == 9);
  CHECK(train->label(2) == 0);
  CHECK(train->name(2) == (folder / "c/data_batch_2.bin").string() + " record 0");
  CHECK(train->classes().at(9) == "truck");
  CHECK(train->mean() == std::vector<double>{0.4914, 0.4822, 0.4465});
  CHECK(train->stddev() == std::vector<double>{0.2470, 0.2435, 0.2616});
  const Image image = decoded(*train, 1);
  CHECK(image.width == 32);
  for (int64_t y = 0; y < 32; ++y)
    for (int64_t x = 0; x < 32; ++x)
      for (int64_t c = 0; c < 3; ++c)
        REQUIRE(image.row(y)[x * 3 + c] == static_cast<uint8_t>((c * 1024 + y * 32 + x) * 3 + 2));
  CHECK(open_images(folder / "c", "valid")->size() == 1);
  CHECK(image_splits(folder / "c") == std::vector<std::string>{"train", "test"});

  // A lost file is no smaller data set; batches that end earlier are.
  put_file(folder / "c/data_batch_4.bin", cifar_record(1, 2, 7));
  CHECK(open_refusal(folder / "c", "train") ==
        "[images] " + (folder / "c/data_batch_3.bin").string() +
            " is missing; expected all files from data_batch_1.bin to data_batch_4.bin");
  put_file(folder / "c/data_batch_3.bin", cifar_record(1, 2, 7));
  CHECK(open_images(folder / "c", "train")->size() == 5);
  fs::rename(folder / "c/data_batch_1.bin", folder / "first");
  CHECK(holds(open_refusal(folder / "c", "train"), "data_batch_1.bin is missing"));
  fs::rename(folder / "first", folder / "c/data_batch_1.bin");
  for (const char* name : {"data_batch_3.bin", "data_batch_4.bin"}) fs::remove(folder / "c" / name);

  put_file(folder / "batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\r\n\n");  // in the folder above
  CHECK(open_images(folder / "c", "train")->classes().at(9) == "j");
  put_file(folder / "c/batches.meta.txt", "only\ntwo\n");
  CHECK(holds(open_refusal(folder / "c", "train"), "expected the names of 10 classes"));
  fs::remove(folder / "c/batches.meta.txt");
  put_file(folder / "c/data_batch_2.bin", cifar_record(1, 10, 5));
  CHECK(holds(open_refusal(folder / "c", "train"), "record 0 has the label 10; expected 0..9"));
  put_file(folder / "c/data_batch_2.bin", cifar_record(1, 1, 5) + "more");
  CHECK(holds(open_refusal(folder / "c", "train"), "whole records of 3073 bytes; got 3077 bytes, 4 too many"));
  put_file(folder / "c/data_batch_1.bin", "");
  put_file(folder / "c/data_batch_2.bin", "");
  CHECK(holds(open_refusal(folder / "c", "train"), "has no picture"));
}

TEST_CASE("CIFAR-100: the fine labels count") {
  const TempFolder folder;
  std::string names;
  for (int i = 0; i < 100; ++i) names += "class" + std::to_string(i) + "\n";
  put_file(folder / "fine_label_names.txt", names);
  put_file(folder / "train.bin", cifar_record(2, 99, 1));
  put_file(folder / "test.bin", cifar_record(2, 0, 1) + cifar_record(2, 100, 1));
  const auto train = open_images(folder.path(), "train");
  CHECK(train->size() == 1);
  CHECK(train->label(0) == 99);
  CHECK(train->classes().at(42) == "class42");
  CHECK(decoded(*train, 0).pixels[0] == 1);
  CHECK(holds(open_refusal(folder.path(), "test"), "record 1 has the label 100"));
}

TEST_CASE("IDX files: sizes are checked against the file, labels against the training labels") {
  const TempFolder folder;
  std::string values;
  for (int i = 0; i < 3 * 4 * 5; ++i) values += static_cast<char>(i);
  put_file(folder / "train-images-idx3-ubyte", idx({3, 4, 5}, values));
  put_file(folder / "train-labels-idx1-ubyte", idx({3}, std::string("\x02\x00\x04", 3)));
  put_file(folder / "t10k-images.idx3-ubyte", idx({1, 4, 5}, values.substr(0, 20)));
  put_file(folder / "t10k-labels.idx1-ubyte", idx({1}, std::string("\x01", 1)));
  const auto train = open_images(folder.path(), "train");
  CHECK(train->size() == 3);
  CHECK(train->channels() == 1);
  CHECK(train->classes() == std::vector<std::string>{"0", "1", "2", "3", "4"});
  CHECK(train->label(2) == 4);
  CHECK(train->mean().empty());
  const Image image = decoded(*train, 1);
  CHECK(image.width == 5);
  CHECK(image.height == 4);
  CHECK(image.pixels[19] == 39);
  const auto test = open_images(folder.path(), "valid");
  CHECK(test->size() == 1);
  CHECK(test->classes().size() == 5);  // the training labels decide

  const auto with_train = [&](const std::string& images, const std::string& labels) {
    put_file(folder / "train-images-idx3-ubyte", images);
    put_file(folder / "train-labels-idx1-ubyte", labels);
    return open_refusal(folder.path(), "train");
  };
  const std::string good = idx({3, 4, 5}, values), three = idx({3}, "\x01\x01\x01");
  CHECK(holds(with_train(good, idx({2}, "\x01\x01")), "holds 3 pictures, but"));
  CHECK(holds(with_train(idx({3, 4, 6}, values), three), "promises more values than the file has (60 bytes)"));
  CHECK(holds(with_train(idx({3, 4, 4}, values), three), "promises 48 values; the file has 60"));
  CHECK(holds(with_train(idx({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, values), three), "promises more values"));
  CHECK(holds(with_train(idx({3, 20}, values), three), "expected 3 dimensions; got 2"));
  CHECK(holds(with_train(idx({3, 0, 5}, values), three), "dimension 1 is 0"));
  CHECK(holds(with_train(idx({0, 4, 5}, ""), idx({0}, "")), "has no picture"));
  CHECK(holds(with_train(good.substr(0, 9), three), "cut short"));
  CHECK(holds(with_train("PK\x03\x04", three), "not an IDX file"));
  std::string wide = good;
  wide[2] = 0x0D;
  CHECK(holds(with_train(wide, three), "type 13"));
  CHECK(with_train(good, three).empty());
  put_file(folder / "t10k-labels.idx1-ubyte", idx({1}, std::string("\x09", 1)));
  CHECK(holds(open_refusal(folder.path(), "test"), "has the label 9, but"));
  fs::remove(folder / "train-labels-idx1-ubyte");
  CHECK(holds(open_refusal(folder.path(), "train"), "the labels of"));
}

TEST_CASE("the index of shards: every number is checked against the shards") {
  std::vector<ShardRecord> records(2);
  records[0] = {.offset = 16, .name_end = 1, .length = 10, .shard = 0, .label = 0, .width = 9, .height = 9, .raw = 0};
  records[1] = {.offset = 26, .name_end = 3, .length = 12, .shard = 1, .label = 1, .width = 2, .height = 2, .raw = 1};
  const auto parse = [&](const std::vector<ShardRecord>& list, uint64_t count, const std::string& names) {
    std::string bytes = kIndexMagic;
    const uint64_t sizes[2] = {count, names.size()};
    bytes.append(reinterpret_cast<const char*>(sizes), sizeof sizes);
    bytes.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(ShardRecord));
    bytes += names;
    return refusal([&] {
      const ShardIndex index = ShardIndex::parse(bytes_of(bytes), {26, 38}, 2, 3, "index");
      CHECK(index.size() == 2);
      CHECK(index.name(0) == "a");
      CHECK(index.name(1) == "bc");
      CHECK(index.record(1).offset == 26);
    });
  };
  CHECK(parse(records, 2, "abc").empty());
  CHECK(holds(parse(records, 3, "abc"), "expected 3 records"));
  CHECK(holds(parse(records, UINT64_MAX / 40 + 1, "abc"), "records of 40 bytes"));
  const auto changed = [&](auto change) {
    auto list = records;
    change(list);
    return parse(list, 2, "abc");
  };
  CHECK(holds(changed([](auto& l) { l[0].offset = 15; }), "does not lie in its shard of 26 bytes"));
  CHECK(holds(changed([](auto& l) { l[0].offset = 17; }), "does not lie in its shard"));
  CHECK(holds(changed([](auto& l) { l[0].offset = UINT64_MAX; }), "does not lie in its shard"));
  CHECK(holds(changed([](auto& l) { l[0].length = 0; }), "does not lie in its shard"));
  CHECK(holds(changed([](auto& l) { l[1].shard = 2; }), "lies in shard 2; there are 2"));
  CHECK(holds(changed([](auto& l) { l[1].label = 2; }), "has the label 2; expected 0..1"));
  CHECK(holds(changed([](auto& l) { l[1].width = 3; }), "has 12 bytes of pixels; expected 18"));
  CHECK(holds(changed([](auto& l) { l[0].height = 0; }), "has the size 9x0"));
  CHECK(holds(changed([](auto& l) { l[0].height = 1u << 31, l[0].width = 1u << 31; }), "has the size"));
  CHECK(holds(changed([](auto& l) { l[1].raw = 2; }), "bytes of pixels"));
  CHECK(holds(changed([](auto& l) { l[0].name_end = 4; }), "outside the names"));
  CHECK(holds(changed([](auto& l) { l[1].name_end = 0; }), "outside the names"));
  CHECK(holds(refusal([] { ShardIndex::parse(bytes_of("ACCRIMG"), {}, 1, 3, "index"); }), "not the index"));
}

TEST_CASE("real data sets: CIFAR-10, MNIST, class folders") {
  if (const fs::path labels = shared_file("cifar10/batches.meta.txt"); !labels.empty()) {
    const fs::path folder = labels.parent_path() / "lossless";
    const auto train = open_images(folder, "train");
    CHECK(train->size() == 4000 + 4 * 932);
    CHECK(train->classes().at(0) == "airplane");
    CHECK(train->label(0) == 6);  // a frog
    CHECK(open_images(folder, "test")->size() == 1000);
  }
  if (const fs::path file = shared_file("mnist/train-labels-idx1-ubyte"); !file.empty()) {
    const auto train = open_images(file.parent_path(), "train");
    CHECK(train->size() == 60000);
    CHECK(train->classes().size() == 10);
    CHECK(train->mean() == std::vector<double>{0.1307});
    CHECK(open_images(file.parent_path(), "test")->stddev() == std::vector<double>{0.3081});
    double sum = 0;
    for (int64_t i = 0; i < 60000; ++i)
      for (const uint8_t p : train->read(i).pixels.pixels) sum += p;
    CHECK(std::abs(sum / 60000 / 784 / 255 - 0.1307) < 5e-5);
  }
  const TempFolder unpacked;
  if (const fs::path folder = shared_folder("images/imagenette-224", unpacked); !folder.empty()) {
    const auto valid = open_images(folder, "valid");
    CHECK(valid->size() == 500);
    CHECK(valid->classes().size() == 10);
    CHECK(valid->classes().front() == "n01440764");
    if (jpeg_supported()) CHECK(decoded(*valid, 499).width == 224);
  }
}
