// The toy problems of the averaging methods, for tests: a mixture of Gaussians, a three-layer network written out by
// hand, and training runs that leave one snapshot for each epoch. (Gaussian clusters: 10 classes of 4 prototypes in 64
// dimensions; network 64-96-96-10, 16 522 numbers.)
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "tests/program_testing.h"
#include "training/checkpoint.h"
#include "training/snapshot_files.h"

namespace accrete::toy {

inline constexpr int kIn = 64, kHidden = 96, kClasses = 10, kBatch = 100;
inline constexpr int kW1 = 0, kB1 = kW1 + kIn * kHidden, kW2 = kB1 + kHidden, kB2 = kW2 + kHidden * kHidden,
                     kW3 = kB2 + kHidden, kB3 = kW3 + kHidden * kClasses, kCount = kB3 + kClasses;

struct Random {
  std::mt19937_64 bits;
  double uniform() { return (static_cast<double>(bits() >> 11) + 0.5) / 9007199254740992.0; }
  double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint64_t>(n)); }
};

struct Data {
  std::vector<float> x;  // (n, 64)
  std::vector<int> y;
  int count() const { return static_cast<int>(y.size()); }
};

// Samples of the mixture; `flip`: share of labels replaced by a random class.
inline Data draw(int count, double sigma, double flip, uint64_t seed) {
  Random prototypes{std::mt19937_64(99)}, r{std::mt19937_64(seed)};
  std::vector<double> centre(static_cast<size_t>(kClasses * 4 * kIn));
  for (double& c : centre) c = prototypes.normal();
  Data data;
  for (int i = 0; i < count; ++i) {
    const int y = r.below(kClasses), p = r.below(4);
    const double a = 0.7 + 0.6 * r.uniform();
    for (int k = 0; k < kIn; ++k)
      data.x.push_back(
          static_cast<float>((a * centre[static_cast<size_t>((y * 4 + p) * kIn + k)] + sigma * r.normal()) /
                             std::sqrt(1 + sigma * sigma)));
    data.y.push_back(r.uniform() < flip ? r.below(kClasses) : y);
  }
  return data;
}

// y (4, Out) = x (4, In) w (In, Out) + b, four samples at a time; and its gradients.
template <int In, int Out, class T>
void layer(T* y, const T* x, const T* w, const T* b) {
  T sum[4][Out];
  for (auto& row : sum) std::copy(b, b + Out, row);
  for (int i = 0; i < In; ++i)
    for (int s = 0; s < 4; ++s)
      for (int o = 0; o < Out; ++o) sum[s][o] += x[s * In + i] * w[i * Out + o];
  std::copy(sum[0], sum[0] + 4 * Out, y);
}
template <int In, int Out, class T>
void layer_gradient(T* dx, T* dw, T* db, const T* dy, const T* x, const T* w) {
  const T *d0 = dy, *d1 = dy + Out, *d2 = dy + 2 * Out, *d3 = dy + 3 * Out;
  for (int o = 0; o < Out; ++o) db[o] += d0[o] + d1[o] + d2[o] + d3[o];
  for (int i = 0; i < In; ++i) {
    const T x0 = x[i], x1 = x[In + i], x2 = x[2 * In + i], x3 = x[3 * In + i], *row = w + i * Out;
    T *out = dw + i * Out, s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int o = 0; o < Out; ++o) {
      out[o] += x0 * d0[o] + x1 * d1[o] + x2 * d2[o] + x3 * d3[o];
      s0 += d0[o] * row[o], s1 += d1[o] * row[o], s2 += d2[o] * row[o], s3 += d3[o] * row[o];
    }
    if (dx) dx[i] = s0, dx[In + i] = s1, dx[2 * In + i] = s2, dx[3 * In + i] = s3;
  }
}

// Mean cross-entropy of samples (a multiple of 4) and, where g is not null, its gradient (kCount) -> g. ReLU.
template <class T>
double loss(const T* w, T* g, const Data& data, const int* samples, int count, int* correct = nullptr) {
  if (g) std::fill(g, g + kCount, T(0));
  double total = 0;
  std::vector<T> x(4 * kIn), h1(4 * kHidden), h2(h1), z(4 * kClasses), d1(h1), d2(h1);
  for (int first = 0; first < count; first += 4) {
    for (int s = 0; s < 4; ++s)
      std::copy_n(data.x.data() + static_cast<ptrdiff_t>(samples[first + s]) * kIn, kIn, x.data() + s * kIn);
    layer<kIn, kHidden>(h1.data(), x.data(), w + kW1, w + kB1);
    for (T& h : h1) h = std::max(h, T(0));
    layer<kHidden, kHidden>(h2.data(), h1.data(), w + kW2, w + kB2);
    for (T& h : h2) h = std::max(h, T(0));
    layer<kHidden, kClasses>(z.data(), h2.data(), w + kW3, w + kB3);
    for (int s = 0; s < 4; ++s) {
      T* row = z.data() + s * kClasses;
      const int y = data.y[static_cast<size_t>(samples[first + s])];
      const T top = *std::max_element(row, row + kClasses);
      if (correct) *correct += row[y] == top;
      T sum = 0;
      for (int c = 0; c < kClasses; ++c) sum += std::exp(row[c] - top);
      total += static_cast<double>(std::log(sum) + top - row[y]);
      for (int c = 0; c < kClasses; ++c)
        row[c] = (std::exp(row[c] - top) / sum - static_cast<T>(c == y)) / static_cast<T>(count);
    }
    if (!g) continue;
    layer_gradient<kHidden, kClasses>(d2.data(), g + kW3, g + kB3, z.data(), h2.data(), w + kW3);
    for (size_t k = 0; k < d2.size(); ++k) d2[k] = h2[k] > 0 ? d2[k] : 0;
    layer_gradient<kHidden, kHidden>(d1.data(), g + kW2, g + kB2, d2.data(), h1.data(), w + kW2);
    for (size_t k = 0; k < d1.size(); ++k) d1[k] = h1[k] > 0 ? d1[k] : 0;
    layer_gradient<kIn, kHidden, T>(nullptr, g + kW1, g + kB1, d1.data(), x.data(), w + kW1);
  }
  return total / count;
}

inline std::vector<int> numbers(int count) {
  std::vector<int> list(static_cast<size_t>(count));
  std::iota(list.begin(), list.end(), 0);
  return list;
}
// Over all samples.
inline double mean_loss(const float* w, const Data& data) {
  return loss<float>(w, nullptr, data, numbers(data.count()).data(), data.count());
}

// The samples of an epoch in a new order.
inline std::vector<int> shuffled(int count, uint64_t seed) {
  Random r{std::mt19937_64(seed)};
  std::vector<int> order = numbers(count);
  for (int i = count - 1; i > 0; --i)
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(r.below(i + 1))]);
  return order;
}

// The network's parameters in a store. All sizes but the last are multiples of the padding: offsets are those above.
inline std::unique_ptr<ParamStore> make_store() {
  auto store = std::make_unique<ParamStore>(DType::f32, kCpu);
  const Scope root(*store);
  const auto declare = [&](const char* name, Shape shape) {
    const std::vector<Axis> axes(static_cast<size_t>(shape.rank()), kNone);
    root.param(name, shape, axes, Init::zeros(), true);
  };
  declare("w1", {kIn, kHidden}), declare("b1", {kHidden}), declare("w2", {kHidden, kHidden}), declare("b2", {kHidden});
  declare("w3", {kHidden, kClasses}), declare("b3", {kClasses});
  store->allocate();
  store->zero_grads();
  return store;
}

// Snapshots of an ordinary training: initialisation and the end of every epoch. SGD, momentum 0.9, L2 1e-4, batch 100;
// the rate falls to a tenth after half of `planned` epochs and to a hundredth after three quarters.
struct Run {
  TempFolder folder;
  std::vector<std::filesystem::path> files;
  std::vector<float> ema;  // of every step, decay 0.998

  Run(const Data& data, int planned, int epochs, float lr0, uint64_t seed = 1) {
    const auto store = make_store();
    float *w = store->values().ptr<float>(), *g = store->grads().ptr<float>();
    Random r{std::mt19937_64(seed)};
    const auto he = [&](int begin, int count, int in) {
      for (int k = begin; k < begin + count; ++k) w[k] = static_cast<float>(r.normal() * std::sqrt(2.0 / in));
    };
    he(kW1, kIn * kHidden, kIn), he(kW2, kHidden * kHidden, kHidden), he(kW3, kHidden * kClasses, kHidden);
    std::vector<float> momentum(kCount, 0.0f);
    ema.assign(w, w + kCount);
    const auto keep = [&] {
      files.push_back(folder / (std::to_string(files.size()) + ".safetensors"));
      save_flat(files.back(), store->entries(), store->values());
    };
    keep();
    for (int epoch = 0; epoch < epochs; ++epoch) {
      const float lr = lr0 * (epoch < planned / 2 ? 1.0f : epoch < planned * 3 / 4 ? 0.1f : 0.01f);
      const std::vector<int> order = shuffled(data.count(), seed * 1000 + static_cast<uint64_t>(epoch));
      for (int first = 0; first + kBatch <= data.count(); first += kBatch) {
        loss(w, g, data, order.data() + first, kBatch);
        for (int k = 0; k < kCount; ++k) {
          momentum[static_cast<size_t>(k)] = 0.9f * momentum[static_cast<size_t>(k)] + g[k] + 1e-4f * w[k];
          w[k] -= lr * momentum[static_cast<size_t>(k)];
          ema[static_cast<size_t>(k)] += 0.002f * (w[k] - ema[static_cast<size_t>(k)]);
        }
      }
      keep();
    }
  }

  SnapshotFiles snapshots(int count = 0) const {
    const auto store = make_store();
    return {count > 0 ? std::vector(files.begin(), files.begin() + count) : files, store->entries()};
  }
};

}  // namespace accrete::toy
