// Tokens of a sequence on the CPU. Sums over the batch: a token belongs to one thread, which adds the samples in order.
#include "kernels/tokens.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

// y[c] += the sum of `count` rows of x, `stride` elements apart; four at a time, so that y is touched less often.
template <class T>
void add_rows(float* y, const T* x, int64_t stride, int64_t count, int64_t C) {
  int64_t r = 0;
  for (; r + 4 <= count; r += 4) {
    const T* row = x + r * stride;
    each(0, C, [=]<class V>(int64_t c) {
      store(y + c, load<V>(y + c) + ((load<V>(row + c) + load<V>(row + stride + c)) +
                                     (load<V>(row + 2 * stride + c) + load<V>(row + 3 * stride + c))));
    });
  }
  for (; r < count; ++r) {
    const T* row = x + r * stride;
    each(0, C, [=]<class V>(int64_t c) { store(y + c, load<V>(y + c) + load<V>(row + c)); });
  }
}

}  // namespace

template <class T>
void copy_tokens(const Cpu& dev, T* y, int64_t y_tokens, int64_t y_begin, const T* x, int64_t x_tokens, int64_t x_begin,
                 int64_t count, int64_t B, int64_t C, bool zero_rest) {
  for_ranges(dev, B, (zero_rest ? y_tokens : count) * C, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      T* to = y + b * y_tokens * C;
      const T* from = x + (b * x_tokens + x_begin) * C;
      std::copy(from, from + count * C, to + y_begin * C);
      if (!zero_rest) continue;
      std::fill(to, to + y_begin * C, from_float<T>(0.0f));
      std::fill(to + (y_begin + count) * C, to + y_tokens * C, from_float<T>(0.0f));
    }
  });
}

template <class T>
void sequence_forward(const Cpu& dev, T* y, const T* x, const T* cls, const T* extra, const T* positions,
                      SequenceShape s) {
  const int64_t length = s.length(), C = s.channels;
  for_ranges(dev, s.batch * length, C, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / length, t = r % length, n = t - s.front();
      const T* row = n >= 0 ? x + (b * s.tokens + n) * C : t < s.cls ? cls : extra + (t - s.cls) * C;
      T* out = y + r * C;
      if (positions && t >= s.unplaced) {
        const T* position = positions + (t - s.unplaced) * C;
        each(0, C, [=]<class V>(int64_t c) { store(out + c, load<V>(row + c) + load<V>(position + c)); });
      } else {
        std::copy(row, row + C, out);
      }
    }
  });
}

template <class T>
void sequence_backward(const Cpu& dev, T* dx, float* dcls, float* dextra, float* dpositions, const T* dy,
                       SequenceShape s) {
  const int64_t length = s.length(), C = s.channels, stride = length * C;
  if (dx) copy_tokens<T>(dev, dx, s.tokens, 0, dy, length, s.front(), s.tokens, s.batch, C, false);
  for_ranges(dev, length, s.batch * C, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const auto add_to = [=](float* d, int64_t first) {
        if (d) add_rows(d + (t - first) * C, dy + t * C, stride, s.batch, C);
      };
      if (t < s.cls) add_to(dcls, 0);
      if (t >= s.cls && t < s.front()) add_to(dextra, s.cls);
      if (t >= s.unplaced) add_to(dpositions, s.unplaced);
    }
  });
}

template <class T>
void mean_tokens(const Cpu& dev, T* y, const T* x, int64_t B, int64_t tokens, int64_t begin, int64_t C) {
  const float factor = 1.0f / static_cast<float>(tokens - begin);
  for_ranges(dev, B, (tokens - begin) * C, [=](int64_t first, int64_t last) {
    thread_local Scratch<float> memory;
    float* sums = memory.get(C);
    for (int64_t b = first; b < last; ++b) {
      std::fill(sums, sums + C, 0.0f);
      add_rows(sums, x + (b * tokens + begin) * C, C, tokens - begin, C);
      each(0, C, [=]<class V>(int64_t c) { store(y + b * C + c, load<V>(sums + c) * factor); });
    }
  });
}

template <class T>
void mean_tokens_backward(const Cpu& dev, T* dx, const T* dy, int64_t B, int64_t tokens, int64_t begin, int64_t C) {
  const float factor = 1.0f / static_cast<float>(tokens - begin);
  for_ranges(dev, B * tokens, C, [=](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      T* out = dx + r * C;
      const T* in = dy + r / tokens * C;
      if (r % tokens < begin)
        std::fill(out, out + C, from_float<T>(0.0f));
      else
        each(0, C, [=]<class V>(int64_t c) { store(out + c, load<V>(in + c) * factor); });
    }
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                 \
  template void copy_tokens<T>(const Cpu&, T*, int64_t, int64_t, const T*, int64_t, int64_t, int64_t, int64_t, \
                               int64_t, bool);                                                                 \
  template void sequence_forward<T>(const Cpu&, T*, const T*, const T*, const T*, const T*, SequenceShape);    \
  template void sequence_backward<T>(const Cpu&, T*, float*, float*, float*, const T*, SequenceShape);         \
  template void mean_tokens<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);                  \
  template void mean_tokens_backward<T>(const Cpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
