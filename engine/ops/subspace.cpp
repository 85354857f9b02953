#include "engine/ops/subspace.h"

namespace accrete::update {
namespace {

template <class Row>
const Row* table(const Tensor& t) {
  return reinterpret_cast<const Row*>(t.ptr<int64_t>());
}

kernels::Subspace pointers(const SubspaceRows& r) {
  return {.bytes = r.bytes.ptr<uint8_t>(),
          .bits = r.bits,
          .tiles = table<kernels::SubspaceTile>(r.tiles),
          .chunks = table<kernels::SubspaceChunk>(r.chunks),
          .blocks = table<kernels::SubspaceBlock>(r.blocks),
          .n_tiles = r.tiles.size(0),
          .n_chunks = r.chunks.size(0),
          .n_blocks = r.blocks.size(0),
          .rank = r.rank};
}

void check_coefficients(const Tensor& x, const SubspaceRows& rows) {
  const int64_t count = rows.blocks.size(0) * rows.rank;
  check(x.count() == count, "subspace", "expected ", count, " coefficients; got ", x.count());
}

}  // namespace

void project(const Tensor& out, const Tensor& g, const SubspaceRows& rows) {
  check_coefficients(out, rows);
  on_device(g.device(), [&](const auto& dev) {
    kernels::subspace_project(dev, out.ptr<float>(), rows.parts.ptr<float>(), g.ptr<float>(), pointers(rows));
  });
}

void expand(const Tensor& out, const Tensor& start, const Tensor& x, const SubspaceRows& rows) {
  check_coefficients(x, rows);
  on_device(out.device(), [&](const auto& dev) {
    kernels::subspace_expand(dev, out.ptr<float>(), start.ptr<float>(), x.ptr<float>(), pointers(rows));
  });
}

}  // namespace accrete::update
