#include "engine/core/capture.h"

#include "kernels/runtime.h"

namespace accrete {
namespace {

// The context that recording changes.
template <class Fn>
void on_recorder(Device d, [[maybe_unused]] Fn&& fn) {
  check(d.queued(), "capture", "work can be recorded on cuda and emu; got ", d);
#if defined(ACCRETE_WITH_CUDA)
  if (d.kind == DeviceKind::cuda) fn(cuda_context(d.index));
#endif
#if defined(ACCRETE_WITH_EMULATOR)
  if (d.kind == DeviceKind::emu) fn(emu_context());
#endif
}

}  // namespace

Capture::Capture(Device device, const MemoryPool& pool, const std::function<void()>& work)
    : device_(device), pool_(pool) {
  on_recorder(device, [&](auto& dev) {
    kernels::begin_recording(dev);
    try {
      const PoolScope scope(pool);
      work();
      recorded_ = kernels::end_recording(dev);
    } catch (const std::exception& e) {
      kernels::abandon_recording(dev);
      throw Error(e.what());
    }
  });
}

Capture::~Capture() {
  on_recorder(device_, [&](auto& dev) {
    kernels::wait(dev);  // a replay may still be running
    kernels::drop_recorded(dev, recorded_);
  });
}

void Capture::replay() const {
  on_recorder(device_, [&](auto& dev) { kernels::replay(dev, recorded_); });
}

}  // namespace accrete
