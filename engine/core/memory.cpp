#include "engine/core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>

#include "engine/core/error.h"
#include "kernels/runtime.h"

namespace accrete {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = 2 << 20;

thread_local Segment current_segment = Segment::activations;
thread_local int current_pool = 0;
int64_t chosen_limit = 0;

// Sizes are rounded so that nearly equal requests share cached blocks: 256 bytes, then 1/16 of the size.
int64_t round_size(int64_t bytes) {
  int64_t step = 256;
  while (step * 16 < bytes) step *= 2;
  return std::max<int64_t>(step, (bytes + step - 1) / step * step);
}

int64_t read_number(const char* path) {
  std::ifstream in(path);
  int64_t n = -1;
  in >> n;
  return in ? n : -1;
}

// Memory this process can still take: MemAvailable, or less where a control group bounds it.
int64_t available_memory() {
  int64_t available = int64_t{8} << 30;
  std::ifstream in("/proc/meminfo");
  for (std::string key; in >> key;) {
    int64_t kib = 0;
    if (key == "MemAvailable:" && in >> kib) available = kib * 1024;
    in.ignore(256, '\n');
  }
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max");
  const int64_t used = std::max<int64_t>(0, read_number("/sys/fs/cgroup/memory.current"));
  if (limit > 0) available = std::min(available, std::max<int64_t>(0, limit - used));
  return available;
}

int64_t host_limit() {
  static const int64_t available = available_memory();
  return chosen_limit > 0 ? chosen_limit : available;
}

class Cache {
 public:
  explicit Cache(Device device) : device_(device) {}

  std::unique_ptr<Block> get(int64_t bytes, Segment segment) {
    const std::lock_guard lock(mutex_);
    const int64_t rounded = round_size(bytes);
    void* data = nullptr;
    auto& list = free_[{current_pool, rounded}];
    if (device_ == kDry) {
      // only the account is kept
    } else if (!list.empty()) {
      data = list.back();
      list.pop_back();
    } else {
      data = from_system(rounded, bytes);
    }
    auto& s = use_.segment[static_cast<int>(segment)];
    s.now += rounded;
    s.peak = std::max(s.peak, s.now);
    use_.now += rounded;
    use_.peak = std::max(use_.peak, use_.now);
    auto block = std::make_unique<Block>();
    block->data = data;
    block->bytes = bytes;
    block->rounded = rounded;
    block->device = device_;
    block->segment = segment;
    block->pool = current_pool;
    return block;
  }

  void put(const Block& block) {
    const std::lock_guard lock(mutex_);
    use_.segment[static_cast<int>(block.segment)].now -= block.rounded;
    use_.now -= block.rounded;
    if (block.data) free_[{pools_.contains(block.pool) ? block.pool : 0, block.rounded}].push_back(block.data);
  }

  int open_pool() {
    const std::lock_guard lock(mutex_);
    pools_.insert(++last_pool_);
    return last_pool_;
  }

  void close_pool(int pool) {
    const std::lock_guard lock(mutex_);
    pools_.erase(pool);
    for (auto& [key, list] : free_) {
      if (key.first != pool) continue;
      auto& common = free_[{0, key.second}];
      common.insert(common.end(), list.begin(), list.end());
      list.clear();
    }
  }

  void release() {
    const std::lock_guard lock(mutex_);
    release_locked();
  }

  int64_t limit() {
    const std::lock_guard lock(mutex_);
    return limit_locked();
  }

  MemoryUse use() {
    const std::lock_guard lock(mutex_);
    return use_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    for (auto& s : use_.segment) s.peak = s.now;
    use_.peak = use_.now;
  }

 private:
  // Memory of the device, or null. The emulated device stands on the host's memory and shares its limit.
  void* system_memory(int64_t rounded) {
    void* data = nullptr;
    if (device_.kind != DeviceKind::cuda && use_.reserved + rounded > host_limit()) return nullptr;
    if (device_.kind == DeviceKind::cuda && chosen_limit > 0 && use_.reserved + rounded > chosen_limit) return nullptr;
    if (!device_.host()) {
      on_queued(device_, [&](const auto& dev) { data = kernels::device_allocate(dev, rounded); });
      return data;
    }
    const int64_t alignment = rounded >= kHugePage ? kHugePage : kAlignment;
    if (posix_memalign(&data, static_cast<size_t>(alignment), static_cast<size_t>(rounded)) != 0) return nullptr;
    if (rounded >= kHugePage) madvise(data, static_cast<size_t>(rounded), MADV_HUGEPAGE);
    return data;
  }

  void* from_system(int64_t rounded, int64_t bytes) {
    void* data = system_memory(rounded);
    if (!data) {
      release_locked();
      data = system_memory(rounded);
    }
    if (data) {
      use_.reserved += rounded;
      ++use_.allocations;
      return data;
    }
    std::ostringstream text;
    text << "[memory] out of memory on " << device_ << "; " << human_bytes(bytes) << " more wanted for "
         << name_of(current_segment) << "; limit " << human_bytes(limit_locked()) << "; in use: ";
    for (int i = 0; i < kSegments; ++i)
      if (use_.segment[i].now > 0)
        text << name_of(static_cast<Segment>(i)) << " " << human_bytes(use_.segment[i].now) << ", ";
    text << "total " << human_bytes(use_.now) << "; use a smaller batch, recompute or bf16";
    throw OutOfMemory(text.str());
  }

  int64_t limit_locked() const {
    if (device_.kind != DeviceKind::cuda || chosen_limit > 0) return host_limit();
    int64_t free = 0;
#if defined(ACCRETE_WITH_CUDA)
    free = kernels::cuda_free_memory(cuda_context(device_.index));
#endif
    return use_.reserved + free;
  }

  // Blocks of pools stay: recorded launches use them.
  void release_locked() {
    for (auto& [key, list] : free_) {
      if (key.first != 0) continue;
      for (void* p : list) give_back(p, key.second);
      use_.reserved -= key.second * static_cast<int64_t>(list.size());
      list.clear();
    }
  }

  void give_back(void* p, int64_t rounded) {
    if (device_.host())
      std::free(p);
    else
      on_queued(device_, [&](const auto& dev) { kernels::device_release(dev, p, rounded); });
  }

 public:
  std::string table() const {
    std::string out;
    char line[128];
    std::snprintf(line, sizeof line, "  %-12s %12s %12s\n", "segment", "now", "peak");
    out += line;
    for (int i = 0; i < kSegments; ++i) {
      std::snprintf(line, sizeof line, "  %-12s %12s %12s\n", name_of(static_cast<Segment>(i)),
                    human_bytes(use_.segment[i].now).c_str(), human_bytes(use_.segment[i].peak).c_str());
      out += line;
    }
    std::snprintf(line, sizeof line, "  %-12s %12s %12s  (held from the system: %s)", "total",
                  human_bytes(use_.now).c_str(), human_bytes(use_.peak).c_str(), human_bytes(use_.reserved).c_str());
    return out + line;
  }

 private:
  Device device_;
  std::mutex mutex_;
  std::map<std::pair<int, int64_t>, std::vector<void*>> free_;  // by pool and size
  std::set<int> pools_;
  int last_pool_ = 0;
  MemoryUse use_;
};

// Never destroyed: tensors in static storage may outlive main.
Cache& cache_of(Device d) {
  static auto* mutex = new std::mutex;
  static auto* caches = new std::map<std::pair<DeviceKind, int>, std::unique_ptr<Cache>>;
  const std::lock_guard lock(*mutex);
  auto& cache = (*caches)[{d.kind, d.index}];
  if (!cache) cache = std::make_unique<Cache>(d);
  return *cache;
}

bool poison = false;

}  // namespace

const char* name_of(Segment s) {
  static constexpr const char* kNames[kSegments] = {"params", "grads", "optimizer", "activations", "workspace", "data"};
  return kNames[static_cast<int>(s)];
}

SegmentScope::SegmentScope(Segment segment) : outer_(current_segment) { current_segment = segment; }
SegmentScope::~SegmentScope() { current_segment = outer_; }

MemoryPool make_pool(Device device) {
  return {new int(cache_of(device).open_pool()), [device](const int* pool) {
            cache_of(device).close_pool(*pool);
            delete pool;
          }};
}

PoolScope::PoolScope(const MemoryPool& pool) : outer_(current_pool) { current_pool = pool ? *pool : 0; }
PoolScope::~PoolScope() { current_pool = outer_; }

Block::~Block() {
  if (rounded > 0) cache_of(device).put(*this);
}

std::unique_ptr<Block> allocate(Device device, int64_t bytes) {
  check(bytes >= 0, "memory", "negative size ", bytes);
  std::unique_ptr<Block> block = cache_of(device).get(bytes, current_segment);
  if (poison && block->data) {
    if (device.host()) std::memset(block->data, 0xff, static_cast<size_t>(block->rounded));
    on_queued(device, [&](const auto& dev) { kernels::fill_bytes(dev, block->data, 0xff, block->rounded); });
  }
  return block;
}

MemoryUse memory_use(Device device) { return cache_of(device).use(); }
void reset_peak(Device device) { cache_of(device).reset_peak(); }
int64_t device_allocations(Device device) { return cache_of(device).use().allocations; }
void release_cache(Device device) { cache_of(device).release(); }
void set_poison(bool on) { poison = on; }
void set_memory_limit(int64_t bytes) { chosen_limit = bytes; }

int64_t memory_limit(Device device) { return cache_of(device).limit(); }

std::string memory_report(Device device) { return cache_of(device).table(); }

std::string human_bytes(int64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) value /= 1024, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

}  // namespace accrete
