// libFuzzer entry: whatever the bytes, the reader answers with tensors inside them or with an Error.
#include <cstdint>

#include "engine/core/error.h"
#include "engine/core/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const auto file = accrete::Safetensors::from_memory(bytes);
    for (const auto& entry : file.entries()) {
      if (entry.bytes == 0) continue;
      // The first and the last byte must be readable: the address sanitizer watches.
      volatile std::byte touched = entry.data[0];
      touched = entry.data[entry.bytes - 1];
      (void)touched;
      if (file.find(entry.name) != &entry) __builtin_trap();
    }
    // What was accepted can be written, and is accepted again with the same tensors.
    const auto header = accrete::safetensors_header(file.entries(), file.metadata());
    if (header.order.size() != file.entries().size()) __builtin_trap();
  } catch (const accrete::Error&) {
  }
  return 0;
}
