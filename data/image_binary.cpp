// Data sets of small pictures that are stored as values: CIFAR-10 and CIFAR-100 (binary version), and IDX files (MNIST
// and its family). Plain or packed with gzip.
#include <algorithm>
#include <map>

#include "data/image_formats.h"
#include "data/text_file.h"
#include "engine/core/error.h"
#include "engine/core/hash.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

constexpr size_t kLargestFile = size_t{1} << 31;  // after unpacking
constexpr int64_t kSide = 32, kPlane = kSide * kSide;

std::span<const uint8_t> bytes_of(const InputFile& file) {
  return {reinterpret_cast<const uint8_t*>(file.bytes().data()), file.bytes().size()};
}

std::unique_ptr<InputFile> load(const fs::path& path) { return std::make_unique<InputFile>(path, kLargestFile); }

// One name a line, from the first of these files that is there.
std::vector<std::string> names_in(const std::vector<fs::path>& candidates) {
  for (const fs::path& path : candidates) {
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) continue;
    const std::string text = read_text(path, size_t{1} << 20);
    std::vector<std::string> names;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string name = text.substr(at, end - at);
      while (!name.empty() && static_cast<unsigned char>(name.back()) <= ' ') name.pop_back();
      if (!name.empty()) names.push_back(name);
      at = end + 1;
    }
    return names;
  }
  return {};
}

std::vector<std::string> numbers(int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

// ---- CIFAR ---------------------------------------------------------------------------------------------------------

// data_batch_1.bin, data_batch_2.bin, ... in the order of their numbers. A gap is a lost file, not a smaller data set.
std::vector<fs::path> numbered_batches(const fs::path& folder) {
  const auto name = [](int i) { return "data_batch_" + std::to_string(i) + ".bin"; };
  std::map<int, fs::path> found;
  for (int i = 1; i <= 99; ++i)
    if (fs::path path = plain_or_packed(folder / name(i)); !path.empty()) found[i] = path;
  std::vector<fs::path> files;
  for (const auto& [number, path] : found) {
    const int expected = 1 + static_cast<int>(files.size());
    check(number == expected, "images", (folder / name(expected)).string(), " is missing; expected all files from ",
          name(1), " to ", name(found.rbegin()->first));
    files.push_back(path);
  }
  return files;
}

// The files of a split, and which of the two sets it is. train.bin and test.bin are also names of token files, so they
// count only beside the names of CIFAR-100.
struct CifarFiles {
  bool hundred = false;
  std::vector<fs::path> files;
};
CifarFiles cifar_files(const fs::path& folder, const std::string& split) {
  CifarFiles found;
  if (split == "train") found.files = numbered_batches(folder);
  if (split == "test")
    if (const fs::path path = plain_or_packed(folder / "test_batch.bin"); !path.empty()) found.files = {path};
  std::error_code ignored;
  if (!found.files.empty() || !fs::exists(folder / "fine_label_names.txt", ignored)) return found;
  found.hundred = true;
  if (split == "train" || split == "test")
    if (const fs::path path = plain_or_packed(folder / (split + ".bin")); !path.empty()) found.files = {path};
  return found;
}

class Cifar : public ImageSet {
 public:
  Cifar(const fs::path& folder, const std::string& split) {
    const CifarFiles found = cifar_files(folder, split);
    hundred_ = found.hundred;
    const int64_t classes = hundred_ ? 100 : 10;
    classes_ = names_in(
        hundred_ ? std::vector<fs::path>{folder / "fine_label_names.txt"}
                 : std::vector<fs::path>{folder / "batches.meta.txt", folder.parent_path() / "batches.meta.txt"});
    if (classes_.empty() && !hundred_)
      classes_ = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
    check(static_cast<int64_t>(classes_.size()) == classes, "images", "expected the names of ", classes, " classes in ",
          (folder / (hundred_ ? "fine_label_names.txt" : "batches.meta.txt")).string(), "; got ", classes_.size());
    for (const fs::path& path : found.files) {
      files_.push_back(load(path));
      names_.push_back(path.string());
      batches_.push_back(CifarBatch::parse(bytes_of(*files_.back()), hundred_ ? 2 : 1, classes, path.string()));
      begins_.push_back(size_);
      size_ += batches_.back().count;
    }
  }

  int64_t size() const override { return size_; }
  int32_t label(int64_t i) const override {
    const size_t b = batch_of(i);
    return batches_[b].label(i - begins_[b]);
  }
  std::string name(int64_t i) const override {
    const size_t b = batch_of(i);
    return names_[b] + " record " + std::to_string(i - begins_[b]);
  }
  StoredImage read(int64_t i) const override {
    const size_t b = batch_of(i);
    StoredImage image;
    image.pixels = batches_[b].image(i - begins_[b]);
    return image;
  }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t channels() const override { return 3; }
  std::vector<double> mean() const override {
    return hundred_ ? std::vector{0.5071, 0.4865, 0.4409} : std::vector{0.4914, 0.4822, 0.4465};
  }
  std::vector<double> stddev() const override {
    return hundred_ ? std::vector{0.2673, 0.2564, 0.2762} : std::vector{0.2470, 0.2435, 0.2616};
  }

 private:
  size_t batch_of(int64_t i) const {
    return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), i) - begins_.begin()) - 1;
  }

  bool hundred_ = false;
  std::vector<std::unique_ptr<InputFile>> files_;
  std::vector<std::string> names_, classes_;
  std::vector<CifarBatch> batches_;
  std::vector<int64_t> begins_;
  int64_t size_ = 0;
};

std::vector<std::string> cifar_splits(const fs::path& folder) {
  std::vector<std::string> found;
  for (const char* split : {"train", "test"})
    if (!cifar_files(folder, split).files.empty()) found.push_back(split);
  return found;
}

// ---- IDX -----------------------------------------------------------------------------------------------------------

// {train,t10k,test}-{images-idx3,labels-idx1}-ubyte, also with a point before "idx"; empty when not there.
fs::path idx_file(const fs::path& folder, const std::string& split, const std::string& what) {
  if (split == "valid") return {};
  for (const std::string& name :
       split == "train" ? std::vector<std::string>{"train"} : std::vector<std::string>{"t10k", "test"})
    for (const char* joint : {"-", "."})
      if (const fs::path path =
              plain_or_packed(folder / (name + "-" + what + joint + (what == "images" ? "idx3" : "idx1") + "-ubyte"));
          !path.empty())
        return path;
  return {};
}

// The labels of MNIST itself: its mean and deviation are known, those of its relatives `prepare images` computes.
constexpr const char* kMnistLabels[] = {"65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                                        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"};

class Idx : public ImageSet {
 public:
  Idx(const fs::path& folder, const std::string& split) {
    const fs::path images = idx_file(folder, split, "images"), labels = idx_file(folder, split, "labels");
    check(!labels.empty(), "images", "the labels of ", images.string(), " are missing");
    name_ = images.string();
    image_file_ = load(images), label_file_ = load(labels);
    images_ = IdxArray::parse(bytes_of(*image_file_), 3, images.string());
    labels_ = IdxArray::parse(bytes_of(*label_file_), 1, labels.string());
    check(images_.shape[0] == labels_.shape[0], "images", images.string(), " holds ", images_.shape[0],
          " pictures, but ", labels.string(), " ", labels_.shape[0], " labels");
    const int32_t largest =
        labels_.values.empty() ? 0 : *std::max_element(labels_.values.begin(), labels_.values.end());
    int32_t most = largest;
    if (const fs::path train = idx_file(folder, "train", "labels"); !train.empty() && split != "train") {
      const auto file = load(train);
      const IdxArray known = IdxArray::parse(bytes_of(*file), 1, train.string());
      most = known.values.empty() ? 0 : *std::max_element(known.values.begin(), known.values.end());
      check(largest <= most, "images", labels.string(), " has the label ", largest, ", but ", train.string(),
            " only 0..", most);
    }
    classes_ = numbers(most + 1);
    const std::string sum = sha256_hex(label_file_->bytes());
    if (sum == kMnistLabels[0] || sum == kMnistLabels[1]) mean_ = {0.1307}, stddev_ = {0.3081};
  }

  int64_t size() const override { return images_.shape[0]; }
  int32_t label(int64_t i) const override { return labels_.values[static_cast<size_t>(i)]; }
  std::string name(int64_t i) const override { return name_ + " record " + std::to_string(i); }
  StoredImage read(int64_t i) const override {
    StoredImage image;
    image.pixels = Image(images_.shape[2], images_.shape[1], 1);
    const size_t bytes = image.pixels.pixels.size();
    const auto values = images_.values.subspan(static_cast<size_t>(i) * bytes, bytes);
    std::copy(values.begin(), values.end(), image.pixels.pixels.begin());
    return image;
  }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t channels() const override { return 1; }
  std::vector<double> mean() const override { return mean_; }
  std::vector<double> stddev() const override { return stddev_; }

 private:
  std::string name_;
  std::unique_ptr<InputFile> image_file_, label_file_;
  IdxArray images_, labels_;
  std::vector<std::string> classes_;
  std::vector<double> mean_, stddev_;
};

std::vector<std::string> idx_splits(const fs::path& folder) {
  std::vector<std::string> found;
  for (const char* split : {"train", "test"})
    if (!idx_file(folder, split, "images").empty()) found.push_back(split);
  return found;
}

template <class Set>
std::shared_ptr<const ImageSet> open(const fs::path& folder, const std::string& split) {
  return std::make_shared<Set>(folder, split);
}

}  // namespace

CifarBatch CifarBatch::parse(std::span<const uint8_t> bytes, int64_t label_bytes, int64_t classes,
                             const std::string& where) {
  CifarBatch batch{.label_bytes = label_bytes, .bytes = bytes};
  const int64_t size = static_cast<int64_t>(bytes.size());
  check(size % batch.record() == 0, where, "expected whole records of ", batch.record(), " bytes; got ", size,
        " bytes, ", size % batch.record(), " too many");
  batch.count = size / batch.record();
  for (int64_t i = 0; i < batch.count; ++i)
    check(batch.label(i) < classes, where, "record ", i, " has the label ", batch.label(i), "; expected 0..",
          classes - 1);
  return batch;
}

Image CifarBatch::image(int64_t i) const {
  Image image(kSide, kSide, 3);
  const uint8_t* planes = bytes.data() + i * record() + label_bytes;
  for (int64_t p = 0; p < kPlane; ++p)
    for (int64_t c = 0; c < 3; ++c) image.pixels[static_cast<size_t>(p * 3 + c)] = planes[c * kPlane + p];
  return image;
}

IdxArray IdxArray::parse(std::span<const uint8_t> bytes, size_t dimensions, const std::string& where) {
  check(bytes.size() >= 4 && bytes[0] == 0 && bytes[1] == 0, where,
        "not an IDX file; expected two zero bytes at its begin");
  check(bytes[2] == 8, where, "expected IDX of unsigned bytes (type 8); got type ", int{bytes[2]});
  check(bytes[3] == dimensions, where, "expected ", dimensions, " dimensions; got ", int{bytes[3]});
  check(bytes.size() >= 4 + 4 * dimensions, where, "the IDX header is cut short");
  IdxArray array;
  const int64_t rest = static_cast<int64_t>(bytes.size() - 4 - 4 * dimensions);
  int64_t product = 1;
  for (size_t d = 0; d < dimensions; ++d) {
    int64_t size = 0;
    for (size_t k = 0; k < 4; ++k) size = size * 256 + bytes[4 + 4 * d + k];
    check(d == 0 || size >= 1, where, "dimension ", d, " is 0");
    array.shape.push_back(size);
    // Stops before the product can overflow: every factor but the first is at least 1.
    check(size == 0 || product <= rest / size, where, "the header promises more values than the file has (", rest,
          " bytes)");
    product *= size;
  }
  check(product == rest, where, "the header promises ", product, " values; the file has ", rest);
  array.values = bytes.subspan(4 + 4 * dimensions);
  return array;
}

const ImageFormat kCifar = {"CIFAR binaries", cifar_splits, open<Cifar>};
const ImageFormat kIdx = {"IDX files", idx_splits, open<Idx>};

}  // namespace accrete
