// Layer normalisation on the CPU: a row is read from memory once and stays in the first-level cache for the three
// passes (mean, variance about the mean, result).
#include "kernels/layernorm.h"

#include <algorithm>
#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace accrete::kernels {

namespace {

// Statistics of one row of C elements, and y = (x - mean) * rstd * gamma + beta.
template <class T>
void normalise_row(T* y, float* mean, float* rstd, const T* x, const float* gamma, const float* beta, int64_t C,
                   float eps) {
  const float count = static_cast<float>(C);
  const float m = sum_over(C, [=]<class V>(int64_t c) { return load<V>(x + c); }) / count;
  const float var = sum_over(C,
                             [=]<class V>(int64_t c) {
                               const V d = load<V>(x + c) - m;
                               return d * d;
                             }) /
                    count;
  const float r = 1.0f / std::sqrt(var + eps);
  *mean = m;
  *rstd = r;
  if (beta) {
    each(0, C,
         [=]<class V>(int64_t c) { store(y + c, (load<V>(x + c) - m) * r * load<V>(gamma + c) + load<V>(beta + c)); });
  } else {
    each(0, C, [=]<class V>(int64_t c) { store(y + c, (load<V>(x + c) - m) * r * load<V>(gamma + c)); });
  }
}

// sum = residual + factor * gamma * branch
template <class T>
void join_row(T* sum, const T* branch, const T* residual, const float* gamma, float factor, int64_t C) {
  if (factor == 0.0f) {
    if (sum != residual) std::copy(residual, residual + C, sum);
  } else if (!gamma && factor == 1.0f) {
    each(0, C, [=]<class V>(int64_t c) { store(sum + c, load<V>(branch + c) + load<V>(residual + c)); });
  } else {
    each(0, C, [=]<class V>(int64_t c) {
      const V g = gamma ? load<V>(gamma + c) : V{} + 1.0f;
      store(sum + c, load<V>(residual + c) + factor * (g * load<V>(branch + c)));
    });
  }
}

// dbranch = factor * gamma * d
template <class T>
void branch_gradient_row(T* dbranch, const T* d, const float* gamma, float factor, int64_t C) {
  each(0, C, [=]<class V>(int64_t c) {
    const V scaled = factor * load<V>(d + c);
    store(dbranch + c, gamma ? scaled * load<V>(gamma + c) : scaled);
  });
}

// mean(g) and mean(g * h) of one row, where g = dy * gamma and h = (x - m) * r.
struct GradientMeans {
  float g, gh;
};
template <class T>
GradientMeans gradient_means(const T* dy, const T* x, const float* gamma, float m, float r, int64_t C) {
  Vec g0{}, g1{}, gh0{}, gh1{};
  int64_t c = 0;
  for (; c + 2 * kLanes <= C; c += 2 * kLanes) {
    const Vec a = load<Vec>(dy + c) * load<Vec>(gamma + c);
    const Vec b = load<Vec>(dy + c + kLanes) * load<Vec>(gamma + c + kLanes);
    g0 += a;
    g1 += b;
    gh0 += a * (load<Vec>(x + c) - m);
    gh1 += b * (load<Vec>(x + c + kLanes) - m);
  }
  float sum_g = lane_sum(g0 + g1), sum_gh = lane_sum(gh0 + gh1);
  for (; c < C; ++c) {
    const float a = to_float(dy[c]) * gamma[c];
    sum_g += a;
    sum_gh += a * (to_float(x[c]) - m);
  }
  const float count = static_cast<float>(C);
  return {sum_g / count, sum_gh * r / count};
}

}  // namespace

template <class T>
void layernorm_forward(const Cpu& dev, T* y, float* mean, float* rstd, const T* x, const float* gamma,
                       const float* beta, int64_t N, int64_t C, float eps) {
  for_ranges(dev, N, C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) normalise_row(y + n * C, mean + n, rstd + n, x + n * C, gamma, beta, C, eps);
  });
}

template <class T>
void residual_layernorm_forward(const Cpu& dev, T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
                                const float* gamma, const float* beta, int64_t N, int64_t C, float eps,
                                const BranchEnd& branch) {
  for_ranges(dev, N, C, [=](int64_t begin, int64_t end) {
    RowFactor factors(branch.drop, branch.rows_per_sample);
    for (int64_t n = begin; n < end; ++n) {
      T* s = sum + n * C;
      join_row(s, x + n * C, residual + n * C, branch.gamma, factors.at(n), C);
      normalise_row(y + n * C, mean + n, rstd + n, s, gamma, beta, C, eps);
    }
  });
}

template <class T>
void layernorm_backward(const Cpu& dev, T* dx, float* dgamma, float* dbeta, const T* dx_add, const T* dy, const T* x,
                        const float* gamma, const float* mean, const float* rstd, int64_t N, int64_t C, T* dbranch,
                        const BranchEnd& branch) {
  thread_local Scratch<float> memory;
  const RowBlocks blocks(N);
  float* partial = memory.get(blocks.count * 2 * C);  // (blocks, 2, C): sums of dy * h and of dy
  for_blocks(dev, blocks.count, 2 * N * C, [=](int64_t block) {
    float* sum_dyh = partial + block * 2 * C;
    float* sum_dy = sum_dyh + C;
    std::fill(sum_dyh, sum_dyh + 2 * C, 0.0f);
    RowFactor factors(branch.drop, branch.rows_per_sample);
    for (int64_t n = blocks.begin(block); n < blocks.end(block); ++n) {
      const T *g = dy + n * C, *row = x + n * C;
      const float m = mean[n], r = rstd[n];
      const GradientMeans mean_of = gradient_means(g, row, gamma, m, r, C);
      T* out = dx + n * C;
      const T* add = dx_add ? dx_add + n * C : nullptr;
      each(0, C, [=]<class V>(int64_t c) {
        const V d = load<V>(g + c);
        const V h = (load<V>(row + c) - m) * r;
        V result = (d * load<V>(gamma + c) - mean_of.g - h * mean_of.gh) * r;
        if (add) result += load<V>(add + c);
        store(sum_dyh + c, load<V>(sum_dyh + c) + d * h);
        store(sum_dy + c, load<V>(sum_dy + c) + d);
        store(out + c, result);
      });
      if (dbranch) branch_gradient_row(dbranch + n * C, out, branch.gamma, factors.at(n), C);
    }
  });
  for_elements(dev, C, 2 * blocks.count, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t c) {
      V total_dyh{}, total_dy{};
      for (int64_t block = 0; block < blocks.count; ++block) {
        total_dyh += load<V>(partial + block * 2 * C + c);
        total_dy += load<V>(partial + block * 2 * C + C + c);
      }
      if (dgamma) store(dgamma + c, load<V>(dgamma + c) + total_dyh);
      if (dbeta) store(dbeta + c, load<V>(dbeta + c) + total_dy);
    });
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                      \
  template void layernorm_forward<T>(const Cpu&, T*, float*, float*, const T*, const float*, const float*, int64_t, \
                                     int64_t, float);                                                               \
  template void residual_layernorm_forward<T>(const Cpu&, T*, T*, float*, float*, const T*, const T*, const float*, \
                                              const float*, int64_t, int64_t, float, const BranchEnd&);             \
  template void layernorm_backward<T>(const Cpu&, T*, float*, float*, const T*, const T*, const T*, const float*,   \
                                      const float*, const float*, int64_t, int64_t, T*, const BranchEnd&);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
