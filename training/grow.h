// The verbs of growth: pure functions from snapshots to snapshots. Models only declare roles, blocks and marks
// (engine/nn/params.h), so a verb works on every model.
//
// Formulas: multi-level training (arXiv 2404.07999) for axes, with C = average over a group of indices and S = copy to
// its members: coalesce W' = C_out W S_in, b' = C_out b; de-coalesce W = S_out W' C_in, b = S_out b'. Output sides
// average or copy, input sides add or share.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "training/snapshot.h"

namespace accrete {

// What happens to the optimizer's moments. `exact`: the map under which they are what the optimizer of the new model
// would hold (gradients transform with the inverse factors of the values); Error where there is none. `carry`: the same
// map where gradients merge too, as if they were independent. `reset`: they begin anew. Running averages of the values
// always go with the values.
enum class Moments : uint8_t { reset, carry, exact };
Moments moments_of(const std::string& name);  // by the names above

// ---- width --------------------------------------------------------------------------------------------------------

// How the indices of a role change: index i of the result comes from sources[i] (one for copies, several for merging).
// For an input axis the result is a sum, and a source that has n copies is shared equally among them.
struct AxisMap {
  int64_t from = 0;                           // indices before
  std::vector<std::vector<int64_t>> sources;  // one list for each index after
  int64_t to() const { return static_cast<int64_t>(sources.size()); }
};

// Groups of indices that belong together; member j of group i is groups[i][j].
using Groups = std::vector<std::vector<int64_t>>;
enum class Pairing : uint8_t { half, adjacent };  // i with i + n/r, ...; r i with r i + 1, ...
Pairing pairing_of(const std::string& name);
// n indices in groups of `ratio`. Error when it does not divide.
Groups grouped(int64_t n, int64_t ratio, Pairing pairing);
AxisMap merging(const Groups& groups);  // group -> one index
AxisMap copying(const Groups& groups);  // one index -> its group; the inverse

// Tied embeddings under width maps (multilevel spec 3.3). `exact`: the table is copied or averaged, and the norm before
// the output multiplication is scaled, which preserves the function. `released`: half copies and sums, as in the
// published code. `half_stream`: half copies, and all that is written to the residual stream scaled alike.
enum class TiedMode : uint8_t { exact, released, half_stream };
TiedMode tied_of(const std::string& name);

// Maps for the roles; an axis whose role gives no map (empty function result) stays. Called with the role and its count
// in that axis (channels, heads, hidden units).
using RoleMap = std::function<std::optional<AxisMap>(Role role, int64_t count)>;
Snapshot map_axes(const Snapshot& from, const RoleMap& map, TiedMode tied, Moments moments);

// The unequal split of LEMON (arXiv 2310.07999, multilevel spec 8.7): copies that share equally compute and learn the
// same for ever; here, in each group of copies of an input axis, all but the first are drawn anew with the scale of
// their initialisation and the first takes the rest, B1 = W - B2 - ..., so that the function stays and the copies
// learn differently. To be applied to a copied model; `groups` gives the copies of each role by its present count.
// Values only: moments are dropped, averages stay as they are.
using RoleGroups = std::function<std::optional<Groups>(Role role, int64_t count)>;
Snapshot split_unequally(const Snapshot& grown, const RoleGroups& groups, uint64_t seed);

// ---- depth --------------------------------------------------------------------------------------------------------

// Block i of the result is the mean of sources[i] (one: a copy); an empty list leaves it out of the result, to be drawn
// at random by the stage (restore with Missing::keep). Blocks are those of one group. Moments are mapped like values.
using DepthMap = std::vector<std::vector<int>>;
Snapshot map_depth(const Snapshot& from, const std::string& group, const DepthMap& map, Moments moments);
// The groups of blocks in order of appearance, and the number of blocks of each.
std::vector<std::pair<std::string, int>> block_groups(const std::vector<ParamEntry>& entries);

// ---- the rest -----------------------------------------------------------------------------------------------------

// The last linear layers of the residual branches of these blocks, and their running averages, times a factor. Silence
// is zero: the blocks pass their input on (pre-norm models keep their function exactly).
Snapshot scale_branches(const Snapshot& from, const BlockSet& blocks, float factor);
Snapshot silence(const Snapshot& from, const BlockSet& blocks);

// Position tables. A sequence: the first `length` rows (moments too), or linear interpolation of all (align_corners =
// false; moments are dropped). Error when the model has no such table or a prefix would be longer than it.
enum class SequenceResize : uint8_t { prefix, linear };
Snapshot resize_sequence(const Snapshot& from, int64_t length, SequenceResize how);
// A grid of h x w positions after `extra` rows of special tokens, which stay: bicubic (a = -0.75, align_corners =
// false, no antialiasing; moments are dropped), bit for bit the same where the grids agree. `offset` 0.1 gives the
// coordinates of the AutoProg release: source = (i + 0.5) old / (new + 0.1) - 0.5 (autoprog spec 4).
struct Grid {
  int64_t extra = 0, h = 0, w = 0;
};
Snapshot resize_grid(const Snapshot& from, const Grid& before, const Grid& after, double offset = 0);

// (1 - w) a + w b of every parameter, average and moment; w = 0 and 1 give a and b bit for bit. w in [0, 1].
Snapshot interpolate(const Snapshot& a, const Snapshot& b, double w);

// The entries that the predicate accepts; and the union of parts, each entry exactly once, in the order of `like`.
Snapshot take(const Snapshot& from, const std::function<bool(const ParamEntry&)>& wanted);
Snapshot assemble(std::span<const Snapshot> parts, const std::vector<ParamEntry>& like);

// Only what the predicate accepts trains from now on.
void freeze(ParamStore& store, const std::function<bool(const ParamEntry&)>& trains);

}  // namespace accrete
