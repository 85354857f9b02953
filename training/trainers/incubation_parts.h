// Deep Incubation on snapshots: how a chain of blocks is cut into modules, how one module of the meta model is
// replaced, and how the trained modules become the target. Method and formulas: incubation.h.
#pragma once

#include <string>
#include <vector>

#include "training/snapshot.h"
#include "training/stage.h"

namespace accrete {

// A model of L blocks in K contiguous modules, and the meta model with few blocks for each. Meta model, hybrids and
// target are the same architecture with another number of blocks.
struct Partition {
  std::vector<int64_t> depths;  // blocks of each module of the target
  std::vector<int64_t> meta;    // blocks of each module of the meta model
  // Models with several groups of blocks: the group that each module lies in; empty: there is one group.
  std::vector<int64_t> groups;

  int64_t modules() const { return static_cast<int64_t>(depths.size()); }
  // Module k among the blocks of the target, of the meta model, and of the hybrid that has module k in its place.
  int64_t target_begin(int64_t k) const { return sum(depths, k); }
  int64_t meta_begin(int64_t k) const { return sum(meta, k); }
  int64_t hybrid_begin(int64_t k) const { return meta_begin(k); }
  int64_t target_depth() const { return sum(depths, modules()); }
  int64_t meta_depth() const { return sum(meta, modules()); }
  int64_t hybrid_depth(int64_t k) const { return meta_depth() - meta[at(k)] + depths[at(k)]; }
  // The same for each group of blocks.
  std::vector<int64_t> target_depths() const { return by_group(depths); }
  std::vector<int64_t> meta_depths() const { return by_group(meta); }
  std::vector<int64_t> hybrid_depths(int64_t k) const;
  // The module that owns what lies between two groups of blocks (a down-sampling): the first behind it.
  int64_t first_module_of(int64_t group) const;

 private:
  static size_t at(int64_t k) { return static_cast<size_t>(k); }
  static int64_t sum(const std::vector<int64_t>& list, int64_t end);
  std::vector<int64_t> by_group(const std::vector<int64_t>& list) const;
};

// Who trains what lies outside of the blocks. `shared_frozen`: nobody; the meta model's serves in all hybrids and goes
// into the target (for tied embeddings, whose one table belongs to the first and the last module). `own`: the first job
// has a new one of what comes before the blocks, the last job of what comes after them (arXiv 2212.04129).
enum class Ends : uint8_t { shared_frozen, own };
// How module k begins: as the target would; or as its meta module, whose blocks it copies, with further blocks that
// pass their input on, so that hybrids and target compute what the meta model computes.
enum class Begin : uint8_t { random, from_meta };

// True for parameters of hybrid k that job k trains. Error for Ends::own when input and output share a table.
bool trains(const Partition& p, Ends ends, int64_t k, const ParamEntry& e);

// Blocks [first, first + count) as blocks [to, to + count) of a model with `depths`, values only; numbers go through
// all groups. Error when there are not so many.
Snapshot moved_blocks(const Snapshot& from, int64_t first, int64_t count, int64_t to,
                      const std::vector<int64_t>& depths);

// The hybrid k, in parts for assemble(): the meta model with module k from `fresh`, values of the whole target.
std::vector<Snapshot> hybrid_parts(const Snapshot& meta, const Snapshot& fresh, const Partition& p, Ends ends,
                                   Begin begin, int64_t k);

// What job k brings into the target: its module, which begins at block `first` of the job's model, what lies before the
// blocks from the first job, what lies after them from the last.
Snapshot target_part(const Snapshot& job, const Partition& p, int64_t k, int64_t first);

// SHA-256 of all values in order of the entries: that of checkpoint.h for weights outside of a model.
std::string checksum(const Snapshot& weights);

}  // namespace accrete
