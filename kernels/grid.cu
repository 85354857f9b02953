// Small ops on grids of features. Bandwidth-bound: one read, one write. A warp per cell, lanes along the channels, so
// that a cell's place is worked out once.
#include "kernels/grid.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

template <class T, int kPack>
__global__ void average_pool2_kernel(T* y, const T* x, int64_t cells, int64_t H, int64_t W, int64_t C) {
  using Team = RowTeam<false>;
  const int64_t h = (H + 1) / 2, w = (W + 1) / 2;
  for (int64_t cell = Team::first_row(); cell < cells; cell += Team::row_step()) {
    const int64_t i = cell / w % h, j = cell % w, image = cell / w / h;
    const int64_t rows = 2 * i + 1 < H ? 2 : 1, cols = 2 * j + 1 < W ? 2 : 1;
    const float factor = 1.0f / static_cast<float>(rows * cols);
    const T* from = x + ((image * H + 2 * i) * W + 2 * j) * C;
    for (int64_t c = Team::rank() * kPack; c < C; c += Team::kSize * kPack) {
      float total[kPack] = {}, v[kPack];
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t q = 0; q < cols; ++q) {
          load_vec(v, from + (r * W + q) * C + c);
          ACCRETE_UNROLL
          for (int k = 0; k < kPack; ++k) total[k] += v[k];
        }
      }
      ACCRETE_UNROLL
      for (int k = 0; k < kPack; ++k) total[k] *= factor;
      store_vec(y + cell * C + c, total);
    }
  }
}

template <class T, int kPack>
__global__ void average_pool2_backward_kernel(T* dx, const T* dy, int64_t cells, int64_t H, int64_t W, int64_t C) {
  using Team = RowTeam<false>;
  const int64_t h = (H + 1) / 2, w = (W + 1) / 2;
  for (int64_t cell = Team::first_row(); cell < cells; cell += Team::row_step()) {
    const int64_t q = cell % W, r = cell / W % H, image = cell / W / H;
    const int64_t rows = (r | 1) < H ? 2 : 1, cols = (q | 1) < W ? 2 : 1;
    const float factor = 1.0f / static_cast<float>(rows * cols);
    const T* from = dy + ((image * h + r / 2) * w + q / 2) * C;
    for (int64_t c = Team::rank() * kPack; c < C; c += Team::kSize * kPack) {
      float v[kPack];
      load_vec(v, from + c);
      ACCRETE_UNROLL
      for (int k = 0; k < kPack; ++k) v[k] *= factor;
      store_vec(dx + cell * C + c, v);
    }
  }
}

template <class T, int kPack>
__global__ void mix_tokens_kernel(T* y, const T* x, const int32_t* box, int64_t unit, int64_t batch, int64_t H,
                                  int64_t W, int64_t C) {
  using Team = RowTeam<false>;
  const int64_t top = unit * box[0], bottom = unit * box[1], left = unit * box[2], right = unit * box[3];
  for (int64_t cell = Team::first_row(); cell < batch * H * W; cell += Team::row_step()) {
    const int64_t q = cell % W, r = cell / W % H, image = cell / W / H;
    const bool inside = r >= top && r < bottom && q >= left && q < right;
    const int64_t from = inside ? cell + (batch - 1 - 2 * image) * H * W : cell;
    for (int64_t c = Team::rank() * kPack; c < C; c += Team::kSize * kPack) {
      store_pack(y + cell * C + c, load_pack<kPack>(x + from * C + c));
    }
  }
}

// A thread per channel of a sample.
template <class T>
__global__ void max_tokens_kernel(T* y, const T* x, int64_t n, int64_t tokens, int64_t C) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockSize;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockSize + threadIdx.x; i < n; i += step) {
    const T* from = x + i / C * tokens * C + i % C;
    float top = to_float(from[0]);
    ACCRETE_UNROLL_BY_4
    for (int64_t t = 1; t < tokens; ++t) top = fmaxf(top, to_float(from[t * C]));
    y[i] = from_float<T>(top);
  }
}

// fn.operator()<kPack>(grid, block) with packs of 16 bytes where the rows of both allow them.
template <class T, class Fn>
void over_cells(const T* a, const T* b, int64_t cells, int64_t C, const Fn& fn) {
  if (cells <= 0 || C <= 0) return;
  constexpr int kPack = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(cells)}, block{kBlockSize};
  if (wide_rows(a, kPack, C) && wide_rows(b, kPack, C))
    fn.template operator()<kPack>(grid, block);
  else
    fn.template operator()<1>(grid, block);
}

}  // namespace

template <class T>
void average_pool2_forward(const Gpu& ctx, T* y, const T* x, int64_t batch, int64_t H, int64_t W, int64_t C) {
  const int64_t cells = batch * ((H + 1) / 2) * ((W + 1) / 2);
  over_cells(y, x, cells, C, [&]<int kPack>(dim3 grid, dim3 block) {
    ACCRETE_LAUNCH(average_pool2_kernel<T, kPack>, grid, block, 0, ctx, y, x, cells, H, W, C);
  });
}

template <class T>
void average_pool2_backward(const Gpu& ctx, T* dx, const T* dy, int64_t batch, int64_t H, int64_t W, int64_t C) {
  const int64_t cells = batch * H * W;
  over_cells(dx, dy, cells, C, [&]<int kPack>(dim3 grid, dim3 block) {
    ACCRETE_LAUNCH(average_pool2_backward_kernel<T, kPack>, grid, block, 0, ctx, dx, dy, cells, H, W, C);
  });
}

template <class T>
void mix_tokens(const Gpu& ctx, T* y, const T* x, const int32_t* box, int64_t unit, int64_t batch, int64_t H, int64_t W,
                int64_t C) {
  over_cells(y, x, batch * H * W, C, [&]<int kPack>(dim3 grid, dim3 block) {
    ACCRETE_LAUNCH(mix_tokens_kernel<T, kPack>, grid, block, 0, ctx, y, x, box, unit, batch, H, W, C);
  });
}

template <class T>
void max_tokens(const Gpu& ctx, T* y, const T* x, int64_t batch, int64_t tokens, int64_t C) {
  const int64_t n = batch * C;
  if (n <= 0) return;
  ACCRETE_LAUNCH(max_tokens_kernel<T>, dim3{blocks_for(n, kBlockSize)}, dim3{kBlockSize}, 0, ctx, y, x, n, tokens, C);
}

#define ACCRETE_INSTANTIATE(T)                                                                                     \
  template void average_pool2_forward(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);               \
  template void average_pool2_backward(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t);              \
  template void mix_tokens(const Gpu&, T*, const T*, const int32_t*, int64_t, int64_t, int64_t, int64_t, int64_t); \
  template void max_tokens(const Gpu&, T*, const T*, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
