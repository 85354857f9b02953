// Batch normalisation on the CPU. Sums down the columns are f32 sums of fixed blocks of rows, then of the blocks in
// order, so that they depend on the sizes only.
#include "kernels/batch_norm.h"

#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

constexpr int64_t kBlockRows = 512;  // also bounds the rounding error of a sum

// sums[k * C + c] = sum over n of t[k], where term<V>(t, n * C + c, c) gives the K terms of one place.
template <int K, class Term>
void column_sums(const Cpu& dev, float* sums, int64_t N, int64_t C, const Term& term) {
  thread_local Scratch<float> memory;
  const int64_t blocks = (N + kBlockRows - 1) / kBlockRows;
  float* partial = memory.get(blocks * K * C);
  for_blocks(dev, blocks, K * N * C, [=](int64_t block) {
    float* p = partial + block * K * C;
    std::fill(p, p + K * C, 0.0f);
    int64_t n = block * kBlockRows;
    const int64_t end = std::min(N, n + kBlockRows);
    const auto add_rows = [=]<int rows>(int64_t first) {  // the partial sums are read and written once for all of them
      each(0, C, [=]<class V>(int64_t c) {
        V total[K] = {}, t[K];
        for (int r = 0; r < rows; ++r) {
          term.template operator()<V>(t, (first + r) * C + c, c);
          for (int k = 0; k < K; ++k) total[k] += t[k];
        }
        for (int k = 0; k < K; ++k) store(p + k * C + c, load<V>(p + k * C + c) + total[k]);
      });
    };
    for (; n + 4 <= end; n += 4) add_rows.template operator()<4>(n);
    for (; n < end; ++n) add_rows.template operator()<1>(n);
  });
  for_elements(dev, K * C, blocks, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) {
      V total{};
      for (int64_t block = 0; block < blocks; ++block) total += load<V>(partial + block * K * C + i);
      store(sums + i, total);
    });
  });
}

}  // namespace

template <class T>
void batch_norm_statistics(const Cpu& dev, float* mean, float* rstd, float* running_mean, float* running_var,
                           const T* x, int64_t N, int64_t C, float momentum, float eps) {
  const float count = static_cast<float>(N);
  column_sums<1>(dev, mean, N, C, [=]<class V>(V(&t)[1], int64_t i, int64_t) { t[0] = load<V>(x + i); });
  each(0, C, [=]<class V>(int64_t c) { store(mean + c, load<V>(mean + c) / count); });
  column_sums<1>(dev, rstd, N, C, [=]<class V>(V(&t)[1], int64_t i, int64_t c) {
    const V d = load<V>(x + i) - load<V>(mean + c);
    t[0] = d * d;
  });
  for (int64_t c = 0; c < C; ++c) {
    const float squares = rstd[c];
    rstd[c] = 1.0f / std::sqrt(squares / count + eps);
    running_mean[c] += momentum * (mean[c] - running_mean[c]);
    running_var[c] += momentum * (squares / (count - 1.0f) - running_var[c]);
  }
}

void batch_norm_running(const Cpu&, float* mean, float* rstd, const float* running_mean, const float* running_var,
                        int64_t C, float eps) {
  for (int64_t c = 0; c < C; ++c) {
    mean[c] = running_mean[c];
    rstd[c] = 1.0f / std::sqrt(running_var[c] + eps);
  }
}

template <class T>
void batch_norm_forward(const Cpu& dev, T* y, const T* x, const float* mean, const float* rstd, const float* gamma,
                        const float* beta, int64_t N, int64_t C) {
  for_ranges(dev, N, C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* in = x + n * C;
      T* out = y + n * C;
      each(0, C, [=]<class V>(int64_t c) {
        const V factor = load<V>(rstd + c) * load<V>(gamma + c);
        store(out + c, (load<V>(in + c) - load<V>(mean + c)) * factor + load<V>(beta + c));
      });
    }
  });
}

template <class T>
void batch_norm_backward(const Cpu& dev, T* dx, float* dgamma, float* dbeta, float* sums, const T* dy, const T* x,
                         const float* mean, const float* rstd, const float* gamma, int64_t N, int64_t C,
                         bool of_batch) {
  if (N <= 0) return;
  column_sums<2>(dev, sums, N, C, [=]<class V>(V(&t)[2], int64_t i, int64_t c) {
    t[1] = load<V>(dy + i);
    t[0] = t[1] * (load<V>(x + i) - load<V>(mean + c)) * load<V>(rstd + c);
  });
  for (int64_t c = 0; c < C; ++c) {
    if (dgamma) dgamma[c] += sums[c];
    if (dbeta) dbeta[c] += sums[C + c];
  }
  if (!dx) return;
  const float inverse = of_batch ? 1.0f / static_cast<float>(N) : 0.0f;
  each(0, C, [=]<class V>(int64_t c) {
    store(sums + c, load<V>(sums + c) * load<V>(rstd + c) * inverse);
    store(sums + C + c, load<V>(sums + C + c) * inverse);
  });
  for_ranges(dev, N, 2 * C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T *in = x + n * C, *g = dy + n * C;
      T* out = dx + n * C;
      each(0, C, [=]<class V>(int64_t c) {
        const V centred = load<V>(in + c) - load<V>(mean + c);
        store(out + c, load<V>(rstd + c) * load<V>(gamma + c) *
                           (load<V>(g + c) - load<V>(sums + C + c) - centred * load<V>(sums + c)));
      });
    }
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                   \
  template void batch_norm_statistics<T>(const Cpu&, float*, float*, float*, float*, const T*, int64_t, int64_t, \
                                         float, float);                                                          \
  template void batch_norm_forward<T>(const Cpu&, T*, const T*, const float*, const float*, const float*,        \
                                      const float*, int64_t, int64_t);                                           \
  template void batch_norm_backward<T>(const Cpu&, T*, float*, float*, float*, const T*, const T*, const float*, \
                                       const float*, const float*, int64_t, int64_t, bool);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
