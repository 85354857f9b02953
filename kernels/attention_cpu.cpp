// Tiled attention on the CPU. Tiles are converted to f32 and padded to whole vectors; products run in the register
// tile of micro_kernel.h.
//
// Forward, for a chunk of queries of one head, over tiles of keys (online softmax):
//   s = q k^T;  m' = max(m, s);  p = exp(s - m');  l = l exp(m - m') + sum p;  o = o exp(m - m') + dropout(p) v
//   at the end o / l, lse = m + log l
// Backward, for one head, over tiles of keys (outside) and queries (inside):
//   p = exp(s - lse);  dv += dropout(p)^T d_o;  dp = dropout(d_o v^T);  ds = p (dp - delta);  dk += ds^T q;  dq += ds k
// where delta = rowsum(d_o * o) is what the softmax's own gradient needs: sum_j p_j dp_j.
// Tiles without a visible key are skipped.
#include "kernels/attention.h"

#include <cmath>
#include <limits>

#include "kernels/micro_kernel.h"
#include "kernels/parallel.h"
#include "kernels/random_words.h"

namespace accrete::kernels {

namespace {

constexpr int64_t kKeys = 64;                 // keys in a tile
constexpr int64_t kQueries = 64;              // queries in a tile
constexpr int64_t kDiagonal = 3 * kTileRows;  // queries at a time where the causal mask cuts a tile
constexpr int64_t kChunk = 256;               // queries of one forward task: a packed tile of keys serves all of them
static_assert(kKeys % kLanes == 0);

int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// y (rows, width) = factor * x, rows `stride` apart in x; columns cols..width-1 zero
template <class T>
void load_rows(float* y, int64_t width, const T* x, int64_t stride, int64_t rows, int64_t cols, float factor) {
  for (int64_t r = 0; r < rows; ++r) {
    float* out = y + r * width;
    const T* in = x + r * stride;
    each(0, cols, [=]<class V>(int64_t c) { store(out + c, load<V>(in + c) * factor); });
    for (int64_t c = cols; c < width; ++c) out[c] = 0.0f;
  }
}

// y (padded(cols), kKeys) = x^T, rows `stride` apart in x; what has no source is zero
template <class T>
void load_transposed(float* y, const T* x, int64_t stride, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < kKeys; r += kLanes) {
    for (int64_t c = 0; c < cols; c += kLanes) {
      Vec square[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const T* in = x + (r + i) * stride + c;
        square[i] = r + i >= rows ? Vec{} : c + kLanes <= cols ? load<Vec>(in) : load_part(in, cols - c);
      }
      transpose_square(square);
      for (int64_t i = 0; i < kLanes; ++i) store(y + (c + i) * kKeys + r, square[i]);
    }
  }
}

template <class T>
void store_rows(T* y, int64_t stride, const float* x, int64_t width, int64_t rows, int64_t cols, float factor) {
  for (int64_t r = 0; r < rows; ++r) {
    T* out = y + r * stride;
    const float* in = x + r * width;
    each(0, cols, [=]<class V>(int64_t c) { store(out + c, load<V>(in + c) * factor); });
  }
}

// One head of one batch entry: what its rows see, and its random words.
struct Head {
  const AttentionShape& s;
  int64_t b, h;
  uint32_t threshold;

  Head(const AttentionShape& shape, int64_t index)
      : s(shape), b(index / shape.heads), h(index % shape.heads), threshold(drop_threshold(shape.dropout)) {}
  int64_t q_offset() const { return b * s.q_batch + h * s.head_dim; }
  int64_t kv_offset() const { return b * s.kv_batch + h * s.head_dim; }
  int64_t o_row() const { return s.heads * s.head_dim; }
  int64_t o_offset() const { return b * s.q_len * o_row() + h * s.head_dim; }
  int64_t lse_offset() const { return (b * s.heads + h) * s.q_len; }
  // How many of the `count` keys from j0 on query i sees.
  int64_t visible(int64_t i, int64_t j0, int64_t count) const {
    return s.causal ? std::clamp<int64_t>(i + s.kv_len - s.q_len + 1 - j0, 0, count) : count;
  }
  // How many queries from i on to treat together: few where the mask cuts the tile, to compute little of what it hides.
  int64_t together(int64_t i, int64_t end, int64_t j0, int64_t count) const {
    return std::min(visible(i, j0, count) == count ? kQueries : kDiagonal, end - i);
  }
  // keep[c] = 1 where probability (i, j0 + c) survives dropout, else 0
  void keep_mask(float* keep, int64_t i, int64_t j0, int64_t count) const {  // keep: (kKeys)
    const int64_t first = (((s.first_batch + b) * s.heads + h) * s.q_len + i) * s.kv_len + j0;
    const uint32_t limit = threshold;
    for_random_words(s.key, static_cast<uint64_t>(first), count, [=](int64_t at, int64_t n, const uint32_t* words) {
      each(0, n, [=]<class V>(int64_t c) { store(keep + at + c, where_kept(words + c, limit, V{} + 1.0f)); });
    });
    std::fill(keep + count, keep + kKeys, 0.0f);
  }
};

// Scores (rows, cols) of queries i0.. against keys j0.., of which `used` <= cols are seen by any of the queries:
// updates m, l and o, leaves probabilities in `p` (rows kKeys apart).
void online_softmax(const Head& head, float* p, int64_t i0, int64_t rows, int64_t j0, int64_t used, int64_t cols,
                    float* o, int64_t width, float* m, float* l) {
  const float lowest = -std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < rows; ++r) {
    float* row = p + r * kKeys;
    const int64_t visible = head.visible(i0 + r, j0, used);
    if (visible == 0) {
      std::fill(row, row + cols, 0.0f);
      continue;
    }
    for (int64_t c = visible; c < cols; ++c) row[c] = lowest;
    const float top = max(m[r], max_over(cols, [=]<class V>(int64_t c) { return load<V>(row + c); }));
    const float total = sum_over(cols, [=]<class V>(int64_t c) {
      const V e = exp(load<V>(row + c) - top);
      store(row + c, e);
      return e;
    });
    if (top != m[r]) {
      const float shrink = exp(m[r] - top);
      l[r] *= shrink;
      float* out = o + r * width;
      each(0, width, [=]<class V>(int64_t c) { store(out + c, load<V>(out + c) * shrink); });
      m[r] = top;
    }
    l[r] += total;
    if (head.s.dropout > 0.0f) {
      float keep[kKeys];
      head.keep_mask(keep, i0 + r, j0, visible);
      each(0, cols, [&]<class V>(int64_t c) { store(row + c, load<V>(row + c) * load<V>(keep + c)); });
    }
  }
}

template <class T>
void forward_chunk(const Head& head, T* o, float* lse, const T* q, const T* k, const T* v, int64_t i_begin,
                   int64_t i_end) {
  thread_local Scratch<float> memory;
  const AttentionShape& s = head.s;
  const int64_t D = s.head_dim, width = padded(D), queries = i_end - i_begin;
  float* q_chunk = memory.get(2 * kChunk * width + 2 * kChunk + 2 * kKeys * width + kQueries * kKeys);
  float* o_chunk = q_chunk + kChunk * width;
  float* k_tile = o_chunk + kChunk * width;  // (D, kKeys)
  float* v_tile = k_tile + kKeys * width;    // (kKeys, width)
  float* p = v_tile + kKeys * width;         // (kQueries, kKeys)
  float* m = p + kQueries * kKeys;
  float* l = m + kChunk;
  load_rows(q_chunk, width, q + head.q_offset() + i_begin * s.q_row, s.q_row, queries, D, s.scale);
  std::fill(o_chunk, o_chunk + queries * width, 0.0f);
  std::fill(m, m + queries, -std::numeric_limits<float>::infinity());
  std::fill(l, l + queries, 0.0f);

  for (int64_t j0 = 0; j0 < s.kv_len && head.visible(i_end - 1, j0, 1) > 0; j0 += kKeys) {
    const int64_t count = std::min(kKeys, s.kv_len - j0);
    const int64_t kv = head.kv_offset() + j0 * s.kv_row;
    load_transposed(k_tile, k + kv, s.kv_row, count, D);
    load_rows(v_tile, width, v + kv, s.kv_row, count, D, 1.0f);
    for (int64_t r = 0, rows; r < queries; r += rows) {
      const int64_t i0 = i_begin + r;
      rows = head.together(i0, i_end, j0, count);
      const int64_t used = head.visible(i0 + rows - 1, j0, count), cols = padded(used);
      if (used == 0) continue;
      small_product(rows, cols, D, q_chunk + r * width, width, 1, k_tile, kKeys, p, kKeys, false);
      online_softmax(head, p, i0, rows, j0, used, cols, o_chunk + r * width, width, m + r, l + r);
      small_product(rows, width, used, p, kKeys, 1, v_tile, width, o_chunk + r * width, width, true);
    }
  }
  const float kept = 1.0f / (1.0f - s.dropout);
  for (int64_t r = 0; r < queries; ++r) {
    const int64_t i = i_begin + r;
    lse[head.lse_offset() + i] = m[r] + std::log(l[r]);
    store_rows(o + head.o_offset() + i * head.o_row(), 0, o_chunk + r * width, width, 1, D,
               l[r] > 0.0f ? kept / l[r] : 0.0f);
  }
}

// p: scores (rows, cols) -> dropout(p) without its factor; ds: d_o v^T -> gradient of the scores; of the columns `used`
// are seen by any of the queries
void softmax_gradient(const Head& head, float* p, float* ds, int64_t i0, int64_t rows, int64_t j0, int64_t used,
                      int64_t cols, const float* lse, const float* delta) {
  const float kept = 1.0f / (1.0f - head.s.dropout);
  for (int64_t r = 0; r < rows; ++r) {
    float *p_row = p + r * kKeys, *ds_row = ds + r * kKeys;
    const int64_t visible = head.visible(i0 + r, j0, used);
    const float shift = lse[r], inner = delta[r];
    if (visible > 0 && head.s.dropout > 0.0f) {
      float keep[kKeys];
      head.keep_mask(keep, i0 + r, j0, visible);
      each(0, cols, [&]<class V>(int64_t c) {
        const V e = exp(load<V>(p_row + c) - shift), mask = load<V>(keep + c);
        store(ds_row + c, e * (load<V>(ds_row + c) * mask * kept - inner));
        store(p_row + c, e * mask);
      });
    } else if (visible > 0) {
      each(0, cols, [=]<class V>(int64_t c) {
        const V e = exp(load<V>(p_row + c) - shift);
        store(ds_row + c, e * (load<V>(ds_row + c) - inner));
        store(p_row + c, e);
      });
    }
    std::fill(p_row + visible, p_row + cols, 0.0f);
    std::fill(ds_row + visible, ds_row + cols, 0.0f);
  }
}

template <class T>
void backward_head(const Head& head, T* dq, T* dk, T* dv, float* delta, const T* d_o, const T* q, const T* k,
                   const T* v, const T* o, const float* lse) {
  thread_local Scratch<float> memory;
  const AttentionShape& s = head.s;
  const int64_t D = s.head_dim, width = padded(D);
  float* q_all = memory.get(3 * s.q_len * width + 5 * kKeys * width + 2 * kQueries * kKeys);
  float* do_all = q_all + s.q_len * width;   // (q_len, width)
  float* dq_all = do_all + s.q_len * width;  // (q_len, width)
  float* k_tile = dq_all + s.q_len * width;  // (kKeys, width)
  float* k_turned = k_tile + kKeys * width;  // (D, kKeys)
  float* v_turned = k_turned + kKeys * width;
  float* dk_tile = v_turned + kKeys * width;  // (kKeys, width)
  float* dv_tile = dk_tile + kKeys * width;
  float* p = dv_tile + kKeys * width;  // (kQueries, kKeys)
  float* ds = p + kQueries * kKeys;
  load_rows(q_all, width, q + head.q_offset(), s.q_row, s.q_len, D, s.scale);
  load_rows(do_all, width, d_o + head.o_offset(), head.o_row(), s.q_len, D, 1.0f);
  std::fill(dq_all, dq_all + s.q_len * width, 0.0f);
  lse += head.lse_offset();
  delta += head.lse_offset();
  for (int64_t i = 0; i < s.q_len; ++i) {
    const T* o_row = o + head.o_offset() + i * head.o_row();
    const float* do_row = do_all + i * width;
    delta[i] = sum_over(D, [=]<class V>(int64_t c) { return load<V>(o_row + c) * load<V>(do_row + c); });
  }

  for (int64_t j0 = 0; j0 < s.kv_len; j0 += kKeys) {
    const int64_t count = std::min(kKeys, s.kv_len - j0);
    const int64_t kv = head.kv_offset() + j0 * s.kv_row;
    load_rows(k_tile, width, k + kv, s.kv_row, count, D, 1.0f);
    load_transposed(k_turned, k + kv, s.kv_row, count, D);
    load_transposed(v_turned, v + kv, s.kv_row, count, D);
    std::fill(dk_tile, dk_tile + 2 * kKeys * width, 0.0f);  // and dv_tile
    const int64_t first_query = s.causal ? std::max<int64_t>(0, j0 - (s.kv_len - s.q_len)) : 0;
    for (int64_t i0 = first_query, rows; i0 < s.q_len; i0 += rows) {
      rows = head.together(i0, s.q_len, j0, count);
      const int64_t used = head.visible(i0 + rows - 1, j0, count), cols = padded(used);
      const float *q_tile = q_all + i0 * width, *do_tile = do_all + i0 * width;
      small_product(rows, cols, D, q_tile, width, 1, k_turned, kKeys, p, kKeys, false);
      small_product(rows, cols, D, do_tile, width, 1, v_turned, kKeys, ds, kKeys, false);
      softmax_gradient(head, p, ds, i0, rows, j0, used, cols, lse + i0, delta + i0);
      small_product(used, width, rows, p, 1, kKeys, do_tile, width, dv_tile, width, true);
      small_product(used, width, rows, ds, 1, kKeys, q_tile, width, dk_tile, width, true);
      small_product(rows, width, used, ds, kKeys, 1, k_tile, width, dq_all + i0 * width, width, true);
    }
    store_rows(dk + kv, s.kv_row, dk_tile, width, count, D, 1.0f);
    store_rows(dv + kv, s.kv_row, dv_tile, width, count, D, 1.0f / (1.0f - s.dropout));
  }
  store_rows(dq + head.q_offset(), s.q_row, dq_all, width, s.q_len, D, s.scale);
}

}  // namespace

template <class T>
void attention_forward(const Cpu& dev, T* o, float* lse, const T* q, const T* k, const T* v, const AttentionShape& s) {
  const int64_t chunks = (s.q_len + kChunk - 1) / kChunk;
  for_blocks(dev, s.batch * s.heads * chunks, s.batch * s.heads * s.q_len * s.kv_len * s.head_dim / 8,
             [&](int64_t task) {
               const Head head(s, task / chunks);
               const int64_t begin = task % chunks * kChunk;
               forward_chunk(head, o, lse, q, k, v, begin, std::min(s.q_len, begin + kChunk));
             });
}

template <class T>
void attention_backward(const Cpu& dev, T* dq, T* dk, T* dv, float* delta, const T* d_o, const T* q, const T* k,
                        const T* v, const T* o, const float* lse, const AttentionShape& s) {
  for_blocks(dev, s.batch * s.heads, s.batch * s.heads * s.q_len * s.kv_len * s.head_dim / 4,
             [&](int64_t task) { backward_head(Head(s, task), dq, dk, dv, delta, d_o, q, k, v, o, lse); });
}

#define ACCRETE_INSTANTIATE(T)                                                                                     \
  template void attention_forward<T>(const Cpu&, T*, float*, const T*, const T*, const T*, const AttentionShape&); \
  template void attention_backward<T>(const Cpu&, T*, T*, T*, float*, const T*, const T*, const T*, const T*,      \
                                      const T*, const float*, const AttentionShape&);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
