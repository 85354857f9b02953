// Multi-head attention on packed projections, tiled: no matrix of scores in memory (kernels/attention.h).
#include "kernels/attention.h"

#include <cmath>

#include "engine/ops/images.h"

namespace accrete::ops {
namespace {

kernels::AttentionShape packed_shape(const Tensor& qkv, const AttentionOptions& o) {
  check(qkv.rank() == 3 && o.heads > 0 && qkv.size(2) % (3 * o.heads) == 0, "attention",
        "expected (B, T, 3 * heads * head_dim) with ", o.heads, " heads; got ", qkv.shape());
  check(o.dropout >= 0.0f && o.dropout < 1.0f, "attention", "dropout out of range; expected 0 <= p < 1; got ",
        o.dropout);
  kernels::AttentionShape s;
  s.batch = qkv.size(0);
  s.heads = o.heads;
  s.head_dim = qkv.size(2) / (3 * o.heads);
  s.q_len = s.kv_len = qkv.size(1);
  s.q_row = s.kv_row = qkv.size(2);
  s.q_batch = s.kv_batch = qkv.size(1) * qkv.size(2);
  s.causal = o.causal;
  s.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  s.dropout = o.dropout;
  s.key = o.key;
  s.first_batch = o.first_sample;
  return s;
}

kernels::AttentionShape cross_shape(const Tensor& q, const Tensor& kv, int64_t heads) {
  const char* const where = "cross_attention";
  check(q.rank() == 3 && heads > 0 && q.size(2) % heads == 0, where, "expected q of (B, S, heads * head_dim) with ",
        heads, " heads; got ", q.shape());
  check(kv.rank() == 3 && kv.size(0) == q.size(0) && kv.size(2) == 2 * q.size(2) && kv.dtype() == q.dtype(), where,
        "kv does not fit q ", q.shape(), " ", name_of(q.dtype()), "; expected (", q.size(0), ", T, ", 2 * q.size(2),
        ") of that type; got ", kv.shape(), " ", name_of(kv.dtype()));
  kernels::AttentionShape s;
  s.batch = q.size(0);
  s.heads = heads;
  s.head_dim = q.size(2) / heads;
  s.q_len = q.size(1), s.kv_len = kv.size(1);
  s.q_row = q.size(2), s.kv_row = kv.size(2);
  s.q_batch = s.q_len * s.q_row, s.kv_batch = s.kv_len * s.kv_row;
  s.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  return s;
}

// Columns [begin, begin + heads * D) of x, (B, T, ..), as (B * heads, T, D).
Tensor heads_first(const Tensor& x, int64_t begin, int64_t heads, int64_t D) {
  const Tensor part = slice_last(x, begin, begin + heads * D);
  return reshape(swap_middle(reshape(part, Shape{x.size(0), x.size(1), heads, D})),
                 Shape{x.size(0) * heads, x.size(1), D});
}

// (B * heads, T, D) -> (B, T, heads * D)
Tensor heads_last(const Tensor& x, int64_t heads) {
  const int64_t B = x.size(0) / heads, T = x.size(1), D = x.size(2);
  return reshape(swap_middle(reshape(x, Shape{B, heads, T, D})), Shape{B, T, heads * D});
}

// Two products of (T x T x D) per head; a causal kernel visits half of the square (plus the diagonal).
Cost attention_cost(const kernels::AttentionShape& s, int64_t input_bytes, const Tensor& o) {
  const double q = static_cast<double>(s.q_len), k = static_cast<double>(s.kv_len);
  const double pairs = s.causal ? q * (k - q) + q * (q + 1) / 2 : q * k;
  const double product = 2.0 * static_cast<double>(s.batch * s.heads * s.head_dim) * pairs;
  const double bytes = static_cast<double>(input_bytes + o.bytes());
  return Cost{2 * product, bytes, 5 * product, 3 * bytes};
}

}  // namespace

Tensor attention(const Tensor& qkv, const AttentionOptions& options) {
  const kernels::AttentionShape s = packed_shape(qkv, options);
  const int64_t width = s.heads * s.head_dim;
  Tensor o = Tensor::empty(qkv.shape().with_last(width), qkv.dtype(), qkv.device());
  Tensor lse = Tensor::empty(Shape{s.batch, s.heads, s.q_len}, DType::f32, qkv.device());
  on(qkv, [&]<class T>(const auto& dev) {
    const T* q = qkv.ptr<T>();
    kernels::attention_forward<T>(dev, o.ptr<T>(), lse.ptr<float>(), q, q + width, q + 2 * width, s);
  });
  return record("attention", o, {qkv}, Saved{qkv, o, lse}, attention_cost(s, qkv.bytes(), o),
                [s, width](const BackwardContext& ctx) -> Grads {
                  const Tensor& qkv = ctx.saved(0);
                  const Tensor& o = ctx.saved(1);
                  const Tensor& lse = ctx.saved(2);
                  Tensor dqkv = like(qkv);
                  const SegmentScope workspace(Segment::workspace);
                  Tensor delta = like(lse);
                  on(qkv, [&]<class T>(const auto& dev) {
                    const T* q = qkv.ptr<T>();
                    T* dq = dqkv.ptr<T>();
                    kernels::attention_backward<T>(dev, dq, dq + width, dq + 2 * width, delta.ptr<float>(),
                                                   ctx.dy().template ptr<T>(), q, q + width, q + 2 * width, o.ptr<T>(),
                                                   lse.ptr<float>(), s);
                  });
                  return {dqkv};
                });
}

Tensor attention_plain(const Tensor& qkv, const AttentionOptions& options) {
  const kernels::AttentionShape s = packed_shape(qkv, options);
  const int64_t T = s.q_len, H = s.heads, D = s.head_dim;
  const auto part = [&](int64_t which) { return heads_first(qkv, which * H * D, H, D); };
  const Tensor scores = scale(matmul(part(0), part(1), false, true), s.scale);
  Tensor p = softmax(scores, options.causal);
  p = dropout(p, options.dropout, options.key, options.first_sample * H * T * T);
  return heads_last(matmul(p, part(2)), H);
}

Tensor cross_attention(const Tensor& q, const Tensor& kv, int64_t heads) {
  const kernels::AttentionShape s = cross_shape(q, kv, heads);
  const int64_t width = s.q_row;
  Tensor o = like(q);
  Tensor lse = Tensor::empty(Shape{s.batch, s.heads, s.q_len}, DType::f32, q.device());
  on(q, [&]<class T>(const auto& dev) {
    const T* k = kv.ptr<T>();
    kernels::attention_forward<T>(dev, o.ptr<T>(), lse.ptr<float>(), q.ptr<T>(), k, k + width, s);
  });
  return record("cross_attention", o, {q, kv}, Saved{q, kv, o, lse}, attention_cost(s, q.bytes() + kv.bytes(), o),
                [s, width](const BackwardContext& ctx) -> Grads {
                  const Tensor &q = ctx.saved(0), &kv = ctx.saved(1), &o = ctx.saved(2), &lse = ctx.saved(3);
                  Tensor dq = like(q), dkv = like(kv);
                  const SegmentScope workspace(Segment::workspace);
                  Tensor delta = like(lse);
                  on(q, [&]<class T>(const auto& dev) {
                    const T* k = kv.ptr<T>();
                    T* dk = dkv.ptr<T>();
                    kernels::attention_backward<T>(dev, dq.ptr<T>(), dk, dk + width, delta.ptr<float>(),
                                                   ctx.dy().template ptr<T>(), q.ptr<T>(), k, k + width, o.ptr<T>(),
                                                   lse.ptr<float>(), s);
                  });
                  return {dq, dkv};
                });
}

Tensor cross_attention_plain(const Tensor& q, const Tensor& kv, int64_t heads) {
  const kernels::AttentionShape s = cross_shape(q, kv, heads);
  const int64_t D = s.head_dim;
  const Tensor queries = heads_first(q, 0, heads, D), keys = heads_first(kv, 0, heads, D);
  const Tensor p = softmax(scale(matmul(queries, keys, false, true), s.scale));
  return heads_last(matmul(p, heads_first(kv, s.q_row, heads, D)), heads);
}

Tensor attention_cached(const Tensor& qkv, const Tensor& k_cache, const Tensor& v_cache, int64_t length,
                        int64_t heads) {
  AttentionOptions options;
  options.heads = heads;
  options.causal = true;
  kernels::AttentionShape s = packed_shape(qkv, options);
  const int64_t width = s.heads * s.head_dim;
  check(k_cache.rank() == 3 && k_cache.shape() == v_cache.shape() && k_cache.size(0) == s.batch &&
            k_cache.size(2) == width,
        "attention_cached", "cache does not fit ", qkv.shape(), "; got ", k_cache.shape());
  check(s.q_len <= length && length <= k_cache.size(1), "attention_cached", "length ", length,
        " does not fit a cache of ", k_cache.size(1), " tokens");
  s.kv_len = length;
  s.kv_row = width;
  s.kv_batch = k_cache.size(1) * width;
  Tensor o = Tensor::empty(qkv.shape().with_last(width), qkv.dtype(), qkv.device());
  Tensor lse = Tensor::empty(Shape{s.batch, s.heads, s.q_len}, DType::f32, qkv.device());
  on(qkv, [&]<class T>(const auto& dev) {
    kernels::attention_forward<T>(dev, o.ptr<T>(), lse.ptr<float>(), qkv.ptr<T>(), k_cache.ptr<T>(), v_cache.ptr<T>(),
                                  s);
  });
  return no_gradient("attention_cached", o, {qkv}, attention_cost(s, qkv.bytes(), o),
                     "the cache is for generation only; use attention");
}

}  // namespace accrete::ops
