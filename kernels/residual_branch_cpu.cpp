// The end of a residual branch on the CPU.
#include "kernels/residual_branch.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

// body(row, factor) for rows begin .. end-1; draws once per sample.
template <class Body>
void for_rows(const DropPath& drop, int64_t rows_per_sample, int64_t begin, int64_t end, const Body& body) {
  while (begin < end) {
    const int64_t sample = begin / rows_per_sample;
    const float factor = drop.factor(sample);
    for (const int64_t stop = std::min(end, (sample + 1) * rows_per_sample); begin < stop; ++begin) body(begin, factor);
  }
}

}  // namespace

template <class T>
void residual_branch_forward(const Cpu& dev, T* y, const T* x, const T* branch, const float* gamma, DropPath drop,
                             int64_t rows, int64_t rows_per_sample, int64_t cols) {
  for_ranges(dev, rows, cols, [=](int64_t begin, int64_t end) {
    for_rows(drop, rows_per_sample, begin, end, [=](int64_t r, float factor) {
      T* out = y + r * cols;
      const T* in = x ? x + r * cols : nullptr;
      const T* b = branch + r * cols;
      if (factor == 0.0f) {
        if (!in)
          std::fill(out, out + cols, from_float<T>(0.0f));
        else if (in != out)
          std::copy(in, in + cols, out);
        return;
      }
      each(0, cols, [=]<class V>(int64_t c) {
        const V g = gamma ? load<V>(gamma + c) : V{} + 1.0f;
        const V a = in ? load<V>(in + c) : V{};
        store(out + c, a + factor * (g * load<V>(b + c)));
      });
    });
  });
}

template <class T>
void residual_branch_backward(const Cpu& dev, T* dbranch, float* dgamma, const T* dy, const T* branch,
                              const float* gamma, DropPath drop, int64_t rows, int64_t rows_per_sample, int64_t cols) {
  thread_local Scratch<float> memory;
  const RowBlocks blocks(rows);
  float* partial = dgamma ? memory.get(blocks.count * cols) : nullptr;
  for_blocks(dev, blocks.count, 2 * rows * cols, [=](int64_t block) {
    float* sums = partial ? partial + block * cols : nullptr;
    if (sums) std::fill(sums, sums + cols, 0.0f);
    for_rows(drop, rows_per_sample, blocks.begin(block), blocks.end(block), [=](int64_t r, float factor) {
      T* out = dbranch ? dbranch + r * cols : nullptr;
      const T *d = dy + r * cols, *b = sums ? branch + r * cols : nullptr;
      if (factor == 0.0f) {
        if (out) std::fill(out, out + cols, from_float<T>(0.0f));
        return;
      }
      each(0, cols, [=]<class V>(int64_t c) {
        const V scaled = factor * load<V>(d + c);
        if (sums) store(sums + c, load<V>(sums + c) + scaled * load<V>(b + c));
        if (out) store(out + c, gamma ? scaled * load<V>(gamma + c) : scaled);
      });
    });
  });
  if (!dgamma) return;
  for_elements(dev, cols, blocks.count, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t c) {
      V total{};
      for (int64_t block = 0; block < blocks.count; ++block) total += load<V>(partial + block * cols + c);
      store(dgamma + c, load<V>(dgamma + c) + total);
    });
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                  \
  template void residual_branch_forward<T>(const Cpu&, T*, const T*, const T*, const float*, DropPath, int64_t, \
                                           int64_t, int64_t);                                                   \
  template void residual_branch_backward<T>(const Cpu&, T*, float*, const T*, const T*, const float*, DropPath, \
                                            int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
