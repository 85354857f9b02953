#include "training/gram_schmidt.h"

#include <cmath>
#include <numeric>

#include "training/checkpoint.h"

namespace accrete {
namespace {

size_t at(int i, int j, int n) { return static_cast<size_t>(i) * static_cast<size_t>(n) + static_cast<size_t>(j); }

// Sums in two lengths of number: the released code has only the first.
double dot_f32(const float* a, const float* b, int64_t n) {
  float sums[8] = {};
  int64_t k = 0;
  for (; k + 8 <= n; k += 8)
    for (int j = 0; j < 8; ++j) sums[j] += a[k + j] * b[k + j];
  for (; k < n; ++k) sums[0] += a[k] * b[k];
  float sum = 0;
  for (const float s : sums) sum += s;
  return sum;
}

double dot_of(const float* a, const float* b, int64_t n, bool f32) {
  return f32 ? dot_f32(a, b, n) : dot(Precision::f32, reinterpret_cast<const std::byte*>(a), b, n);
}

}  // namespace

GramSchmidt gram_schmidt(const SnapshotFiles& snapshots, const std::vector<Run>& runs, bool center, bool f32,
                         double tolerance, const std::filesystem::path& folder) {
  const int n = snapshots.count(), blocks = runs.empty() ? 0 : runs.back().block + 1;
  const Shape flat{snapshots.flat_count()};
  const Tensor mean = Tensor::zeros(flat), v = Tensor::zeros(flat), p = Tensor::zeros(flat);
  std::vector<int> all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  snapshots.mean(all, mean);
  std::vector<double> mean2(static_cast<size_t>(blocks));
  for (const Run& r : runs) {
    const float* m = mean.ptr<float>() + r.begin;
    mean2[static_cast<size_t>(r.block)] += dot_of(m, m, r.count, false);
  }
  std::vector<Matrix> map(static_cast<size_t>(blocks), Matrix(static_cast<size_t>(n * n), 0.0)), back = map;
  std::vector<std::filesystem::path> paths;
  for (int i = 0; i < n; ++i) {
    snapshots.read(i, v);
    float* x = v.ptr<float>();
    for (int64_t k = 0; center && k < flat[0]; ++k) x[k] -= mean.ptr<float>()[k];
    const SnapshotFiles done(paths, snapshots.entries());
    // What of snapshot i lies along earlier rows: t (blocks, i), subtracted together, once or twice.
    std::vector<double> total(static_cast<size_t>(blocks * std::max(1, i)), 0.0);
    for (int pass = 0; pass < (f32 ? 1 : 2); ++pass) {
      std::vector<double> t(total.size(), 0.0);
      for (int j = 0; j < i; ++j) {
        done.read(j, p);
        for (const Run& r : runs) t[at(r.block, j, i)] += dot_of(p.ptr<float>() + r.begin, x + r.begin, r.count, f32);
      }
      for (int j = 0; j < i; ++j) {
        done.read(j, p);
        for (const Run& r : runs) {
          const auto a = static_cast<float>(t[at(r.block, j, i)]);
          for (int64_t k = r.begin; k < r.begin + r.count; ++k) x[k] -= a * p.ptr<float>()[k];
        }
      }
      for (size_t k = 0; k < t.size(); ++k) total[k] += t[k];
    }
    std::vector<double> length2(static_cast<size_t>(blocks), 0.0), inverse(length2);
    for (const Run& r : runs) length2[static_cast<size_t>(r.block)] += dot_of(x + r.begin, x + r.begin, r.count, f32);
    for (int l = 0; l < blocks; ++l) {
      const auto b = static_cast<size_t>(l);
      const double length = std::sqrt(length2[b]);
      if (f32 ? length > 0 : length > tolerance * std::sqrt(mean2[b])) inverse[b] = 1 / length;
      // p_i = (w_i - sum_j t_j p_j) / |...| and the same on the combinations of snapshots.
      for (int k = 0; k <= i; ++k) {
        double a = k == i;
        for (int j = 0; j < i; ++j) a -= total[at(l, j, i)] * map[b][at(k, j, n)];
        map[b][at(k, i, n)] = inverse[b] * a;
      }
      for (int j = 0; j < i; ++j) back[b][at(j, i, n)] = total[at(l, j, i)];
      back[b][at(i, i, n)] = inverse[b] > 0 ? length : 0;
    }
    for (const Run& r : runs) {
      const auto s = static_cast<float>(inverse[static_cast<size_t>(r.block)]);
      for (int64_t k = r.begin; k < r.begin + r.count; ++k) x[k] *= s;
    }
    paths.push_back(folder / (std::to_string(i) + ".safetensors"));
    save_flat(paths.back(), snapshots.entries(), v);
  }
  return {SnapshotFiles(paths, snapshots.entries()), std::move(map), std::move(back)};
}

}  // namespace accrete
