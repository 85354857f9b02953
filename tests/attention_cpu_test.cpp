// Tiled attention on the CPU against the textbook formulas in double precision, which do build the whole matrix.
#include "kernels/attention.h"

#include <string>

#include "tests/kernel_testing.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::testing;

namespace {

// Inputs of one case. With `packed`, q, k and v are slices of one (B, T, 3, H, D) tensor.
template <class T>
struct Case {
  AttentionShape s;
  bool packed;
  std::vector<T> q, k, v, d_o;  // when packed, only q is used and holds everything
  int64_t q_size, kv_size, o_size;

  Case(int64_t B, int64_t H, int64_t D, int64_t Tq, int64_t Tk, bool causal, float dropout, bool packed_)
      : packed(packed_) {
    s = {.batch = B, .heads = H, .head_dim = D, .q_len = Tq, .kv_len = Tk, .causal = causal, .dropout = dropout};
    s.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
    s.key = {11, 22, 33};
    s.first_batch = 2;
    const int64_t C = H * D, parts = packed ? 3 : 1;
    s.q_row = s.kv_row = parts * C;
    s.q_batch = Tq * s.q_row;
    s.kv_batch = Tk * s.kv_row;
    q_size = B * s.q_batch;
    kv_size = B * s.kv_batch;
    o_size = B * Tq * C;
    q = random_values<T>(q_size, -2, 2, 1);
    k = random_values<T>(kv_size, -2, 2, 2);
    v = random_values<T>(kv_size, -2, 2, 3);
    d_o = random_values<T>(o_size, -2, 2, 4);
  }
  int64_t C() const { return s.heads * s.head_dim; }
  const T* k_ptr() const { return packed ? q.data() + C() : k.data(); }
  const T* v_ptr() const { return packed ? q.data() + 2 * C() : v.data(); }
};

struct Reference {
  std::vector<double> o, lse, dq, dk, dv, delta;
};

template <class T>
Reference reference(const Case<T>& c) {
  const AttentionShape& s = c.s;
  Reference out;
  out.o.assign(static_cast<size_t>(c.o_size), 0.0);
  out.lse.assign(static_cast<size_t>(s.batch * s.heads * s.q_len), -std::numeric_limits<double>::infinity());
  out.delta.assign(out.lse.size(), 0.0);
  out.dq.assign(static_cast<size_t>(c.q_size), 0.0);
  out.dk.assign(static_cast<size_t>(c.kv_size), 0.0);
  out.dv.assign(static_cast<size_t>(c.kv_size), 0.0);
  const double kept = 1.0 / (1.0 - static_cast<double>(s.dropout));
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t i = 0; i < s.q_len; ++i) {
        const int64_t visible =
            s.causal ? std::max<int64_t>(0, std::min(s.kv_len, i + s.kv_len - s.q_len + 1)) : s.kv_len;
        const int64_t q_at = b * s.q_batch + i * s.q_row + h * s.head_dim;
        const int64_t o_at = (b * s.q_len + i) * c.C() + h * s.head_dim;
        const auto kv_at = [&](int64_t j) { return b * s.kv_batch + j * s.kv_row + h * s.head_dim; };
        if (visible == 0) continue;
        std::vector<double> p(static_cast<size_t>(visible)), keep(p.size()), dp(p.size());
        double top = -1e300, total = 0.0;
        for (int64_t j = 0; j < visible; ++j) {
          double dot = 0.0;
          for (int64_t d = 0; d < s.head_dim; ++d)
            dot +=
                static_cast<double>(to_float(c.q[static_cast<size_t>(q_at + d)])) * to_float(c.k_ptr()[kv_at(j) + d]);
          p[static_cast<size_t>(j)] = dot * s.scale;
          top = std::max(top, dot * s.scale);
          const int64_t index = (((s.first_batch + b) * s.heads + h) * s.q_len + i) * s.kv_len + j;
          const uint32_t word = random_words(s.key, static_cast<uint64_t>(index) / 4).v[index % 4];
          keep[static_cast<size_t>(j)] = s.dropout > 0.0f && word < drop_threshold(s.dropout) ? 0.0 : kept;
        }
        for (double& x : p) total += x = std::exp(x - top);
        const size_t row = static_cast<size_t>((b * s.heads + h) * s.q_len + i);
        out.lse[row] = top + std::log(total);
        double delta = 0.0;
        for (size_t j = 0; j < p.size(); ++j) {
          p[j] /= total;
          for (int64_t d = 0; d < s.head_dim; ++d) {
            const double g = to_float(c.d_o[static_cast<size_t>(o_at + d)]);
            const double value = to_float(c.v_ptr()[kv_at(static_cast<int64_t>(j)) + d]);
            out.o[static_cast<size_t>(o_at + d)] += p[j] * keep[j] * value;
            out.dv[static_cast<size_t>(kv_at(static_cast<int64_t>(j)) + d)] += p[j] * keep[j] * g;
            dp[j] += keep[j] * g * value;
          }
          delta += p[j] * dp[j];
        }
        out.delta[row] = delta;
        for (size_t j = 0; j < p.size(); ++j) {
          const double ds = p[j] * (dp[j] - delta) * s.scale;
          const int64_t k_at = kv_at(static_cast<int64_t>(j));
          for (int64_t d = 0; d < s.head_dim; ++d) {
            out.dq[static_cast<size_t>(q_at + d)] += ds * to_float(c.k_ptr()[k_at + d]);
            out.dk[static_cast<size_t>(k_at + d)] += ds * to_float(c.q[static_cast<size_t>(q_at + d)]);
          }
        }
      }
    }
  }
  return out;
}

// Forward and backward on the kernel: o, lse, dq, dk, dv, delta (the packed gradient is taken apart).
template <class T>
Results run(const Cpu& dev, const Case<T>& c) {
  const AttentionShape& s = c.s;
  Output<T> o(c.o_size), dq(c.packed ? c.q_size : c.q_size), dk(c.packed ? 0 : c.kv_size), dv(c.packed ? 0 : c.kv_size);
  Output<float> lse(s.batch * s.heads * s.q_len), delta(s.batch * s.heads * s.q_len);
  attention_forward(dev, o.ptr(), lse.ptr(), c.q.data(), c.k_ptr(), c.v_ptr(), s);
  attention_backward(dev, dq.ptr(), c.packed ? dq.ptr() + c.C() : dk.ptr(), c.packed ? dq.ptr() + 2 * c.C() : dv.ptr(),
                     delta.ptr(), c.d_o.data(), c.q.data(), c.k_ptr(), c.v_ptr(), o.ptr(), lse.ptr(), s);
  return {o.values(), lse.values(), dq.values(), dk.values(), dv.values(), delta.values()};
}

template <class T>
void check_case(const Case<T>& c) {
  INFO("B " << c.s.batch << " H " << c.s.heads << " D " << c.s.head_dim << " Tq " << c.s.q_len << " Tk " << c.s.kv_len
            << " causal " << c.s.causal << " dropout " << c.s.dropout << " packed " << c.packed);
  const Results got = on_threads([&](const Cpu& dev) { return run(dev, c); });
  Reference want = reference(c);
  if (c.packed) {  // dk and dv were computed in places of their own: move them into the packed gradient
    const int64_t C = c.C();
    for (int64_t row = 0; row < c.s.batch * c.s.q_len; ++row)
      for (int64_t i = 0; i < C; ++i) {
        want.dq[static_cast<size_t>(row * 3 * C + C + i)] = want.dk[static_cast<size_t>(row * 3 * C + i)];
        want.dq[static_cast<size_t>(row * 3 * C + 2 * C + i)] = want.dv[static_cast<size_t>(row * 3 * C + i)];
      }
    want.dk.clear();
    want.dv.clear();
  }
  // f32: a few hundred roundings of values up to about 10. bf16: inputs are exact, but o is rounded to bf16 before
  // delta is formed from it, and that error (2^-9 of o) enters ds. f16 has three more bits.
  const bool half = sizeof(T) == 2;
  const double step = std::is_same_v<T, bf16> ? 1.0 : 1.0 / 8;
  const double absolute = half ? 3e-2 * step : 4e-5, relative = half ? 1e-2 * step : 1e-5;
  check_close(got[0], want.o, half ? step / 250 : 1e-5, half ? 1e-3 * step : 1e-5);
  check_close(got[1], want.lse, 1e-6, 1e-5);
  check_close(got[2], want.dq, relative, absolute);
  check_close(got[3], want.dk, relative, absolute);
  check_close(got[4], want.dv, relative, absolute);
  check_close(got[5], want.delta, relative, absolute * 4);
}

}  // namespace

TEST_CASE_TEMPLATE("attention: sizes, masks, dropout, packed and separate layouts", T, float, bf16, f16) {
  for (const bool causal : {false, true}) {
    for (const float dropout : {0.0f, 0.25f}) {
      check_case(Case<T>(2, 3, 32, 65, 65, causal, dropout, true));
      check_case(Case<T>(1, 2, 64, 130, 130, causal, dropout, true));
      check_case(Case<T>(1, 1, 7, 1, 1, causal, dropout, false));
      check_case(Case<T>(1, 2, 33, 5, 71, causal, dropout, false));   // fewer queries than keys: generation
      check_case(Case<T>(1, 1, 16, 90, 20, causal, dropout, false));  // causal: the first 70 queries see nothing
      check_case(Case<T>(1, 1, 128, 300, 300, causal, dropout, true));
    }
  }
}

TEST_CASE_TEMPLATE("attention: empty sizes", T, float, bf16, f16) {
  check_case(Case<T>(0, 2, 8, 4, 4, true, 0.0f, true));
  check_case(Case<T>(1, 2, 8, 0, 4, false, 0.0f, false));
  check_case(Case<T>(1, 2, 8, 4, 0, false, 0.0f, false));
}

TEST_CASE("attention: published three-token example") {
  const std::vector<float> q = {1, 0, 0, 1, 1, 1}, k = {1, 1, 0, 1, 1, 0}, v = {1, 2, 3, 4, 5, 6};
  AttentionShape s{.batch = 1, .heads = 1, .head_dim = 2, .q_len = 3, .kv_len = 3};
  s.q_row = s.kv_row = 2;
  s.q_batch = s.kv_batch = 6;
  s.scale = 0.707106781f;
  Output<float> o(6), lse(3);
  attention_forward(Cpu{1}, o.ptr(), lse.ptr(), q.data(), k.data(), v.data(), s);
  check_close(o.values(), {3, 4, 2.593327444, 3.593327444, 2.489530470, 3.489530470}, 1e-6, 1e-6);
  s.causal = true;
  attention_forward(Cpu{1}, o.ptr(), lse.ptr(), q.data(), k.data(), v.data(), s);
  check_close(o.values(), {1, 2, 2, 3, 2.489530470, 3.489530470}, 1e-6, 1e-6);
}

TEST_CASE("attention: scores far apart neither overflow nor lose the largest") {
  const std::vector<float> q = {300, -300}, k = {300, -300, 299}, v = {1, 2, 3};
  AttentionShape s{.batch = 1, .heads = 1, .head_dim = 1, .q_len = 2, .kv_len = 3};
  s.q_row = s.kv_row = 1;
  s.q_batch = 2, s.kv_batch = 3;
  Output<float> o(2), lse(2);
  attention_forward(Cpu{1}, o.ptr(), lse.ptr(), q.data(), k.data(), v.data(), s);
  CHECK(o.values() == std::vector<float>{1, 2});
  CHECK(lse.values() == std::vector<float>{90000, 90000});
}
