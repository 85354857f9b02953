// Windows of a grid as rows of a matrix, and back. Bandwidth-bound: unfold reads each cell once from memory and up to
// kernel^2 times from the caches, and writes the matrix; fold reads it once and gathers, so that no two threads write
// to one cell.
#include "kernels/unfold.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

// A warp per window; lanes run along its kernel * kernel * channels numbers, W at a time.
template <class T, int W>
__global__ void unfold_kernel(T* cols, const T* x, int64_t first, int64_t places, UnfoldShape s) {
  using Team = RowTeam<false>;
  const int packs = static_cast<int>(s.channels) / W, kernel = static_cast<int>(s.kernel);
  const int all = kernel * kernel * packs, sign = s.reversed ? -1 : 1;
  for (int64_t place = Team::first_row(); place < places; place += Team::row_step()) {
    const int64_t row = first + place / s.out_w, j = place % s.out_w;
    const int64_t image = row / s.out_h, i = row % s.out_h;
    const int64_t top = s.stride * i + s.offset, left = s.stride * j + s.offset;
    const T* from = x + image * s.height * s.width * s.channels;
    T* to = cols + place * all * W;
    for (int k = Team::rank(); k < all; k += Team::kSize) {
      const int cell = k / packs, c = k % packs * W;
      const int64_t r = top + sign * (cell / kernel), q = left + sign * (cell % kernel);
      Pack<T, W> pack{};
      if (r >= 0 && r < s.height && q >= 0 && q < s.width)
        pack = load_pack<W>(from + (r * s.width + q) * s.channels + c);
      store_pack(to + static_cast<int64_t>(k) * W, pack);
    }
  }
}

// A warp per cell of x; lanes run along the channels. Window i holds row r when 0 <= r - offset - stride i < kernel.
template <class T, int W>
__global__ void fold_kernel(T* x, const T* cols, int64_t cells, UnfoldShape s) {
  using Team = RowTeam<false>;
  const int64_t all = s.kernel * s.kernel * s.channels;
  const auto first_of = [&](int64_t at) { return at < s.kernel ? 0 : (at - s.kernel) / s.stride + 1; };
  for (int64_t cell = Team::first_row(); cell < cells; cell += Team::row_step()) {
    const int64_t row = cell / s.width, q = cell % s.width - s.offset;
    const int64_t image = row / s.height, r = row % s.height - s.offset;
    const int64_t i0 = first_of(r), j0 = first_of(q);
    for (int64_t c = Team::rank() * W; c < s.channels; c += Team::kSize * W) {
      float total[W] = {}, v[W];
      for (int64_t i = i0; i < s.out_h && s.stride * i <= r; ++i) {
        for (int64_t j = j0; j < s.out_w && s.stride * j <= q; ++j) {
          const int64_t at = (r - s.stride * i) * s.kernel + q - s.stride * j;
          load_vec(v, cols + ((image * s.out_h + i) * s.out_w + j) * all + at * s.channels + c);
          ACCRETE_UNROLL
          for (int k = 0; k < W; ++k) total[k] += v[k];
        }
      }
      store_vec(x + cell * s.channels + c, total);
    }
  }
}

}  // namespace

template <class T>
void unfold(const Gpu& ctx, T* cols, const T* x, int64_t first, int64_t rows, const UnfoldShape& s) {
  const int64_t places = rows * s.out_w;
  if (places <= 0 || s.columns() <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(places)}, block{kBlockSize};
  if (wide_rows(cols, W, s.channels) && wide_rows(x, W, s.channels)) {
    ACCRETE_LAUNCH(unfold_kernel<T, W>, grid, block, 0, ctx, cols, x, first, places, s);
  } else {
    ACCRETE_LAUNCH(unfold_kernel<T, 1>, grid, block, 0, ctx, cols, x, first, places, s);
  }
}

template <class T>
void fold(const Gpu& ctx, T* x, const T* cols, int64_t images, const UnfoldShape& s) {
  const int64_t cells = images * s.height * s.width;
  if (cells <= 0 || s.channels <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(cells)}, block{kBlockSize};
  if (wide_rows(cols, W, s.channels) && wide_rows(x, W, s.channels)) {
    ACCRETE_LAUNCH(fold_kernel<T, W>, grid, block, 0, ctx, x, cols, cells, s);
  } else {
    ACCRETE_LAUNCH(fold_kernel<T, 1>, grid, block, 0, ctx, x, cols, cells, s);
  }
}

#define ACCRETE_INSTANTIATE(T)                                                          \
  template void unfold(const Gpu&, T*, const T*, int64_t, int64_t, const UnfoldShape&); \
  template void fold(const Gpu&, T*, const T*, int64_t, const UnfoldShape&);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
