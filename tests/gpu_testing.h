// Devices whose work is queued, for tests that run on each of them: the emulator and the first GPU.
//   ACCRETE_REQUIRE_GPU=1   a GPU that does not serve is an error instead of a reason to skip
#pragma once

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <vector>

#include "engine/core/device.h"
#include "engine/core/error.h"

namespace accrete {

// The first GPU; nothing where none serves, and then the reason is printed once.
inline std::optional<Device> test_gpu() {
  static const std::optional<Device> gpu = []() -> std::optional<Device> {
    try {
      return parse_device("cuda");
    } catch (const Error& e) {
      if (std::getenv("ACCRETE_REQUIRE_GPU")) throw;
      std::fprintf(stderr, "tests on a GPU are skipped: %s\n", e.what());
      return std::nullopt;
    }
  }();
  return gpu;
}

// The emulator where it is built, then the GPU where one serves.
inline std::vector<Device> queued_devices() {
  std::vector<Device> devices;
#if defined(ACCRETE_WITH_EMULATOR)
  devices.push_back(kEmu);
#endif
  if (const auto gpu = test_gpu()) devices.push_back(*gpu);
  return devices;
}

// The CPU first, then the queued ones.
inline std::vector<Device> all_devices() {
  std::vector<Device> devices = queued_devices();
  devices.insert(devices.begin(), kCpu);
  return devices;
}

}  // namespace accrete
