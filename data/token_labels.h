// Token labels for VOLO (Jiang et al., arXiv 2104.10858; volo spec 6): for every training picture a grid of class
// scores from a strong model, of which the k largest of each cell are kept. One file holds them all:
//
//   bytes 0..7    "ACTOKLB1"
//   u32 classes, u32 height, u32 width, u32 k, u64 count          little-endian, as everything here
//   i32 (count)                    class of each picture, by which maps of another data set are noticed
//   for each picture: f16 (k, height, width) scores, u16 (k, height, width) classes of the scores
//
// Maps are found by the number of the picture in the training split.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/augment.h"
#include "engine/core/file.h"

namespace accrete {

struct TokenLabelShape {
  int64_t classes = 0, height = 0, width = 0, k = 5;
  int64_t cells() const { return height * width; }
  bool operator==(const TokenLabelShape&) const = default;
};

// Writes such a file, map by map; complete or not at all.
class TokenLabelWriter {
 public:
  TokenLabelWriter(const std::filesystem::path& path, const TokenLabelShape& shape, std::vector<int32_t> labels);
  // The map of the next picture. scores, classes: (k, height, width); scores must be finite and fit f16, classes lie in
  // [0, classes) and differ within a cell.
  void append(std::span<const float> scores, std::span<const int32_t> classes);
  void commit();  // Error unless there was a map for every label

 private:
  std::string where_;
  TokenLabelShape shape_;
  AtomicFile file_;
  int64_t left_;
};

class TokenLabels {
 public:
  // A file, or a folder with token_labels.bin. Error in one sentence when the file is damaged.
  static TokenLabels open(const std::filesystem::path& path);
  // The same for bytes in memory, which must outlive the result.
  static TokenLabels from_memory(std::span<const std::byte> bytes, const std::string& where);

  int64_t size() const { return count_; }
  const TokenLabelShape& shape() const { return shape_; }
  int32_t label(int64_t i) const;
  // Error in one sentence unless these maps are of pictures with these labels and so many classes.
  void check_fits(int64_t classes, std::span<const int32_t> labels) const;

  // Targets of what a training sample shows of picture i: the box of the view, cut from the map by RoI-align in g x g
  // cells and as one cell, mirrored where the view is; softmax over all classes (a class that is not among the k of a
  // cell has the score 0); then t (1 - s + s/C) + s/C with s = smoothing.
  // tokens: (g * g, classes), row by row; null: not wanted. whole: (classes)
  void targets(int64_t i, const View& view, int64_t g, double smoothing, float* tokens, float* whole) const;

 private:
  const std::byte* record(int64_t i) const;

  std::string where_;
  std::shared_ptr<const void> owner_;
  const std::byte *labels_ = nullptr, *records_ = nullptr;
  TokenLabelShape shape_;
  int64_t count_ = 0;
};

}  // namespace accrete
