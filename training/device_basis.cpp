#include "training/device_basis.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace accrete {
namespace {

constexpr size_t kChunk = 16;  // tiles whose products are summed together
static_assert(kernels::kSubspaceGroup == kQuantGroup);

}  // namespace

int64_t DeviceBasis::bytes(const Basis& basis) {
  int64_t sum = 0;
  for (const Basis::Tile& tile : basis.tiles_)
    sum += basis.block_[static_cast<size_t>(tile.block)].rank *
           kernels::subspace_row_bytes(bits_of(basis.precision_), tile.count);
  return sum;
}

DeviceBasis::DeviceBasis(const Basis& basis, Device device)
    : basis_(basis), readback_(device, 1 + basis.size()), feed_(device) {
  const int bits = bits_of(basis.precision_);
  std::vector<int64_t> tiles, chunks, blocks;
  int64_t offset = 0;
  for (size_t l = 0; l < basis.block_.size(); ++l) {
    const Basis::Block& block = basis.block_[l];
    const auto number = static_cast<int64_t>(l), first = static_cast<int64_t>(chunks.size() / 3);
    for (size_t t = block.first; t < block.last; ++t) {
      const Basis::Tile& tile = basis.tiles_[t];
      if ((t - block.first) % kChunk == 0)
        chunks.insert(chunks.end(),
                      {static_cast<int64_t>(t), static_cast<int64_t>(std::min(t + kChunk, block.last)), number});
      tiles.insert(tiles.end(), {tile.begin, tile.count, offset, number});
      offset += block.rank * kernels::subspace_row_bytes(bits, tile.count);
    }
    blocks.insert(blocks.end(), {first, static_cast<int64_t>(chunks.size() / 3), block.rank});
  }
  const auto table = [&](const std::vector<int64_t>& rows, int64_t columns) {
    return Tensor::from(rows, Shape{static_cast<int64_t>(rows.size()) / columns, columns}, device);
  };
  const SegmentScope segment(Segment::optimizer);
  rows_ = {.bits = bits,
           .rank = basis.rank(),
           .bytes = Tensor::empty(Shape{offset}, DType::u8, device),
           .tiles = table(tiles, 4),
           .chunks = table(chunks, 3),
           .blocks = table(blocks, 3)};
  rows_.parts = Tensor::empty(Shape{rows_.chunks.size(0), rows_.rank}, DType::f32, device);
  numbers_ = Tensor::empty(Shape{1 + basis.size()}, DType::f32, device);
  bring();
}

// Tile by tile, both parts of a row filled up to 16 bytes.
void DeviceBasis::bring() {
  std::vector<std::byte> rows;
  int64_t offset = 0;
  for (const Basis::Tile& tile : basis_.tiles_) {
    const int rank = basis_.block_[static_cast<size_t>(tile.block)].rank;
    const int64_t row_bytes = kernels::subspace_row_bytes(rows_.bits, tile.count);
    const int64_t codes = kernels::subspace_codes_at(rows_.bits, tile.count);
    const int64_t groups = rows_.bits < 16 ? 4 * ((tile.count + kQuantGroup - 1) / kQuantGroup) : 0;  // bytes
    rows.assign(static_cast<size_t>(rank * row_bytes), std::byte{0});
    for (int q = 0; q < rank; ++q) {
      const std::byte* from = basis_.file_->bytes().data() + tile.offset + q * tile.bytes;
      std::byte* to = rows.data() + q * row_bytes;
      std::memcpy(to, from, static_cast<size_t>(groups));
      std::memcpy(to + codes, from + groups, static_cast<size_t>(tile.bytes - groups));
    }
    rows_.bytes.flat(offset, rank * row_bytes).read(rows.data());
    offset += rank * row_bytes;
  }
}

DeviceBasis::Projection DeviceBasis::project(const Tensor& g, const Tensor& factor) {
  numbers_.flat(0, 1).copy_from(factor);
  update::project(numbers_.flat(1, basis_.size()), g, rows_);
  readback_.start(numbers_);
  const std::vector<float>& numbers = readback_.values();
  Projection p{.factor = static_cast<double>(numbers[0])};
  if (!std::isfinite(p.factor)) return p;
  p.gradient.assign(numbers.begin() + 1, numbers.end());
  basis_.finish(p.gradient);
  return p;
}

void DeviceBasis::expand(const Tensor& out, const Tensor& start, std::span<const double> change) {
  check(change.size() == static_cast<size_t>(basis_.size()), "basis", "expected ", basis_.size(), " coefficients; got ",
        change.size());
  std::vector<float> x(change.size(), 0.0f);
  for (size_t l = 0; l < basis_.block_.size(); ++l) {
    const std::vector<double>& factors = basis_.block_[l].factors;
    const size_t first = l * static_cast<size_t>(basis_.rank());
    for (size_t q = 0; q < factors.size(); ++q) x[first + q] = static_cast<float>(change[first + q] * factors[q]);
  }
  Batch host;
  host.inputs = Tensor::from(x, Shape{basis_.size()});
  update::expand(out, start, feed_(host).inputs, rows_);
}

}  // namespace accrete
