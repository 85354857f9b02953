// A caching allocator per device. Every allocation belongs to the innermost named segment; a report shows them all.
//
// Freed blocks are kept and handed out again to requests of the same rounded size, so a training loop whose shapes
// repeat makes no system allocation after its second step (device_allocations() stops growing; a test keeps it so).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/device.h"
#include "engine/core/error.h"

namespace accrete {

enum class Segment : uint8_t { params, grads, optimizer, activations, workspace, data };
inline constexpr int kSegments = 6;
const char* name_of(Segment s);

// Memory that recorded launches (capture.h) go on using between their replays: blocks freed inside the pool serve the
// pool again and nobody else. When the last owner goes, its blocks return to the device.
using MemoryPool = std::shared_ptr<const int>;
MemoryPool make_pool(Device device);

// In its scope, allocations of this thread come from `pool`.
class PoolScope {
 public:
  explicit PoolScope(const MemoryPool& pool);
  ~PoolScope();
  PoolScope(const PoolScope&) = delete;
  PoolScope& operator=(const PoolScope&) = delete;

 private:
  int outer_;
};

// In its scope, allocations of this thread belong to `segment`.
class SegmentScope {
 public:
  explicit SegmentScope(Segment segment);
  ~SegmentScope();
  SegmentScope(const SegmentScope&) = delete;
  SegmentScope& operator=(const SegmentScope&) = delete;

 private:
  Segment outer_;
};

// A block of memory that returns to the allocator's cache when the last owner goes. `bytes` is the size asked for.
struct Block {
  void* data = nullptr;
  int64_t bytes = 0;
  int64_t rounded = 0;
  Device device;
  Segment segment = Segment::activations;
  int pool = 0;
  ~Block();
};

// What allocate throws: an Error whose text holds the segment table.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// At least `bytes` bytes, aligned to 64 (256 on a GPU), not initialised. Throws Error with the segment table when the
// limit is reached.
std::unique_ptr<Block> allocate(Device device, int64_t bytes);

struct SegmentUse {
  int64_t now = 0, peak = 0;  // bytes
};
struct MemoryUse {
  SegmentUse segment[kSegments];
  int64_t now = 0;          // bytes in use
  int64_t peak = 0;         // largest `now` since reset_peak
  int64_t reserved = 0;     // bytes held from the system, in use or cached
  int64_t allocations = 0;  // calls to the system allocator so far
};
MemoryUse memory_use(Device device);
// Restarts the peaks at the present values.
void reset_peak(Device device);
// Number of calls to the system allocator so far: constant in the steady state.
int64_t device_allocations(Device device);
// Gives cached, unused blocks back to the system.
void release_cache(Device device);
// Bytes the engine may reserve on a device; default: the memory available to this process when it starts, on a GPU what
// its driver gives. 0 restores the default.
void set_memory_limit(int64_t bytes);
int64_t memory_limit(Device device = kCpu);
// Debugging: every block handed out from now on is filled with bytes of ones (NaN as f32 and bf16, -1 as i32), so that
// a value read before it was written shows. Tests run with it.
void set_poison(bool on);
// A table of the segments (now, peak), one line each.
std::string memory_report(Device device);
// "12.3 MiB"
std::string human_bytes(int64_t bytes);

}  // namespace accrete
