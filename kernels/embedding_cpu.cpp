// Embedding on the CPU. Backward: the positions n are sorted by token (counting sort, stable), so every table row is
// summed by one thread in increasing n.
#include "kernels/embedding.h"

#include <algorithm>
#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

template <class T>
void add_row(float* y, const T* x, int64_t C) {
  each(0, C, [=]<class V>(int64_t c) { store(y + c, load<V>(y + c) + load<V>(x + c)); });
}

}  // namespace

template <class T>
void embedding_forward(const Cpu& dev, T* y, const T* tokens, const T* positions, const int32_t* ids, int64_t N,
                       int64_t tokens_per_seq, int64_t first_position, int64_t C, int64_t V) {
  for_ranges(dev, N, C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T* out = y + n * C;
      if (ids[n] < 0 || ids[n] >= V) {
        std::fill(out, out + C, from_float<T>(NAN));
        continue;
      }
      const T* token = tokens + ids[n] * C;
      if (positions) {
        const T* position = positions + (first_position + n % tokens_per_seq) * C;
        each(0, C, [=]<class V>(int64_t c) { store(out + c, load<V>(token + c) + load<V>(position + c)); });
      } else {
        std::copy(token, token + C, out);
      }
    }
  });
}

template <class T>
void embedding_backward(const Cpu& dev, float* d_tokens, float* d_positions, const T* dy, const int32_t* ids,
                        int32_t* scratch, int64_t N, int64_t tokens_per_seq, int64_t C, int64_t V) {
  if (d_tokens && N > 0) {
    int32_t* order = scratch;      // (N) the positions, grouped by token
    int32_t* start = scratch + N;  // (V + 1) first place of each token in `order`
    std::fill(start, start + V + 1, 0);
    const auto known = [=](int64_t n) { return ids[n] >= 0 && ids[n] < V; };
    for (int64_t n = 0; n < N; ++n)
      if (known(n)) ++start[ids[n] + 1];
    for (int64_t v = 0; v < V; ++v) start[v + 1] += start[v];
    const int64_t all = start[V];
    for (int64_t n = 0; n < N; ++n)
      if (known(n)) order[start[ids[n]]++] = static_cast<int32_t>(n);
    for_ranges(dev, all, C, [=](int64_t begin, int64_t end) {
      // A token belongs to the piece in which its group starts.
      while (begin > 0 && begin < end && ids[order[begin]] == ids[order[begin - 1]]) ++begin;
      if (begin == end) return;
      while (end < all && ids[order[end]] == ids[order[end - 1]]) ++end;
      for (int64_t i = begin; i < end; ++i) add_row(d_tokens + ids[order[i]] * C, dy + order[i] * C, C);
    });
  }
  if (d_positions) {
    const int64_t T_seq = std::min(tokens_per_seq, N);
    for_ranges(dev, T_seq, T_seq > 0 ? N * C / T_seq : 0, [=](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t n = t; n < N; n += tokens_per_seq) add_row(d_positions + t * C, dy + n * C, C);
    });
  }
}

#define ACCRETE_INSTANTIATE(T)                                                                                      \
  template void embedding_forward<T>(const Cpu&, T*, const T*, const T*, const int32_t*, int64_t, int64_t, int64_t, \
                                     int64_t, int64_t);                                                             \
  template void embedding_backward<T>(const Cpu&, float*, float*, const T*, const int32_t*, int32_t*, int64_t,      \
                                      int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
