// Class folders: SPLIT/<class>/**, the layout of ImageNet. The class of a picture is the rank of its folder's name.
#include <algorithm>
#include <array>
#include <set>

#include "data/image_formats.h"
#include "engine/core/error.h"
#include "engine/core/file.h"

namespace accrete {
namespace fs = std::filesystem;
namespace {

constexpr int kDeepest = 8;  // folders below a class: links may run in circles
constexpr size_t kLargestFile = size_t{1} << 31;

constexpr std::array kReadEndings = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pnm", ".bmp", ".gif"};
// Taken too, so that these are refused by name when they are read, and not silently left out.
constexpr std::array kForeignEndings = {".webp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".jxl"};

bool is_picture(const fs::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto in = [&](const auto& list) { return std::find(list.begin(), list.end(), ending) != list.end(); };
  return in(kReadEndings) || in(kForeignEndings);
}

std::vector<std::string> class_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with('.') && at->is_directory(ignored)) names.push_back(name);
  }
  if (error) fail("images", "cannot list ", folder.string(), ": ", error.message());
  std::sort(names.begin(), names.end());
  return names;
}

// Where the pictures of a split lie; empty when there is no such folder.
fs::path folder_of(const fs::path& root, const std::string& split) {
  const std::vector<std::string> names =
      split == "valid" ? std::vector<std::string>{"valid", "val", "validation"} : std::vector<std::string>{split};
  std::error_code ignored;
  for (const std::string& name : names)
    if (fs::is_directory(root / name, ignored)) return root / name;
  return {};
}

void check_same_classes(const fs::path& a, const std::vector<std::string>& in_a, const fs::path& b,
                        const std::vector<std::string>& in_b) {
  std::vector<std::string> only_a, only_b;
  std::set_difference(in_a.begin(), in_a.end(), in_b.begin(), in_b.end(), std::back_inserter(only_a));
  std::set_difference(in_b.begin(), in_b.end(), in_a.begin(), in_a.end(), std::back_inserter(only_b));
  if (only_a.empty() && only_b.empty()) return;
  const auto list = [](const std::vector<std::string>& names) {
    std::string text;
    for (size_t i = 0; i < std::min<size_t>(3, names.size()); ++i) text += (i ? ", \"" : "\"") + names[i] + "\"";
    return names.size() > 3 ? text + " and " + std::to_string(names.size() - 3) + " more" : text;
  };
  std::string difference = only_a.empty() ? "" : "only in " + a.filename().string() + ": " + list(only_a);
  if (!only_b.empty())
    difference += (difference.empty() ? "" : "; ") + ("only in " + b.filename().string()) + ": " + list(only_b);
  fail("images", "the classes (folders) of ", a.string(), " and ", b.string(), " differ: ", difference);
}

class ClassFolders : public ImageSet {
 public:
  explicit ClassFolders(const fs::path& folder) : folder_(folder), classes_(class_names(folder)) {
    for (size_t c = 0; c < classes_.size(); ++c) {
      const fs::path root = folder / classes_[c];
      std::vector<std::string> names;
      std::error_code error;
      fs::recursive_directory_iterator at(root, fs::directory_options::follow_directory_symlink, error), end;
      for (; !error && at != end; at.increment(error)) {
        check(at.depth() <= kDeepest, "images", root.string(), " is nested more than ", kDeepest, " folders deep");
        std::error_code ignored;
        // Whatever is no folder counts, also a link to nothing: it is refused by name when it is read. Only a pipe must
        // not be opened, because that waits for a writer.
        if (!is_picture(at->path()) || at->is_directory(ignored)) continue;
        check(!at->is_fifo(ignored), "images", at->path().string(), " is a pipe; expected a file");
        names.push_back(at->path().lexically_relative(root).generic_string());
      }
      if (error) fail("images", "cannot list ", root.string(), ": ", error.message());
      check(!names.empty(), "images", "the class folder ", root.string(), " has no picture");
      std::sort(names.begin(), names.end());
      for (const std::string& name : names) {
        begins_.push_back(names_.size());
        labels_.push_back(static_cast<int32_t>(c));
        names_ += name;
      }
    }
    begins_.push_back(names_.size());
  }

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  int32_t label(int64_t i) const override { return labels_[static_cast<size_t>(i)]; }
  std::string name(int64_t i) const override { return path(i).string(); }
  StoredImage read(int64_t i) const override {
    const auto file = std::make_shared<const MappedFile>(path(i));
    const auto bytes = file->bytes();
    check(bytes.size() <= kLargestFile, name(i), "the file is larger than ", kLargestFile, " bytes");
    StoredImage image;
    image.encoded = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
    image.owner = file;
    return image;
  }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t channels() const override { return 3; }

 private:
  fs::path path(int64_t i) const {
    const size_t k = static_cast<size_t>(i), begin = begins_[k];
    return folder_ / classes_[static_cast<size_t>(labels_[k])] / names_.substr(begin, begins_[k + 1] - begin);
  }

  fs::path folder_;
  std::vector<std::string> classes_;
  // A million names in one string: one by one they would take three times the memory.
  std::string names_;
  std::vector<size_t> begins_;  // of each name, and the end
  std::vector<int32_t> labels_;
};

std::vector<std::string> splits(const fs::path& root) {
  std::vector<std::string> found;
  for (const char* split : {"train", "valid", "test"})
    if (const fs::path folder = folder_of(root, split); !folder.empty() && !class_names(folder).empty())
      found.push_back(split);
  return found;
}

std::shared_ptr<const ImageSet> open(const fs::path& root, const std::string& split) {
  auto set = std::make_shared<ClassFolders>(folder_of(root, split));
  // A class that is missing on one side shifts the numbers of all that follow.
  const fs::path train = folder_of(root, "train");
  const fs::path other = folder_of(root, split == "train" ? "valid" : split);
  if (!train.empty() && !other.empty()) check_same_classes(train, class_names(train), other, class_names(other));
  return set;
}

}  // namespace

const ImageFormat kClassFolders = {"class folders", splits, open};

}  // namespace accrete
