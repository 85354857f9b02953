// Work on a queued device whose launches are recorded once and then replayed with one call (a CUDA graph): the host
// spends microseconds on a step of any number of kernels.
//
// A replay runs the same kernels with the same arguments on the same memory. What changes from step to step must
// therefore stand in device memory (inputs, the live step of RandomKey), and the memory of the recorded work must stay
// its own: record with a pool that lives as long as the capture.
#pragma once

#include <functional>

#include "engine/core/memory.h"

namespace accrete::kernels {
struct Recorded;
}

namespace accrete {

class Capture {
 public:
  // Calls `work` and records what it launches; nothing runs. Throws Error when the work does something that cannot be
  // recorded (a copy to or from the host, waiting); the device is as before then.
  Capture(Device device, const MemoryPool& pool, const std::function<void()>& work);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  void replay() const;

 private:
  Device device_;
  MemoryPool pool_;
  kernels::Recorded* recorded_ = nullptr;
};

}  // namespace accrete
