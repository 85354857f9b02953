// The emulated device's memory and recorded launches. The memory is one reserved range of addresses that nobody may
// touch; DeviceAccess opens what is in use for as long as a kernel runs.
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/emulator.h"
#include "kernels/runtime.h"

namespace accrete::kernels {
namespace {

constexpr int64_t kReserved = int64_t{1} << 36;  // addresses, not memory
constexpr int64_t kPage = 4096;

class Arena {
 public:
  Arena() {
    void* p = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    base_ = p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
  }

  void* take(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    const int64_t size = rounded(bytes);
    auto& spare = spare_[size];
    if (!spare.empty()) {
      void* p = spare.back();
      spare.pop_back();
      return p;
    }
    if (!base_ || size > kReserved - used_) return nullptr;
    void* p = base_ + used_;
    used_ += size;
    protect();
    return p;
  }

  void give(void* p, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    madvise(p, static_cast<size_t>(rounded(bytes)), MADV_DONTNEED);
    spare_[rounded(bytes)].push_back(p);
  }

  void open(int change) {
    const std::lock_guard lock(mutex_);
    const bool was = open_ > 0;
    open_ += change;
    if (was != (open_ > 0)) protect();
  }

 private:
  static int64_t rounded(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage + (bytes == 0 ? kPage : 0); }
  void protect() const {
    if (used_ > 0 && mprotect(base_, static_cast<size_t>(used_), open_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
      throw std::runtime_error("[emulator] the system refuses to change the access to device memory");
  }

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  int64_t used_ = 0;
  int open_ = 0;
  std::map<int64_t, std::vector<void*>> spare_;
};

Arena& arena() {
  static Arena* one = new Arena;  // never destroyed: tensors in static storage may outlive main
  return *one;
}

// Recorded is a LaunchList here; there is nothing to know of an Event, since all work is done when it is queued.
LaunchList* launches_of(Recorded* recorded) { return reinterpret_cast<LaunchList*>(recorded); }
char event_stands_here;

void refuse_while_recording(const Emu& ctx) {
  if (ctx.recorder) throw std::runtime_error("[emulator] a copy between host and device cannot be recorded");
}

}  // namespace

emu::DeviceAccess::DeviceAccess() { arena().open(1); }
emu::DeviceAccess::~DeviceAccess() { arena().open(-1); }

void* device_allocate(const Emu&, int64_t bytes) { return arena().take(bytes); }
void device_release(const Emu&, void* p, int64_t bytes) { arena().give(p, bytes); }
void* host_allocate(const Emu&, int64_t bytes) { return ::operator new(static_cast<size_t>(bytes)); }
void host_release(const Emu&, void* p) { ::operator delete(p); }

void copy_in(const Emu& ctx, void* device, const void* host, int64_t bytes) {
  refuse_while_recording(ctx);
  const emu::DeviceAccess open;
  std::memcpy(device, host, static_cast<size_t>(bytes));
}
void copy_out(const Emu& ctx, void* host, const void* device, int64_t bytes) {
  refuse_while_recording(ctx);
  const emu::DeviceAccess open;
  std::memcpy(host, device, static_cast<size_t>(bytes));
}
void send(const Emu& ctx, void* device, const void* pinned, int64_t bytes) { copy_in(ctx, device, pinned, bytes); }
void fetch(const Emu& ctx, void* pinned, const void* device, int64_t bytes) { copy_out(ctx, pinned, device, bytes); }

void copy_within(const Emu& ctx, void* to, const void* from, int64_t bytes) {
  emu::queue(ctx, [=](const Emu&) {
    const emu::DeviceAccess open;
    std::memmove(to, from, static_cast<size_t>(bytes));
  });
}
void fill_bytes(const Emu& ctx, void* p, uint8_t value, int64_t bytes) {
  emu::queue(ctx, [=](const Emu&) {
    const emu::DeviceAccess open;
    std::memset(p, value, static_cast<size_t>(bytes));
  });
}

// Everything has run when the call returns.
void wait(const Emu& ctx) { refuse_while_recording(ctx); }
Event* make_event(const Emu&) { return reinterpret_cast<Event*>(&event_stands_here); }
void drop_event(const Emu&, Event*) {}
void mark(const Emu&, Event*) {}
void mark_sent(const Emu&, Event*) {}
void await(const Emu& ctx, Event*) { refuse_while_recording(ctx); }
void compute_after(const Emu&, Event*) {}
void send_after(const Emu&, Event*) {}

void begin_recording(Emu& ctx) {
  if (ctx.recorder) throw std::runtime_error("[emulator] launches are being recorded already");
  ctx.recorder = new LaunchList;
}
Recorded* end_recording(Emu& ctx) { return reinterpret_cast<Recorded*>(std::exchange(ctx.recorder, nullptr)); }
void abandon_recording(Emu& ctx) noexcept {
  delete ctx.recorder;
  ctx.recorder = nullptr;
}
void replay(const Emu& ctx, Recorded* recorded) {
  refuse_while_recording(ctx);
  for (const auto& launch : *launches_of(recorded)) launch(ctx);
}
void drop_recorded(const Emu&, Recorded* recorded) { delete launches_of(recorded); }

}  // namespace accrete::kernels
