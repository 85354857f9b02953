// Any bytes as a CIFAR batch, as an IDX file, as the index of shards and as their meta.json: refused with an Error, or
// everything that they promise can be read.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "data/image_formats.h"
#include "data/image_shards.h"
#include "engine/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace accrete;
  if (size < 1) return 0;
  const std::span<const uint8_t> bytes(data + 1, size - 1);
  try {
    const CifarBatch batch = CifarBatch::parse(bytes, 1 + data[0] % 2, 10, "fuzz");
    for (int64_t i = 0; i < batch.count; ++i)
      if (batch.label(i) >= 10 || batch.image(i).pixels.size() != 3072) std::abort();
  } catch (const Error&) {
  }
  try {
    const IdxArray array = IdxArray::parse(bytes, 1 + data[0] % 3, "fuzz");
    size_t count = 1;
    for (const int64_t n : array.shape) count *= static_cast<size_t>(n);
    if (array.values.size() != count) std::abort();
    volatile uint8_t touched = 0;
    for (const uint8_t v : array.values) touched = v;
    (void)touched;
  } catch (const Error&) {
  }
  try {
    const std::vector<int64_t> sizes = {100, 1 << 20};
    const ShardIndex index = ShardIndex::parse(bytes, sizes, 5, 3, "fuzz");
    for (int64_t i = 0; i < index.size(); ++i) {
      const ShardRecord r = index.record(i);
      if (r.label >= 5 || r.offset + r.length > static_cast<uint64_t>(sizes.at(r.shard))) std::abort();
      if (index.name(i).size() > size) std::abort();
    }
  } catch (const Error&) {
  }
  try {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const ImageMeta meta = ImageMeta::from_json(text, "fuzz");
    const std::string again = meta.to_json();
    if (ImageMeta::from_json(again, "again").to_json() != again) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
