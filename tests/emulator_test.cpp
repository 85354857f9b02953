// The block emulator itself: every collective, barriers, shared memory checks, shapes, and the mistakes it must report.
#if defined(ACCRETE_WITH_EMULATOR)

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "kernels/launch.h"

using namespace accrete;
using namespace accrete::kernels;

namespace {

constexpr WarpOrder kOrders[] = {WarpOrder::forward, WarpOrder::reverse, WarpOrder::shuffled};
constexpr uint32_t kAll = 0xffffffffu;

template <class Fn>
void in_every_order(Fn fn) {
  for (WarpOrder order : kOrders) {
    CAPTURE(static_cast<int>(order));
    fn(Emu{order});
  }
}

// The message of the EmulatorError that `fn` throws; empty when it throws none.
template <class Fn>
std::string report(Fn fn) {
  try {
    fn();
  } catch (const EmulatorError& e) {
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  const bool found = text.find(part) != std::string::npos;
  CHECK_MESSAGE(found, "expected \"" << part << "\" in: " << text);
  return found;
}

struct Vec3 {
  uint32_t x, y, z;
};
__global__ void record_shape(Vec3* thread, Vec3* block) {
  const uint64_t b = blockIdx.x + gridDim.x * (blockIdx.y + static_cast<uint64_t>(gridDim.y) * blockIdx.z);
  const uint64_t t = threadIdx.x + blockDim.x * (threadIdx.y + static_cast<uint64_t>(blockDim.y) * threadIdx.z);
  const uint64_t i = b * blockDim.x * blockDim.y * blockDim.z + t;
  thread[i] = {threadIdx.x, threadIdx.y, threadIdx.z};
  block[i] = {blockIdx.x, blockIdx.y, blockIdx.z};
}

// Every thread writes its value, waits, reads its neighbour's (in the next warp for the last lane).
template <bool kWithBarrier>
__global__ void rotate(float* y, const float* x) {
  ACCRETE_SHARED(float, row, 96);
  row[threadIdx.x] = x[threadIdx.x];
  if (kWithBarrier) __syncthreads();
  y[threadIdx.x] = row[(threadIdx.x + 1) % blockDim.x];
}

// The same through an unchecked pointer: only the poison can show it.
__global__ void rotate_unchecked(float* y, const float* x) {
  ACCRETE_SHARED(float, row, 96);
  float* p = &row[0];
  p[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = p[(threadIdx.x + 1) % blockDim.x];
}

}  // namespace

TEST_CASE("grids and blocks of one, two and three dimensions visit every thread once") {
  struct Case {
    dim3 grid, block;
  };
  const Case cases[] = {{{1, 1, 1}, {1, 1, 1}}, {{5, 1, 1}, {33, 1, 1}}, {{3, 2, 1}, {7, 5, 1}},
                        {{2, 3, 4}, {4, 3, 5}}, {{1, 1, 7}, {2, 1, 64}}, {{1, 1, 1}, {1024, 1, 1}}};
  in_every_order([&](const Emu& ctx) {
    for (const auto& [g, b] : cases) {
      const size_t n = size_t{g.x} * g.y * g.z * b.x * b.y * b.z;
      std::vector<Vec3> thread(n, {99999, 0, 0}), block(n, {99999, 0, 0});
      ACCRETE_LAUNCH(record_shape, g, b, 0, ctx, thread.data(), block.data());
      size_t i = 0, wrong = 0;
      for (uint32_t bz = 0; bz < g.z; ++bz)
        for (uint32_t by = 0; by < g.y; ++by)
          for (uint32_t bx = 0; bx < g.x; ++bx)
            for (uint32_t tz = 0; tz < b.z; ++tz)
              for (uint32_t ty = 0; ty < b.y; ++ty)
                for (uint32_t tx = 0; tx < b.x; ++tx, ++i) {
                  wrong += thread[i].x != tx || thread[i].y != ty || thread[i].z != tz;
                  wrong += block[i].x != bx || block[i].y != by || block[i].z != bz;
                }
      CHECK(i == n);
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("a barrier makes shared memory visible to all warps") {
  std::vector<float> x(96), y(96);
  for (int i = 0; i < 96; ++i) x[i] = static_cast<float>(i);
  in_every_order([&](const Emu& ctx) {
    for (uint32_t size : {1u, 31u, 32u, 33u, 64u, 96u}) {
      ACCRETE_LAUNCH(rotate<true>, dim3{2}, dim3{size}, 0, ctx, y.data(), x.data());
      for (uint32_t i = 0; i < size; ++i) CHECK(y[i] == static_cast<float>((i + 1) % size));
    }
  });
}

TEST_CASE("a missing barrier is found") {
  std::vector<float> x(96, 1.0f), y(96);
  int reported = 0, poisoned = 0;
  for (WarpOrder order : kOrders) {
    const Emu ctx{order};
    const std::string text =
        report([&] { ACCRETE_LAUNCH(rotate<false>, dim3{1}, dim3{96}, 0, ctx, y.data(), x.data()); });
    reported += text.find("`row` is read before any write") != std::string::npos;
    ACCRETE_LAUNCH(rotate_unchecked, dim3{1}, dim3{96}, 0, ctx, y.data(), x.data());
    for (float v : y) poisoned += v != v;
  }
  CHECK(reported >= 1);
  CHECK(poisoned >= 1);
}

namespace {
// Without the barrier between read and write a fast warp overwrites what a slow one still needs. No unwritten memory is
// read, so only the result shows it.
template <bool kWithBarrier>
__global__ void swap_halves_then_reuse(float* y) {
  ACCRETE_SHARED(float, buffer, 64);
  const uint32_t t = threadIdx.x;
  buffer[t] = static_cast<float>(t);
  __syncthreads();
  const float a = buffer[(t + 32) % 64];
  if (kWithBarrier) __syncthreads();
  buffer[t] = -1.0f;
  y[t] = a;
}
}  // namespace

TEST_CASE("a missing barrier between read and overwrite changes the result") {
  int wrong_without = 0;
  in_every_order([&](const Emu& ctx) {
    std::vector<float> y(64);
    ACCRETE_LAUNCH(swap_halves_then_reuse<true>, dim3{1}, dim3{64}, 0, ctx, y.data());
    for (uint32_t t = 0; t < 64; ++t) CHECK(y[t] == static_cast<float>((t + 32) % 64));
    ACCRETE_LAUNCH(swap_halves_then_reuse<false>, dim3{1}, dim3{64}, 0, ctx, y.data());
    for (uint32_t t = 0; t < 64; ++t) wrong_without += y[t] != static_cast<float>((t + 32) % 64);
  });
  CHECK(wrong_without > 0);
}

namespace {
__global__ void all_shuffles(int* out) {  // out: (6, blockDim)
  const int t = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
  out[0 * n + t] = __shfl_sync(kAll, t, 5);
  out[1 * n + t] = __shfl_xor_sync(kAll, t, 3);
  out[2 * n + t] = __shfl_up_sync(kAll, t, 2);
  out[3 * n + t] = __shfl_down_sync(kAll, t, 7);
  out[4 * n + t] = __shfl_sync(kAll, t, t + 1, 8);
  out[5 * n + t] = __shfl_xor_sync(kAll, t, 4, 8);
}
__global__ void votes(uint32_t* ballots, int* counts) {
  const int t = static_cast<int>(threadIdx.x);
  ballots[t] = __ballot_sync(kAll, t % 3 == 0);
  counts[4 * t] = __syncthreads_count(t % 5 == 0);
  counts[4 * t + 1] = __syncthreads_or(t == 40);
  counts[4 * t + 2] = __syncthreads_or(t == 4000);
  counts[4 * t + 3] = __syncthreads_and(t < 4000) + 2 * __syncthreads_and(t != 7);
}
__global__ void double_shuffle(double* out) { out[threadIdx.x] = __shfl_xor_sync(kAll, 0.1 * threadIdx.x, 1); }
}  // namespace

TEST_CASE("shuffles move values as the hardware does") {
  in_every_order([&](const Emu& ctx) {
    std::vector<int> y(6 * 64, -1);
    ACCRETE_LAUNCH(all_shuffles, dim3{1}, dim3{64}, 0, ctx, y.data());
    for (int t = 0; t < 64; ++t) {
      const int base = t / 32 * 32, lane = t % 32;
      CHECK(y[0 * 64 + t] == base + 5);
      CHECK(y[1 * 64 + t] == (t ^ 3));
      CHECK(y[2 * 64 + t] == (lane >= 2 ? t - 2 : t));
      CHECK(y[3 * 64 + t] == (lane + 7 < 32 ? t + 7 : t));
      CHECK(y[4 * 64 + t] == t / 8 * 8 + (t + 1) % 8);
      CHECK(y[5 * 64 + t] == (t ^ 4));
    }
    std::vector<double> d(32);
    ACCRETE_LAUNCH(double_shuffle, dim3{1}, dim3{32}, 0, ctx, d.data());
    for (int t = 0; t < 32; ++t) CHECK(d[t] == 0.1 * (t ^ 1));
  });
}

TEST_CASE("ballots and counting barriers, with a partial last warp") {
  in_every_order([&](const Emu& ctx) {
    const int n = 45;
    std::vector<uint32_t> ballots(n);
    std::vector<int> counts(4 * n);
    ACCRETE_LAUNCH(votes, dim3{1}, dim3{n}, 0, ctx, ballots.data(), counts.data());
    uint32_t expected[2] = {0, 0};
    for (int t = 0; t < n; t += 3) expected[t / 32] |= 1u << (t % 32);
    for (int t = 0; t < n; ++t) {
      CHECK(ballots[t] == expected[t / 32]);
      CHECK(counts[4 * t] == 9);
      CHECK(counts[4 * t + 1] == 1);
      CHECK(counts[4 * t + 2] == 0);
      CHECK(counts[4 * t + 3] == 1);
    }
  });
}

TEST_CASE("a shuffle that reads a lane which does not exist gives poison") {
  std::vector<float> y(33);
  ACCRETE_LAUNCH(
      +[](float* out) { out[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1); }, dim3{1}, dim3{33}, 0, Emu{}, y.data());
  for (int t = 0; t < 32; ++t) CHECK(y[t] == 1.0f);
  CHECK(y[32] != y[32]);
}

namespace {
// Collectives inside nested branches, each with the mask of the lanes that take the branch.
__global__ void nested(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  int v = 0;
  if (t < 16) {
    v = __shfl_xor_sync(0x0000ffffu, t, 1);
    if (t < 4) {
      v += 100 * __shfl_sync(0x0000000fu, t, 2);
      __syncwarp(0x0000000fu);
    } else {
      v += 1000 * __shfl_sync(0x0000fff0u, t, 9);
    }
  } else if (t % 2 == 0) {
    v = __popc(__ballot_sync(0x55550000u, t < 24));
  }
  __syncwarp();
  out[t] = __shfl_sync(kAll, v, t);
}
}  // namespace

TEST_CASE("nested divergence with exact masks") {
  in_every_order([&](const Emu& ctx) {
    std::vector<int> y(32);
    ACCRETE_LAUNCH(nested, dim3{1}, dim3{32}, 0, ctx, y.data());
    for (int t = 0; t < 32; ++t) {
      const int expected = t < 4 ? (t ^ 1) + 200 : t < 16 ? (t ^ 1) + 9000 : t % 2 ? 0 : 4;
      CHECK(y[t] == expected);
    }
  });
}

namespace {
__global__ void two_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
}  // namespace

TEST_CASE("divergent barriers are reported with the counts") {
  in_every_order([&](const Emu& ctx) {
    std::string text = report([&] {
      ACCRETE_LAUNCH(
          +[](int limit) {
            if (static_cast<int>(threadIdx.x) < limit) __syncthreads();
          },
          dim3{2}, dim3{70}, 0, ctx, 40);
    });
    contains(text, "emulator_test.cpp");
    contains(text, "reached by 40 of 70 threads; the other 30 have ended");
    contains(text, "block (");
    text = report([&] { ACCRETE_LAUNCH(two_barriers, dim3{1}, dim3{64}, 0, ctx); });
    contains(text, "wait at different barriers");
  });
}

TEST_CASE("incomplete and mixed warp collectives are reported, never waited for") {
  in_every_order([&](const Emu& ctx) {
    std::string text = report([&] {
      ACCRETE_LAUNCH(
          +[](float* y) {
            if (threadIdx.x % 32 < 8) y[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1);
          },
          dim3{1}, dim3{64}, 0, ctx, static_cast<float*>(nullptr));
    });
    contains(text, "__shfl_xor_sync");
    contains(text, "reached only by lanes 0x000000ff");
    contains(text, "lanes 0xffffff00 have ended");
    text = report([&] {
      ACCRETE_LAUNCH(
          +[] {
            if (threadIdx.x % 2 == 0) {
              __syncwarp();
            } else {
              __ballot_sync(kAll, 1);
            }
          },
          dim3{1}, dim3{32}, 0, ctx);
    });
    contains(text, "waits at");
    text = report([&] {
      ACCRETE_LAUNCH(
          +[] {
            if (threadIdx.x < 16) {
              __syncwarp();
            } else {
              __syncthreads();
            }
          },
          dim3{1}, dim3{32}, 0, ctx);
    });
    contains(text, "lanes 0xffff0000 wait at __syncthreads");
    text = report([&] {
      ACCRETE_LAUNCH(
          +[] { __syncwarp(0xfffffffeu); }, dim3{1}, dim3{32}, 0, ctx);
    });
    contains(text, "the calling lane is not in its mask 0xfffffffe");
    text = report([&] {
      ACCRETE_LAUNCH(
          +[] { __shfl_sync(kAll, 1, 0, 12); }, dim3{1}, dim3{32}, 0, ctx);
    });
    contains(text, "shuffle width 12");
  });
}

namespace {
__global__ void checked_write(int index) {
  ACCRETE_SHARED(float, tile, 40);
  if (threadIdx.x == 0) tile[index] = 1.0f;
}
__global__ void raw_write(int index) {
  ACCRETE_SHARED(float, tile, 40);
  (&tile[0])[index] = 1.0f;
}
__global__ void two_carved(int index, int second) {
  SharedCarver carve;
  const auto a = carve.take<float>("a", 10);
  const auto b = carve.take<int>("b", second);
  if (threadIdx.x == 0) a[index] = 2.0f;
  b[threadIdx.x % second] = 1;
  __syncthreads();
}
}  // namespace

TEST_CASE("overruns of shared arrays are reported with kernel, block and array") {
  std::string text = report([&] { ACCRETE_LAUNCH(checked_write, dim3{3}, dim3{32}, 0, Emu{}, 40); });
  contains(text, "kernel checked_write, block (0, 0, 0), thread (0, 0, 0)");
  contains(text, "index 40 is outside the 40 elements of shared array `tile`");
  text = report([&] { ACCRETE_LAUNCH(checked_write, dim3{1}, dim3{32}, 0, Emu{}, -1); });
  contains(text, "index -1 is outside");
  text = report([&] { ACCRETE_LAUNCH(raw_write, dim3{2}, dim3{32}, 0, Emu{}, 41); });
  contains(text, "shared array `tile` of 160 bytes was overrun: byte 16");
  CHECK(report([&] { ACCRETE_LAUNCH(raw_write, dim3{2}, dim3{32}, 0, Emu{}, 39); }) == "");
  // dynamic arrays have guard zones and bounds of their own
  const int64_t bytes = shared_bytes<float>(10) + shared_bytes<int>(5);
  CHECK(report([&] { ACCRETE_LAUNCH(two_carved, dim3{1}, dim3{32}, bytes, Emu{}, 9, 5); }) == "");
  text = report([&] { ACCRETE_LAUNCH(two_carved, dim3{1}, dim3{32}, bytes, Emu{}, 10, 5); });
  contains(text, "shared array `a`");
  text = report([&] { ACCRETE_LAUNCH(two_carved, dim3{1}, dim3{32}, bytes, Emu{}, 9, 50); });
  contains(text, "shared array `b` needs 200 bytes after 48; the launch has 80 dynamic bytes");
}

TEST_CASE("reads before writes are reported for every element size") {
  CHECK(report([] {
          ACCRETE_LAUNCH(
              +[] {
                ACCRETE_SHARED(float, a, 2);
                ACCRETE_SHARED(double, b, 2);
                a[0] = 1.0f, b[0] = 1.0;
                a[1] = a[0] + 1.0f, b[1] = b[0] + 1.0;
                a[1] += b[1];
              },
              dim3{2}, dim3{1}, 0, Emu{});
        }) == "");
  contains(report([] {
             ACCRETE_LAUNCH(
                 +[](float* y) {
                   ACCRETE_SHARED(float, a, 2);
                   a[1] = 1.0f;
                   *y = a[0];
                 },
                 dim3{1}, dim3{1}, 0, Emu{}, static_cast<float*>(nullptr));
           }),
           "element 0 of shared array `a` is read before any write");
  contains(report([] {
             ACCRETE_LAUNCH(
                 +[] {
                   ACCRETE_SHARED(uint16_t, half, 3);
                   half[2] += 1;
                 },
                 dim3{1}, dim3{1}, 0, Emu{});
           }),
           "element 2 of shared array `half` is read before any write");
}

TEST_CASE("shared memory does not live from block to block") {
  const std::string text = report([] {
    ACCRETE_LAUNCH(
        +[](float* y) {
          ACCRETE_SHARED(float, a, 1);
          if (blockIdx.x == 0) a[0] = 3.0f;
          y[blockIdx.x] = a[0];
        },
        dim3{2}, dim3{1}, 0, Emu{}, std::vector<float>(2).data());
  });
  contains(text, "block (1, 0, 0)");
}

TEST_CASE("impossible launches are refused") {
  const auto nothing = +[] {};
  contains(report([&] { ACCRETE_LAUNCH(nothing, dim3{1}, dim3{1025}, 0, Emu{}); }), "impossible block size");
  contains(report([&] { ACCRETE_LAUNCH(nothing, dim3{1}, dim3{0}, 0, Emu{}); }), "impossible block size");
  contains(report([&] { ACCRETE_LAUNCH(nothing, dim3{0}, dim3{1}, 0, Emu{}); }), "impossible grid size");
  contains(report([&] { ACCRETE_LAUNCH(nothing, dim3{1, 70000}, dim3{1}, 0, Emu{}); }), "impossible grid size");
  contains(report([&] { ACCRETE_LAUNCH(nothing, dim3{1}, dim3{1}, 300000, Emu{}); }), "dynamic shared memory");
}

TEST_CASE("an exception inside a kernel reaches the caller, and the next launch works") {
  CHECK_THROWS_WITH(ACCRETE_LAUNCH(
                        +[] {
                          __syncthreads();
                          if (threadIdx.x == 50) throw std::out_of_range("from a fiber");
                          __syncthreads();
                        },
                        dim3{1}, dim3{64}, 0, Emu{}),
                    "from a fiber");
  int sum = 0;
  ACCRETE_LAUNCH(
      +[](int* p) { atomicAdd(p, 1); }, dim3{3}, dim3{50}, 0, Emu{}, &sum);
  CHECK(sum == 150);
}

TEST_CASE("the trace lists blocks, arrays and barriers") {
  std::vector<std::string> seen;
  set_emulator_trace([&](const TraceEvent& e) {
    static constexpr const char* kNames[] = {"begin", "array", "barrier", "end"};
    seen.push_back(std::string(kNames[e.kind]) + " " + e.kernel + " " + std::to_string(e.block.x) +
                   (e.kind == TraceEvent::shared_array ? " " + e.name : "") + " " + std::to_string(e.amount));
  });
  std::vector<float> x(96, 1.0f), y(96);
  ACCRETE_LAUNCH(rotate<true>, dim3{2}, dim3{33}, 0, Emu{}, y.data(), x.data());
  set_emulator_trace({});
  const std::vector<std::string> expected = {
      "begin rotate<true> 0 0", "array rotate<true> 0 row 384", "barrier rotate<true> 0 33", "end rotate<true> 0 0",
      "begin rotate<true> 1 0", "array rotate<true> 1 row 384", "barrier rotate<true> 1 33", "end rotate<true> 1 0"};
  CHECK(seen == expected);
}

#endif  // ACCRETE_WITH_EMULATOR
