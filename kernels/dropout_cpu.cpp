// Dropout and random fills on the CPU. Every element has its own address in the random stream, so threads need no
// state.
#include "kernels/dropout.h"

#include "kernels/parallel.h"
#include "kernels/random_words.h"

namespace accrete::kernels {

void set_live_step(const Cpu&, uint64_t* live_step, uint64_t step) { *live_step = step; }

template <class T>
void dropout(const Cpu& dev, T* y, const T* x, int64_t n, float p, RandomKey key, int64_t first) {
  const uint32_t threshold = drop_threshold(p);
  const float scale = 1.0f / (1.0f - p);
  for_elements(dev, n, 4, [=](int64_t begin, int64_t end) {
    for_random_words(key, static_cast<uint64_t>(first + begin), end - begin,
                     [=](int64_t offset, int64_t count, const uint32_t* words) {
                       T* out = y + begin + offset;
                       const T* in = x + begin + offset;
                       each(0, count, [=]<class V>(int64_t i) {
                         // The rounds of Philox are too long for the processor to see the next loads: three times
                         // slower from memory without these.
                         __builtin_prefetch(in + i + 512);
                         __builtin_prefetch(out + i + 512, 1);
                         store(out + i, where_kept(words + i, threshold, load<V>(in + i) * scale));
                       });
                     });
  });
}

template <class T>
void random_uniform(const Cpu& dev, T* x, int64_t n, float low, float high, RandomKey key, int64_t first) {
  for_elements(dev, n, 4, [=](int64_t begin, int64_t end) {
    for_random_words(key, static_cast<uint64_t>(first + begin), end - begin,
                     [=](int64_t offset, int64_t count, const uint32_t* words) {
                       for (int64_t i = 0; i < count; ++i)
                         x[begin + offset + i] = from_float<T>(low + (high - low) * to_uniform(words[i]));
                     });
  });
}

template <class T>
void random_normal(const Cpu& dev, T* x, int64_t n, float mean, float stddev, RandomKey key, int64_t first) {
  for_elements(dev, n, 32, [=](int64_t begin, int64_t end) {
    // An element takes two words: twice the index, twice the count.
    for_random_words(key, 2 * static_cast<uint64_t>(first + begin), 2 * (end - begin),
                     [=](int64_t offset, int64_t count, const uint32_t* words) {
                       for (int64_t i = 0; i < count / 2; ++i)
                         x[begin + offset / 2 + i] =
                             from_float<T>(mean + stddev * to_normal(words[2 * i], words[2 * i + 1]));
                     });
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                \
  template void dropout<T>(const Cpu&, T*, const T*, int64_t, float, RandomKey, int64_t);     \
  template void random_uniform<T>(const Cpu&, T*, int64_t, float, float, RandomKey, int64_t); \
  template void random_normal<T>(const Cpu&, T*, int64_t, float, float, RandomKey, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
