// Any bytes as a token file, and as meta.json: refused with an Error, or every id is readable and in the vocabulary.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "data/token_file.h"
#include "engine/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  accrete::TokenFormat format;
  format.width = data[0] % 2 ? 4 : 2;
  format.vocab_size = data[1] * 256 + data[2];
  data += 3, size -= 3;
  try {
    const auto file = accrete::TokenFile::from_memory({reinterpret_cast<const std::byte*>(data), size}, format, "fuzz");
    std::vector<int32_t> ids(static_cast<size_t>(file.size()));
    file.copy(0, file.size(), ids.data());
    for (const int32_t id : ids)
      if (id < 0 || id >= file.vocab_size()) std::abort();
  } catch (const accrete::Error&) {
  }
  try {
    const auto meta = accrete::TokenMeta::from_json({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (meta.width != 0 && accrete::TokenMeta::from_json(meta.to_json(), "again").vocab_size != meta.vocab_size)
      std::abort();
  } catch (const accrete::Error&) {
  }
  return 0;
}
