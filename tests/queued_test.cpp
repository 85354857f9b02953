// Devices whose work is queued: memory that host code cannot touch, recorded launches, traffic. Every case runs on the
// emulated device, and on a GPU where one serves.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include <doctest/doctest.h>
#include "engine/core/capture.h"
#include "engine/core/transfer.h"
#include "engine/ops/ops.h"
#include "engine/ops/update.h"
#include "tests/gpu_testing.h"
#include "training/step_runner.h"

using namespace accrete;

namespace {

std::vector<float> ramp(int64_t n, float first = 0) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = first + static_cast<float>(i);
  return v;
}

Tensor on(Device d, const std::vector<float>& v) { return Tensor::from(v, Shape{static_cast<int64_t>(v.size())}, d); }

template <class Fn>
void on_each(Fn&& fn) {
  for (const Device d : queued_devices()) {
    CAPTURE(d);
    fn(d);
  }
}

// How a child process ends that runs `work`.
template <class Fn>
int end_of(Fn&& work) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // doctest's handler would go on
    std::signal(SIGBUS, SIG_DFL);
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

}  // namespace

#if defined(ACCRETE_WITH_EMULATOR)
TEST_CASE("host code that touches the memory of a device ends at once") {
  const Tensor t = on(kEmu, ramp(10));
  CHECK(t.to_vector<float>() == ramp(10));
  volatile float sink = 0;
#if !defined(__SANITIZE_ADDRESS__)  // which has its own way to end
  CHECK(end_of([&] { sink = t.ptr<float>()[3]; }) == SIGSEGV);
  CHECK(end_of([&] { t.ptr<float>()[3] = 1; }) == SIGSEGV);
#endif
  CHECK(end_of([&] { sink = t.to_vector<float>()[3]; }) == 0);
  CHECK(end_of([&] { update::fill(t, 2); }) == 0);
}
#endif

TEST_CASE("tensors travel between host and device, and within it") {
  on_each([](Device d) {
    const Tensor host = Tensor::from(ramp(7), Shape{7});
    const Tensor there = host.to(d), copy = there.clone(), back = copy.to(kCpu);
    CHECK(back.to_vector<float>() == ramp(7));
    there.flat(2, 3).copy_from(host.flat(4, 3));
    CHECK(there.to_vector<float>() == std::vector<float>{0, 1, 4, 5, 6, 5, 6});
    there.zero();
    CHECK(there.to_vector<float>() == std::vector<float>(7, 0.0f));
    CHECK(copy.to_vector<float>() == ramp(7));
    CHECK(Tensor::zeros(Shape{3}, DType::i32, d).to_vector<int32_t>() == std::vector<int32_t>(3, 0));
    CHECK(Tensor::empty(Shape{0}, DType::f32, d).to_vector<float>().empty());
    CHECK(host.on_host().same_storage(host));
    CHECK(there.on_host().device() == kCpu);
  });
}

TEST_CASE("recorded launches run when they are replayed, on what the memory then holds") {
  on_each([](Device d) {
    const Tensor x = on(d, ramp(5)), y = on(d, std::vector<float>(5, -1.0f));
    const MemoryPool pool = make_pool(d);
    const Capture capture(d, pool, [&] {
      const NoGrad quiet;
      y.copy_from(ops::scale(ops::add(x, x), 3.0f));
    });
    CHECK(y.to_vector<float>() == std::vector<float>(5, -1.0f));
    for (int i = 0; i < 3; ++i) {
      const std::vector<float> in = ramp(5, static_cast<float>(10 * i));
      x.read(in.data());
      capture.replay();
      std::vector<float> want = in;
      for (float& v : want) v *= 6;
      CHECK(y.to_vector<float>() == want);
    }
  });
}

TEST_CASE("memory of recorded launches serves nobody else, and returns at the end") {
  on_each([](Device d) {
    const Tensor x = on(d, std::vector<float>(1000, 1.0f)), y = on(d, std::vector<float>(1000, 0.0f));
    const int64_t before = memory_use(d).now;
    {
      const MemoryPool pool = make_pool(d);
      const void* inner = nullptr;
      const Capture capture(d, pool, [&] {
        const NoGrad quiet;
        const Tensor t = ops::add(x, x);
        inner = t.data();
        y.copy_from(t);
      });
      std::vector<Tensor> others;
      for (int i = 0; i < 20; ++i) {
        others.push_back(Tensor::empty(Shape{1000}, DType::f32, d));
        CHECK(others.back().data() != inner);
        update::fill(others.back(), 7.0f);
      }
      capture.replay();
      CHECK(y.to_vector<float>() == std::vector<float>(1000, 2.0f));
      for (const Tensor& t : others) CHECK(t.to_vector<float>() == std::vector<float>(1000, 7.0f));
    }
    CHECK(memory_use(d).now == before);
    const int64_t system = device_allocations(d);
    const Tensor again = Tensor::empty(Shape{1000}, DType::f32, d);
    CHECK(device_allocations(d) == system);
  });
}

TEST_CASE("what cannot be recorded is refused, and the device goes on") {
  on_each([](Device d) {
    const Tensor x = on(d, ramp(4)), y = on(d, ramp(4));
    const MemoryPool pool = make_pool(d);
    CHECK_THROWS_AS(Capture(d, pool, [&] { x.item(); }), Error);
    CHECK_THROWS_WITH_AS(Capture(d, pool, [&] { x.to_vector<float>(); }), doctest::Contains("cannot be recorded"),
                         Error);
    CHECK_THROWS_WITH_AS(Capture(d, pool, [&] { Tensor::from(ramp(2), Shape{2}, d); }),
                         doctest::Contains("cannot be recorded"), Error);
    CHECK_THROWS_WITH_AS(Capture(d, pool, [&] { synchronize(d); }), doctest::Contains("cannot be recorded"), Error);
    CHECK_THROWS_WITH_AS(Capture(kCpu, pool, [] {}), doctest::Contains("work can be recorded on cuda and emu"), Error);
    y.copy_from(x);
    CHECK(y.to_vector<float>() == ramp(4));
  });
}

TEST_CASE("batches arrive in order, and each stays valid until the call after the next") {
  on_each([](Device d) {
    BatchFeed feed(d);
    const auto host = [](int i) {
      Batch b;
      b.inputs = Tensor::from(std::vector<int32_t>{i, i + 1}, Shape{1, 2});
      b.targets = Tensor::from(std::vector<int32_t>{-i, i}, Shape{1, 2});
      b.extra["soft"] = Tensor::from(std::vector<float>{static_cast<float>(i)}, Shape{1});
      b.samples = i;
      return b;
    };
    Batch before = feed(host(0));
    for (int i = 1; i < 6; ++i) {
      const Batch now = feed(host(i));
      CHECK(now.inputs.device() == d);
      CHECK(now.inputs.to_vector<int32_t>() == std::vector<int32_t>{i, i + 1});
      CHECK(now.extra.at("soft").item() == static_cast<float>(i));
      CHECK(now.samples == i);
      CHECK(before.targets.to_vector<int32_t>() == std::vector<int32_t>{1 - i, i - 1});
      before = now;
    }
    Batch other = host(9);
    other.inputs = Tensor::from(std::vector<int32_t>{1, 2, 3}, Shape{1, 3});  // another shape takes other memory
    CHECK(feed(other).inputs.to_vector<int32_t>() == std::vector<int32_t>{1, 2, 3});
    const Batch here = host(3);
    CHECK(BatchFeed(kCpu)(here).inputs.same_storage(here.inputs));
  });
}

TEST_CASE("numbers are read back while the device goes on") {
  std::vector<Device> devices = queued_devices();
  devices.push_back(kCpu);
  for (const Device d : devices) {
    const Tensor t = Tensor::from(ramp(3), Shape{3}, d);
    Readback a(d, 3), b(d, 3);
    a.start(t);
    update::fill(t, 8.0f);
    b.start(t);
    CHECK(a.values() == ramp(3));
    CHECK(b.values() == std::vector<float>(3, 8.0f));
    CHECK(a.values() == ramp(3));
    CHECK_THROWS_WITH_AS(a.start(t.flat(0, 2)), doctest::Contains("expected 3 f32"), Error);
  }
}

TEST_CASE("a recorded micro-batch gives the bits of one that is run, with new random numbers in every step") {
  on_each([](Device d) {
    const auto train = [&](bool record) {
      const Tensor w = require_grad(on(d, ramp(64)), Tensor::zeros(Shape{64}, DType::f32, d), "w");
      const Tensor weight = Tensor::from(std::vector<float>{0.5f}, Shape{1}, d);
      const Tensor loss = Tensor::zeros(Shape{1}, DType::f32, d);
      const Tensor live = Tensor::zeros(Shape{1}, DType::i64, d);
      StepRunner runner(d, record);
      std::vector<float> seen;
      for (uint64_t step = 0; step < 5; ++step) {
        update::set_live_step(live, step);
        Context ctx;
        ctx.training = true;
        ctx.step = step;
        ctx.live_step = reinterpret_cast<const uint64_t*>(live.ptr<int64_t>());
        Batch batch;
        batch.inputs = on(d, ramp(64, static_cast<float>(step)));
        const double flops = runner.run(
            [&](const Batch& b, const Context& c) {
              return ops::mean(ops::dropout(ops::mul(w, b.inputs), 0.5f, c.key("drop")));
            },
            batch, ctx, weight, loss, {0, 1, 0});
        CHECK(flops > 0);
        seen.push_back(loss.item());
        for (const float g : grad_of(w).to_vector<float>()) seen.push_back(g);
      }
      CHECK(runner.replays() == (record ? 4 : 0));
      CHECK(runner.obstacle() == "");
      return seen;
    };
    const std::vector<float> recorded = train(true), run = train(false);
    CHECK(recorded == run);
    CHECK(run[0] != run[65]);
  });
}

TEST_CASE("work that cannot be recorded is run, and the reason is known") {
  on_each([](Device d) {
    const Tensor w = require_grad(on(d, ramp(4)), Tensor::zeros(Shape{4}, DType::f32, d), "w");
    const Tensor weight = Tensor::from(std::vector<float>{1.0f}, Shape{1}, d);
    const Tensor loss = Tensor::zeros(Shape{1}, DType::f32, d);
    StepRunner runner(d, true);
    for (int i = 0; i < 3; ++i) {
      runner.run(
          [&](const Batch&, const Context&) {
            const Tensor y = ops::mean(w);
            return ops::scale(y, y.item());
          },
          {}, {}, weight, loss, {});
      CHECK(loss.item() == doctest::Approx(2.25));
    }
    CHECK(runner.replays() == 0);
    CHECK(runner.obstacle().find("cannot be recorded") != std::string::npos);
    CHECK(grad_of(w).to_vector<float>()[0] == doctest::Approx(3 * 1.5 / 4));
  });
}
