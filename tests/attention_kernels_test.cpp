// Tiled attention, forward and backward, on the emulator (three warp orders) and the CPU, against the definition with
// the whole matrix of probabilities in double precision.
#include <algorithm>

#include "kernels/attention.h"
#include "tests/kernel_reference.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;
using Values = std::vector<double>;

namespace {

struct Case {
  int64_t B, H, D, q_len, kv_len;
  bool causal;
  float dropout;
  bool packed;  // q, k, v are slices of one (B, T, 3, H, D) tensor; q_len = kv_len
};
const Case kCases[] = {
    {1, 1, 1, 1, 1, true, 0.0f, false},      {2, 2, 16, 33, 33, true, 0.0f, true},
    {1, 2, 64, 65, 65, true, 0.0f, true},    {1, 1, 64, 31, 130, false, 0.0f, false},
    {1, 1, 80, 40, 70, false, 0.0f, false},  {1, 2, 128, 70, 66, false, 0.0f, false},
    {2, 1, 33, 5, 9, true, 0.0f, false},     {1, 1, 8, 9, 5, true, 0.0f, false},  // the first 4 queries see nothing
    {2, 2, 32, 130, 130, true, 0.25f, true}, {1, 1, 24, 17, 67, false, 0.5f, false},
    {1, 1, 128, 65, 65, true, 0.1f, true},   {1, 2, 4, 3, 0, false, 0.0f, false},
    {1, 2, 4, 0, 3, false, 0.0f, false},
};

// Where elements lie, as AttentionShape says.
struct Places {
  AttentionShape s;
  int64_t q_size, kv_size, k_offset, v_offset;
  explicit Places(const Case& c) {
    s.batch = c.B, s.heads = c.H, s.head_dim = c.D, s.q_len = c.q_len, s.kv_len = c.kv_len;
    s.causal = c.causal, s.dropout = c.dropout, s.scale = 1.0f / std::sqrt(static_cast<float>(c.D));
    s.key = RandomKey{11, 22, 33}, s.first_batch = 3;
    const int64_t row = c.H * c.D;
    s.q_row = s.kv_row = c.packed ? 3 * row : row;
    s.q_batch = c.q_len * s.q_row, s.kv_batch = c.kv_len * s.kv_row;
    q_size = c.B * s.q_batch;
    k_offset = c.packed ? row : q_size;
    v_offset = c.packed ? 2 * row : q_size + c.B * s.kv_batch;
    kv_size = c.B * s.kv_batch;
  }
  int64_t total() const { return v_offset < q_size ? q_size : q_size + 2 * kv_size; }
  int64_t q(int64_t b, int64_t h, int64_t t, int64_t d) const {
    return b * s.q_batch + t * s.q_row + h * s.head_dim + d;
  }
  int64_t kv(int64_t b, int64_t h, int64_t t, int64_t d) const {
    return b * s.kv_batch + t * s.kv_row + h * s.head_dim + d;
  }
  int64_t o(int64_t b, int64_t h, int64_t t, int64_t d) const {
    return ((b * s.q_len + t) * s.heads + h) * s.head_dim + d;
  }
};

struct Result {
  Values o, lse, gradients;  // gradients laid out like qkv
};

Result attention_by_definition(const Places& at, const Values& qkv, const Values& d_o) {
  const AttentionShape& s = at.s;
  const double* q = qkv.data();
  const double* k = q + at.k_offset;
  const double* v = q + at.v_offset;
  Result r{Values(s.batch * s.q_len * s.heads * s.head_dim), Values(s.batch * s.heads * s.q_len), Values(qkv.size())};
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t i = 0; i < s.q_len; ++i) {
        const int64_t seen = s.causal ? std::clamp<int64_t>(i + s.kv_len - s.q_len + 1, 0, s.kv_len) : s.kv_len;
        Values p(seen), z(seen, 1.0), dp(seen);
        double top = -INFINITY, total = 0, delta = 0;
        for (int64_t j = 0; j < seen; ++j) {
          for (int64_t d = 0; d < s.head_dim; ++d) p[j] += s.scale * q[at.q(b, h, i, d)] * k[at.kv(b, h, j, d)];
          top = std::max(top, p[j]);
        }
        for (double& e : p) total += e = std::exp(e - top);
        for (double& e : p) e /= total;
        r.lse[(b * s.heads + h) * s.q_len + i] = top + std::log(total);
        for (int64_t j = 0; j < seen; ++j) {
          if (s.dropout > 0) {
            const int64_t index = (((s.first_batch + b) * s.heads + h) * s.q_len + i) * s.kv_len + j;
            const uint32_t word = random_words(s.key, static_cast<uint64_t>(index) / 4).v[index % 4];
            z[j] = word >= drop_threshold(s.dropout) ? 1.0 / (1.0 - s.dropout) : 0.0;
          }
          for (int64_t d = 0; d < s.head_dim; ++d) {
            r.o[at.o(b, h, i, d)] += z[j] * p[j] * v[at.kv(b, h, j, d)];
            dp[j] += z[j] * d_o[at.o(b, h, i, d)] * v[at.kv(b, h, j, d)];
            r.gradients[at.v_offset + at.kv(b, h, j, d)] += z[j] * p[j] * d_o[at.o(b, h, i, d)];
          }
          delta += p[j] * dp[j];
        }
        for (int64_t j = 0; j < seen; ++j) {
          const double ds = s.scale * p[j] * (dp[j] - delta);
          for (int64_t d = 0; d < s.head_dim; ++d) {
            r.gradients[at.q(b, h, i, d)] += ds * k[at.kv(b, h, j, d)];
            r.gradients[at.k_offset + at.kv(b, h, j, d)] += ds * q[at.q(b, h, i, d)];
          }
        }
      }
  return r;
}

}  // namespace

TEST_CASE_TEMPLATE("attention against its definition", T, float, bf16) {
  for (const Case& c : kCases) {
    INFO("D " << c.D << ", q_len " << c.q_len << ", kv_len " << c.kv_len << ", causal " << c.causal << ", dropout "
              << c.dropout);
    const Places at(c);
    const Values qkv = random_values<T>(at.total(), 40), d_o = random_values<T>(c.B * c.q_len * c.H * c.D, 41);
    const Result want = attention_by_definition(at, qkv, d_o);
    // bf16: results are rounded once, but delta is summed from the rounded o: an error of 2^-9 |o| in it
    const Tolerance forward = rounding<T>(1e-5);
    const Tolerance backward = std::is_same_v<T, bf16> ? Tolerance{0.02, 0x1.0p-7} : Tolerance{5e-5, 1e-5};
    on_backends([&](const auto& ctx, SameBits& same) {
      for (int offset : {0, 1}) {
        Buffer<T> in(qkv, offset), o(c.B * c.q_len * c.H * c.D), grad(at.total(), offset), bdo(d_o);
        Buffer<float> lse(c.B * c.H * c.q_len), delta(c.B * c.H * c.q_len);
        T* const x = in.p();
        T* const g = grad.p();
        attention_forward(ctx, o.p(), lse.p(), x, x + at.k_offset, x + at.v_offset, at.s);
        check_buffer("o", o, want.o, forward);
        check_buffer("lse", lse, want.lse, {1e-5, 1e-5});
        attention_backward(ctx, g, g + at.k_offset, g + at.v_offset, delta.p(), bdo.p(), x, x + at.k_offset,
                           x + at.v_offset, o.p(), lse.p(), at.s);
        check_buffer("dq, dk, dv", grad, want.gradients, backward);
        CHECK(delta.intact());
        same(o.values()), same(lse.values()), same(grad.values());
      }
    });
  }
}

TEST_CASE("a batch that is cut in two draws the same dropout mask") {
  const Case whole{2, 2, 16, 33, 33, true, 0.3f, true};
  Case half = whole;
  half.B = 1;
  const Values qkv = random_values<float>(Places(whole).total(), 42);
  on_backends([&](const auto& ctx, SameBits&) {
    const auto run = [&](const Places& at, Buffer<float>& in, int64_t skip) {
      const int64_t n = at.s.batch * at.s.q_len * at.s.heads * at.s.head_dim;
      Buffer<float> o(n), lse(at.s.batch * at.s.heads * at.s.q_len);
      float* const x = in.p() + skip;
      attention_forward(ctx, o.p(), lse.p(), x, x + at.k_offset, x + at.v_offset, at.s);
      return o.values();
    };
    Buffer<float> in(qkv);
    const Values together = run(Places(whole), in, 0);
    Places second(half);
    second.s.first_batch += 1;
    Values apart = run(Places(half), in, 0);
    const Values rest = run(second, in, Places(half).total());
    apart.insert(apart.end(), rest.begin(), rest.end());
    check_close("o", apart, together, kExact);
  });
}
