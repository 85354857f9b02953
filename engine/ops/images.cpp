// Images as batches of planes, and tables of positions on grids.
#include "engine/ops/images.h"

#include "kernels/patchify.h"
#include "kernels/resample.h"
#include "kernels/resample_taps.h"

namespace accrete::ops {
namespace {

void check_images(const char* where, const Tensor& images) {
  check(images.rank() == 4, where, "expected images as (B, C, H, W); got ", images.shape());
}

}  // namespace

Tensor patchify(const Tensor& images, int64_t patch) {
  check_images("patchify", images);
  const int64_t B = images.size(0), C = images.size(1), H = images.size(2), W = images.size(3), P = patch;
  check(P > 0 && H % P == 0 && W % P == 0, "patchify", "patches of ", P, " x ", P, " do not fill images of ", H, " x ",
        W);
  Tensor y = Tensor::empty(Shape{B, (H / P) * (W / P), C * P * P}, images.dtype(), images.device());
  on(y, [&]<class T>(const auto& dev) { kernels::patchify<T>(dev, y.ptr<T>(), images.ptr<T>(), B, C, H, W, P); });
  const double bytes = 2.0 * static_cast<double>(y.bytes());
  return record(
      "patchify", y, {images}, {}, Cost{0, bytes, 0, bytes},
      [=, shape = images.shape()](const BackwardContext& ctx) -> Grads {
        const Tensor& dy = ctx.dy();
        Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
        on(dy, [&]<class T>(const auto& dev) { kernels::unpatchify<T>(dev, dx.ptr<T>(), dy.ptr<T>(), B, C, H, W, P); });
        return {dx};
      });
}

Tensor resize_images(const Tensor& images, int64_t height, int64_t width) {
  check_images("resize_images", images);
  const int64_t H = images.size(2), W = images.size(3), planes = images.size(0) * images.size(1);
  for (const int64_t side : {H, W, height, width})
    check(side > 0 && side <= kernels::kLargestSide, "resize_images", "from ", H, " x ", W, " to ", height, " x ",
          width, "; expected sides of 1 to ", kernels::kLargestSide);
  if (height == H && width == W) return images;
  Tensor y = Tensor::empty(Shape{images.size(0), images.size(1), height, width}, images.dtype(), images.device());
  on(y, [&]<class T>(const auto& dev) {
    kernels::resize_bilinear<T>(dev, y.ptr<T>(), images.ptr<T>(), planes, H, W, height, width);
  });
  const double n = static_cast<double>(y.count()), bytes = static_cast<double>(y.bytes() + images.bytes());
  return record("resize_images", y, {images}, {}, Cost{6 * n, bytes, 6 * n, bytes},
                [=, shape = images.shape()](const BackwardContext& ctx) -> Grads {
                  const Tensor& dy = ctx.dy();
                  Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
                  on(dy, [&]<class T>(const auto& dev) {
                    kernels::resize_bilinear_backward<T>(dev, dx.ptr<T>(), dy.ptr<T>(), planes, H, W, height, width);
                  });
                  return {dx};
                });
}

Tensor resample_grid(const Tensor& table, int64_t extra, GridSize from, GridSize to, double offset) {
  check(table.rank() == 2 && extra >= 0 && from.h > 0 && from.w > 0 && table.size(0) == extra + from.count(),
        "resample_grid", "the table does not fit the grid; expected (", extra, " + ", from.h, " * ", from.w,
        ", C); got ", table.shape());
  check(to.h > 0 && to.w > 0 && offset >= 0.0, "resample_grid",
        "expected a grid with cells and an offset of at least 0", "; got ", to.h, " x ", to.w, " and ", offset);
  if (from == to) return table;
  const kernels::TableGrid g{extra, from.h, from.w, to.h, to.w, table.size(1), offset};
  Tensor y = Tensor::empty(Shape{extra + to.count(), table.size(1)}, table.dtype(), table.device());
  on(y, [&]<class T>(const auto& dev) { kernels::resample_table<T>(dev, y.ptr<T>(), table.ptr<T>(), g); });
  const double n = static_cast<double>(y.count()), bytes = static_cast<double>(y.bytes() + table.bytes());
  return record("resample_grid", y, {table}, {}, Cost{32 * n, bytes, 32 * n, bytes},
                [g](const BackwardContext& ctx) -> Grads {
                  const Tensor& dy = ctx.dy();  // f32 where it comes from ops that sum over the batch
                  const Tensor dx = ctx.param_grad(0);
                  on(dy, [&]<class T>(const auto& dev) {
                    kernels::resample_table_backward<T>(dev, dx.ptr<float>(), dy.ptr<T>(), g);
                  });
                  return {dx};
                });
}

}  // namespace accrete::ops
