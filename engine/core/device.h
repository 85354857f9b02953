// Devices: where memory lives and which kernels run on it. The list of devices is the only global state of the engine.
#pragma once

#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/device.h"

namespace accrete {

enum class DeviceKind : uint8_t { cpu, cuda, emu, dry };

// cpu: production CPU code. cuda: GPU `index`. emu: the CUDA kernels run by the block emulator on the CPU, with memory
// of its own that only kernels and copies may touch. dry: no memory and no arithmetic, only shapes, costs and the
// memory account: what --dry-run uses to predict a run.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  uint8_t index = 0;
  friend bool operator==(const Device&, const Device&) = default;

  // Memory that host code may read and write.
  bool host() const { return kind == DeviceKind::cpu; }
  // Work is queued and runs later than the call returns (emu stands in for cuda).
  bool queued() const { return kind == DeviceKind::cuda || kind == DeviceKind::emu; }
};

inline constexpr Device kCpu{DeviceKind::cpu};
inline constexpr Device kEmu{DeviceKind::emu};
inline constexpr Device kDry{DeviceKind::dry};

std::string name_of(Device d);  // "cpu", "cuda:0", ...
inline std::ostream& operator<<(std::ostream& out, Device d) { return out << name_of(d); }

// Reads "cpu", "cuda", "cuda:N", "emu", or "auto": the first GPU where there is one that serves, else the CPU. Opens
// the GPU; one sentence says why where that fails, and how to build with CUDA where this build has none.
Device parse_device(std::string_view text);
// "NVIDIA H200, 132 multiprocessors, ..."; the name for other devices.
std::string describe(Device d);
// Products of f32 on GPUs may round their operands to tf32.
void set_tf32(bool on);
// Waits for every launch and reports its errors there (--sync).
void set_sync_each(bool on);
// Until everything queued on the device has run. At once on cpu and dry.
void synchronize(Device d);

// Kernel contexts of the devices. Set the number of CPU threads before the first tensor is made.
kernels::Cpu& cpu_context();
kernels::Emu& emu_context();
kernels::Cuda& cuda_context(int index);
void set_threads(int threads);
void set_warp_order(kernels::WarpOrder order, uint64_t shuffle_seed = 1);
int default_threads();  // processors this process may use

// Calls fn(context) with the context of a device whose work is queued; does nothing on the others.
template <class Fn>
void on_queued([[maybe_unused]] Device d, [[maybe_unused]] Fn&& fn) {
#if defined(ACCRETE_WITH_CUDA)
  if (d.kind == DeviceKind::cuda) fn(cuda_context(d.index));
#endif
#if defined(ACCRETE_WITH_EMULATOR)
  if (d.kind == DeviceKind::emu) fn(emu_context());
#endif
}

// Calls fn(context) with the kernel context of the device; does nothing on the dry device.
template <class Fn>
void on_device(Device d, Fn&& fn) {
  if (d.host())
    fn(std::as_const(cpu_context()));
  else
    on_queued(d, [&](const auto& dev) { fn(dev); });
}

}  // namespace accrete
