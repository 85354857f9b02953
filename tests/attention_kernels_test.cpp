// Tiled attention, forward and backward, on the emulator (three warp orders) and the CPU, against the definition with
// the whole matrix of probabilities in double precision. 16-bit types with aligned rows run on the emulated tensor
// cores, where probabilities and gradients of scores are rounded to 16 bits before they are multiplied: the definition
// also sums what that may change, so that the tolerance is a bound and not a guess.
#include <algorithm>
#include <numeric>
#include <set>

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
    {1, 2, 4, 0, 3, false, 0.0f, false},     {1, 1, 64, 197, 197, false, 0.0f, true},
    {1, 1, 96, 70, 131, true, 0.0f, false},  {1, 2, 40, 129, 67, true, 0.2f, false},
    {1, 1, 96, 33, 35, false, 0.1f, false},  {1, 1, 8, 1, 1, true, 0.0f, true},
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
  // Largest change of o and of the gradients, in roundings of the stored type, when each probability and each gradient
  // of a score is rounded once, and delta comes from an o with those errors and rounded itself.
  Values o_reach, gradients_reach;
};

Result attention_by_definition(const Places& at, const Values& qkv, const Values& d_o) {
  const AttentionShape& s = at.s;
  const double* q = qkv.data();
  const double* k = q + at.k_offset;
  const double* v = q + at.v_offset;
  Result r{Values(s.batch * s.q_len * s.heads * s.head_dim), Values(s.batch * s.heads * s.q_len), Values(qkv.size())};
  r.o_reach.resize(r.o.size()), r.gradients_reach.resize(qkv.size());
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
            r.o_reach[at.o(b, h, i, d)] += z[j] * p[j] * std::fabs(v[at.kv(b, h, j, d)]);
            dp[j] += z[j] * d_o[at.o(b, h, i, d)] * v[at.kv(b, h, j, d)];
            r.gradients[at.v_offset + at.kv(b, h, j, d)] += z[j] * p[j] * d_o[at.o(b, h, i, d)];
            r.gradients_reach[at.v_offset + at.kv(b, h, j, d)] += z[j] * p[j] * std::fabs(d_o[at.o(b, h, i, d)]);
          }
          delta += p[j] * dp[j];
        }
        double delta_reach = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          const int64_t o = at.o(b, h, i, d);
          delta_reach += std::fabs(d_o[o]) * (std::fabs(r.o[o]) + r.o_reach[o]);
        }
        for (int64_t j = 0; j < seen; ++j) {
          const double ds_reach = std::fabs(s.scale * p[j] * (dp[j] - delta)) + s.scale * p[j] * delta_reach;
          for (int64_t d = 0; d < s.head_dim; ++d) {
            r.gradients_reach[at.q(b, h, i, d)] += ds_reach * std::fabs(k[at.kv(b, h, j, d)]);
            r.gradients_reach[at.k_offset + at.kv(b, h, j, d)] += ds_reach * std::fabs(q[at.q(b, h, i, d)]);
          }
          const double ds = s.scale * p[j] * (dp[j] - delta);
          for (int64_t d = 0; d < s.head_dim; ++d) {
            r.gradients[at.q(b, h, i, d)] += ds * k[at.kv(b, h, j, d)];
            r.gradients[at.k_offset + at.kv(b, h, j, d)] += ds * q[at.q(b, h, i, d)];
          }
        }
      }
  return r;
}

// Relative size of one rounding to T; f32 sums are covered by the fixed part of the tolerance.
template <class T>
constexpr double kOneRounding = std::is_same_v<T, bf16>  ? 0x1.0p-8
                                : std::is_same_v<T, f16> ? 0x1.0p-11
                                                         : 0.0;

// |got - want| within `reach` roundings, one more of the result itself, and the error of sums in f32.
template <class T>
void check_within(const char* what, const Buffer<T>& got, const Values& want, const Values& reach, Tolerance f32) {
  CHECK_MESSAGE(got.intact(), what << ": memory outside the result was written");
  const Values values = got.values();
  REQUIRE(values.size() == want.size());
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double allowed = f32.absolute + f32.relative * std::fabs(want[i]) +
                           kOneRounding<T> * (std::fabs(want[i]) + reach[i]) * (1 + kOneRounding<T>);
    const double share = std::fabs(values[i] - want[i]) / allowed;
    if (!(share <= worst)) worst = std::isnan(share) ? INFINITY : share, at = i;
  }
  CHECK_MESSAGE(worst <= 1.0, what << ": element " << at << " is off by " << worst << " of what is allowed: got "
                                   << values[at] << ", expected " << want[at]);
}

}  // namespace

TEST_CASE_TEMPLATE("attention against its definition", T, float, bf16, f16) {
  for (const Case& c : kCases) {
    INFO("D " << c.D << ", q_len " << c.q_len << ", kv_len " << c.kv_len << ", causal " << c.causal << ", dropout "
              << c.dropout);
    const Places at(c);
    const Values qkv = random_values<T>(at.total(), 40), d_o = random_values<T>(c.B * c.q_len * c.H * c.D, 41);
    const Result want = attention_by_definition(at, qkv, d_o);
    const Tolerance f32{5e-5, 1e-5};
    on_backends([&](const auto& ctx, SameBits& same) {
      for (int offset : {0, 1}) {
        Buffer<T> in(qkv, offset), o(c.B * c.q_len * c.H * c.D), grad(at.total(), offset), bdo(d_o);
        Buffer<float> lse(c.B * c.H * c.q_len), delta(c.B * c.H * c.q_len);
        T* const x = in.p();
        T* const g = grad.p();
        attention_forward(ctx, o.p(), lse.p(), x, x + at.k_offset, x + at.v_offset, at.s);
        check_within("o", o, want.o, want.o_reach, f32);
        check_buffer("lse", lse, want.lse, {1e-5, 1e-5});
        attention_backward(ctx, g, g + at.k_offset, g + at.v_offset, delta.p(), bdo.p(), x, x + at.k_offset,
                           x + at.v_offset, o.p(), lse.p(), at.s);
        check_within("dq, dk, dv", grad, want.gradients, want.gradients_reach, f32);
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

#if defined(ACCRETE_WITH_EMULATOR)

// Names of the kernels that fn launches, without their template arguments.
template <class Fn>
std::set<std::string> kernels_of(Fn fn) {
  std::set<std::string> names;
  set_emulator_trace([&](const TraceEvent& e) { names.insert(e.kernel.substr(0, e.kernel.find('<'))); });
  fn();
  set_emulator_trace({});
  return names;
}

TEST_CASE_TEMPLATE("tensor cores serve aligned 16-bit rows and positive scales, other kernels the rest", T, bf16, f16) {
  struct Choice {
    int64_t D;
    float scale;
    int offset;
    bool tensor_cores;
  };
  for (const Choice& c : {Choice{64, 0.125f, 0, true},
                          {40, 0.1f, 0, true},
                          {64, 0.125f, 1, false},
                          {64, -0.125f, 0, false},
                          {64, 0.0f, 0, false},
                          {33, 0.1f, 0, false}}) {
    INFO("D " << c.D << ", scale " << c.scale << ", offset " << c.offset);
    Places at(Case{1, 1, c.D, 5, 7, false, 0.0f, false});
    at.s.scale = c.scale;
    const Values qkv = random_values<T>(at.total(), 43), d_o = random_values<T>(5 * c.D, 44);
    const Result want = attention_by_definition(at, qkv, d_o);
    Buffer<T> in(qkv, c.offset), o(5 * c.D), grad(at.total(), c.offset), bdo(d_o);
    Buffer<float> lse(5), delta(5);
    T *const x = in.p(), *const g = grad.p();
    const auto names = kernels_of([&] {
      attention_forward(Emu{}, o.p(), lse.p(), x, x + at.k_offset, x + at.v_offset, at.s);
      attention_backward(Emu{}, g, g + at.k_offset, g + at.v_offset, delta.p(), bdo.p(), x, x + at.k_offset,
                         x + at.v_offset, o.p(), lse.p(), at.s);
    });
    using Names = std::set<std::string>;
    CHECK(names ==
          (c.tensor_cores
               ? Names{"attention_mma_kernel", "attention_mma_dq_kernel", "attention_mma_dkv_kernel"}
               : Names{"attention_kernel", "attention_delta_kernel", "attention_dq_kernel", "attention_dkv_kernel"}));
    check_within("o", o, want.o, want.o_reach, {5e-5, 1e-5});
  }
}

TEST_CASE("f32 attention where a block can have 99 KB of shared memory (RTX 30 and later)") {
  for (const Case& c : {Case{1, 2, 64, 70, 70, true, 0.0f, true}, Case{1, 1, 40, 33, 65, false, 0.1f, false},
                        Case{1, 1, 128, 67, 67, true, 0.0f, true}, Case{1, 1, 128, 20, 41, false, 0.0f, false}}) {
    INFO("D " << c.D << ", q_len " << c.q_len);
    const Places at(c);
    const Values qkv = random_values<float>(at.total(), 40), d_o = random_values<float>(c.B * c.q_len * c.H * c.D, 41);
    const Result want = attention_by_definition(at, qkv, d_o);
    for (const int64_t limit : {99 * 1024L, kMostSharedBytes}) {
      Buffer<float> in(qkv), o(static_cast<int64_t>(d_o.size())), grad(at.total()), bdo(d_o);
      Buffer<float> lse(c.B * c.H * c.q_len), delta(c.B * c.H * c.q_len);
      Emu ctx;
      ctx.shared_limit = limit;
      float *const x = in.p(), *const g = grad.p();
      attention_forward(ctx, o.p(), lse.p(), x, x + at.k_offset, x + at.v_offset, at.s);
      attention_backward(ctx, g, g + at.k_offset, g + at.v_offset, delta.p(), bdo.p(), x, x + at.k_offset,
                         x + at.v_offset, o.p(), lse.p(), at.s);
      check_within("o", o, want.o, want.o_reach, {5e-5, 1e-5});
      check_within("gradients", grad, want.gradients, want.gradients_reach, {5e-5, 1e-5});
    }
  }
}

// v, d_o and k as unit matrices turn o, dv and dq into the matrix of probabilities and its relatives: their zeros are
// the mask.
TEST_CASE_TEMPLATE("the tensor-core kernels drop the same probabilities as the CPU", T, bf16, f16) {
  constexpr int64_t n = 64;
  for (int64_t missing : {0, 1, 3}) {  // kv_len not a multiple of 4: the words of a row begin anywhere in a block
    CAPTURE(missing);
    Places at(Case{1, 1, n, n, n - missing, false, 0.4f, false});
    Values unit(n * n), ones(n * n, 1.0);
    for (int64_t i = 0; i < n; ++i) unit[i * n + i] = 1.0;
    const auto masks = [&](const auto& ctx) {
      Buffer<T> one(unit), all(ones), zero(Values(n * n)), o(n * n), dq(n * n), dk(n * n), dv(n * n);
      Buffer<float> lse(n), delta(n);
      attention_forward(ctx, o.p(), lse.p(), zero.p(), one.p(), one.p(), at.s);
      Values result = o.values();
      attention_backward(ctx, dq.p(), dk.p(), dv.p(), delta.p(), one.p(), zero.p(), one.p(), all.p(), zero.p(), lse.p(),
                         at.s);
      for (double x : dq.values()) result.push_back(x);
      const Values dv_values = dv.values();
      for (int64_t i = 0; i < (n - missing) * n; ++i) result.push_back(dv_values[i]);
      for (double& x : result) x = x != 0.0;
      return result;
    };
    const Values emulated = masks(Emu{}), expected = masks(Cpu{1});
    CHECK(emulated == expected);
    const double share = std::accumulate(expected.begin(), expected.end(), 0.0) / static_cast<double>(expected.size());
    CHECK(share > 0.5);
    CHECK(share < 0.7);
  }
}

#endif
