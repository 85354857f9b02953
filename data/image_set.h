// ImageSet: the pictures of one split by number, with their classes. What all formats look like from outside: folders
// of classes, shards made by `prepare images`, CIFAR binaries, IDX files (MNIST).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/image.h"

namespace accrete {

class ImageSet {
 public:
  virtual ~ImageSet() = default;
  virtual int64_t size() const = 0;
  virtual int32_t label(int64_t i) const = 0;                   // in [0, classes)
  virtual std::string name(int64_t i) const = 0;                // for messages: a path, or file and record
  virtual StoredImage read(int64_t i) const = 0;                // thread-safe; Error when the file cannot be read
  virtual const std::vector<std::string>& classes() const = 0;  // names, in the order of the labels
  virtual int64_t channels() const = 0;                         // of the decoded pictures: 3, or 1 for grey data sets
  // Mean and standard deviation of each channel on [0, 1], where the data set states them; empty: it does not.
  virtual std::vector<double> mean() const { return {}; }
  virtual std::vector<double> stddev() const { return {}; }
};

// Opens a split ("train", "valid" or "test") of any of the formats; "valid" falls back on what the format calls its
// held-out data (val, test). Error in one sentence when the path holds none of them, when a split has no picture, or
// when classes of train and valid differ.
std::shared_ptr<const ImageSet> open_images(const std::filesystem::path& path, const std::string& split);

// The splits that the path really holds, of "train", "valid", "test" in this order; each can be opened by its name.
// Error when it holds none of the formats.
std::vector<std::string> image_splits(const std::filesystem::path& path);

}  // namespace accrete
