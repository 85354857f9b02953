#include "training/trainers/incubation_parts.h"

#include <algorithm>

#include "engine/core/hash.h"
#include "training/grow.h"

namespace accrete {

namespace {

// The module that a parameter outside of the blocks belongs to: what comes first to the first, the end to the last,
// what lies between two groups of blocks to the first module behind it.
int64_t owner(const Partition& p, const ParamEntry& e) {
  if (e.last) return p.modules() - 1;
  return e.stage > 0 && !p.groups.empty() ? p.first_module_of(1) : 0;
}

}  // namespace

int64_t Partition::sum(const std::vector<int64_t>& list, int64_t end) {
  int64_t n = 0;
  for (size_t i = 0; i < static_cast<size_t>(end); ++i) n += list.at(i);
  return n;
}

std::vector<int64_t> Partition::by_group(const std::vector<int64_t>& list) const {
  if (groups.empty()) return {sum(list, modules())};
  std::vector<int64_t> blocks(static_cast<size_t>(groups.back()) + 1, 0);
  for (size_t k = 0; k < list.size(); ++k) blocks[at(groups[k])] += list[k];
  return blocks;
}

std::vector<int64_t> Partition::hybrid_depths(int64_t k) const {
  std::vector<int64_t> list = meta;
  list[at(k)] = depths[at(k)];
  return by_group(list);
}

int64_t Partition::first_module_of(int64_t group) const {
  for (int64_t k = 0; k < modules(); ++k)
    if (!groups.empty() && groups[at(k)] == group) return k;
  return 0;
}

bool trains(const Partition& p, Ends ends, int64_t k, const ParamEntry& e) {
  if (e.block >= 0) {
    return e.number >= p.hybrid_begin(k) && e.number < p.hybrid_begin(k) + p.depths[static_cast<size_t>(k)];
  }
  check(ends != Ends::own || e.marks.tie == Tie::none, "plan", "embeddings=own needs separate tables: ", e.name,
        " serves at both ends of the model; expected embeddings=shared_frozen, or a model without tied embeddings");
  return ends == Ends::own && k == owner(p, e);
}

Snapshot moved_blocks(const Snapshot& from, int64_t first, int64_t count, int64_t to,
                      const std::vector<int64_t>& depths) {
  int64_t blocks = 0;
  for (const ParamEntry& e : from.entries) blocks = std::max<int64_t>(blocks, e.number + 1);
  check(first + count <= blocks, "assemble", "blocks ", first, " to ", first + count - 1, " are wanted; the model has ",
        blocks);
  const auto groups = block_groups(from.entries);
  check(groups.size() == depths.size(), "assemble", "a model of ", groups.size(),
        " groups of blocks was cut as one of ", depths.size());
  std::vector<ParamEntry> entries;
  std::vector<int> sources;
  for (size_t i = 0; i < from.entries.size(); ++i) {
    ParamEntry e = from.entries[i];
    if (e.number < first || e.number >= first + count) continue;
    const std::string local = e.local_name();
    // Its place in the other model, whose groups have other depths.
    int64_t place = e.number - first + to;
    size_t g = 0;
    while (g + 1 < depths.size() && place >= depths[g]) place -= depths[g++];
    e.group = groups[g].first;
    e.block = static_cast<int>(place);
    e.name = e.group + "." + std::to_string(e.block) + "." + local;
    entries.push_back(std::move(e));
    sources.push_back(static_cast<int>(i));
  }
  Snapshot moved = empty_snapshot(std::move(entries));
  for (size_t i = 0; i < sources.size(); ++i) moved.value(static_cast<int>(i)).copy_from(from.value(sources[i]));
  return moved;
}

namespace {

Snapshot values_only(const Snapshot& from) {
  Snapshot s;
  s.entries = from.entries;
  s.values = from.values;
  return s;
}

BlockSet all_blocks(const Snapshot& s) {
  BlockSet blocks;
  for (const ParamEntry& e : s.entries)
    if (e.block >= 0) blocks.insert(e.group, e.block);
  return blocks;
}

}  // namespace

std::vector<Snapshot> hybrid_parts(const Snapshot& meta, const Snapshot& fresh, const Partition& p, Ends ends,
                                   Begin begin, int64_t k) {
  const int64_t at = p.hybrid_begin(k), depth = p.depths[static_cast<size_t>(k)], m = p.meta[static_cast<size_t>(k)];
  const int64_t meta_end = p.meta_begin(k) + m, target = p.target_begin(k);
  const std::vector<int64_t> depths = p.hybrid_depths(k);
  std::vector<Snapshot> parts;
  parts.push_back(moved_blocks(meta, 0, at, 0, depths));
  parts.push_back(moved_blocks(meta, meta_end, p.meta_depth() - meta_end, at + depth, depths));
  if (begin == Begin::random) {
    parts.push_back(moved_blocks(fresh, target, depth, at, depths));
  } else {
    parts.push_back(moved_blocks(meta, p.meta_begin(k), m, at, depths));
    const Snapshot rest = moved_blocks(fresh, target + m, depth - m, at + m, depths);
    parts.push_back(silence(rest, all_blocks(rest)));
  }
  const auto is_new = [&](const ParamEntry& e) { return begin == Begin::random && trains(p, ends, k, e); };
  parts.push_back(take(values_only(meta), [&](const ParamEntry& e) { return e.block < 0 && !is_new(e); }));
  parts.push_back(take(values_only(fresh), [&](const ParamEntry& e) { return e.block < 0 && is_new(e); }));
  return parts;
}

Snapshot target_part(const Snapshot& job, const Partition& p, int64_t k, int64_t first) {
  const Snapshot ends = take(values_only(job), [&](const ParamEntry& e) { return e.block < 0 && k == owner(p, e); });
  const Snapshot blocks =
      moved_blocks(job, first, p.depths[static_cast<size_t>(k)], p.target_begin(k), p.target_depths());
  std::vector<ParamEntry> entries = ends.entries;
  entries.insert(entries.end(), blocks.entries.begin(), blocks.entries.end());
  return assemble(std::vector<Snapshot>{ends, blocks}, entries);
}

std::string checksum(const Snapshot& weights) {
  Sha256 hash;
  for (size_t i = 0; i < weights.entries.size(); ++i) {
    const Tensor v = weights.value(static_cast<int>(i));
    hash.update(v.data(), static_cast<size_t>(v.bytes()));
  }
  return hash.hex();
}

}  // namespace accrete
