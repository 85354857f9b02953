// A basis of the span of snapshots, kept in a file: w = w0 + P x with few numbers x (twa spec 3, 4, 6, 9).
//
// The flat buffer is cut into blocks (of parameters), each with rows and coefficients of its own. Block l of a row is a
// combination of the snapshots' blocks, M_l^T (W_l - mean_l 1^T) or without the mean, and everything follows from the
// Gram matrix of that block:
//   orthonormal   CholeskyQR2: M = R^-1 of the f64 Gram matrix, corrected once where the snapshots are nearly
//                 dependent; eigenvectors where some are dependent (singular value <= 1e-6 |mean|: dropped)
//   unit          M = diag(1 / length): every snapshot keeps its direction (lengths <= 1e-7 |mean|: no row)
//   cgs2          Gram-Schmidt with two passes: as good, n^2 / 2 reads of vectors instead of 2 n
//   cgs1_f32      Gram-Schmidt with one pass, all in f32: what the released code does. Loses orthogonality (spec 9.2)
//
// Snapshots are read in tiles and rows written in tiles, so memory stays the same whatever their number; a tile holds
// all rows of its elements, which makes both products one sequential read. All sums have a fixed order: the same bits
// whatever the number of threads, and in every process.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/core/config.h"
#include "engine/core/file.h"
#include "training/gram.h"
#include "training/quantise.h"
#include "training/snapshot_files.h"

namespace accrete {

// ---- blocks ---------------------------------------------------------------------------------------------------------

// Elements [begin, begin + count) of the flat buffer belong to a block.
struct Run {
  int64_t begin = 0, count = 0;
  int block = 0;
};

// Cuts what trains of a model into blocks of neighbours:
//   single          one block
//   per_tensor      every parameter
//   per_block       every residual block of the model, and what lies between them
//   min_elements:N  a parameter joins the block before it while that has at most N elements
std::vector<Run> cut_blocks(const std::vector<ParamEntry>& entries, const std::string& rule);
void check_block_rule(const std::string& rule);

// ---- one process of several -----------------------------------------------------------------------------------------

// `count` things over `ranks` processes: the first (count mod ranks) take one more; with fewer things than processes
// some take none. Begin of rank `rank`, which is the end of the one before.
inline int64_t share_begin(int64_t count, int rank, int ranks) {
  return count / ranks * rank + std::min<int64_t>(rank, count % ranks);
}

// Rows partitioned over processes by their elements (spec 6.2): each holds the tiles of its share, of every row, and
// sums what small numbers its share gives over all processes. The default is the only process.
struct RowShare {
  int rank = 0, ranks = 1;
  std::function<void(std::span<double>)> sum = [](std::span<double>) {};
};

// ---- the basis ------------------------------------------------------------------------------------------------------

struct BasisConfig {
  bool center = false;               // rows are differences to the mean
  std::string rows = "orthonormal";  // by the names above
  std::string blocks = "single";
  std::string precision = "f32";  // of the stored rows (quantise.h); rows keep length 1
};

struct BasisReport {
  int rank = 0;                    // of all blocks the largest
  double spread = 0;               // root mean square distance of the snapshots from their mean
  double cond = 0;                 // of the snapshots (centred where the basis is): largest / smallest kept
  double orthogonality_error = 0;  // max |P^T P - I| over the blocks, of the rows before they are rounded; unit: 0
  double lambda_max = 0;           // largest eigenvalue of P^T P; unit: 0
  double cosine = 1;               // smallest between a row and its stored form
  int64_t bytes = 0;               // of the file
};

class Basis {
 public:
  // Writes folder / "basis.bin". Error for an orthonormal basis that is none (cgs1_f32 excepted).
  Basis(const SnapshotFiles& snapshots, const BasisConfig& config, const std::filesystem::path& folder,
        RowShare share = {});

  int snapshots() const { return n_; }
  int rank() const { return report_.rank; }
  int blocks() const { return blocks_; }
  int size() const { return blocks_ * rank(); }  // coefficients; number l * rank() + q belongs to row q of block l
  const BasisReport& report() const { return report_; }

  // P^T g for a flat buffer g on the host.
  std::vector<double> project(const float* g) const;
  // out = start + P change, rounded once; elements without a change keep the bits of `start`. Elements of no block, and
  // of other shares, are not written. `out` may be `start`.
  void expand(float* out, const float* start, std::span<const double> change) const;

  // Coefficients of the weights sum_i alpha_i w_i, and back: alpha of block l is [l * snapshots(), ...).
  std::vector<double> coefficients_of(std::span<const double> alpha) const;
  std::vector<double> alpha_of(std::span<const double> coefficients) const;

 private:
  struct Tile {
    int64_t begin, count;  // elements of the flat buffer
    int64_t bytes;         // of one row
    int64_t offset;        // in the file
    int block;
  };
  // Everything about one block: rows = map^T snapshots; inverse: coefficients = back * alpha.
  struct Block {
    int rank = 0;
    Matrix map, back;             // (n, rank), (rank, n)
    std::vector<double> factors;  // (rank) 1 / length of the stored row; 0: no row
    size_t first = 0, last = 0;   // its tiles
    int64_t count = 0;            // elements, of all shares
  };
  class Builder;
  friend class DeviceBasis;  // the same products on a device

  // sums: <stored row, g> over the elements of this share -> P^T g.
  void finish(std::vector<double>& sums) const;

  BasisConfig config_;
  Precision precision_;
  RowShare share_;
  int n_ = 0, blocks_ = 0;
  BasisReport report_;
  std::vector<Tile> tiles_;  // of this share
  std::vector<Block> block_;
  std::unique_ptr<MappedFile> file_;
};

// The verbs by their names: an orthonormal basis of the span of snapshots, P^T g, and w0 + P change.
inline Basis orthonormal_basis(const SnapshotFiles& snapshots, const std::filesystem::path& folder) {
  return {snapshots, BasisConfig{}, folder};
}
inline std::vector<double> project(const Basis& basis, const Tensor& gradient) {
  return basis.project(gradient.ptr<float>());
}
inline void expand(const Basis& basis, const Tensor& out, const Tensor& start, std::span<const double> change) {
  basis.expand(out.ptr<float>(), start.ptr<float>(), change);
}

}  // namespace accrete
