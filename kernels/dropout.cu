// Dropout and random numbers at an address. One thread draws one Philox block of four words and serves the elements
// that own them, so neither the cut of a batch nor the size of the grid changes a number.
#include "kernels/dropout.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

struct Drop {
  uint32_t threshold;
  float scale;
  __device__ float operator()(uint32_t word, float x) const { return word >= threshold ? x * scale : 0.0f; }
};
struct Uniform {
  float low, span;
  __device__ float operator()(uint32_t word, float) const { return low + span * to_uniform(word); }
};

// y[i] = fn(word of element first + i, x[i]).   y, x: (n); x may be null (then 0)
// kWide: first is a multiple of 4 and both pointers are aligned for accesses of four elements.
template <class T, class Fn, bool kWide>
__global__ void words_kernel(T* y, const T* x, int64_t n, RandomKey key, int64_t first, Fn fn) {
  const int64_t first_block = first / 4, last_block = (first + n - 1) / 4;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t b = first_block + static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; b <= last_block;
       b += step) {
    const Philox4 words = random_words(key, static_cast<uint64_t>(b));
    const int64_t i = 4 * b - first;
    if (kWide && i + 4 <= n) {
      float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (x) load_vec(v, x + i);
      ACCRETE_UNROLL
      for (int j = 0; j < 4; ++j) v[j] = fn(words.v[j], v[j]);
      store_vec(y + i, v);
      continue;
    }
    ACCRETE_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (i + j >= 0 && i + j < n) y[i + j] = from_float<T>(fn(words.v[j], x ? to_float(x[i + j]) : 0.0f));
    }
  }
}

template <class T, class Fn>
void for_words(const Gpu& ctx, T* y, const T* x, int64_t n, RandomKey key, int64_t first, const Fn& fn) {
  if (n <= 0) return;
  const dim3 grid{blocks_for(n / 4 + 2, kBlockSize)}, block{kBlockSize};
  if (first % 4 == 0 && wide_rows(y, 4) && wide_rows(x, 4)) {
    ACCRETE_LAUNCH(words_kernel<T, Fn, true>, grid, block, 0, ctx, y, x, n, key, first, fn);
  } else {
    ACCRETE_LAUNCH(words_kernel<T, Fn, false>, grid, block, 0, ctx, y, x, n, key, first, fn);
  }
}

__global__ void live_step_kernel(uint64_t* live_step, uint64_t step) { *live_step = step; }

// x[i] = mean + stddev * normal from words 2e and 2e + 1, e = first + i.   x: (n)
template <class T>
__global__ void normal_kernel(T* x, int64_t n, float mean, float stddev, RandomKey key, int64_t first) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const uint64_t e = static_cast<uint64_t>(first + i);
    const Philox4 words = random_words(key, e / 2);
    const float z = e % 2 == 0 ? to_normal(words.v[0], words.v[1]) : to_normal(words.v[2], words.v[3]);
    x[i] = from_float<T>(mean + stddev * z);
  }
}

}  // namespace

void set_live_step(const Gpu& ctx, uint64_t* live_step, uint64_t step) {
  ACCRETE_LAUNCH(live_step_kernel, dim3{1}, dim3{1}, 0, ctx, live_step, step);
}

template <class T>
void dropout(const Gpu& ctx, T* y, const T* x, int64_t n, float p, RandomKey key, int64_t first) {
  for_words(ctx, y, x, n, key, first, Drop{drop_threshold(p), 1.0f / (1.0f - p)});
}

template <class T>
void random_uniform(const Gpu& ctx, T* x, int64_t n, float low, float high, RandomKey key, int64_t first) {
  for_words(ctx, x, static_cast<const T*>(nullptr), n, key, first, Uniform{low, high - low});
}

template <class T>
void random_normal(const Gpu& ctx, T* x, int64_t n, float mean, float stddev, RandomKey key, int64_t first) {
  if (n <= 0) return;
  ACCRETE_LAUNCH(normal_kernel<T>, dim3{blocks_for(n, kBlockSize)}, dim3{kBlockSize}, 0, ctx, x, n, mean, stddev, key,
                 first);
}

#define ACCRETE_INSTANTIATE(T)                                                             \
  template void dropout(const Gpu&, T*, const T*, int64_t, float, RandomKey, int64_t);     \
  template void random_uniform(const Gpu&, T*, int64_t, float, float, RandomKey, int64_t); \
  template void random_normal(const Gpu&, T*, int64_t, float, float, RandomKey, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
