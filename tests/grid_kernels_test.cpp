// The kernels for grids of features (unfold and fold, batch norm, outlook attention, pooling, mixing) on the emulator
// in three warp orders and with tiny grids, on a GPU where one serves, and on the CPU, against double precision:
// unaligned pointers, guard zones, outputs full of NaN.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "kernels/batch_norm.h"
#include "kernels/grid.h"
#include "kernels/outlook.h"
#include "kernels/unfold.h"
#include "tests/kernel_reference.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;
using Values = std::vector<double>;

namespace {

// Rounding of T where the sum has terms of size `magnitude`.
template <class T>
Tolerance of_sum(double magnitude) {
  return {rounding<T>().relative * magnitude, rounding<T>().relative};
}

struct Windows {
  int64_t images;
  UnfoldShape s;
};
// Windows that overlap, touch, leave cells out, and stand over the border; 8 channels take the wide path.
const Windows kWindows[] = {
    {2, {.height = 5, .width = 4, .channels = 3, .out_h = 5, .out_w = 4, .kernel = 3, .offset = -1}},
    {1, {.height = 6, .width = 7, .channels = 8, .out_h = 3, .out_w = 4, .kernel = 3, .stride = 2, .offset = -1}},
    {2, {.height = 9, .width = 8, .channels = 16, .out_h = 2, .out_w = 2, .kernel = 4, .stride = 4}},
    {1, {.height = 5, .width = 5, .channels = 33, .out_h = 3, .out_w = 3, .kernel = 1, .stride = 2}},
    {1, {.height = 3, .width = 2, .channels = 1, .out_h = 5, .out_w = 4, .kernel = 3, .offset = -2}},
    {0, {.height = 4, .width = 4, .channels = 8, .out_h = 2, .out_w = 2, .kernel = 2, .stride = 2}},
};

// fn(index into cols, index into x, or -1 outside) for every number of every window of rows [first, first + rows).
template <class Fn>
void for_windows(const UnfoldShape& s, int64_t first, int64_t rows, const Fn& fn) {
  int64_t at = 0;
  for (int64_t n = first; n < first + rows; ++n)
    for (int64_t j = 0; j < s.out_w; ++j)
      for (int64_t di = 0; di < s.kernel; ++di)
        for (int64_t dj = 0; dj < s.kernel; ++dj)
          for (int64_t c = 0; c < s.channels; ++c, ++at) {
            const int64_t r = s.stride * (n % s.out_h) + s.offset + (s.reversed ? -di : di);
            const int64_t q = s.stride * j + s.offset + (s.reversed ? -dj : dj);
            const bool inside = r >= 0 && r < s.height && q >= 0 && q < s.width;
            fn(at, inside ? ((n / s.out_h * s.height + r) * s.width + q) * s.channels + c : -1);
          }
}

}  // namespace

TEST_CASE_TEMPLATE("windows are unfolded, in pieces and in either direction", T, float, bf16, f16) {
  for (const auto& [images, shape] : kWindows)
    for (const bool reversed : {false, true})
      for (const int offset : {0, 1}) {
        UnfoldShape s = shape;
        s.reversed = reversed;
        if (reversed) s.offset = s.kernel - 1 + shape.offset;
        const Values x = random_values<T>(images * s.height * s.width * s.channels, 3);
        const int64_t all = images * s.out_h, row = s.out_w * s.columns();
        on_backends([&](const auto& ctx, SameBits& same) {
          Buffer<T> bx(x, offset);
          for (const int64_t first : {int64_t{0}, all / 3}) {
            Buffer<T> cols((all - first) * row, offset);
            Values want(static_cast<size_t>((all - first) * row), 0.0);
            for_windows(s, first, all - first, [&](int64_t at, int64_t from) {
              if (from >= 0) want[static_cast<size_t>(at)] = x[static_cast<size_t>(from)];
            });
            unfold(ctx, cols.p(), bx.p(), first, all - first, s);
            check_buffer("cols", cols, want, kExact);
            same(cols.values());
          }
        });
      }
}

TEST_CASE_TEMPLATE("windows are folded: every cell adds up what was taken of it", T, float, bf16, f16) {
  for (const auto& [images, s] : kWindows)
    for (const int offset : {0, 1}) {
      const int64_t n = images * s.height * s.width * s.channels, rows = images * s.out_h;
      const Values cols = random_values<T>(rows * s.out_w * s.columns(), 4);
      Values want(static_cast<size_t>(n), 0.0);
      for_windows(s, 0, rows, [&](int64_t at, int64_t to) {
        if (to >= 0) want[static_cast<size_t>(to)] += cols[static_cast<size_t>(at)];
      });
      on_backends([&, &images = images, &s = s](const auto& ctx, SameBits& same) {
        Buffer<T> bcols(cols, offset), bx(n, offset);
        fold(ctx, bx.p(), bcols.p(), images, s);
        check_buffer("x", bx, want, of_sum<T>(2));
        same(bx.values());
      });
    }
}

TEST_CASE_TEMPLATE("batch norm: statistics, result, gradients", T, float, bf16, f16) {
  struct Sizes {
    int64_t N, C;
  };
  for (const auto& [N, C] : {Sizes{2, 1}, {37, 3}, {130, 8}, {1100, 16}, {5, 2056}, {9, 33}}) {
    const float eps = 0.01f, momentum = 0.3f;
    const double count = static_cast<double>(N);
    const Values x = random_values<T>(N * C, 5, -1, 3), dy = random_values<T>(N * C, 6);
    const Values gamma = random_values<float>(C, 7), beta = random_values<float>(C, 8),
                 start = random_values<float>(C, 9);
    Values mean(C, 0.0), var(C, 0.0), rstd(C), moved_mean(C), moved_var(C), y(N * C), dx(N * C), dx_fixed(N * C);
    Values sum_g(C, 0.0), sum_gh(C, 0.0), dgamma = start, dbeta = start;
    for (int64_t i = 0; i < N * C; ++i) mean[i % C] += x[i] / count;
    for (int64_t i = 0; i < N * C; ++i) var[i % C] += std::pow(x[i] - mean[i % C], 2) / count;
    for (int64_t c = 0; c < C; ++c) {
      rstd[c] = 1 / std::sqrt(var[c] + static_cast<double>(eps));
      moved_mean[c] = 0.7 * start[c] + 0.3 * mean[c];
      moved_var[c] = 0.7 * start[c] + 0.3 * var[c] * count / (count - 1);
    }
    for (int64_t i = 0; i < N * C; ++i) {
      const int64_t c = i % C;
      const double h = (x[i] - mean[c]) * rstd[c];
      y[i] = h * gamma[c] + beta[c];
      sum_g[c] += dy[i], sum_gh[c] += dy[i] * h;
    }
    for (int64_t i = 0; i < N * C; ++i) {
      const int64_t c = i % C;
      const double h = (x[i] - mean[c]) * rstd[c];
      dx_fixed[i] = gamma[c] * rstd[c] * dy[i];
      dx[i] = gamma[c] * rstd[c] * (dy[i] - sum_g[c] / count - h * sum_gh[c] / count);
    }
    for (int64_t c = 0; c < C; ++c) dgamma[c] += sum_gh[c], dbeta[c] += sum_g[c];
    const Tolerance sums{2e-4, 1e-5};  // f32 sums of up to 1100 terms of size 4
    for (const int offset : {0, 1}) {
      on_backends([&, N = N, C = C](const auto& ctx, SameBits& same) {
        Buffer<T> bx(x, offset), by(N * C, offset), bdy(dy, offset), bdx(N * C, offset);
        Buffer<float> bgamma(gamma), bbeta(beta), bmean(C), brstd(C), moving_mean(start), moving_var(start);
        Buffer<float> bdgamma(start), bdbeta(start), scratch(2 * C);
        batch_norm_statistics(ctx, bmean.p(), brstd.p(), moving_mean.p(), moving_var.p(), bx.p(), N, C, momentum, eps);
        check_buffer("mean", bmean, mean, {1e-5, 1e-5}), check_buffer("rstd", brstd, rstd, {1e-5, 1e-5});
        check_buffer("running mean", moving_mean, moved_mean, {1e-5, 1e-5});
        check_buffer("running variance", moving_var, moved_var, {1e-5, 1e-5});
        batch_norm_forward(ctx, by.p(), bx.p(), bmean.p(), brstd.p(), bgamma.p(), bbeta.p(), N, C);
        check_buffer("y", by, y, rounding<T>(5e-5));
        batch_norm_backward(ctx, bdx.p(), bdgamma.p(), bdbeta.p(), scratch.p(), bdy.p(), bx.p(), bmean.p(), brstd.p(),
                            bgamma.p(), N, C, true);
        check_buffer("dx", bdx, dx, rounding<T>(2e-4));  // rstd reaches 10
        check_buffer("dgamma", bdgamma, dgamma, sums), check_buffer("dbeta", bdbeta, dbeta, sums);
        same(bmean.values()), same(brstd.values()), same(by.values()), same(bdx.values()), same(bdgamma.values());
        batch_norm_backward(ctx, bdy.p(), static_cast<float*>(nullptr), bdbeta.p(), scratch.p(), bdy.p(), bx.p(),
                            bmean.p(), brstd.p(), bgamma.p(), N, C, false);
        check_buffer("dx over dy", bdy, dx_fixed, rounding<T>(1e-4));
        batch_norm_running(ctx, bmean.p(), brstd.p(), bgamma.p(), brstd.p(), C, eps);
        check_buffer("mean as it is", bmean, gamma, kExact);
        CHECK(brstd.intact());
      });
    }
  }
}

TEST_CASE_TEMPLATE("outlook attention: value and gradients", T, float, bf16, f16) {
  for (const OutlookShape& s : {OutlookShape{1, 1, 1, 1, 1, 1.0f},
                                {2, 4, 6, 3, 2, 0.7f},
                                {1, 5, 3, 2, 40, 0.2f},
                                {1, 7, 6, 20, 8, 0.35f},
                                {1, 4, 5, 2, 33, 0.2f}}) {
    const int64_t D = s.head_dim, C = s.channels(), cells = s.batch * s.height * s.width;
    const int64_t tasks = s.batch * s.windows_h() * s.windows_w() * s.heads;
    const double scale = static_cast<double>(s.scale);
    const Values v = random_values<T>(cells * C, 11), dy = random_values<T>(cells * C, 12);
    const Values logits = random_values<T>(tasks * 81, 13, -4, 4);
    Values y(cells * C, 0.0), dv(cells * C, 0.0), dlogits(tasks * 81, 0.0), turned(tasks * 81, 0.0);
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t head = task % s.heads, window = task / s.heads, j = window % s.windows_w();
      const int64_t i = window / s.windows_w() % s.windows_h(), b = window / s.windows_w() / s.windows_h();
      const auto place = [&](int64_t k) -> int64_t {  // index of its first channel, or -1
        const int64_t r = 2 * i - 1 + k / 3, q = 2 * j - 1 + k % 3;
        return r < 0 || r >= s.height || q < 0 || q >= s.width ? -1 : ((b * s.height + r) * s.width + q) * C + head * D;
      };
      for (int64_t r = 0; r < 9; ++r) {
        const double* row = logits.data() + task * 81 + r * 9;
        double a[9], da[9] = {}, total = 0, inner = 0;
        for (int q = 0; q < 9; ++q) total += a[q] = std::exp(scale * row[q]);
        const int64_t to = place(r);
        for (int q = 0; q < 9; ++q) {
          a[q] /= total;
          turned[task * 81 + q * 9 + r] = a[q];
          const int64_t from = place(q);
          for (int64_t d = 0; d < D && from >= 0 && to >= 0; ++d) {
            y[to + d] += a[q] * v[from + d];
            dv[from + d] += a[q] * dy[to + d];
            da[q] += dy[to + d] * v[from + d];
          }
          inner += a[q] * da[q];
        }
        for (int q = 0; q < 9; ++q) dlogits[task * 81 + r * 9 + q] = scale * a[q] * (da[q] - inner);
      }
    }
    for (const int offset : {0, 1})
      on_backends([&](const auto& ctx, SameBits& same) {
        Buffer<T> bv(v, offset), bl(logits, offset), by(cells * C, offset), bdy(dy, offset), bdv(cells * C, offset);
        Buffer<T> bdl(tasks * 81, offset);
        Buffer<float> bt(tasks * 81);
        outlook_forward(ctx, by.p(), bv.p(), bl.p(), s);
        check_buffer("y", by, y, rounding<T>(5e-6));
        outlook_backward(ctx, bdv.p(), bdl.p(), bt.p(), bdy.p(), bv.p(), bl.p(), s);
        check_buffer("turned", bt, turned, {1e-6, 5e-6});
        check_buffer("dlogits", bdl, dlogits, rounding<T>(1e-5)), check_buffer("dv", bdv, dv, rounding<T>(1e-5));
        same(by.values()), same(bdv.values()), same(bdl.values());
      });
  }
}

TEST_CASE_TEMPLATE("mean of four cells, mixing with the partner, the largest token", T, float, bf16, f16) {
  struct Sizes {
    int64_t B, H, W, C;
  };
  for (const auto& [B, H, W, C] : {Sizes{1, 1, 1, 1}, {3, 5, 4, 3}, {2, 6, 7, 8}, {2, 3, 3, 72}, {0, 2, 2, 8}}) {
    const int64_t h = (H + 1) / 2, w = (W + 1) / 2, n = B * H * W * C;
    const Values x = random_values<T>(n, 14), dy = random_values<T>(B * h * w * C, 15);
    const int32_t top = 0, bottom = 2, left = 1, right = 2, unit = 2;
    Values pooled(B * h * w * C, 0.0), dx(n), mixed(n), largest(B * C, -9.0);
    const auto cells = [&, H = H, W = W](int64_t i, int64_t j) {
      return static_cast<double>(std::min<int64_t>(2, H - 2 * i) * std::min<int64_t>(2, W - 2 * j));
    };
    for (int64_t at = 0; at < n; ++at) {
      const int64_t c = at % C, q = at / C % W, r = at / C / W % H, b = at / C / W / H;
      const int64_t to = ((b * h + r / 2) * w + q / 2) * C + c;
      const bool inside = r >= unit * top && r < unit * bottom && q >= unit * left && q < unit * right;
      pooled[to] += x[at] / cells(r / 2, q / 2);
      dx[at] = dy[to] / cells(r / 2, q / 2);
      mixed[at] = x[inside ? at + (B - 1 - 2 * b) * H * W * C : at];
      largest[b * C + c] = std::max(largest[b * C + c], x[at]);
    }
    // A quarter of a number is exact but for f16 below its normal numbers.
    for (const int offset : {0, 1})
      on_backends([&, B = B, H = H, W = W, C = C](const auto& ctx, SameBits& same) {
        Buffer<T> bx(x, offset), bp(B * h * w * C, offset), bdy(dy, offset), bdx(n, offset), bm(n, offset), bl(B * C);
        Buffer<int32_t> box(Values{top, bottom, left, right});
        average_pool2_forward(ctx, bp.p(), bx.p(), B, H, W, C);
        average_pool2_backward(ctx, bdx.p(), bdy.p(), B, H, W, C);
        mix_tokens(ctx, bm.p(), bx.p(), box.p(), unit, B, H, W, C);
        max_tokens(ctx, bl.p(), bx.p(), B, H * W, C);
        check_buffer("mean", bp, pooled, of_sum<T>(2)), check_buffer("dx", bdx, dx, {0x1.0p-25, 0});
        check_buffer("mixed", bm, mixed, kExact), check_buffer("largest", bl, largest, kExact);
        same(bp.values()), same(bdx.values()), same(bm.values()), same(bl.values());
      });
  }
}
