#include "data/token_labels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/core/dtype.h"
#include "engine/core/error.h"

namespace accrete {

namespace {

static_assert(std::endian::native == std::endian::little);
constexpr char kMagic[] = "ACTOKLB1";
constexpr int64_t kHeaderBytes = 32, kMaxSide = 256, kMaxClasses = 65536, kMaxK = 16, kMaxCount = int64_t{1} << 40;

template <class T>
T load(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

void check_shape(const TokenLabelShape& s, int64_t count, const std::string& where) {
  check(s.classes >= 1 && s.classes <= kMaxClasses, where, "token labels have 1..", kMaxClasses, " classes; got ",
        s.classes);
  check(s.height >= 1 && s.height <= kMaxSide && s.width >= 1 && s.width <= kMaxSide, where,
        "token labels have grids of 1..", kMaxSide, " cells a side; got ", s.height, " x ", s.width);
  check(s.k >= 1 && s.k <= kMaxK && s.k <= s.classes, where, "token labels keep 1..", std::min(kMaxK, s.classes),
        " scores of a cell; got ", s.k);
  check(count >= 1 && count <= kMaxCount, where, "token labels need at least one picture; got ", count);
}

int64_t record_bytes(const TokenLabelShape& s) { return s.k * s.cells() * 4; }

// One axis of RoI-align: where sample i of `count` lies, the two cells around it and the weight of the second.
struct Sample {
  int64_t low = 0, high = 0;
  float weight = 0;
  bool inside = true;
};
Sample sample_at(double place, int64_t n) {
  Sample s;
  s.inside = place >= -1.0 && place <= static_cast<double>(n);
  if (!s.inside) return s;
  place = std::clamp(place, 0.0, static_cast<double>(n - 1));
  s.low = static_cast<int64_t>(place);
  s.high = std::min(s.low + 1, n - 1);
  s.weight = static_cast<float>(place - static_cast<double>(s.low));
  return s;
}

// The samples of cell `index` of g cells over [start, end): as many as map cells lie under it, evenly spaced.
std::vector<Sample> samples_of(double start, double end, int64_t g, int64_t index, int64_t n) {
  const double cell = (end - start) / static_cast<double>(g);
  const int64_t count = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(cell)));
  std::vector<Sample> all;
  for (int64_t i = 0; i < count; ++i)
    all.push_back(sample_at(
        start + cell * (static_cast<double>(index) + (static_cast<double>(i) + 0.5) / static_cast<double>(count)), n));
  return all;
}

// Sums of scores by class, of which few are not 0.
class Scores {
 public:
  explicit Scores(int64_t classes) : sums_(static_cast<size_t>(classes), 0.0f), seen_(sums_.size(), 0) {}
  void add(uint16_t c, float value) {
    if (!seen_[c]) seen_[c] = 1, touched_.push_back(c);
    sums_[c] += value;
  }
  // Softmax of sums * factor, smoothed, into out (classes); then forgets them.
  void softmax(float factor, double smoothing, float* out) {
    const auto classes = static_cast<double>(sums_.size());
    double top = 0;
    for (const uint16_t c : touched_) top = std::max(top, static_cast<double>(sums_[c] * factor));
    double total = (classes - static_cast<double>(touched_.size())) * std::exp(-top);
    for (const uint16_t c : touched_) total += std::exp(static_cast<double>(sums_[c] * factor) - top);
    const double off = smoothing / classes, on = 1.0 - smoothing + off;
    const auto probability = [&](double z) { return static_cast<float>(std::exp(z - top) / total * on + off); };
    std::fill_n(out, sums_.size(), probability(0));
    for (const uint16_t c : touched_) {
      out[c] = probability(static_cast<double>(sums_[c] * factor));
      sums_[c] = 0, seen_[c] = 0;
    }
    touched_.clear();
  }

 private:
  std::vector<float> sums_;
  std::vector<uint8_t> seen_;
  std::vector<uint16_t> touched_;
};

}  // namespace

TokenLabelWriter::TokenLabelWriter(const std::filesystem::path& path, const TokenLabelShape& shape,
                                   std::vector<int32_t> labels)
    : where_(path.string()), shape_(shape), file_(path), left_(static_cast<int64_t>(labels.size())) {
  check_shape(shape, left_, where_);
  for (const int32_t label : labels)
    check(label >= 0 && label < shape.classes, where_, "the class ", label, " lies outside 0..", shape.classes - 1);
  file_.write(std::string_view(kMagic, 8));
  const uint32_t sizes[4] = {static_cast<uint32_t>(shape.classes), static_cast<uint32_t>(shape.height),
                             static_cast<uint32_t>(shape.width), static_cast<uint32_t>(shape.k)};
  const auto count = static_cast<uint64_t>(left_);
  file_.write(sizes, sizeof sizes);
  file_.write(&count, sizeof count);
  file_.write(labels.data(), labels.size() * sizeof(int32_t));
}

void TokenLabelWriter::append(std::span<const float> scores, std::span<const int32_t> classes) {
  const auto n = static_cast<size_t>(shape_.k * shape_.cells());
  check(left_ > 0, where_, "got more maps than pictures; expected one for each label that the writer was made with");
  check(scores.size() == n && classes.size() == n, where_, "a map has ", n, " scores and classes; got ", scores.size(),
        " and ", classes.size());
  std::vector<uint16_t> halves(n), indices(n);
  for (size_t i = 0; i < n; ++i) {
    check(std::abs(scores[i]) <= 65504.0f, where_, "the score ", scores[i], " does not fit f16");
    check(classes[i] >= 0 && classes[i] < shape_.classes, where_, "the class ", classes[i], " lies outside 0..",
          shape_.classes - 1);
    for (size_t j = i % static_cast<size_t>(shape_.cells()); j < i; j += static_cast<size_t>(shape_.cells()))
      check(classes[j] != classes[i], where_, "a cell names the class ", classes[i], " twice");
    halves[i] = from_float<f16>(scores[i]).bits;
    indices[i] = static_cast<uint16_t>(classes[i]);
  }
  file_.write(halves.data(), 2 * n);
  file_.write(indices.data(), 2 * n);
  --left_;
}

void TokenLabelWriter::commit() {
  check(left_ == 0, where_, left_, " pictures have no map yet");
  file_.commit();
}

TokenLabels TokenLabels::open(const std::filesystem::path& path) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  const auto mapped = std::make_shared<const MappedFile>(folder ? path / "token_labels.bin" : path);
  TokenLabels labels = from_memory(mapped->bytes(), mapped->path().string());
  labels.owner_ = mapped;
  return labels;
}

TokenLabels TokenLabels::from_memory(std::span<const std::byte> bytes, const std::string& where) {
  check(static_cast<int64_t>(bytes.size()) >= kHeaderBytes && std::memcmp(bytes.data(), kMagic, 8) == 0, where,
        "is no file of token labels; expected ", kMagic, " in its first bytes");
  TokenLabels t;
  t.where_ = where;
  const auto size = [&](int64_t i) { return static_cast<int64_t>(load<uint32_t>(bytes.data(), 2 + i)); };
  t.shape_ = {size(0), size(1), size(2), size(3)};
  const auto count = load<uint64_t>(bytes.data(), 3);
  check(count <= static_cast<uint64_t>(kMaxCount), where, "token labels of ", count,
        " pictures cannot be; expected at most ", kMaxCount);
  t.count_ = static_cast<int64_t>(count);
  check_shape(t.shape_, t.count_, where);
  const int64_t expected = kHeaderBytes + t.count_ * (4 + record_bytes(t.shape_));
  check(static_cast<int64_t>(bytes.size()) == expected, where, "is cut short or damaged: ", t.count_, " maps need ",
        expected, " bytes; got ", bytes.size());
  t.labels_ = bytes.data() + kHeaderBytes;
  t.records_ = t.labels_ + 4 * t.count_;
  return t;
}

int32_t TokenLabels::label(int64_t i) const {
  check(i >= 0 && i < count_, where_, "has no map ", i, "; expected 0..", count_ - 1);
  return load<int32_t>(labels_, i);
}

const std::byte* TokenLabels::record(int64_t i) const {
  check(i >= 0 && i < count_, where_, "has no map ", i, "; expected 0..", count_ - 1);
  return records_ + i * record_bytes(shape_);
}

void TokenLabels::check_fits(int64_t classes, std::span<const int32_t> labels) const {
  check(shape_.classes == classes, where_, "token labels tell ", shape_.classes, " classes apart; expected ", classes,
        ", those of the data set");
  check(count_ == static_cast<int64_t>(labels.size()), where_, "has token labels of ", count_, " pictures; expected ",
        labels.size(), ", those of the training split");
  for (int64_t i = 0; i < count_; ++i)
    check(label(i) == labels[static_cast<size_t>(i)], where_, "token labels were made in another order: picture ", i,
          " has the class ", label(i), "; expected ", labels[static_cast<size_t>(i)]);
}

void TokenLabels::targets(int64_t i, const View& view, int64_t g, double smoothing, float* tokens, float* whole) const {
  const int64_t H = shape_.height, W = shape_.width, K = shape_.k, cells = shape_.cells();
  const std::byte* map = record(i);
  std::vector<float> values(static_cast<size_t>(K * cells));
  std::vector<uint16_t> classes(values.size());
  for (size_t n = 0; n < values.size(); ++n) {
    values[n] = to_float(f16{load<uint16_t>(map, static_cast<int64_t>(n))});
    classes[n] = load<uint16_t>(map, K * cells + static_cast<int64_t>(n));
    check(std::isfinite(values[n]) && classes[n] < shape_.classes, where_, "the map of picture ", i,
          " is damaged; expected finite scores of the classes 0..", shape_.classes - 1);
  }
  // Half a cell less: the value of a cell lies in its middle.
  const double top = view.y0 * static_cast<double>(H) - 0.5, bottom = view.y1 * static_cast<double>(H) - 0.5;
  const double left = view.x0 * static_cast<double>(W) - 0.5, right = view.x1 * static_cast<double>(W) - 0.5;
  Scores scores(shape_.classes);
  const auto align = [&](int64_t grid, float* out) {
    std::vector<std::vector<Sample>> columns;
    for (int64_t x = 0; x < grid; ++x) columns.push_back(samples_of(left, right, grid, x, W));
    for (int64_t y = 0; y < grid; ++y) {
      const std::vector<Sample> rows = samples_of(top, bottom, grid, y, H);
      for (int64_t x = 0; x < grid; ++x) {
        const auto& across = columns[static_cast<size_t>(view.flipped ? grid - 1 - x : x)];
        const auto add = [&](int64_t row, int64_t column, float weight) {
          if (weight == 0.0f) return;
          for (int64_t k = 0; k < K; ++k) {
            const auto at = static_cast<size_t>(k * cells + row * W + column);
            scores.add(classes[at], weight * values[at]);
          }
        };
        for (const Sample& r : rows)
          for (const Sample& c : across) {
            if (!r.inside || !c.inside) continue;
            add(r.low, c.low, (1 - r.weight) * (1 - c.weight));
            add(r.low, c.high, (1 - r.weight) * c.weight);
            add(r.high, c.low, r.weight * (1 - c.weight));
            add(r.high, c.high, r.weight * c.weight);
          }
        const float factor = 1.0f / static_cast<float>(rows.size() * across.size());
        scores.softmax(factor, smoothing, out + (y * grid + x) * shape_.classes);
      }
    }
  };
  if (tokens) align(g, tokens);
  if (whole) align(1, whole);
}

}  // namespace accrete
