// Small dense arithmetic in f64 on Gram matrices: what turns n snapshots into r orthonormal combinations of them.
#pragma once

#include <vector>

namespace accrete {

// Row-major matrices.
using Matrix = std::vector<double>;

// Eigenvalues (descending) and eigenvectors (columns) of a symmetric (n, n) matrix, by cyclic Jacobi rotations.
struct Eigen {
  std::vector<double> values;
  Matrix vectors;  // (n, n), column q belongs to values[q]
};
Eigen eigen(Matrix a, int n);

// Upper triangular R with R^T R = a. False when a pivot is not positive.
bool cholesky(Matrix& r, const Matrix& a, int n);
// Inverse of an upper triangular (n, n) matrix.
Matrix upper_inverse(const Matrix& r, int n);
// a (n, k) times b (k, m).
Matrix product(const Matrix& a, const Matrix& b, int n, int k, int m);
Matrix transposed(const Matrix& a, int n, int m);

// M (n, rank) such that the columns of W M are orthonormal and span those columns of W whose singular values exceed
// `tolerance`, given gram = W^T W: the inverse Cholesky factor when nothing is dropped, which keeps the order of the
// columns as Gram-Schmidt does, else the leading eigenvectors (twa spec 9.4).
struct Orthonormaliser {
  int rank = 0;
  Matrix map;                    // (n, rank)
  std::vector<double> singular;  // all n singular values of W, descending
};
Orthonormaliser orthonormaliser(const Matrix& gram, int n, double tolerance);

// Largest |a_ij - (i == j)|.
double distance_from_identity(const Matrix& a, int n);

}  // namespace accrete
