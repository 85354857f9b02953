#include "engine/core/device.h"

#include <sched.h>

#include <algorithm>

#include "engine/core/error.h"

namespace accrete {
namespace {

struct Devices {
  kernels::Cpu cpu{default_threads()};
  kernels::Emu emu{kernels::WarpOrder::forward, 1, cpu};
};

Devices& devices() {
  static Devices list;
  return list;
}

}  // namespace

int default_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return 1;
}

std::string_view name_of(Device d) {
  switch (d.kind) {
    case DeviceKind::cpu:
      return "cpu";
    case DeviceKind::emu:
      return "emu";
    case DeviceKind::dry:
      return "dry";
  }
  return "?";
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return kCpu;
  if (text == "emu") {
#if defined(ACCRETE_WITH_EMULATOR)
    return kEmu;
#else
    fail("device", "this build has no block emulator; install Boost.Context and configure with -DACCRETE_EMULATOR=ON");
#endif
  }
  if (text.substr(0, 4) == "cuda") {
    fail("device", "training on \"", text,
         "\" is not part of this build; expected cpu or emu (the CUDA kernels run on emu)");
  }
  fail("device", "unknown device; expected cpu or emu; got \"", text, "\"");
}

const kernels::Cpu& cpu_context() { return devices().cpu; }
const kernels::Emu& emu_context() { return devices().emu; }

void set_threads(int threads) {
  check(threads >= 1 && threads <= 1024, "device", "number of threads out of range; expected 1 to 1024; got ", threads);
  devices().cpu.threads = threads;
  devices().emu.cpu.threads = threads;
}

void set_warp_order(kernels::WarpOrder order, uint64_t shuffle_seed) {
  devices().emu.order = order;
  devices().emu.shuffle_seed = shuffle_seed;
}

}  // namespace accrete
