// Our attention or cuDNN's: what of the choice needs no GPU. Who is asked, how a batch is cut, keys and records of the
// plan file, and a race among ways that refuse, fail, differ or dawdle. On a GPU: what is chosen there is right.
#include "kernels/attention_choice.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "engine/autograd/tape.h"
#include "engine/ops/ops.h"
#include "tests/gpu_testing.h"

using namespace accrete;
using namespace accrete::kernels;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

AttentionShape packed(int64_t batch, int64_t length, int64_t heads, int64_t head_dim, bool causal) {
  AttentionShape s;
  s.batch = batch, s.heads = heads, s.head_dim = head_dim;
  s.q_len = s.kv_len = length;
  s.q_row = s.kv_row = 3 * heads * head_dim;
  s.q_batch = s.kv_batch = length * s.q_row;
  s.causal = causal;
  s.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return s;
}
const AttentionShape kGpt2 = packed(64, 1024, 12, 64, true), kVit = packed(128, 197, 12, 64, false);

// Addresses that are never followed.
char* address(int64_t at) { return reinterpret_cast<char*>(at); }
AttentionOperands operands(const AttentionShape& s, bool backward) {
  const int64_t width = s.heads * s.head_dim * 2;
  AttentionOperands x{.q = address(1 << 20), .k = address((1 << 20) + width), .v = address((1 << 20) + 2 * width)};
  x.o = address(2 << 20);
  x.lse = reinterpret_cast<float*>(address(3 << 20));
  if (!backward) return x;
  x.d_o = address(4 << 20);
  x.dq = address(5 << 20), x.dk = address((5 << 20) + width), x.dv = address((5 << 20) + 2 * width);
  x.delta = reinterpret_cast<float*>(address(6 << 20));
  return x;
}

// A way that leaves `leaves[n]` in the result at its n-th run (the last one from then on) and takes `us`.
struct Way {
  float us = 1;
  std::vector<std::vector<float>> leaves;
  int refuses_from = 1000;
};
struct FakeTrial : AttentionTrial {
  std::vector<Way> all;
  std::vector<int> runs;
  std::vector<float> result;
  std::vector<int> raced;
  int ways() const override { return static_cast<int>(all.size()); }
  bool run(int way) override {
    runs.resize(all.size());
    const Way& w = all[static_cast<size_t>(way)];
    const int n = runs[static_cast<size_t>(way)]++;
    if (n >= w.refuses_from) return false;
    if (!w.leaves.empty()) result = w.leaves[std::min(static_cast<size_t>(n), w.leaves.size() - 1)];
    return true;
  }
  void spoil() override { result.assign(result.size(), kNan); }
  std::vector<ResultSample> results() override { return {{result, 2, kResultTolerance}}; }
  std::vector<float> race(const std::vector<int>& ways) override {
    raced = ways;
    std::vector<float> us;
    for (const int way : ways) us.push_back(all[static_cast<size_t>(way)].us);
    return us;
  }
};

const std::vector<float> kRight{1, -2, 3, 0.5f, 0.25f, -1}, kClose{1.001f, -2.003f, 3.01f, 0.5f, 0.2501f, -1};

AttentionChoice choice_of(std::vector<Way> cudnn, float ours_us = 100) {
  FakeTrial trial;
  trial.all.push_back({ours_us, {kRight}});
  trial.all.insert(trial.all.end(), cudnn.begin(), cudnn.end());
  return choose_attention(trial);
}

// o and the gradient of qkv, both bf16, in heads of 64.
std::vector<ResultSample> attention_on(Device device, const Shape& shape, const std::vector<float>& qkv,
                                       const std::vector<float>& d_o, bool causal) {
  const Tape tape;
  const Tensor x = require_grad(Tensor::from(qkv, shape, device));
  const Tensor o = ops::attention(ops::cast(x, DType::bf16), {.heads = shape[2] / 192, .causal = causal});
  backward(o, ops::cast(Tensor::from(d_o, o.shape(), device), DType::bf16));
  return {{ops::cast(o, DType::f32).to_vector<float>(), 64, kResultTolerance},
          {grad_of(x).to_vector<float>(), 64, kResultTolerance}};
}

}  // namespace

TEST_CASE("attention of sizes that cuDNN may take: a GPU agrees with the CPU, and with itself after the choice") {
  const auto gpu = test_gpu();
  if (!gpu) return;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const int64_t length : {512, 577}) {
    const Shape shape{8, length, 3 * 4 * 64};
    std::vector<float> qkv(static_cast<size_t>(shape.count())), d_o(qkv.size() / 3);
    for (float& v : qkv) v = normal(random);
    for (float& v : d_o) v = normal(random);
    for (const bool causal : {true, false}) {
      CAPTURE(length);
      CAPTURE(causal);
      const auto first = attention_on(*gpu, shape, qkv, d_o, causal),
                 again = attention_on(*gpu, shape, qkv, d_o, causal);
      CHECK(samples_agree(attention_on(kCpu, shape, qkv, d_o, causal), first));
      for (size_t i = 0; i < first.size(); ++i) CHECK(first[i].values == again[i].values);
    }
  }
}

TEST_CASE("what cuDNN is asked for") {
  const auto asked = [](auto change, GemmType type = GemmType::bf16, bool backward = true) {
    AttentionShape s = kGpt2;
    AttentionOperands x = operands(s, backward);
    change(s, x);
    return cudnn_may_serve(type, s, x);
  };
  const auto as_it_is = [](AttentionShape&, AttentionOperands&) {};
  CHECK(asked(as_it_is));
  CHECK(asked(as_it_is, GemmType::f16, false));
  CHECK(cudnn_may_serve(GemmType::bf16, kVit, operands(kVit, true)));
  CHECK(!asked(as_it_is, GemmType::f32));
  using S = AttentionShape&;
  using X = AttentionOperands&;
  CHECK(!asked([](S s, X) { s.dropout = 0.1f; }));
  CHECK(!asked([](S s, X) { s.scale = 0.0f; }));
  CHECK(!asked([](S s, X) { s.scale = kNan; }));
  CHECK(!asked([](S s, X) { s.kv_len = 512; }));      // causal is then another mask
  CHECK(!asked([](S s, X) { s.kv_row = 12 * 64; }));  // a cache
  CHECK(!asked([](S s, X) { s.q_batch += 8; }));      // entries with a gap
  CHECK(!asked([](S, X x) { x.v = x.k; }));
  CHECK(!asked([](S, X x) { x.dk = x.dq; }));
  CHECK(asked([](S, X x) { x.dk = x.dq; }, GemmType::bf16, false));
  const auto serves = [](const AttentionShape& s) { return cudnn_may_serve(GemmType::bf16, s, operands(s, false)); };
  CHECK(serves(packed(64, 333, 12, 40, false)));
  CHECK(!serves(packed(64, 1024, 12, 36, false)));
  CHECK(!serves(packed(64, 1024, 12, 136, false)));
  CHECK(!serves(packed(1, 197, 12, 64, false)));  // too little to do
  CHECK(!serves(packed(0, 197, 12, 64, false)));
}

TEST_CASE("how many entries go into one launch") {
  CHECK(entries_at_once(kGpt2, false) == 64);
  CHECK(entries_at_once(kGpt2, true) == 8);   // 24 MiB of scores each
  CHECK(entries_at_once(kVit, true) == 128);  // 1.5 MiB: 197 tokens count as 256
  CHECK(entries_at_once(packed(512, 197, 6, 64, false), true) == 256);
  CHECK(entries_at_once(packed(7, 1024, 12, 64, true), true) == 7);
  CHECK(entries_at_once(packed(11, 1024, 12, 64, true), true) == 1);
  CHECK(entries_at_once(packed(4, 4096, 8, 64, true), true) == 1);  // 256 MiB, exactly
  CHECK(entries_at_once(packed(4, 4097, 8, 64, true), true) == 0);
}

TEST_CASE("a part of the batch") {
  const AttentionOperands x = operands(kVit, true), y = entries_from(x, kVit, 3);
  const auto moved = [](const void* from, const void* to) {
    return static_cast<const char*>(to) - static_cast<const char*>(from);
  };
  const int64_t tokens = 3 * 197, width = 12 * 64;
  for (const auto& [from, to] : {std::pair{x.q, y.q}, {x.k, y.k}, {x.v, y.v}})
    CHECK(moved(from, to) == tokens * 3 * width * 2);
  for (const auto& [from, to] : {std::pair{x.dq, y.dq}, {x.dk, y.dk}, {x.dv, y.dv}})
    CHECK(moved(from, to) == tokens * 3 * width * 2);
  CHECK(moved(x.o, y.o) == tokens * width * 2);
  CHECK(moved(x.d_o, y.d_o) == tokens * width * 2);
  CHECK(y.lse - x.lse == tokens * 12);
  CHECK(y.delta - x.delta == tokens * 12);
  CHECK(!entries_from(operands(kVit, false), kVit, 3).backward());
}

TEST_CASE("keys of the plan file") {
  std::set<std::string> keys;
  for (const AttentionShape& s :
       {kGpt2, kVit, packed(63, 1024, 12, 64, true), packed(64, 1023, 12, 64, true), packed(64, 1024, 11, 64, true),
        packed(64, 1024, 12, 32, true), packed(64, 1024, 12, 64, false)})
    for (const GemmType type : {GemmType::bf16, GemmType::f16})
      for (const bool backward : {false, true}) keys.insert(attention_key("NVIDIA H200/132", 91900, type, s, backward));
  CHECK(keys.size() == 28);
  CHECK(attention_key("NVIDIA H200/132", 91900, GemmType::bf16, kGpt2, true) ==
        "NVIDIA_H200/132 cudnn 91900 attention backward B 64 T 1024 H 12 D 64 causal bf16");
  CHECK(attention_key("a | b\n", 92600, GemmType::f16, kVit, false) ==
        "a___b_ cudnn 92600 attention forward B 128 T 197 H 12 D 64 full f16");
}

TEST_CASE("when two results agree") {
  const auto agree = [](std::vector<float> ours, std::vector<float> theirs, float tolerance = kResultTolerance) {
    return samples_agree({{std::move(ours), 2, tolerance}}, {{std::move(theirs), 2, tolerance}});
  };
  CHECK(agree(kRight, kRight));
  CHECK(agree(kRight, kClose));
  CHECK(!agree(kRight, kClose, 1e-3f));
  CHECK(!agree(kRight, {1, -2, 3, 0.5f, 0.25f, 1}));
  CHECK(!agree(kRight, {1, -2, 3, 0.5f, 0.25f, kNan}));
  CHECK(!agree({1, kNan}, {1, kNan}));
  CHECK(!agree({1, INFINITY}, {1, INFINITY}));
  CHECK(!agree({0, 0}, {0, 0}));
  CHECK(!agree({}, {}));
  CHECK(!agree(kRight, {1, -2, 3, 0.5f}));
  CHECK(!samples_agree({{kRight, 2, 0.1f}}, {}));
  // One wrong row among many: nothing in the mean, but seen. A row of large values may differ by as much more.
  std::vector<float> ours(20000, 1.0f), theirs = ours;
  theirs[700] = theirs[701] = 1.2f;
  CHECK(!agree(ours, theirs));
  ours[700] = ours[701] = 100.0f, theirs[700] = theirs[701] = 101.0f;
  CHECK(agree(ours, theirs));
  // A row of small values is held to its own measure.
  ours = std::vector<float>(20000, 1.0f), theirs = ours;
  ours[700] = ours[701] = 0.02f, theirs[700] = theirs[701] = 0.0f;
  CHECK(!agree(ours, theirs));
  // lse in units of log 2 instead of e.
  CHECK(!samples_agree({{{6.9f, 5.1f}, 1, kLseTolerance}}, {{{6.9f / 0.6931f, 5.1f / 0.6931f}, 1, kLseTolerance}}));
}

TEST_CASE("results that are zeros throughout say nothing") {
  CHECK(only_zeros({{{0, -0.0f}, 1, 0.1f}, {{0}, 1, 0.1f}}));
  CHECK(!only_zeros({{{0, 0}, 1, 0.1f}, {{0, 1e-30f}, 1, 0.1f}}));
  CHECK(!only_zeros({{{0, kNan}, 1, 0.1f}}));
}

TEST_CASE("only what is right, repeatable and clearly faster takes our place") {
  const Way good{50, {kClose}};
  CHECK(choice_of({}).way == 0);
  CHECK(choice_of({good}).way == 1);
  CHECK(choice_of({good}).ours_us == 100);
  CHECK(choice_of({good}).theirs_us == 50);
  CHECK(choice_of({{60, {kRight}}, good, {70, {kRight}}}).way == 2);
  // Slower, or not clearly faster: ours, and the time is told.
  CHECK(choice_of({{97.5f, {kRight}}}).way == 0);
  CHECK(choice_of({{97.5f, {kRight}}}).theirs_us == 97.5);
  CHECK(choice_of({{96.9f, {kRight}}}).way == 1);
  CHECK(choice_of({{kNan, {kRight}}}).way == 0);
  // Refused, at once or later; wrong; NaN; nothing written at all; other bits at the second or third run.
  const Way bad[] = {
      {1, {kRight}, 0}, {1, {kRight}, 2},      {1, {{1, -2, 3, 0.5f, 0.25f, 1}}}, {1, {{1, -2, 3, 0.5f, 0.25f, kNan}}},
      {1, {}},          {1, {kRight, kClose}}, {1, {kRight, kRight, kClose}}};
  for (const Way& way : bad) {
    CHECK(choice_of({way}).way == 0);
    CHECK(choice_of({way}).theirs_us == 0);
    CHECK(choice_of({way, good}).way == 2);
  }
}

TEST_CASE("a choice goes into the plan file and comes back") {
  const PlanRecord cudnn = attention_record({.way = 2, .ours_us = 100.5, .theirs_us = 50.2}, 3, 6, 201326592);
  CHECK(cudnn.fused);
  CHECK(cudnn.timed);
  CHECK(cudnn.microseconds == 50.2);
  CHECK(cudnn.algorithm == std::array<uint64_t, 8>{3, 6, 1005, 502});
  const std::string key = attention_key("NVIDIA H200/132", 91900, GemmType::bf16, kGpt2, true);
  const auto back = parse_plan_line(plan_line(key, cudnn));
  REQUIRE(back);
  CHECK(back->first == key);
  CHECK(back->second == cudnn);
  const PlanRecord ours = attention_record({.way = 0, .ours_us = 100.5, .theirs_us = 120}, 0, 0, 0);
  CHECK(!ours.fused);
  CHECK(ours.timed);
  CHECK(ours.microseconds == 100.5);
  CHECK(!attention_record({}, 0, 0, 0).timed);
  CHECK(parse_plan_line(plan_line(key, attention_record({.ours_us = INFINITY, .theirs_us = INFINITY}, 0, 0, 0))));
  PlanFile file("");
  file.add(key, cudnn);
  REQUIRE(file.find(key));
  CHECK(*file.find(key) == cudnn);
}
