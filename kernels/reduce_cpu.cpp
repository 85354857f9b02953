// Reductions on the CPU. Whole-tensor sums: blocks of fixed length summed in double, then the blocks in order. Sums
// over rows: f32 partial sums of fixed row blocks, then the blocks in order.
#include "kernels/reduce.h"

#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

constexpr int64_t kBlock = 16384;

// Sum of term(value<V>(i)), i = 0 .. n-1, in double; term takes and returns doubles (vectors or single ones).
template <class Value, class Term>
double double_sum(const Cpu& dev, int64_t n, const Value& value, const Term& term) {
  thread_local Scratch<double> memory;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  double* partial = memory.get(blocks);
  for_blocks(dev, blocks, n, [=](int64_t block) {
    const int64_t end = std::min(n, (block + 1) * kBlock);
    DoubleVec low0{}, high0{}, low1{}, high1{};
    int64_t i = block * kBlock;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      const Vec v0 = value.template operator()<Vec>(i), v1 = value.template operator()<Vec>(i + kLanes);
      low0 += term(half_in_double<0>(v0));
      high0 += term(half_in_double<1>(v0));
      low1 += term(half_in_double<0>(v1));
      high1 += term(half_in_double<1>(v1));
    }
    const DoubleVec sums = (low0 + high0) + (low1 + high1);
    double total = 0.0;
    for (int lane = 0; lane < kLanes / 2; ++lane) total += sums[lane];
    for (; i < end; ++i) total += term(static_cast<double>(value.template operator()<float>(i)));
    partial[block] = total;
  });
  double total = 0.0;
  for (int64_t block = 0; block < blocks; ++block) total += partial[block];
  return total;
}

// y[c] (+)= sum_r term<V>(r * cols + c)
template <class Term>
void sum_rows(const Cpu& dev, float* y, int64_t rows, int64_t cols, bool accumulate, const Term& term) {
  thread_local Scratch<float> memory;
  const RowBlocks blocks(rows);
  float* partial = memory.get(blocks.count * cols);
  for_blocks(dev, blocks.count, rows * cols, [=](int64_t block) {
    float* p = partial + block * cols;
    std::fill(p, p + cols, 0.0f);
    int64_t r = blocks.begin(block);
    const int64_t end = blocks.end(block);
    for (; r + 4 <= end; r += 4) {  // four rows at a time: the partial sums are read and written less often
      each(0, cols, [=]<class V>(int64_t c) {
        const int64_t i = r * cols + c;
        store(p + c, load<V>(p + c) +
                         ((term.template operator()<V>(i) + term.template operator()<V>(i + cols)) +
                          (term.template operator()<V>(i + 2 * cols) + term.template operator()<V>(i + 3 * cols))));
      });
    }
    for (; r < end; ++r) {
      each(0, cols,
           [=]<class V>(int64_t c) { store(p + c, load<V>(p + c) + term.template operator()<V>(r * cols + c)); });
    }
  });
  for_elements(dev, cols, blocks.count, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t c) {
      V total{};
      for (int64_t block = 0; block < blocks.count; ++block) total += load<V>(partial + block * cols + c);
      store(y + c, accumulate ? load<V>(y + c) + total : total);
    });
  });
}

}  // namespace

template <class T>
void column_sum(const Cpu& dev, float* y, const T* x, int64_t rows, int64_t cols, bool accumulate) {
  sum_rows(dev, y, rows, cols, accumulate, [=]<class V>(int64_t i) { return load<V>(x + i); });
}

template <class T>
void row_sum(const Cpu& dev, float* y, const T* x, int64_t rows, int64_t cols) {
  for_ranges(dev, rows, cols, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      y[r] = sum_over(cols, [row = x + r * cols]<class V>(int64_t i) { return load<V>(row + i); });
  });
}

template <class T>
void column_dot(const Cpu& dev, float* y, const T* a, const T* b, int64_t rows, int64_t cols, bool accumulate) {
  sum_rows(dev, y, rows, cols, accumulate, [=]<class V>(int64_t i) { return load<V>(a + i) * load<V>(b + i); });
}

template <class T>
void sum(const Cpu& dev, float* out, const T* x, int64_t n) {
  out[0] = static_cast<float>(double_sum(
      dev, n, [=]<class V>(int64_t i) { return load<V>(x + i); }, [](auto v) { return v; }));
}

template <class T>
void sum_of_squares(const Cpu& dev, float* out, const T* x, int64_t n) {
  out[0] = static_cast<float>(double_sum(
      dev, n, [=]<class V>(int64_t i) { return load<V>(x + i); }, [](auto v) { return v * v; }));
}

void dot(const Cpu& dev, float* out, const float* a, const float* b, int64_t n) {
  out[0] = static_cast<float>(double_sum(
      dev, n, [=]<class V>(int64_t i) { return load<V>(a + i) * load<V>(b + i); }, [](auto v) { return v; }));
}

template <class T>
void count_nonfinite(const Cpu& dev, float* out, const T* x, int64_t n) {
  // x - x is 0 for finite x and NaN for the others.
  const double count = double_sum(
      dev, n,
      [=]<class V>(int64_t i) {
        const V v = load<V>(x + i), d = v - v;
        return d == 0.0f ? V{} : V{} + 1.0f;
      },
      [](auto v) { return v; });
  out[0] = static_cast<float>(std::min(count, 16777216.0));
}

#define ACCRETE_INSTANTIATE(T)                                                                 \
  template void column_sum<T>(const Cpu&, float*, const T*, int64_t, int64_t, bool);           \
  template void row_sum<T>(const Cpu&, float*, const T*, int64_t, int64_t);                    \
  template void column_dot<T>(const Cpu&, float*, const T*, const T*, int64_t, int64_t, bool); \
  template void sum<T>(const Cpu&, float*, const T*, int64_t);                                 \
  template void sum_of_squares<T>(const Cpu&, float*, const T*, int64_t);                      \
  template void count_nonfinite<T>(const Cpu&, float*, const T*, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
