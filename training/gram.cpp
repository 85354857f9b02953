#include "training/gram.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace accrete {
namespace {

size_t at(int i, int j, int columns) {
  return static_cast<size_t>(i) * static_cast<size_t>(columns) + static_cast<size_t>(j);
}

}  // namespace

Eigen eigen(Matrix a, int n) {
  Matrix v(a.size(), 0.0);
  for (int i = 0; i < n; ++i) v[at(i, i, n)] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool changed = false;
    for (int p = 0; p < n; ++p) {
      for (int q = p + 1; q < n; ++q) {
        const double apq = a[at(p, q, n)], app = a[at(p, p, n)], aqq = a[at(q, q, n)];
        // Relative to the diagonal, so that small eigenvalues become as exact as large ones where the matrix allows it.
        if (std::fabs(apq) <= 1e-17 * std::sqrt(std::fabs(app * aqq)) || apq == 0) continue;
        changed = true;
        const double theta = (aqq - app) / (2 * apq);
        const double t = (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < n; ++k) {
          const double x = a[at(k, p, n)], y = a[at(k, q, n)];
          a[at(k, p, n)] = c * x - s * y, a[at(k, q, n)] = s * x + c * y;
        }
        for (int k = 0; k < n; ++k) {
          const double x = a[at(p, k, n)], y = a[at(q, k, n)];
          a[at(p, k, n)] = c * x - s * y, a[at(q, k, n)] = s * x + c * y;
        }
        for (int k = 0; k < n; ++k) {
          const double x = v[at(k, p, n)], y = v[at(k, q, n)];
          v[at(k, p, n)] = c * x - s * y, v[at(k, q, n)] = s * x + c * y;
        }
      }
    }
    if (!changed) break;
  }
  std::vector<int> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return a[at(i, i, n)] > a[at(j, j, n)]; });
  Eigen e{.values = std::vector<double>(static_cast<size_t>(n)), .vectors = Matrix(v.size())};
  for (int q = 0; q < n; ++q) {
    e.values[static_cast<size_t>(q)] = a[at(order[static_cast<size_t>(q)], order[static_cast<size_t>(q)], n)];
    for (int k = 0; k < n; ++k) e.vectors[at(k, q, n)] = v[at(k, order[static_cast<size_t>(q)], n)];
  }
  return e;
}

bool cholesky(Matrix& r, const Matrix& a, int n) {
  r.assign(a.size(), 0.0);
  for (int j = 0; j < n; ++j) {
    double pivot = a[at(j, j, n)];
    for (int k = 0; k < j; ++k) pivot -= r[at(k, j, n)] * r[at(k, j, n)];
    if (!(pivot > 0)) return false;
    r[at(j, j, n)] = std::sqrt(pivot);
    for (int i = j + 1; i < n; ++i) {
      double sum = a[at(j, i, n)];
      for (int k = 0; k < j; ++k) sum -= r[at(k, j, n)] * r[at(k, i, n)];
      r[at(j, i, n)] = sum / r[at(j, j, n)];
    }
  }
  return true;
}

Matrix upper_inverse(const Matrix& r, int n) {
  Matrix inverse(r.size(), 0.0);
  for (int j = 0; j < n; ++j) {
    inverse[at(j, j, n)] = 1 / r[at(j, j, n)];
    for (int i = j - 1; i >= 0; --i) {
      double sum = 0;
      for (int k = i + 1; k <= j; ++k) sum += r[at(i, k, n)] * inverse[at(k, j, n)];
      inverse[at(i, j, n)] = -sum / r[at(i, i, n)];
    }
  }
  return inverse;
}

Matrix product(const Matrix& a, const Matrix& b, int n, int k, int m) {
  Matrix c(static_cast<size_t>(n) * static_cast<size_t>(m), 0.0);
  for (int i = 0; i < n; ++i)
    for (int l = 0; l < k; ++l)
      for (int j = 0; j < m; ++j) c[at(i, j, m)] += a[at(i, l, k)] * b[at(l, j, m)];
  return c;
}

Matrix transposed(const Matrix& a, int n, int m) {
  Matrix t(a.size());
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < m; ++j) t[at(j, i, n)] = a[at(i, j, m)];
  return t;
}

Orthonormaliser orthonormaliser(const Matrix& gram, int n, double tolerance) {
  const Eigen e = eigen(gram, n);
  Orthonormaliser result;
  for (const double value : e.values) result.singular.push_back(std::sqrt(std::max(0.0, value)));
  for (const double s : result.singular) result.rank += s > tolerance;
  Matrix r;
  if (result.rank == n && cholesky(r, gram, n)) {
    result.map = upper_inverse(r, n);
    return result;
  }
  result.map.resize(static_cast<size_t>(n) * static_cast<size_t>(result.rank));
  for (int i = 0; i < n; ++i)
    for (int q = 0; q < result.rank; ++q)
      result.map[at(i, q, result.rank)] = e.vectors[at(i, q, n)] / result.singular[static_cast<size_t>(q)];
  return result;
}

double distance_from_identity(const Matrix& a, int n) {
  double most = 0;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) most = std::max(most, std::fabs(a[at(i, j, n)] - (i == j)));
  return most;
}

}  // namespace accrete
