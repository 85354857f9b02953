// Devices: where memory lives and which kernels run on it. The list of devices is the only global state of the engine.
#pragma once

#include <ostream>
#include <string>
#include <string_view>

#include "kernels/device.h"

namespace accrete {

enum class DeviceKind : uint8_t { cpu, emu, dry };

// cpu: production CPU code. emu: the CUDA kernels run by the block emulator, in host memory.
// dry: no memory and no arithmetic, only shapes, costs and the memory account: what --dry-run uses to predict a run.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{DeviceKind::cpu};
inline constexpr Device kEmu{DeviceKind::emu};
inline constexpr Device kDry{DeviceKind::dry};

std::string_view name_of(Device d);
inline std::ostream& operator<<(std::ostream& out, Device d) { return out << name_of(d); }

// Reads "cpu" or "emu"; "cuda" is refused with the reason when this build has no CUDA engine.
Device parse_device(std::string_view text);

// Kernel contexts of the devices. Set the number of CPU threads before the first tensor is made.
const kernels::Cpu& cpu_context();
const kernels::Emu& emu_context();
void set_threads(int threads);
void set_warp_order(kernels::WarpOrder order, uint64_t shuffle_seed = 1);
int default_threads();  // processors this process may use

// Calls fn(context) with the kernel context of the device; does nothing on the dry device.
template <class Fn>
void on_device(Device d, Fn&& fn) {
  switch (d.kind) {
    case DeviceKind::cpu:
      fn(cpu_context());
      break;
    case DeviceKind::emu:
#if defined(ACCRETE_WITH_EMULATOR)
      fn(emu_context());
#endif
      break;
    case DeviceKind::dry:
      break;
  }
}

}  // namespace accrete
