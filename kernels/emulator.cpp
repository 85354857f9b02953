// The emulator's scheduler. See emulator.h for what it promises.
#include "kernels/emulator.h"

#include <algorithm>
#include <boost/context/detail/fcontext.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <numeric>
#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__  // clang's way to say it
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace accrete::kernels {

constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
constinit thread_local int64_t emulated_grid_limit = int64_t{1} << 40;

namespace emu {
namespace {

namespace fc = boost::context::detail;
constexpr int kWarp = 32;
constexpr size_t kStackBytes = 256 * 1024;
constexpr int64_t kStaticLimit = 48 * 1024;
constexpr int64_t kGuardBytes = 256;
constexpr unsigned char kGuardByte = 0xA5;

enum class State { ready, at_collective, at_barrier, ended };

struct Thread {
  fc::fcontext_t context = nullptr;
  State state = State::ready;
  Where where;  // of the barrier or collective it waits at
  Collective kind{};
  WarpFunction function = nullptr;
  void* brought = nullptr;  // for `function`
  uint32_t mask = 0;
  uint64_t value = 0, result = 0;
  int argument = 0, width = 32;
  bool predicate = false;
};

struct Array {
  const void* key;
  std::string name;
  int64_t bytes;
  bool dynamic;
  std::unique_ptr<unsigned char[]> memory;
};

const char* collective_name(Collective kind) {
  static constexpr const char* kNames[] = {"__shfl_sync",   "__shfl_xor_sync", "__shfl_up_sync", "__shfl_down_sync",
                                           "__ballot_sync", "__syncwarp",      "warp operation"};
  return kNames[static_cast<int>(kind)];
}

std::string text(const Where& w) {
  const std::string file = w.file;
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(w.line);
}
std::string text(const dim3& d) {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "(%u, %u, %u)", d.x, d.y, d.z);
  return buffer;
}
std::string hex(uint32_t v) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "0x%08x", v);
  return buffer;
}
bool same(const Where& a, const Where& b) {
  return a.line == b.line && (a.file == b.file || std::string_view(a.file) == b.file);
}

// Everything one OS thread needs to emulate; stacks are kept from launch to launch.
class Machine {
 public:
  void run(const LaunchSite& site, const Emu& ctx, dim3 grid, dim3 block, int64_t dynamic_bytes,
           const std::function<void()>& body);
  uint64_t collective(Collective kind, uint32_t mask, uint64_t value, int argument, int width, const Where& where);
  void together(WarpFunction function, uint32_t mask, void* lane, const Where& where);
  int barrier(bool predicate, const Where& where);
  void* shared(const void* key, const char* name, int64_t bytes, bool dynamic);
  [[noreturn]] void fail(const std::string& what) const;
  EmulatorTrace trace;

 private:
  void run_block();
  void run_warp(int first);
  bool resolve(int first, int lanes);
  [[noreturn]] void report_stuck(int first, int lanes) const;
  void release_barrier();
  void check_guards() const;
  void resume(int index);
  void suspend();
  static void enter(fc::transfer_t from);
  std::vector<int> ordered(int count);
  std::string kernel_name() const;
  void tell(TraceEvent::Kind kind, const std::string& name = "", int64_t amount = 0) const {
    if (trace) trace(TraceEvent{kind, kernel_name(), blockIdx, name, amount});
  }

  LaunchSite site_{};
  Emu ctx_;
  int64_t dynamic_bytes_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<boost::context::stack_context> stacks_;
  std::vector<Array> arrays_;
  int current_ = -1;  // index of the running thread, -1 in the scheduler
  bool running_ = false;
  fc::fcontext_t scheduler_ = nullptr;
  std::exception_ptr error_;
  uint64_t random_ = 1;

#if defined(__SANITIZE_ADDRESS__)
  const void* host_stack_ = nullptr;
  size_t host_size_ = 0;
#endif
};

thread_local Machine machine;

std::string Machine::kernel_name() const {  // the first argument of the launch statement
  int depth = 0;
  const char* end = site_.statement;
  for (; *end && (depth > 0 || *end != ','); ++end)
    depth += *end == '<' || *end == '(' ? 1 : *end == '>' || *end == ')' ? -1 : 0;
  return std::string(site_.statement, end);
}

void Machine::fail(const std::string& what) const {
  std::string message = "[emulator] kernel " + kernel_name() + ", block " + text(blockIdx);
  if (current_ >= 0) message += ", thread " + text(threadIdx);
  throw EmulatorError(message + ": " + what);
}

// 0..count-1 in the order the context asks for; shuffled draws a new order every time.
std::vector<int> Machine::ordered(int count) {
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (ctx_.order == WarpOrder::reverse) std::reverse(order.begin(), order.end());
  if (ctx_.order == WarpOrder::shuffled) {
    for (int i = count - 1; i > 0; --i) {
      random_ = random_ * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(order[i], order[(random_ >> 33) % (i + 1)]);
    }
  }
  return order;
}

// ---- fibers ---------------------------------------------------------------------------------------------------------

void Machine::enter(fc::transfer_t from) {
  Machine& m = *static_cast<Machine*>(from.data);
  m.scheduler_ = from.fctx;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.host_stack_, &m.host_size_);
#endif
  try {
    (*m.body_)();
  } catch (...) {
    m.error_ = std::current_exception();
  }
  m.threads_[m.current_].state = State::ended;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, m.host_stack_, m.host_size_);
#endif
  fc::jump_fcontext(m.scheduler_, nullptr);
}

void Machine::resume(int index) {
  Thread& t = threads_[index];
  current_ = index;
  const uint32_t i = static_cast<uint32_t>(index);
  threadIdx = dim3{i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  const auto& stack = stacks_[index];
  __sanitizer_start_switch_fiber(&fake, static_cast<char*>(stack.sp) - stack.size, stack.size);
#endif
  t.context = fc::jump_fcontext(t.context, this).fctx;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  current_ = -1;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Machine::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, host_stack_, host_size_);
#endif
  scheduler_ = fc::jump_fcontext(scheduler_, nullptr).fctx;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &host_stack_, &host_size_);
#endif
}

// ---- launches and blocks
// ----------------------------------------------------------------------------------------------

void Machine::run(const LaunchSite& site, const Emu& ctx, dim3 grid, dim3 block, int64_t dynamic_bytes,
                  const std::function<void()>& body) {
  if (running_) throw EmulatorError("[emulator] a kernel cannot launch a kernel");
  site_ = site, ctx_ = ctx, body_ = &body, dynamic_bytes_ = dynamic_bytes, random_ = ctx.shuffle_seed, error_ = nullptr;
  gridDim = grid, blockDim = block, blockIdx = dim3{0, 0, 0};
  const uint64_t size = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (size == 0 || size > 1024 || block.z > 64) fail("impossible block size " + text(block));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    fail("impossible grid size " + text(grid));
  }
  if (dynamic_bytes < 0 || dynamic_bytes > ctx.shared_limit) {
    fail("impossible amount of dynamic shared memory: " + std::to_string(dynamic_bytes) + " bytes");
  }
  while (stacks_.size() < size) stacks_.push_back(boost::context::protected_fixedsize_stack(kStackBytes).allocate());
  struct Guard {
    bool& flag;
    ~Guard() { flag = false; }
  } guard{running_ = true};
  for (int b : ordered(static_cast<int>(static_cast<uint64_t>(grid.x) * grid.y * grid.z))) {
    const uint32_t i = static_cast<uint32_t>(b);
    blockIdx = dim3{i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
    threads_.assign(size, Thread{});
    arrays_.clear();
    tell(TraceEvent::block_begin);
    run_block();
    tell(TraceEvent::block_end);
  }
}

void Machine::run_block() {
  const int size = static_cast<int>(threads_.size());
  for (int i = 0; i < size; ++i) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(static_cast<char*>(stacks_[i].sp) - stacks_[i].size, stacks_[i].size);
#endif
    threads_[i].context = fc::make_fcontext(stacks_[i].sp, stacks_[i].size, enter);
  }
  const auto ended = [](const Thread& t) { return t.state == State::ended; };
  while (!std::all_of(threads_.begin(), threads_.end(), ended)) {
    for (int warp : ordered((size + kWarp - 1) / kWarp)) run_warp(warp * kWarp);
    check_guards();
    release_barrier();
  }
}

// All threads now wait at a barrier or have ended.
void Machine::release_barrier() {
  int waiting = 0, yes = 0;
  const Thread* first = nullptr;
  for (const Thread& t : threads_) {
    if (t.state != State::at_barrier) continue;
    if (first && !same(first->where, t.where)) {
      fail("threads of the block wait at different barriers: __syncthreads at " + text(first->where) + " and at " +
           text(t.where));
    }
    first = &t, ++waiting, yes += t.predicate;
  }
  if (waiting == 0) return;
  const int size = static_cast<int>(threads_.size());
  if (waiting < size) {
    fail("__syncthreads at " + text(first->where) + " is reached by " + std::to_string(waiting) + " of " +
         std::to_string(size) + " threads; the other " + std::to_string(size - waiting) + " have ended");
  }
  tell(TraceEvent::barrier, text(first->where), waiting);
  for (Thread& t : threads_) t.state = State::ready, t.result = static_cast<uint64_t>(yes);
}

int Machine::barrier(bool predicate, const Where& where) {
  Thread& t = threads_[current_];
  t.state = State::at_barrier, t.where = where, t.predicate = predicate;
  suspend();
  return static_cast<int>(t.result);
}

// ---- warps ----------------------------------------------------------------------------------------------------------

// Runs the warp that starts at thread `first` until each lane waits at a block barrier or has ended.
void Machine::run_warp(int first) {
  const int lanes = std::min(kWarp, static_cast<int>(threads_.size()) - first);
  const std::vector<int> order = ordered(lanes);
  do {
    for (int lane : order) {
      if (threads_[first + lane].state == State::ready) resume(first + lane);
    }
  } while (resolve(first, lanes));
  for (int lane = 0; lane < lanes; ++lane) {
    if (threads_[first + lane].state == State::at_collective) report_stuck(first, lanes);
  }
}

// Completes every collective whose whole mask has arrived; says whether there was one.
bool Machine::resolve(int first, int lanes) {
  const uint32_t existing = lanes == kWarp ? 0xffffffffu : (1u << lanes) - 1;
  Thread* const warp = threads_.data() + first;
  bool any = false;
  for (int leader = 0; leader < lanes; ++leader) {
    const Thread lead = warp[leader];
    if (lead.state != State::at_collective) continue;
    const uint32_t group = lead.mask & existing;
    uint32_t here = 0, votes = 0;
    for (int i = 0; i < lanes; ++i) {
      const Thread& t = warp[i];
      const bool arrived = t.state == State::at_collective && t.mask == lead.mask && t.kind == lead.kind &&
                           t.function == lead.function && same(t.where, lead.where);
      if ((group >> i & 1) && arrived) here |= 1u << i, votes |= static_cast<uint32_t>(t.value & 1) << i;
    }
    if (here != group) continue;
    if (lead.kind == Collective::together) {
      void* lanes_brought[kWarp] = {};
      for (int i = 0; i < lanes; ++i) lanes_brought[i] = group >> i & 1 ? warp[i].brought : nullptr;
      lead.function(lanes_brought);
    }
    for (int i = 0; i < lanes; ++i) {
      if (!(group >> i & 1)) continue;
      Thread& t = warp[i];
      const int base = i & ~(t.width - 1), end = base + t.width;
      int source = i;  // out-of-range sources keep the lane's own value, as the hardware does
      switch (t.kind) {
        case Collective::shfl:
          source = base + (t.argument & (t.width - 1));
          break;
        case Collective::shfl_xor:
          source = (i ^ t.argument) < end ? i ^ t.argument : i;
          break;
        case Collective::shfl_up:
          source = i - t.argument >= base ? i - t.argument : i;
          break;
        case Collective::shfl_down:
          source = i + t.argument < end ? i + t.argument : i;
          break;
        case Collective::ballot:
        case Collective::syncwarp:
        case Collective::together:
          break;
      }
      const bool valid = source < lanes && (group >> source & 1);
      const uint64_t poison = static_cast<uint64_t>(kPoison) << 32 | kPoison;
      t.result = t.kind == Collective::ballot ? votes : valid ? warp[source].value : poison;
    }
    for (int i = 0; i < lanes; ++i) {
      if (group >> i & 1) warp[i].state = State::ready;
    }
    any = true;
  }
  return any;
}

void Machine::report_stuck(int first, int lanes) const {
  const Thread* const warp = threads_.data() + first;
  const Thread* lead = warp;
  while (lead->state != State::at_collective) ++lead;
  uint32_t here = 0, barrier = 0, ended = 0;
  std::string elsewhere;
  for (int i = 0; i < lanes; ++i) {
    const Thread& t = warp[i];
    if (t.state == State::at_barrier) barrier |= 1u << i;
    if (t.state == State::ended) ended |= 1u << i;
    if (t.state != State::at_collective) continue;
    if (t.kind == lead->kind && t.mask == lead->mask && same(t.where, lead->where)) {
      here |= 1u << i;
    } else if (elsewhere.empty()) {
      elsewhere = "; lane " + std::to_string(i) + " waits at " + collective_name(t.kind) + " at " + text(t.where) +
                  " with mask " + hex(t.mask);
    }
  }
  std::string what = std::string(collective_name(lead->kind)) + " at " + text(lead->where) + " with mask " +
                     hex(lead->mask) + " is reached only by lanes " + hex(here) + " of warp " +
                     std::to_string(first / kWarp) + elsewhere;
  if (barrier) what += "; lanes " + hex(barrier) + " wait at __syncthreads";
  if (ended) what += "; lanes " + hex(ended) + " have ended";
  fail(what);
}

uint64_t Machine::collective(Collective kind, uint32_t mask, uint64_t value, int argument, int width,
                             const Where& where) {
  Thread& t = threads_[current_];
  if (!(mask >> (current_ % kWarp) & 1)) {
    fail(std::string(collective_name(kind)) + " at " + text(where) + ": the calling lane is not in its mask " +
         hex(mask));
  }
  if (width < 1 || width > kWarp || (width & (width - 1)))
    fail("shuffle width " + std::to_string(width) + " is no power of two up to 32");
  t.state = State::at_collective, t.kind = kind, t.mask = mask, t.value = value, t.argument = argument, t.width = width;
  t.where = where;
  suspend();
  t.function = nullptr;
  return t.result;
}

void Machine::together(WarpFunction function, uint32_t mask, void* lane, const Where& where) {
  Thread& t = threads_[current_];
  t.function = function, t.brought = lane;
  collective(Collective::together, mask, 0, 0, kWarp, where);
}

// ---- shared memory --------------------------------------------------------------------------------------------------

void* Machine::shared(const void* key, const char* name, int64_t bytes, bool dynamic) {
  int64_t used = 0;
  for (const Array& a : arrays_) {
    if (a.key == key && a.dynamic == dynamic) {
      if (a.bytes != bytes) fail("shared array `" + a.name + "` is declared with different sizes by different threads");
      return a.memory.get();
    }
    if (a.dynamic == dynamic) used += (a.bytes + 15) / 16 * 16;
  }
  const int64_t limit = dynamic ? dynamic_bytes_ : kStaticLimit;
  if (bytes < 0 || used + bytes > limit) {
    fail(std::string("shared array `") + name + "` needs " + std::to_string(bytes) + " bytes after " +
         std::to_string(used) + "; the launch has " + std::to_string(limit) +
         (dynamic ? " dynamic bytes" : " static bytes"));
  }
  Array a{key, name, bytes, dynamic, std::make_unique_for_overwrite<unsigned char[]>(bytes + 4 + kGuardBytes)};
  for (int64_t i = 0; i < bytes; i += 4) std::memcpy(a.memory.get() + i, &kPoison, 4);
  std::memset(a.memory.get() + bytes, kGuardByte, kGuardBytes);
  tell(TraceEvent::shared_array, name, bytes);
  arrays_.push_back(std::move(a));
  return arrays_.back().memory.get();
}

void Machine::check_guards() const {
  for (const Array& a : arrays_) {
    for (int64_t i = 0; i < kGuardBytes; ++i) {
      if (a.memory[a.bytes + i] == kGuardByte) continue;
      fail("shared array `" + a.name + "` of " + std::to_string(a.bytes) + " bytes was overrun: byte " +
           std::to_string(a.bytes + i) + " changed");
    }
  }
}

}  // namespace

void run(const LaunchSite& site, const Emu& ctx, dim3 grid, dim3 block, int64_t dynamic_bytes,
         const std::function<void()>& thread_body) {
  const DeviceAccess open;
  machine.run(site, ctx, grid, block, dynamic_bytes, thread_body);
}
void fail(const std::string& what) { machine.fail(what); }
uint64_t warp_collective(Collective kind, uint32_t mask, uint64_t value, int argument, int width, const Where& where) {
  return machine.collective(kind, mask, value, argument, width, where);
}
void warp_together(WarpFunction function, uint32_t mask, void* lane, const Where& where) {
  machine.together(function, mask, lane, where);
}
int block_barrier(bool predicate, const Where& where) { return machine.barrier(predicate, where); }
void* shared_memory(const void* key, const char* name, int64_t bytes, bool dynamic) {
  return machine.shared(key, name, bytes, dynamic);
}

}  // namespace emu

void set_emulator_trace(EmulatorTrace trace) { emu::machine.trace = std::move(trace); }

}  // namespace accrete::kernels
