// Classical Gram-Schmidt on snapshots: the slow twin of CholeskyQR2 (twa spec 3.1), and the released code's form of it.
#pragma once

#include "training/basis.h"

namespace accrete {

struct GramSchmidt {
  SnapshotFiles rows;        // orthonormal in every block; zero where a snapshot depends on those before it
  std::vector<Matrix> map;   // of each block, (n, n): row q = sum_i map[i, q] snapshot i
  std::vector<Matrix> back;  // (n, n): snapshot i = sum_q back[q, i] row q
};

// Writes one file for each snapshot into `folder`. `f32`: one pass with f32 sums and no test of the rank, as released;
// else two passes with f64 sums, and snapshots whose rest is at most `tolerance` |mean| in a block give no row there.
GramSchmidt gram_schmidt(const SnapshotFiles& snapshots, const std::vector<Run>& runs, bool center, bool f32,
                         double tolerance, const std::filesystem::path& folder);

}  // namespace accrete
