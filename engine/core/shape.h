// Shape of a tensor: up to six sizes, row-major, no allocation.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "engine/core/error.h"

namespace accrete {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span<const int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(const std::vector<int64_t>& sizes) : Shape(std::span<const int64_t>(sizes)) {}
  explicit Shape(std::span<const int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
    check(sizes.size() <= kMaxRank, "shape", "too many axes; expected at most ", kMaxRank, "; got ", sizes.size());
    for (int i = 0; i < rank_; ++i) {
      check(sizes[i] >= 0, "shape", "negative size ", sizes[i], " on axis ", i);
      sizes_[i] = sizes[i];
    }
  }

  int rank() const { return rank_; }
  // Size of axis i; negative i counts from the end.
  int64_t operator[](int i) const {
    const int axis = i < 0 ? i + rank_ : i;
    check(axis >= 0 && axis < rank_, "shape", "axis ", i, " of a tensor with ", rank_, " axes");
    return sizes_[axis];
  }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= sizes_[i];
    return n;
  }
  // Number of elements before the last axis: the rows of the tensor seen as a matrix. 1 for a scalar.
  int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank_; ++i) n *= sizes_[i];
    return n;
  }
  // Copy with the last size replaced.
  Shape with_last(int64_t last) const {
    check(rank_ > 0, "shape", "a scalar has no last axis");
    Shape s = *this;
    s.sizes_[rank_ - 1] = last;
    return s;
  }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }
  std::vector<int64_t> vector() const { return {begin(), end()}; }

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a.sizes_[i] != b.sizes_[i]) return false;
    return true;
  }
  friend std::ostream& operator<<(std::ostream& out, const Shape& s) {
    out << '(';
    for (int i = 0; i < s.rank_; ++i) out << (i ? ", " : "") << s.sizes_[i];
    return out << ')';
  }

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

}  // namespace accrete
