#include "engine/core/device.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <optional>
#include <vector>

#include "engine/core/error.h"
#include "kernels/runtime.h"

namespace accrete {
namespace {

struct Devices {
  kernels::Cpu cpu{default_threads()};
  kernels::Emu emu{kernels::WarpOrder::forward, 1, cpu};
  std::vector<std::optional<kernels::Cuda>> cuda;  // by index; opened when first named
  bool tf32 = false, sync_each = false;
};

Devices& devices() {
  static Devices* list = new Devices;  // never destroyed: tensors in static storage may outlive main
  return *list;
}

Device open_cuda_device(int index) {
#if defined(ACCRETE_WITH_CUDA)
  auto& list = devices().cuda;
  if (static_cast<size_t>(index) >= list.size()) list.resize(static_cast<size_t>(index) + 1);
  auto& slot = list[static_cast<size_t>(index)];
  if (!slot) {
    try {
      slot = kernels::open_cuda(index);
    } catch (const std::runtime_error& e) {
      throw Error(e.what());
    }
    slot->tf32 = devices().tf32;
    slot->sync_each = devices().sync_each;
  }
  return {DeviceKind::cuda, static_cast<uint8_t>(index)};
#else
  fail("device", "cuda:", index,
       " is asked for, but this build has no CUDA; install the CUDA toolkit (nvcc), configure again with "
       "-DACCRETE_CUDA=ON and rebuild, or use --device cpu");
#endif
}

}  // namespace

int default_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return 1;
}

std::string name_of(Device d) {
  switch (d.kind) {
    case DeviceKind::cpu:
      return "cpu";
    case DeviceKind::cuda:
      return "cuda:" + std::to_string(d.index);
    case DeviceKind::emu:
      return "emu";
    case DeviceKind::dry:
      return "dry";
  }
  return "?";
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return kCpu;
  if (text == "auto") {
#if defined(ACCRETE_WITH_CUDA)
    try {
      return open_cuda_device(0);
    } catch (const Error& e) {  // no GPU that serves: worth a word where somebody has installed a driver for one
      if (kernels::cuda_driver_present()) std::cerr << "computing on the CPU: " << e.what() << std::endl;
    }
#endif
    return kCpu;
  }
  if (text == "emu") {
#if defined(ACCRETE_WITH_EMULATOR)
    return kEmu;
#else
    fail("device", "this build has no block emulator; install Boost.Context and configure with -DACCRETE_EMULATOR=ON");
#endif
  }
  if (text == "cuda") return open_cuda_device(0);
  if (text.starts_with("cuda:")) {
    const std::string_view digits = text.substr(5);
    int index = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    check(error == std::errc() && end == digits.data() + digits.size() && index >= 0 && index < 64, "device",
          "not the number of a GPU; expected cuda:0, cuda:1, ...; got \"", text, "\"");
    return open_cuda_device(index);
  }
  fail("device", "unknown device; expected auto, cpu, cuda, cuda:N or emu; got \"", text, "\"");
}

std::string describe(Device d) {
#if defined(ACCRETE_WITH_CUDA)
  if (d.kind == DeviceKind::cuda) return kernels::cuda_device_name(cuda_context(d.index));
#endif
  return name_of(d);
}

void set_tf32(bool on) {
  devices().tf32 = on;
  for (auto& gpu : devices().cuda)
    if (gpu) gpu->tf32 = on;
}

void set_sync_each(bool on) {
  devices().sync_each = on;
  for (auto& gpu : devices().cuda)
    if (gpu) gpu->sync_each = on;
}

void synchronize(Device d) {
  on_queued(d, [](const auto& dev) { kernels::wait(dev); });
}

kernels::Cpu& cpu_context() { return devices().cpu; }
kernels::Emu& emu_context() { return devices().emu; }
kernels::Cuda& cuda_context(int index) {
  check(index >= 0 && static_cast<size_t>(index) < devices().cuda.size() && devices().cuda[static_cast<size_t>(index)],
        "device", "cuda:", index, " has not been opened");
  return *devices().cuda[static_cast<size_t>(index)];
}

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
