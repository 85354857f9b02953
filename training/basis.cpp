#include "training/basis.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "engine/core/device.h"
#include "engine/ops/subspace.h"
#include "training/gram_schmidt.h"

namespace accrete {
namespace {

constexpr int64_t kTile = kernels::kSubspaceTile;  // elements; a multiple of the quantisation group
constexpr size_t kChunk = 16;                      // tiles whose products are summed by one thread
constexpr size_t kWakeUp = 1 << 8;                 // tile rows; below, a team of threads does not pay
constexpr double kDependent = 1e-6;                // of |mean|: rounding of the snapshots makes directions of 1e-7
constexpr double kNoRow = 1e-7;                    // of |mean|
constexpr double kNearlyDependent = 1e3;  // condition above which a second correction is made: 1e-16 cond^2 = 1e-10
constexpr double kOrthonormal = 1e-5;

size_t at(int i, int j, int columns) {
  return static_cast<size_t>(i) * static_cast<size_t>(columns) + static_cast<size_t>(j);
}

// Largest allowed size of a block that another parameter may still join; -1: none may.
int64_t joins_up_to(const std::string& rule) {
  const std::string prefix = "min_elements:";
  if (rule == "single") return std::numeric_limits<int64_t>::max();
  if (rule == "per_tensor" || rule == "per_block") return 0;
  int64_t n = 0;
  const char *begin = rule.c_str() + std::min(prefix.size(), rule.size()), *end = rule.c_str() + rule.size();
  const auto [rest, error] = std::from_chars(begin, end, n);
  check(rule.starts_with(prefix) && begin != end && error == std::errc() && rest == end && n >= 0, "basis",
        "unknown blocks \"", rule, "\"; expected single, per_tensor, per_block or min_elements:N");
  return n;
}

}  // namespace

void check_block_rule(const std::string& rule) { joins_up_to(rule); }

std::vector<Run> cut_blocks(const std::vector<ParamEntry>& entries, const std::string& rule) {
  const int64_t most = joins_up_to(rule);
  std::vector<Run> runs;
  int block = 0;
  int64_t size = 0;  // of the present block
  const ParamEntry* before = nullptr;
  for (const ParamEntry& e : entries) {
    if (!e.trainable || e.count() == 0) continue;
    const bool joins =
        rule == "per_block" ? before && before->group == e.group && before->block == e.block : size <= most;
    if (before && !joins) ++block, size = 0;
    size += e.count();
    // Over padding, which is zero, neighbours make one run.
    if (!runs.empty() && runs.back().block == block && &e == before + 1)
      runs.back().count = e.offset + e.count() - runs.back().begin;
    else
      runs.push_back({e.offset, e.count(), block});
    before = &e;
  }
  return runs;
}

// Builds one block after the other: Gram matrix, map, rows.
class Basis::Builder {
 public:
  Builder(Basis& basis, const SnapshotFiles& snapshots, const std::filesystem::path& folder)
      : b_(basis), folder_(folder), n_(snapshots.count()), total_(at(n_, 0, n_), 0.0) {
    const std::vector<Run> runs = cut_blocks(snapshots.entries(), b_.config_.blocks);
    b_.blocks_ = runs.empty() ? 0 : runs.back().block + 1;
    b_.block_.resize(static_cast<size_t>(b_.blocks_));
    cut_tiles(runs);
    const std::string& rows = b_.config_.rows;
    if (rows == "cgs2" || rows == "cgs1_f32") {
      check(b_.share_.ranks == 1, "basis", rows, " runs in one process; expected \"orthonormal\"");
      by_steps_.emplace(
          gram_schmidt(snapshots, runs, b_.config_.center, rows == "cgs1_f32", kDependent, folder / "rows"));
    } else {
      check(rows == "orthonormal" || rows == "unit", "basis", "unknown rows \"", rows,
            "\"; expected orthonormal, unit, cgs2 or cgs1_f32");
    }
    std::filesystem::create_directories(folder);
    AtomicFile out(folder / "basis.bin");
    for (int l = 0; l < b_.blocks_; ++l) build(snapshots, l, out);
    if (b_.report_.bytes > 0) out.commit();
    std::error_code ignored;
    std::filesystem::remove_all(folder / "rows", ignored);
    for (const Block& block : b_.block_) b_.report_.rank = std::max(b_.report_.rank, block.rank);
    const std::vector<double> values = eigen(total_, n_).values;
    double trace = 0;
    for (int i = 0; i < n_; ++i) trace += total_[at(i, i, n_)];
    b_.report_.spread = std::sqrt(std::max(0.0, trace / n_ - (b_.config_.center ? 0 : total_mean2_)));
    double smallest = std::sqrt(values.empty() ? 0 : std::max(0.0, values[0]));
    const double largest = smallest, floor = kDependent * std::sqrt(total_mean2_);
    for (const double value : values)
      if (value > 0 && std::sqrt(value) > floor) smallest = std::sqrt(value);
    b_.report_.cond = smallest > 0 ? largest / smallest : 1;
  }

 private:
  void cut_tiles(const std::vector<Run>& runs) {
    std::vector<Tile> all;
    for (const Run& r : runs) {
      b_.block_[static_cast<size_t>(r.block)].count += r.count;
      for (int64_t begin = 0; begin < r.count; begin += kTile)
        all.push_back({r.begin + begin, std::min(kTile, r.count - begin), 0, 0, r.block});
    }
    const auto count = static_cast<int64_t>(all.size());
    const int64_t first = share_begin(count, b_.share_.rank, b_.share_.ranks);
    b_.tiles_.assign(all.begin() + first, all.begin() + share_begin(count, b_.share_.rank + 1, b_.share_.ranks));
    size_t t = 0;
    for (int l = 0; l < b_.blocks_; ++l) {
      Block& block = b_.block_[static_cast<size_t>(l)];
      block.first = t;
      while (t < b_.tiles_.size() && b_.tiles_[t].block == l) ++t;
      block.last = t;
    }
  }

  // values_ (n, count) = the snapshots' elements of a tile, less their mean where the basis is centred.
  void load(const SnapshotFiles& files, const Tile& tile, bool center) {
    const auto count = static_cast<size_t>(tile.count);
    values_.resize(static_cast<size_t>(n_) * count);
    floats_.resize(values_.size());
#pragma omp parallel for num_threads(cpu_context().threads) schedule(static)
    for (int i = 0; i < n_; ++i) {
      float* row = floats_.data() + static_cast<size_t>(i) * count;
      files.read(i, tile.begin, tile.count, row);
      std::copy(row, row + count, values_.data() + static_cast<size_t>(i) * count);
    }
    mean_.assign(count, 0.0);
    for (int i = 0; i < n_; ++i)
      for (size_t k = 0; k < count; ++k) mean_[k] += values_[static_cast<size_t>(i) * count + k];
    for (size_t k = 0; k < count; ++k) mean_[k] /= n_;
    for (int i = 0; center && i < n_; ++i)
      for (size_t k = 0; k < count; ++k) values_[static_cast<size_t>(i) * count + k] -= mean_[k];
  }

  // gram (r, r) += rows rows^T; rows: (r, count)
  template <class T>
  static void add_gram(Matrix& gram, const std::vector<T>& rows, int r, int64_t count) {
#pragma omp parallel for num_threads(cpu_context().threads) schedule(dynamic)
    for (int i = 0; i < r; ++i) {
      const T* a = rows.data() + i * count;
      for (int j = 0; j <= i; ++j) {
        const T* b = rows.data() + j * count;
        double sums[8] = {};
        int64_t k = 0;
        for (; k + 8 <= count; k += 8)
          for (int s = 0; s < 8; ++s) sums[s] += static_cast<double>(a[k + s]) * static_cast<double>(b[k + s]);
        for (; k < count; ++k) sums[0] += static_cast<double>(a[k]) * static_cast<double>(b[k]);
        gram[at(i, j, r)] += ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
      }
    }
  }
  void complete(Matrix& gram, int r) const {
    for (int i = 0; i < r; ++i)
      for (int j = 0; j < i; ++j) gram[at(j, i, r)] = gram[at(i, j, r)];
    b_.share_.sum(gram);
  }

  // rows_ (rank, count) = map^T values_, rounded to f32.
  void combine(const Block& block, int64_t count) {
    const auto size = static_cast<size_t>(count);
    rows_.resize(static_cast<size_t>(block.rank) * size);
#pragma omp parallel for num_threads(cpu_context().threads) schedule(dynamic)
    for (int q = 0; q < block.rank; ++q) {
      std::vector<double> sum(size, 0.0);
      for (int i = 0; i < n_; ++i) {
        const double m = block.map[at(i, q, block.rank)];
        const double* x = values_.data() + static_cast<size_t>(i) * size;
        for (size_t k = 0; m != 0 && k < size; ++k) sum[k] += m * x[k];
      }
      std::copy(sum.begin(), sum.end(), rows_.data() + static_cast<size_t>(q) * size);
    }
  }

  void make_map(Block& block, const Matrix& gram, double mean_length) {
    if (b_.config_.rows == "unit") {
      block.rank = n_;
      block.map.assign(at(n_, 0, n_), 0.0);
      block.back = block.map;
      for (int i = 0; i < n_; ++i) {
        const double length = std::sqrt(gram[at(i, i, n_)]);
        if (length <= kNoRow * mean_length) continue;
        block.map[at(i, i, n_)] = 1 / length;
        block.back[at(i, i, n_)] = length;
      }
      return;
    }
    const Orthonormaliser o = orthonormaliser(gram, n_, kDependent * mean_length);
    block.rank = o.rank;
    block.map = o.map;
    if (o.rank > 0 && o.singular[0] > kNearlyDependent * o.singular[static_cast<size_t>(o.rank) - 1]) correct(block);
    block.back = product(transposed(block.map, n_, block.rank), gram, block.rank, n_, n_);
  }

  // The second step of CholeskyQR2: the Gram matrix of the rows shows what rounding left, and the map takes it out.
  void correct(Block& block) {
    Matrix gram(at(block.rank, 0, block.rank), 0.0);
    for (size_t t = block.first; t < block.last; ++t) {
      load(*files_, b_.tiles_[t], center_);
      combine(block, b_.tiles_[t].count);
      add_gram(gram, rows_, block.rank, b_.tiles_[t].count);
    }
    complete(gram, block.rank);
    Matrix r;
    check(cholesky(r, gram, block.rank), "basis", "the snapshots are too close to dependent; expected rows=cgs2");
    block.map = product(block.map, upper_inverse(r, block.rank), n_, block.rank, block.rank);
  }

  void build(const SnapshotFiles& snapshots, int l, AtomicFile& out) {
    Block& block = b_.block_[static_cast<size_t>(l)];
    files_ = &snapshots, center_ = b_.config_.center;
    Matrix gram(at(n_, 0, n_), 0.0);
    double mean2 = 0;
    for (size_t t = block.first; t < block.last; ++t) {
      load(snapshots, b_.tiles_[t], center_);
      for (const double m : mean_) mean2 += m * m;
      add_gram(gram, values_, n_, b_.tiles_[t].count);
    }
    complete(gram, n_);
    b_.share_.sum({&mean2, 1});
    for (size_t k = 0; k < gram.size(); ++k) total_[k] += gram[k];
    total_mean2_ += mean2;
    if (by_steps_) {  // rows are there already
      files_ = &by_steps_->rows, center_ = false;
      block.rank = n_;
      block.map.assign(at(n_, 0, n_), 0.0);
      for (int i = 0; i < n_; ++i) block.map[at(i, i, n_)] = 1;
    } else {
      make_map(block, gram, std::sqrt(mean2));
    }
    write(block, out);
    if (by_steps_) {
      block.map = by_steps_->map[static_cast<size_t>(l)];
      block.back = by_steps_->back[static_cast<size_t>(l)];
    }
  }

  // Rows of a block into the file, with their lengths and how orthonormal they are.
  void write(Block& block, AtomicFile& out) {
    const int r = block.rank;
    const bool orthonormal = b_.config_.rows != "unit";
    const bool grouped = b_.precision_ != Precision::f32 && b_.precision_ != Precision::bf16;
    const auto unit = static_cast<float>(grouped ? std::sqrt(static_cast<double>(block.count)) : 1.0);
    Matrix gram(orthonormal ? at(r, 0, r) : 0, 0.0);
    // Of each row: |stored|^2, |row|^2, <stored, row>.
    std::vector<double> sums(static_cast<size_t>(3 * r), 0.0);
    for (size_t t = block.first; t < block.last; ++t) {
      Tile& tile = b_.tiles_[t];
      load(*files_, tile, center_);
      combine(block, tile.count);
      if (orthonormal) add_gram(gram, rows_, r, tile.count);
      tile.bytes = encoded_bytes(b_.precision_, tile.count);
      tile.offset = b_.report_.bytes;
      encoded_.resize(static_cast<size_t>(tile.bytes * r));
#pragma omp parallel for num_threads(cpu_context().threads) schedule(static)
      for (int q = 0; q < r; ++q) {
        float* row = rows_.data() + q * tile.count;
        for (int64_t k = 0; k < tile.count; ++k) row[k] *= unit;
        std::byte* code = encoded_.data() + q * tile.bytes;
        encode(b_.precision_, code, row, tile.count);
        std::vector<float> stored(static_cast<size_t>(tile.count));
        decode(b_.precision_, stored.data(), code, tile.count);
        const auto* s = reinterpret_cast<const std::byte*>(stored.data());
        double* sum = sums.data() + static_cast<ptrdiff_t>(3) * q;
        sum[0] += dot(Precision::f32, s, stored.data(), tile.count);
        sum[1] += dot(Precision::f32, reinterpret_cast<const std::byte*>(row), row, tile.count);
        sum[2] += dot(Precision::f32, s, row, tile.count);
      }
      out.write(encoded_.data(), encoded_.size());
      b_.report_.bytes += static_cast<int64_t>(encoded_.size());
    }
    b_.share_.sum(sums);
    block.factors.assign(static_cast<size_t>(r), 0.0);
    for (int q = 0; q < r; ++q) {
      const double* sum = sums.data() + static_cast<ptrdiff_t>(3) * q;
      if (sum[0] <= 0) continue;
      block.factors[static_cast<size_t>(q)] = 1 / std::sqrt(sum[0]);
      b_.report_.cosine = std::min(b_.report_.cosine, sum[2] / std::sqrt(sum[0] * sum[1]));
    }
    if (orthonormal) judge(gram, r, block);
  }

  void judge(Matrix& gram, int r, const Block& block) {
    complete(gram, r);
    BasisReport& report = b_.report_;
    if (r > 0) report.lambda_max = std::max(report.lambda_max, eigen(gram, r).values[0]);
    for (int q = 0; q < r; ++q)  // a row that is not there is no mistake
      if (block.factors[static_cast<size_t>(q)] == 0) gram[at(q, q, r)] = 1;
    report.orthogonality_error = std::max(report.orthogonality_error, distance_from_identity(gram, r));
    check(b_.config_.rows == "cgs1_f32" || report.orthogonality_error <= kOrthonormal, "basis",
          "the rows are not orthonormal: max |P^T P - I| is ", report.orthogonality_error, "; expected at most ",
          kOrthonormal, "; hint: basis=cgs2, or fewer snapshots that lie closer together");
  }

  Basis& b_;
  std::filesystem::path folder_;
  int n_;
  Matrix total_;  // Gram matrix over all blocks
  double total_mean2_ = 0;
  std::optional<GramSchmidt> by_steps_;
  const SnapshotFiles* files_ = nullptr;  // what combine() combines
  bool center_ = false;
  std::vector<double> values_, mean_;
  std::vector<float> floats_, rows_;
  std::vector<std::byte> encoded_;
};

Basis::Basis(const SnapshotFiles& snapshots, const BasisConfig& config, const std::filesystem::path& folder,
             RowShare share)
    : config_(config), precision_(precision_of(config.precision)), share_(std::move(share)), n_(snapshots.count()) {
  check(n_ >= 1, "basis", "there is no snapshot");
  Builder(*this, snapshots, folder);
  if (report_.bytes > 0) file_ = std::make_unique<MappedFile>(folder / "basis.bin");
}

std::vector<double> Basis::project(const float* g) const {
  const auto r = static_cast<size_t>(rank());
  std::vector<std::pair<size_t, size_t>> chunks;  // neighbouring tiles of one block
  for (const Block& block : block_)
    for (size_t t = block.first; t < block.last; t += kChunk) chunks.emplace_back(t, std::min(block.last, t + kChunk));
  std::vector<double> parts(chunks.size() * r, 0.0);
#pragma omp parallel for num_threads(cpu_context().threads) schedule(dynamic) if (tiles_.size() * r > kWakeUp)
  for (size_t c = 0; c < chunks.size(); ++c) {
    for (size_t t = chunks[c].first; t < chunks[c].second; ++t) {
      const Tile& tile = tiles_[t];
      for (int q = 0; q < block_[static_cast<size_t>(tile.block)].rank; ++q)
        parts[c * r + static_cast<size_t>(q)] +=
            dot(precision_, file_->bytes().data() + tile.offset + q * tile.bytes, g + tile.begin, tile.count);
    }
  }
  std::vector<double> result(static_cast<size_t>(size()), 0.0);
  for (size_t c = 0; c < chunks.size(); ++c) {
    const auto l = static_cast<size_t>(tiles_[chunks[c].first].block);
    for (size_t q = 0; q < r; ++q) result[l * r + q] += parts[c * r + q];
  }
  finish(result);
  return result;
}

void Basis::finish(std::vector<double>& sums) const {
  share_.sum(sums);
  for (size_t l = 0; l < block_.size(); ++l)
    for (size_t q = 0; q < block_[l].factors.size(); ++q)
      sums[l * static_cast<size_t>(rank()) + q] *= block_[l].factors[q];
}

void Basis::expand(float* out, const float* start, std::span<const double> change) const {
  check(change.size() == static_cast<size_t>(size()), "basis", "expected ", size(), " coefficients; got ",
        change.size());
  const auto r = static_cast<size_t>(rank());
#pragma omp parallel for num_threads(cpu_context().threads) schedule(dynamic, 4) if (tiles_.size() * r > kWakeUp)
  for (size_t t = 0; t < tiles_.size(); ++t) {
    const Tile& tile = tiles_[t];
    const Block& block = block_[static_cast<size_t>(tile.block)];
    double sum[kTile];
    std::copy(start + tile.begin, start + tile.begin + tile.count, sum);
    for (int q = 0; q < block.rank; ++q) {
      const double a =
          change[static_cast<size_t>(tile.block) * r + static_cast<size_t>(q)] * block.factors[static_cast<size_t>(q)];
      if (a != 0) axpy(precision_, sum, a, file_->bytes().data() + tile.offset + q * tile.bytes, tile.count);
    }
    for (int64_t k = 0; k < tile.count; ++k) out[tile.begin + k] = static_cast<float>(sum[k]);
  }
}

std::vector<double> Basis::coefficients_of(std::span<const double> alpha) const {
  check(alpha.size() == static_cast<size_t>(n_), "basis", "expected ", n_, " shares of snapshots; got ", alpha.size());
  // Centred: the same weights are mean + sum_i (alpha_i - 1/n) (w_i - mean).
  std::vector<double> x(static_cast<size_t>(size()), 0.0);
  for (size_t l = 0; l < block_.size(); ++l)
    for (int q = 0; q < block_[l].rank; ++q)
      for (int i = 0; i < n_; ++i)
        x[l * static_cast<size_t>(rank()) + static_cast<size_t>(q)] +=
            block_[l].back[at(q, i, n_)] * (alpha[static_cast<size_t>(i)] - (config_.center ? 1.0 / n_ : 0.0));
  return x;
}

std::vector<double> Basis::alpha_of(std::span<const double> coefficients) const {
  std::vector<double> alpha(block_.size() * static_cast<size_t>(n_), 0.0);
  for (size_t l = 0; l < block_.size(); ++l) {
    double* a = alpha.data() + l * static_cast<size_t>(n_);
    double mean = 0;
    for (int i = 0; i < n_; ++i) {
      for (int q = 0; q < block_[l].rank; ++q)
        a[i] += block_[l].map[at(i, q, block_[l].rank)] *
                coefficients[l * static_cast<size_t>(rank()) + static_cast<size_t>(q)];
      mean += a[i] / n_;
    }
    for (int i = 0; config_.center && i < n_; ++i) a[i] += 1.0 / n_ - mean;
  }
  return alpha;
}

}  // namespace accrete
