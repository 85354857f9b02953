// The kernels of vision transformers (tokens, residual branches, soft targets, patches, resampling) on the emulator in
// three warp orders, on a GPU where one serves, and on the CPU: guard zones, unaligned pointers, memory in place.
#include "kernels/patchify.h"
#include "kernels/resample.h"
#include "kernels/residual_branch.h"
#include "kernels/soft_loss.h"
#include "kernels/tokens.h"
#include "tests/kernel_reference.h"
#include "tests/reference_tokens.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;
using Values = std::vector<double>;

namespace {

Array array(Shape shape, const Values& v) {
  Array a(shape);
  a.v = v;
  return a;
}

Array absent() {
  Array a;
  a.present = false;
  return a;
}

}  // namespace

TEST_CASE_TEMPLATE("sequences: special tokens, positions, sums over the batch", T, float, bf16, f16) {
  struct Case {
    int64_t B, N, C, cls, extra, unplaced;
    int offset;
  };
  for (const Case& k : {Case{1, 1, 1, 1, 0, 0, 0}, Case{3, 5, 33, 1, 1, 0, 0}, Case{19, 3, 48, 1, 1, 2, 0},
                        Case{9, 7, 16, 0, 0, 0, 1}, Case{2, 17, 8, 1, 3, 4, 0}, Case{0, 3, 4, 1, 0, 0, 0}}) {
    const int64_t front = k.cls + k.extra, length = front + k.N;
    const Values x = random_values<T>(k.B * k.N * k.C, 1), cls = random_values<T>(k.C, 2),
                 extra = random_values<T>(k.extra * k.C, 3),
                 positions = random_values<T>((length - k.unplaced) * k.C, 4),
                 dy = random_values<T>(k.B * length * k.C, 5);
    const Array y = sequence({array(Shape{k.B, k.N, k.C}, x), k.cls > 0 ? array(Shape{1, k.C}, cls) : absent(),
                              k.extra > 0 ? array(Shape{k.extra, k.C}, extra) : absent(),
                              array(Shape{length - k.unplaced, k.C}, positions)});
    Values dx(x.size()), sums(static_cast<size_t>(length * k.C));
    for (size_t i = 0; i < dy.size(); ++i) {
      const auto per = static_cast<size_t>(length * k.C), first = static_cast<size_t>(front * k.C);
      sums[i % per] += dy[i];
      if (i % per >= first) dx[i / per * (per - first) + i % per - first] = dy[i];
    }
    const auto part = [&](int64_t begin, int64_t end) {  // added to ones
      Values v(sums.begin() + begin * k.C, sums.begin() + end * k.C);
      for (double& d : v) d += 1.0;
      return v;
    };
    const SequenceShape s{k.B, k.N, k.C, k.cls, k.extra, k.unplaced};
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<T> bx(x, k.offset), bcls(cls), bextra(extra), bpositions(positions), by(k.B * length * k.C, k.offset),
          bdy(dy, k.offset), bdx(static_cast<int64_t>(x.size()));
      sequence_forward(ctx, by.p(), bx.p(), bcls.p(), bextra.p(), bpositions.p(), s);
      check_buffer("y", by, y.v, rounding<T>());
      Buffer<float> dcls(Values(cls.size(), 1.0)), dextra(Values(extra.size(), 1.0)),
          dpositions(Values(positions.size(), 1.0));
      sequence_backward(ctx, bdx.p(), dcls.p(), dextra.p(), dpositions.p(), bdy.p(), s);
      check_buffer("dx", bdx, dx, kExact);
      if (k.cls > 0) check_buffer("dcls", dcls, part(0, 1), {1e-5, 1e-6});
      check_buffer("dextra", dextra, part(k.cls, front), {1e-5, 1e-6});
      check_buffer("dpositions", dpositions, part(k.unplaced, length), {1e-5, 1e-6});
      same(by.values()), same(dcls.values()), same(dextra.values()), same(dpositions.values());
    });
  }
}

TEST_CASE_TEMPLATE("copies and means of tokens", T, float, bf16, f16) {
  for (const Shape& s : {Shape{1, 1, 1}, Shape{3, 9, 33}, Shape{2, 21, 64}, Shape{0, 3, 4}}) {
    const int64_t B = s[0], tokens = s[1], C = s[2], begin = tokens / 3, n = s.count();
    const Values x = random_values<T>(n, 6), dy = random_values<T>(B * C, 7);
    const Array source = array(s, x), slice = slice_tokens(source, begin, tokens), mean = mean_tokens(source, begin);
    Values back(x.size()), spread(x.size());
    for (int64_t i = 0; i < n; ++i) {
      if (i / C % tokens < begin) continue;
      back[i] = x[i];
      spread[i] = dy[i / (tokens * C) * C + i % C] / static_cast<double>(tokens - begin);
    }
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<T> bx(x, C == 33), bslice(slice.shape.count()), bback(n), bmean(B * C), bdy(dy), bspread(n);
      copy_tokens(ctx, bslice.p(), tokens - begin, 0, bx.p(), tokens, begin, tokens - begin, B, C, false);
      check_buffer("slice", bslice, slice.v, kExact);
      copy_tokens(ctx, bback.p(), tokens, begin, bslice.p(), tokens - begin, 0, tokens - begin, B, C, true);
      check_buffer("slice back among zeros", bback, back, kExact);
      kernels::mean_tokens(ctx, bmean.p(), bx.p(), B, tokens, begin, C);
      check_buffer("mean", bmean, mean.v, rounding<T>());
      mean_tokens_backward(ctx, bspread.p(), bdy.p(), B, tokens, begin, C);
      check_buffer("mean, backward", bspread, spread, rounding<T>());
      same(bmean.values());
    });
  }
}

TEST_CASE_TEMPLATE("residual branches: dropped samples are not read, sums of gamma are added", T, float, bf16, f16) {
  struct Case {
    int64_t samples, per_sample, C;
    int offset;
  };
  for (const Case& k : {Case{1, 1, 1, 0}, Case{9, 5, 33, 0}, Case{31, 1, 16, 0}, Case{12, 17, 264, 0},
                        Case{40, 20, 8, 1}, Case{0, 3, 4, 0}})
    for (const float p : {0.0f, 0.5f}) {
      const int64_t rows = k.samples * k.per_sample, n = rows * k.C;
      const Settings settings{.dropout = p, .first = 5};
      const DropPath drop(p, settings.key, settings.first);
      const Values x = random_values<T>(n, 8), gamma = random_values<float>(k.C, 9), dy = random_values<T>(n, 10);
      Values branch = random_values<T>(n, 11), y(x), dbranch(x.size()), dgamma(gamma.size(), 1.0);
      for (int64_t i = 0; i < n; ++i) {
        if (p > 0.0f && !kept(settings, settings.first + i / (k.per_sample * k.C))) {
          branch[i] = NAN;
          continue;
        }
        const double factor = 1.0 / (1.0 - static_cast<double>(p));
        y[i] += factor * gamma[i % k.C] * branch[i];
        dbranch[i] = factor * gamma[i % k.C] * dy[i];
        dgamma[i % k.C] += factor * dy[i] * branch[i];
      }
      on_backends([&](const auto& ctx, SameBits& same) {
        Buffer<T> bx(x, k.offset), bbranch(branch, k.offset), by(n), bdy(dy), bdbranch(n);
        Buffer<float> bgamma(gamma), bdgamma(Values(gamma.size(), 1.0));
        residual_branch_forward(ctx, by.p(), bx.p(), bbranch.p(), bgamma.p(), drop, rows, k.per_sample, k.C);
        check_buffer("y", by, y, rounding<T>());
        residual_branch_backward(ctx, bdbranch.p(), bdgamma.p(), bdy.p(), bbranch.p(), bgamma.p(), drop, rows,
                                 k.per_sample, k.C);
        check_buffer("dbranch", bdbranch, dbranch, rounding<T>());
        check_buffer("dgamma", bdgamma, dgamma, {1e-4, 1e-5});
        same(by.values()), same(bdbranch.values()), same(bdgamma.values());
        const Values alone = bdbranch.values();
        residual_branch_backward(ctx, bdy.p(), static_cast<float*>(nullptr), bdy.p(), static_cast<const T*>(nullptr),
                                 bgamma.p(), drop, rows, k.per_sample, k.C);
        check_buffer("dbranch over dy", bdy, alone, kExact);
        residual_branch_forward(ctx, bbranch.p(), bx.p(), bbranch.p(), bgamma.p(), drop, rows, k.per_sample, k.C);
        check_buffer("y over branch", bbranch, by.values(), kExact);
      });
    }
}

TEST_CASE_TEMPLATE("losses with soft targets, over their logits; masked classes; argmax of equals and NaN", T, float,
                   bf16, f16) {
  for (const Shape& s : {Shape{0, 5}, Shape{1, 1}, Shape{9, 33}, Shape{17, 264}, Shape{3, 4999}}) {
    const int64_t N = s[0], V = s[1], n = N * V;
    Values x = random_values<T>(n, 12, -5, 5), t = random_values<float>(n, 13, 0.0, 1.0);
    const double upstream = 0.75;
    const float factor = 0.5f;
    Values loss(N), lse(N), total(N), bce(N), d(n), dz(n), largest(N);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t r = i / V;
      if (i % 7 == 3) t[i] = 0.0;
      lse[r] += std::exp(x[i]);
      total[r] += t[i];
      bce[r] -= t[i] * std::log(1 / (1 + std::exp(-x[i]))) + (1 - t[i]) * std::log(1 / (1 + std::exp(x[i])));
      dz[i] = upstream * static_cast<double>(factor) * (1 / (1 + std::exp(-x[i])) - t[i]);
      if (x[i] > x[r * V + static_cast<int64_t>(largest[r])]) largest[r] = static_cast<double>(i % V);
    }
    for (double& v : lse) v = std::log(v);
    for (int64_t i = 0; i < n; ++i) {
      loss[i / V] += t[i] * (lse[i / V] - x[i]);
      d[i] = upstream * static_cast<double>(factor) * (std::exp(x[i] - lse[i / V]) * total[i / V] - t[i]);
    }
    // A row of 4999 has targets that sum to 2000 and losses that sum to more.
    const Tolerance sums{1e-5, 3e-6}, gradient = rounding<T>(V > 1000 ? 2e-5 : 2e-6);
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<T> bx(x), bz(x), bd(n);
      Buffer<float> bt(t), bloss(N), blse(N), btotal(N), bbce(N), dloss(Values{upstream});
      Buffer<int32_t> at(N);
      argmax(ctx, at.p(), bx.p(), N, V);
      check_buffer("argmax", at, largest, kExact);
      soft_cross_entropy_forward(ctx, bloss.p(), blse.p(), btotal.p(), bx.p(), bt.p(), N, V);
      check_buffer("loss", bloss, loss, sums), check_buffer("total", btotal, total, sums);
      soft_cross_entropy_backward(ctx, bd.p(), bx.p(), bt.p(), blse.p(), btotal.p(), dloss.p(), factor, N, V);
      check_buffer("dlogits", bd, d, gradient);
      soft_cross_entropy_backward(ctx, bx.p(), bx.p(), bt.p(), blse.p(), btotal.p(), dloss.p(), factor, N, V);
      check_buffer("dlogits over logits", bx, bd.values(), kExact);
      binary_cross_entropy_forward(ctx, bbce.p(), bz.p(), bt.p(), N, V);
      check_buffer("binary loss", bbce, bce, sums);
      binary_cross_entropy_backward(ctx, bz.p(), bz.p(), bt.p(), dloss.p(), factor, n);
      check_buffer("binary gradient over logits", bz, dz, rounding<T>());
      same(bloss.values()), same(bd.values()), same(bbce.values()), same(at.values());
    });
  }
  on_backends([&](const auto& ctx, SameBits&) {
    // Row 0: masked classes without a target. Row 1: equals. Row 2: NaN is passed over. Row 3: nothing else.
    Buffer<T> x(Values{-INFINITY, 1, 1, 2, -INFINITY, 2, NAN, -INFINITY, NAN, NAN, NAN, NAN});
    Buffer<float> t(Values{0, 0.5, 0.5, 0}), loss(1), lse(1), total(1), dloss(Values{1});
    Buffer<T> d(3);
    Buffer<int32_t> at(4);
    argmax(ctx, at.p(), x.p(), 4, 3);
    check_buffer("argmax", at, {1, 0, 1, 0}, kExact);
    soft_cross_entropy_forward(ctx, loss.p(), lse.p(), total.p(), x.p(), t.p(), 1, 3);
    check_buffer("loss", loss, {std::log(2.0)}, {1e-6, 0});
    soft_cross_entropy_backward(ctx, d.p(), x.p(), t.p(), lse.p(), total.p(), dloss.p(), 1.0f, 1, 3);
    check_buffer("dlogits", d, {0, 0, 0}, {1e-6, 0});
    // Far from zero nothing overflows, and small losses are not lost.
    Buffer<T> z(Values{200, -200, -10});
    Buffer<float> hits(Values{1, 0, 0});
    binary_cross_entropy_forward(ctx, loss.p(), z.p(), hits.p(), 1, 3);
    check_buffer("binary loss", loss, {std::log1p(std::exp(-10.0))}, {0, 1e-5});
  });
}

TEST_CASE_TEMPLATE("patches and back", T, float, bf16, f16) {
  struct Case {
    int64_t B, C, H, W, P;
    int offset;
  };
  for (const Case& k : {Case{2, 3, 6, 9, 3, 0}, Case{1, 2, 28, 14, 14, 0}, Case{2, 3, 32, 16, 16, 0},
                        Case{1, 3, 16, 16, 8, 1}, Case{0, 3, 4, 4, 2, 0}}) {
    const Shape shape{k.B, k.C, k.H, k.W};
    const Values x = random_values<T>(shape.count(), 14);
    const Array patches = reference::patchify(array(shape, x), k.P);
    on_backends([&](const auto& ctx, SameBits&) {
      Buffer<T> bx(x, k.offset), bp(shape.count(), k.offset), back(shape.count());
      kernels::patchify(ctx, bp.p(), bx.p(), k.B, k.C, k.H, k.W, k.P);
      check_buffer("patches", bp, patches.v, kExact);
      unpatchify(ctx, back.p(), bp.p(), k.B, k.C, k.H, k.W, k.P);
      check_buffer("images", back, x, kExact);
    });
  }
}

TEST_CASE_TEMPLATE("resampling and its transposed map", T, float, bf16, f16) {
  struct Case {
    int64_t h, w, to_h, to_w, C;
    float offset;
  };
  for (const Case& k : {Case{1, 1, 3, 2, 1, 0.0f}, Case{7, 5, 4, 9, 16, 0.0f}, Case{14, 14, 8, 8, 5, 0.1f},
                        Case{3, 33, 40, 11, 3, 0.0f}, Case{9, 9, 1, 1, 8, 0.1f}}) {
    Settings s{.begin = 2, .height = k.to_h, .width = k.to_w, .from_h = k.h, .from_w = k.w, .offset = k.offset};
    const Array image = array(Shape{2, 1, k.h, k.w}, random_values<T>(2 * k.h * k.w, 15));
    const Array table = array(Shape{2 + k.h * k.w, k.C}, random_values<T>((2 + k.h * k.w) * k.C, 16));
    const Array want = resize_images(image, s), grid = resample_grid(table, s);
    const Values dy = random_values<T>(want.shape.count(), 17), dgrid = random_values<T>(grid.shape.count(), 18);
    // The transposed map, column by column: what a one at each place of the input gives.
    const auto transposed = [&](const Array& x, const Values& d, const auto& map) {
      Values out;
      for (size_t i = 0; i < x.v.size(); ++i) {
        Array one(x.shape);
        one.v[i] = 1.0;
        const Array y = map(one, s);
        double sum = 0;
        for (size_t j = 0; j < d.size(); ++j) sum += y.v[j] * d[j];
        out.push_back(sum);
      }
      return out;
    };
    const Values dx = transposed(image, dy, resize_images);
    Values dtable = transposed(table, dgrid, resample_grid);
    for (double& v : dtable) v += 1.0;
    const TableGrid g{2, k.h, k.w, k.to_h, k.to_w, k.C, static_cast<double>(k.offset)};
    on_backends([&](const auto& ctx, SameBits& same) {
      Buffer<T> bx(image.v), by(want.shape.count(), 1), bdy(dy), bdx(image.shape.count());
      resize_bilinear(ctx, by.p(), bx.p(), 2, k.h, k.w, k.to_h, k.to_w);
      check_buffer("image", by, want.v, rounding<T>());
      resize_bilinear_backward(ctx, bdx.p(), bdy.p(), 2, k.h, k.w, k.to_h, k.to_w);
      check_buffer("image, backward", bdx, dx, rounding<T>(1e-5));
      Buffer<T> bt(table.v), bgrid(grid.shape.count()), bdgrid(dgrid);
      Buffer<float> bdtable(Values(dtable.size(), 1.0));
      resample_table(ctx, bgrid.p(), bt.p(), g);
      check_buffer("table", bgrid, grid.v, rounding<T>());
      resample_table_backward(ctx, bdtable.p(), bdgrid.p(), g);
      check_buffer("table, backward", bdtable, dtable, {2e-5, 5e-6});
      same(by.values()), same(bdx.values()), same(bgrid.values()), same(bdtable.values());
    });
  }
}
