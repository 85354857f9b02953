// libFuzzer entry: whatever the bytes, the reader answers with arrays inside them or with an Error.
#include <cstdint>

#include "engine/core/error.h"
#include "engine/core/npz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const auto file = accrete::Npz::from_memory(bytes);
    for (const auto& entry : file.entries()) {
      if (entry.bytes == 0) continue;
      // The first and the last byte must be readable: the address sanitizer watches.
      volatile std::byte touched = entry.data[0];
      touched = entry.data[entry.bytes - 1];
      (void)touched;
      if (accrete::npy_header(entry.dtype, entry.shape).size() % 64 != 0) __builtin_trap();
    }
  } catch (const accrete::Error&) {
  }
  return 0;
}
