// What a device does besides arithmetic: memory, copies, order, and launches that are recorded once and replayed.
// Overloads of one name, like the kernels. Work on a device is queued: it runs in the order of the calls, later than
// they return. Everything here throws std::runtime_error when the device reports a failure.
//
// Emu keeps its memory closed (no access at all) except while a kernel or one of these functions runs, so that host
// code that touches device memory ends at once, as it would on a GPU.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/device.h"

namespace accrete::kernels {

struct Event;     // a point in a queue
struct Recorded;  // launches that can be replayed

#define ACCRETE_RUNTIME(Context)                                                                                \
  /* Device memory, aligned to 256 bytes; null when there is no more. Releasing waits for the device. */        \
  void* device_allocate(const Context&, int64_t bytes);                                                         \
  void device_release(const Context&, void* p, int64_t bytes);                                                  \
  /* Host memory that copies reach without the processor (page-locked). */                                      \
  void* host_allocate(const Context&, int64_t bytes);                                                           \
  void host_release(const Context&, void* p);                                                                   \
  /* Between host and device; on return the bytes have arrived. Refused while launches are recorded. */         \
  void copy_in(const Context&, void* device, const void* host, int64_t bytes);                                  \
  void copy_out(const Context&, void* host, const void* device, int64_t bytes);                                 \
  /* Queued. `pinned` comes from host_allocate and stays untouched until the copy has run. send runs in a queue \
     of its own beside the arithmetic (order: mark_sent, compute_after); fetch in the queue of the kernels. */  \
  void send(const Context&, void* device, const void* pinned, int64_t bytes);                                   \
  void fetch(const Context&, void* pinned, const void* device, int64_t bytes);                                  \
  void copy_within(const Context&, void* to, const void* from, int64_t bytes);                                  \
  void fill_bytes(const Context&, void* p, uint8_t value, int64_t bytes);                                       \
  void wait(const Context&); /* until everything queued has run */                                              \
  Event* make_event(const Context&);                                                                            \
  void drop_event(const Context&, Event* event);                                                                \
  void mark(const Context&, Event* event);          /* what the kernels' queue holds now */                     \
  void mark_sent(const Context&, Event* event);     /* what the queue of send holds now */                      \
  void await(const Context&, Event* event);         /* the host waits; at once when never marked */             \
  void compute_after(const Context&, Event* event); /* the kernels' queue waits */                              \
  void send_after(const Context&, Event* event);    /* the queue of send waits */                               \
  /* From begin to end, launches, copy_within and fill_bytes are recorded and not run. */                       \
  void begin_recording(Context&);                                                                               \
  Recorded* end_recording(Context&);                                                                            \
  void abandon_recording(Context&) noexcept; /* after an error */                                               \
  void replay(const Context&, Recorded* recorded);                                                              \
  void drop_recorded(const Context&, Recorded* recorded)
ACCRETE_RUNTIME(Emu);
ACCRETE_RUNTIME(Cuda);
#undef ACCRETE_RUNTIME

// Opens GPU `index`: streams, cuBLASLt, workspace. Throws with one sentence when the driver, the GPU or its age does
// not serve.
Cuda open_cuda(int index);
bool cuda_driver_present();
int64_t cuda_free_memory(const Cuda&);      // bytes
std::string cuda_device_name(const Cuda&);  // "NVIDIA H200, 132 multiprocessors, compute capability 9.0, driver 13.0"

}  // namespace accrete::kernels
