// How CPU kernels use threads: work is cut into pieces by the sizes alone, so no result depends on the number of
// threads, and small work stays on the calling thread (waking a team costs a few microseconds).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "kernels/device.h"

namespace accrete::kernels {

// Below this many elementary steps (about one element loaded and stored) a team of threads does not pay.
inline constexpr int64_t kSerialWork = 32768;

// body(block) for block = 0 .. count-1, in any order; `work` is the cost of all blocks together in elementary steps.
template <class Body>
void for_blocks(const Cpu& dev, int64_t count, int64_t work, const Body& body) {
  if (dev.threads <= 1 || count <= 1 || work < kSerialWork) {
    for (int64_t block = 0; block < count; ++block) body(block);
    return;
  }
#pragma omp parallel for num_threads(dev.threads) schedule(dynamic, 1)
  for (int64_t block = 0; block < count; ++block) body(block);
}

// body(begin, end) on pieces that cover [0, n), one per thread, cut at multiples of `grain`: for work whose pieces are
// independent. `cost`: elementary steps per unit of n.
template <class Body>
void for_ranges(const Cpu& dev, int64_t n, int64_t cost, const Body& body, int64_t grain = 1) {
  if (n <= 0) return;
  if (dev.threads <= 1 || n * cost < kSerialWork) return body(int64_t{0}, n);
  const int64_t threads = dev.threads;
  const int64_t piece = ((n + threads - 1) / threads + grain - 1) / grain * grain;
#pragma omp parallel for num_threads(dev.threads) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t) {
    const int64_t begin = t * piece;
    if (begin < n) body(begin, std::min(n, begin + piece));
  }
}

// The same over the elements of a tensor; pieces do not share cache lines.
template <class Body>
void for_elements(const Cpu& dev, int64_t n, int64_t cost, const Body& body) {
  for_ranges(dev, n, cost, body, 64);
}

// Fixed blocks of rows for sums over rows: at most 64 blocks, each of at least 16 rows.
struct RowBlocks {
  int64_t rows, per_block, count;
  explicit RowBlocks(int64_t n) : rows(n), per_block(std::max<int64_t>(16, (n + 63) / 64)) {
    count = (n + per_block - 1) / per_block;
  }
  int64_t begin(int64_t block) const { return block * per_block; }
  int64_t end(int64_t block) const { return std::min(rows, (block + 1) * per_block); }
};

// Memory that grows and is kept: declared thread_local where it is used, so the steady state allocates nothing.
template <class T>
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  // At least n elements, 64-byte aligned, contents undefined.
  T* get(int64_t n) {
    if (n > size_) {
      std::free(data_);
      size_ = 0;
      const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
      data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
      if (!data_) throw std::bad_alloc();
      size_ = n;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace accrete::kernels
