// The allocator: segments, cache, limit, the dry device, threads.
#include "engine/core/memory.h"

#include <doctest/doctest.h>

#include <cstring>
#include <thread>

#include "engine/core/error.h"
#include "engine/nn/layers.h"
#include "tests/op_testing.h"

using namespace accrete;
namespace o = accrete::ops;

namespace {

SegmentUse use_of(Segment s, Device d = kCpu) { return memory_use(d).segment[static_cast<int>(s)]; }

bool has(const std::string& text, const std::string& part) {
  INFO(text);
  const bool found = text.find(part) != std::string::npos;
  CHECK_MESSAGE(found, "expected \"" << part << "\" in: " << text);
  return found;
}

// A pre-norm transformer block with embedding and loss, one step of it at a time.
struct TestBlock {
  ParamStore store;
  Device device;
  Param tokens;
  nn::LayerNorm ln1, ln2;
  nn::SelfAttention attention;
  nn::Mlp mlp;

  TestBlock(DType dtype, Device d) : store(dtype, d), device(d) {
    const Scope root(store);
    const Init init = Init::normal(0.1f);
    tokens = root.param("tokens", Shape{50, 32}, {kVocab, kEmbed}, init, false);
    ln1 = nn::LayerNorm(root / "ln1", 32, 1e-5f);
    attention = nn::SelfAttention(root / "attn", 32, 4, true, 0.1f, init, init);
    ln2 = nn::LayerNorm(root / "ln2", 32, 1e-5f);
    mlp = nn::Mlp(root / "mlp", 32, 128, o::Gelu::tanh, init, init);
    store.allocate();
    store.initialise(1);
  }

  Cost step(const Context& ctx) {
    std::vector<int32_t> id(4 * 16);
    for (size_t i = 0; i < id.size(); ++i) id[i] = static_cast<int32_t>(i * 7 % 50);
    Tensor ids;
    {
      const SegmentScope data(Segment::data);
      ids = Tensor::from(id, Shape{4, 16});
    }
    store.zero_grads();
    Tape tape;
    Tensor x = o::embedding(ids, tokens(), Tensor());
    const auto block = [&](const Tensor& in) {
      const Tensor h = o::add(in, nn::dropout(attention(ln1(in, ctx), ctx), 0.1f, "a", ctx));
      return o::add(h, nn::dropout(mlp(ln2(h, ctx), ctx), 0.1f, "b", ctx));
    };
    x = ctx.recompute ? recompute(block, x) : block(x);
    const Tensor loss = o::cross_entropy(o::linear(x, tokens(), Tensor()), ids);
    CHECK(loss.shape() == Shape{});
    backward(loss);
    return tape.cost();
  }
};

}  // namespace

TEST_CASE("every allocation belongs to the innermost segment, now and peak") {
  reset_peak(kCpu);
  const int64_t params = use_of(Segment::params).now, data = use_of(Segment::data).now;
  const int64_t total = memory_use(kCpu).now;
  {
    const SegmentScope outer(Segment::params);
    const Tensor a = Tensor::zeros(Shape{256});  // 1024 bytes
    Tensor b;
    {
      const SegmentScope inner(Segment::data);
      b = Tensor::zeros(Shape{512});
    }
    const Tensor c = Tensor::zeros(Shape{256});
    CHECK(use_of(Segment::params).now == params + 2048);
    CHECK(use_of(Segment::data).now == data + 2048);
    CHECK(memory_use(kCpu).now == total + 4096);
  }
  CHECK(use_of(Segment::params).now == params);
  CHECK(use_of(Segment::data).now == data);
  CHECK(use_of(Segment::params).peak == params + 2048);
  CHECK(memory_use(kCpu).peak == total + 4096);
  reset_peak(kCpu);
  CHECK(use_of(Segment::params).peak == params);
  CHECK(memory_use(kCpu).peak == total);
}

TEST_CASE("blocks are aligned, reused for equal sizes, and given back on request") {
  void* first;
  {
    const auto block = allocate(kCpu, 5000);
    first = block->data;
    CHECK(reinterpret_cast<uintptr_t>(first) % 64 == 0);
    CHECK(block->bytes == 5000);
    CHECK(block->rounded >= 5000);
    CHECK(block->rounded <= 5000 + 5000 / 8);  // little is wasted
  }
  const int64_t allocations = device_allocations(kCpu);
  CHECK(allocate(kCpu, 4999)->data == first);
  CHECK(device_allocations(kCpu) == allocations);
  const int64_t reserved = memory_use(kCpu).reserved;
  release_cache(kCpu);
  CHECK(memory_use(kCpu).reserved < reserved);
  CHECK(memory_use(kCpu).reserved == memory_use(kCpu).now);  // only what is in use stays
  const auto large = allocate(kCpu, 5 << 20);
  CHECK(reinterpret_cast<uintptr_t>(large->data) % (2 << 20) == 0);  // fit for huge pages
  const auto nothing = allocate(kCpu, 0);
  CHECK(nothing->bytes == 0);
  CHECK(has(error_of([] { allocate(kCpu, -1); }), "negative size"));
}

TEST_CASE("poison fills fresh memory with NaN") {
  set_poison(true);
  const Tensor x = Tensor::empty(Shape{3}), y = Tensor::empty(Shape{3}, DType::bf16);
  set_poison(false);
  for (const Tensor& t : {x, y})
    for (const float v : t.to_vector<float>()) CHECK(std::isnan(v));
}

TEST_CASE("steps of equal shape allocate nothing after the second, on any setting") {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool recomputed : {false, true}) {
      TestBlock block(dtype, kCpu);
      Context ctx{.training = true, .recompute = recomputed, .seed = 1};
      block.step(ctx);
      block.step(ctx);
      const int64_t allocations = device_allocations(kCpu), now = memory_use(kCpu).now;
      for (uint64_t step = 0; step < 5; ++step) {
        ctx.step = step;
        block.step(ctx);
      }
      CHECK(device_allocations(kCpu) == allocations);
      CHECK(memory_use(kCpu).now == now);
    }
}

TEST_CASE("a step fills the segments it should") {
  for (int i = 0; i < kSegments; ++i) CHECK(use_of(static_cast<Segment>(i)).now == 0);
  reset_peak(kCpu);
  TestBlock block(DType::bf16, kCpu);
  block.step({.training = true});
  const int64_t flat = block.store.flat_count();
  CHECK(use_of(Segment::params).now >= 6 * flat);  // f32 and bf16 copy
  CHECK(use_of(Segment::params).now <= 6 * flat * 9 / 8 + 4096);
  CHECK(use_of(Segment::grads).now >= 4 * flat);
  CHECK(use_of(Segment::data).peak >= 4 * 64);
  CHECK(use_of(Segment::activations).peak > 0);
  CHECK(use_of(Segment::activations).now == 0);
  CHECK(use_of(Segment::workspace).peak > 0);
  CHECK(use_of(Segment::workspace).now == 0);
}

TEST_CASE("out of memory: one line with the wish, the limit, the segments in use and what helps; nothing is lost") {
  release_cache(kCpu);
  set_memory_limit(memory_use(kCpu).reserved + (1 << 20));
  const Tensor kept = Tensor::from<float>({1, 2, 3}, Shape{3});
  std::string message;
  {
    const SegmentScope segment(Segment::optimizer);
    message = error_of([] { Tensor::zeros(Shape{1024, 1024}); });
  }
  CHECK(has(message, "[memory] out of memory on cpu; 4.0 MiB more wanted for optimizer; limit "));
  CHECK(has(message, "use a smaller batch, recompute or bf16"));
  CHECK(has(message, "in use: "));
  CHECK(has(message, "activations "));
  CHECK(has(message, "total "));
  CHECK(message.find('\n') == std::string::npos);
  CHECK(kept.to_vector<float>() == std::vector<float>{1, 2, 3});
  // Cached blocks are given up before a request is refused.
  { const Tensor half = Tensor::zeros(Shape{150 * 1024}); }
  { const Tensor other = Tensor::zeros(Shape{220 * 1024}); }
  set_memory_limit(0);
  CHECK(memory_limit() > 1 << 20);
  CHECK(Tensor::zeros(Shape{1024, 1024}).count() == 1 << 20);
}

TEST_CASE("the report has a line for each segment and a total") {
  const SegmentScope segment(Segment::workspace);
  const Tensor x = Tensor::zeros(Shape{3, 256, 1024});
  const std::string report = memory_report(kCpu);
  CHECK(std::count(report.begin(), report.end(), '\n') == kSegments + 1);
  CHECK(has(report, "workspace"));
  CHECK(has(report, "3.0 MiB"));
  CHECK(has(report, "total"));
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(1536) == "1.5 KiB");
  CHECK(human_bytes(int64_t{3} << 40) == "3.0 TiB");
}

TEST_CASE("dry: a whole block forward and backward costs the same as on the cpu and uses no memory") {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool recomputed : {false, true}) {
      Context ctx{.training = true, .recompute = recomputed, .seed = 1};
      TestBlock real(dtype, kCpu);
      reset_peak(kCpu);
      const Cost cost = real.step(ctx);
      const MemoryUse cpu = memory_use(kCpu);
      const int64_t system = device_allocations(kDry), before = memory_use(kDry).reserved;
      TestBlock block(dtype, kDry);
      reset_peak(kDry);
      const Cost dry = block.step(ctx);
      const MemoryUse use = memory_use(kDry);
      CHECK(cost.flops == dry.flops);
      CHECK(cost.backward_flops == dry.backward_flops);
      CHECK(cost.bytes == dry.bytes);
      CHECK(cost.backward_bytes == dry.backward_bytes);
      CHECK(device_allocations(kDry) == system);
      CHECK(use.reserved == before);
      // The account predicts the real run: the same segments, the same peaks.
      for (const Segment s : {Segment::params, Segment::grads, Segment::activations, Segment::workspace}) {
        INFO(name_of(s));
        CHECK(use.segment[static_cast<int>(s)].peak == cpu.segment[static_cast<int>(s)].peak);
      }
      CHECK(block.store.leaf(0).data() == nullptr);
    }
}

TEST_CASE("threads: many at once, each with its own segment, and the account is right afterwards") {
  const MemoryUse before = memory_use(kCpu);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t, &wrong] {
      const SegmentScope segment(t % 2 == 0 ? Segment::data : Segment::workspace);
      for (int i = 0; i < 2000; ++i) {
        const auto n = static_cast<size_t>(64 + (i * 37 + t) % 900);
        const auto a = allocate(kCpu, static_cast<int64_t>(n)), b = allocate(kCpu, static_cast<int64_t>(n));
        std::memset(a->data, t, n);
        std::memset(b->data, t + 100, n);
        for (size_t k = 0; k < n; ++k) wrong[static_cast<size_t>(t)] += static_cast<char*>(a->data)[k] != t;
        wrong[static_cast<size_t>(t)] += a->segment != (t % 2 == 0 ? Segment::data : Segment::workspace);
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(wrong == std::vector<int>(4, 0));
  const MemoryUse after = memory_use(kCpu);
  CHECK(after.now == before.now);
  for (int i = 0; i < kSegments; ++i) CHECK(after.segment[i].now == before.segment[i].now);
}

TEST_CASE("devices by name") {
  CHECK(parse_device("cpu") == kCpu);
  CHECK(has(error_of([] { parse_device("cuda:x"); }), "expected cuda:0, cuda:1, ...; got \"cuda:x\""));
  CHECK(has(error_of([] { parse_device("cuda:64"); }), "not the number of a GPU"));
  CHECK(has(error_of([] { parse_device("gpu"); }),
            "unknown device; expected auto, cpu, cuda, cuda:N or emu; got \"gpu\""));
  CHECK(has(error_of([] { set_threads(0); }), "expected 1 to 1024; got 0"));
  CHECK(default_threads() >= 1);
}

TEST_CASE("tensors: views share memory, copies do not, versions count writes") {
  const Tensor x = Tensor::from<float>({0, 1, 2, 3, 4, 5}, Shape{3, 2});
  CHECK(x.view(Shape{6}).same_storage(x));
  CHECK(x.rows(1, 3).to_vector<float>() == std::vector<float>{2, 3, 4, 5});
  CHECK(x.flat(3, 2).to_vector<float>() == std::vector<float>{3, 4});
  CHECK(x.rows(1, 1).count() == 0);
  const Tensor copy = x.clone();
  const uint64_t version = x.version();
  x.rows(0, 1).zero();  // a write through a view counts for all
  CHECK(x.version() == version + 1);
  CHECK(std::string(x.last_writer()) == "zero");
  CHECK(x.to_vector<float>() == std::vector<float>{0, 0, 2, 3, 4, 5});
  CHECK(copy.to_vector<float>()[1] == 1);
  CHECK(has(error_of([&] { x.view(Shape{4}); }), "expected 6 for (3, 2); got (4)"));
  CHECK(has(error_of([&] { x.rows(2, 4); }), "range [2, 4) does not fit (3, 2)"));
  CHECK(has(error_of([&] { x.flat(5, 2); }), "exceeds 6 elements"));
  CHECK(has(error_of([&] { x.ptr<bf16>(); }), "expected f32"));
  CHECK(has(error_of([&] { x.item(); }), "needs one element; got (3, 2)"));
  CHECK(has(error_of([&] { x.copy_from(Tensor::zeros(Shape{5})); }), "source does not fit"));
  CHECK(has(error_of([] { Tensor::from<float>({1}, Shape{2}); }), "does not fit the shape (2); got 1"));
  CHECK(has(error_of([] { Shape{-1}; }), "negative size -1 on axis 0"));
  CHECK(has(error_of([] { Shape{2}[1]; }), "axis 1 of a tensor with 1 axes"));
}
