// Convolution as a product with the unfolded input (kernels/unfold.h). The matrix of unfolded windows is kernel^2 times
// the input, so it exists only for some rows of places at a time, in a workspace, and is made again in backward:
//   y = U(x) w^T + b,   dw = sum over chunks of dy^T U(x),   db = sum of the rows of dy
// dx at stride 1 is a convolution too: of dy with the window turned round, so that its sums are made by the product in
// f32. At larger strides that product would be mostly with zeros; there dy w is folded back, each number rounded once.
#include <algorithm>

#include "engine/ops/images.h"
#include "kernels/gemm.h"
#include "kernels/permute.h"
#include "kernels/reduce.h"
#include "kernels/unfold.h"

namespace accrete::ops {
namespace {

using kernels::UnfoldShape;

// Bytes of workspace for unfolded windows: they stay in the second-level cache of a large GPU (50 MB) and make a
// hundred tiles of a product; on a CPU 1 to 32 MiB take the same time.
constexpr int64_t kChunkBytes = int64_t{16} << 20;

struct ConvSizes {
  int64_t images, out;  // output channels
  UnfoldShape windows;
  bool direct;  // windows of one cell, side by side: x is the unfolded matrix
  int64_t rows() const { return images * windows.out_h; }  // of places
};

ConvSizes check_conv(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvOptions& o) {
  const char* const where = "conv2d";
  check(o.kernel >= 1 && o.stride >= 1 && o.pad >= 0 && o.pad < o.kernel, where,
        "options out of range; expected kernel >= 1, stride >= 1, 0 <= pad < kernel; got ", o.kernel, ", ", o.stride,
        ", ", o.pad);
  check(x.rank() == 4, where, "expected x of (B, H, W, C); got ", x.shape());
  check(w.rank() == 2 && w.size(1) == o.kernel * o.kernel * x.size(3) && w.dtype() == x.dtype(), where,
        "w does not fit x ", x.shape(), " ", name_of(x.dtype()), "; expected (O, ", o.kernel * o.kernel * x.size(3),
        ") of that type; got ", w.shape(), " ", name_of(w.dtype()));
  if (bias.defined())
    check(bias.count() == w.size(0) && bias.dtype() == DType::f32, where, "bias does not fit; expected (", w.size(0),
          ") f32; got ", bias.shape(), " ", name_of(bias.dtype()));
  const int64_t H = x.size(1) + 2 * o.pad - o.kernel, W = x.size(2) + 2 * o.pad - o.kernel;
  check(H >= 0 && W >= 0, where, "window of ", o.kernel, " cells does not fit ", x.shape(), " with a border of ",
        o.pad);
  ConvSizes s;
  s.images = x.size(0);
  s.out = w.size(0);
  s.windows = {.height = x.size(1),
               .width = x.size(2),
               .channels = x.size(3),
               .out_h = H / o.stride + 1,
               .out_w = W / o.stride + 1,
               .kernel = o.kernel,
               .stride = o.stride,
               .offset = -o.pad};
  s.direct = o.kernel == 1 && o.stride == 1;
  return s;
}

// fn(first, count) for pieces of `rows`, as equal as can be, each of at most kChunkBytes and at least one row.
template <class Fn>
void for_chunks(int64_t rows, int64_t row_bytes, const Fn& fn) {
  const int64_t fit = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, row_bytes));
  const int64_t pieces = (rows + fit - 1) / fit, chunk = pieces > 0 ? (rows + pieces - 1) / pieces : 0;
  for (int64_t first = 0; first < rows; first += chunk) fn(first, std::min(chunk, rows - first));
}

// fn(u, first, count): the unfolded windows of the rows of places [first, first + count) of x, chunk after chunk.
template <class Fn>
void for_unfolded(const Tensor& x, int64_t rows, const UnfoldShape& s, const Fn& fn) {
  const SegmentScope workspace(Segment::workspace);
  Tensor u;
  for_chunks(rows, s.out_w * s.columns() * size_of(x.dtype()), [&](int64_t first, int64_t count) {
    if (!u.defined()) u = Tensor::empty(Shape{count * s.out_w, s.columns()}, x.dtype(), x.device());
    on(x, [&]<class T>(const auto& dev) { kernels::unfold<T>(dev, u.ptr<T>(), x.ptr<T>(), first, count, s); });
    fn(u, first, count);
  });
}

void product(const Tensor& c, int64_t c_at, const Tensor& a, int64_t a_at, const Tensor& b, int64_t b_at,
             const Tensor& bias, const Tensor& bias_gradient, const kernels::GemmShape& s) {
  on(a, [&]<class T>(const auto& dev) {
    const auto run = [&]<class Out>(Out* out) {
      kernels::Epilogue<Out> e;
      if (bias.defined()) e.bias = bias.ptr<float>();
      if (bias_gradient.defined()) e.bias_gradient = bias_gradient.ptr<float>();
      kernels::gemm<T, Out>(dev, out + c_at, a.ptr<T>() + a_at, b.ptr<T>() + b_at, e, s);
    };
    if (c.dtype() == a.dtype())
      run(c.ptr<T>());
    else
      run(c.ptr<float>());
  });
}

void weight_gradient(const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& x, const ConvSizes& s) {
  const auto add = [&](const Tensor& u, int64_t first, int64_t count) {
    const int64_t places = count * s.windows.out_w;
    product(dw, 0, dy, first * s.windows.out_w * s.out, u, 0, {}, db,
            {.M = s.out, .N = s.windows.columns(), .K = places, .trans_a = true, .accumulate = true});
  };
  if (s.direct)
    add(x, 0, s.rows());
  else
    for_unfolded(x, s.rows(), s.windows, add);
}

// w, (O, kernel^2, C), as (kernel^2, O, C).
Tensor window_first(const Tensor& w, const UnfoldShape& s, int64_t out) {
  const int64_t cells = s.kernel * s.kernel;
  Tensor t = Tensor::empty(Shape{cells * out, s.channels}, w.dtype(), w.device());
  on(w, [&]<class T>(const auto& dev) {
    kernels::swap_middle<T>(dev, t.ptr<T>(), w.ptr<T>(), 1, out, cells, s.channels);
  });
  return t;
}

Tensor input_gradient(const Tensor& dy, const Tensor& w, const ConvSizes& s, const Shape& shape) {
  const UnfoldShape& f = s.windows;
  Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
  if (s.direct) {
    product(dx, 0, dy, 0, w, 0, {}, {}, {.M = s.rows() * f.out_w, .N = f.channels, .K = s.out});
    return dx;
  }
  const SegmentScope workspace(Segment::workspace);
  if (f.stride == 1) {
    const UnfoldShape turned{.height = f.out_h,
                             .width = f.out_w,
                             .channels = s.out,
                             .out_h = f.height,
                             .out_w = f.width,
                             .kernel = f.kernel,
                             .offset = -f.offset,
                             .reversed = true};
    const Tensor weights = window_first(w, f, s.out);
    for_unfolded(dy, s.images * f.height, turned, [&](const Tensor& u, int64_t first, int64_t count) {
      product(dx, first * f.width * f.channels, u, 0, weights, 0, {}, {},
              {.M = count * f.width, .N = f.channels, .K = turned.columns()});
    });
    return dx;
  }
  const int64_t places = f.out_h * f.out_w, image = f.height * f.width * f.channels;
  Tensor u;
  for_chunks(s.images, places * f.columns() * size_of(dy.dtype()), [&](int64_t first, int64_t count) {
    if (!u.defined()) u = Tensor::empty(Shape{count * places, f.columns()}, dy.dtype(), dy.device());
    product(u, 0, dy, first * places * s.out, w, 0, {}, {}, {.M = count * places, .N = f.columns(), .K = s.out});
    on(dx, [&]<class T>(const auto& dev) { kernels::fold<T>(dev, dx.ptr<T>() + first * image, u.ptr<T>(), count, f); });
  });
  return dx;
}

// Each product is 2 M N K; a chunk is written and read again, in backward once for dw and once for dx.
Cost conv_cost(const ConvSizes& s, const Tensor& x, const Tensor& w, const Tensor& y, bool dx, bool dw) {
  const double places = static_cast<double>(s.rows() * s.windows.out_w);
  const double flops = 2 * places * static_cast<double>(s.out * s.windows.columns());
  const double unfolded = s.direct ? 0.0 : 2 * places * static_cast<double>(s.windows.columns() * size_of(x.dtype()));
  const double bytes = static_cast<double>(x.bytes() + w.bytes() + y.bytes()) + unfolded;
  const double products = (dx ? 1.0 : 0.0) + (dw ? 1.0 : 0.0);
  return Cost{flops, bytes, flops * products, bytes * products};
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvOptions& options) {
  const ConvSizes s = check_conv(x, w, bias, options);
  const Tensor y = Tensor::empty(Shape{s.images, s.windows.out_h, s.windows.out_w, s.out}, x.dtype(), x.device());
  const auto multiply = [&](const Tensor& u, int64_t first, int64_t count) {
    product(y, first * s.windows.out_w * s.out, u, 0, w, 0, bias, {},
            {.M = count * s.windows.out_w, .N = s.out, .K = s.windows.columns(), .trans_b = true});
  };
  if (s.direct)
    multiply(x, 0, s.rows());
  else
    for_unfolded(x, s.rows(), s.windows, multiply);
  return record("conv2d", y, {x, w, bias}, Saved{x, w}, conv_cost(s, x, w, y, requires_grad(x), requires_grad(w)),
                [s](const BackwardContext& ctx) -> Grads {
                  const Tensor &x = ctx.saved(0), &w = ctx.saved(1), &dy = ctx.dy();
                  Grads grads(3);
                  if (ctx.needs(2)) grads[2] = ctx.param_grad(2);
                  if (ctx.needs(1)) {
                    grads[1] = ctx.param_grad(1);
                    weight_gradient(grads[1], grads[2], dy, x, s);
                  } else if (grads[2].defined()) {
                    on(dy, [&]<class T>(const auto& dev) {
                      kernels::column_sum<T>(dev, grads[2].ptr<float>(), dy.ptr<T>(), dy.shape().rows(), s.out, true);
                    });
                  }
                  if (ctx.needs(0)) grads[0] = input_gradient(dy, w, s, x.shape());
                  return grads;
                });
}

}  // namespace accrete::ops
