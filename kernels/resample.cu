// Resampling. Images: bandwidth-bound; floor: x read once and y written once (neighbouring results share their samples
// in the caches). Tables are small (197 x 768): launch-bound, 16 reads per result from the caches.
#include "kernels/resample.h"

#include "kernels/resample_taps.h"
#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

// A warp per row of y, lanes along it.
template <class T>
__global__ void resize_kernel(T* y, const T* x, int64_t rows, int H, int W, int h, int w) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockWarps;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.y; r < rows; r += step) {
    const LinearTaps down(static_cast<int>(r % h), H, h);
    const T *above = x + (r / h * H + down.low) * W, *below = x + (r / h * H + down.high) * W;
    for (int j = static_cast<int>(threadIdx.x); j < w; j += kWarpSize) {
      const LinearTaps along(j, W, w);
      const float a = to_float(above[along.low]) * (1.0f - along.upper) + to_float(above[along.high]) * along.upper;
      const float b = to_float(below[along.low]) * (1.0f - along.upper) + to_float(below[along.high]) * along.upper;
      y[r * w + j] = from_float<T>(a * (1.0f - down.upper) + b * down.upper);
    }
  }
}

// A warp per row of dx, lanes along it.
template <class T>
__global__ void resize_backward_kernel(T* dx, const T* dy, int64_t rows, int H, int W, int h, int w) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlockWarps;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kBlockWarps + threadIdx.y; r < rows; r += step) {
    const int64_t plane = r / H;
    const int u = static_cast<int>(r % H);
    const TapRange down = LinearTaps::reached_by(u, H, h);
    for (int v = static_cast<int>(threadIdx.x); v < W; v += kWarpSize) {
      const TapRange along = LinearTaps::reached_by(v, W, w);
      float total = 0.0f;
      for (int i = static_cast<int>(down.begin); i < down.end; ++i) {
        const float factor = LinearTaps(i, H, h).of(u);
        if (factor == 0.0f) continue;
        float sum = 0.0f;
        for (int j = static_cast<int>(along.begin); j < along.end; ++j) {
          const float weight = LinearTaps(j, W, w).of(v);
          if (weight != 0.0f) sum += weight * to_float(dy[(plane * h + i) * w + j]);
        }
        total += factor * sum;
      }
      dx[r * W + v] = from_float<T>(total);
    }
  }
}

// A warp per row of y.
template <class T, bool kWide>
__global__ void table_kernel(T* y, const T* x, TableGrid g) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  const int64_t C = g.channels, rows = g.extra + g.to_h * g.to_w;
  for (int64_t r = Team::first_row(); r < rows; r += Team::row_step()) {
    const int64_t cell = r - g.extra;
    const CubicTaps down(cell < 0 ? 0 : cell / g.to_w, g.from_h, static_cast<double>(g.to_h) + g.offset);
    const CubicTaps along(cell < 0 ? 0 : cell % g.to_w, g.from_w, static_cast<double>(g.to_w) + g.offset);
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      float v[W], total[W] = {};
      if (cell < 0) load_row<W, kWide>(total, x + r * C, c, C);
      ACCRETE_UNROLL
      for (int k = 0; k < 16; ++k) {
        if (cell < 0) continue;
        const int64_t at = g.extra + down.sample(k / 4) * g.from_w + along.sample(k % 4);
        load_row<W, kWide>(v, x + at * C, c, C);
        const float weight = down.weight[k / 4] * along.weight[k % 4];
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) total[j] += weight * v[j];
      }
      store_row<W, kWide>(y + r * C, c, C, total);
    }
  }
}

// A warp per row of dx.
template <class T, bool kWide>
__global__ void table_backward_kernel(float* dx, const T* dy, TableGrid g) {
  using Team = RowTeam<false>;
  constexpr int W = kLaneWidth<T>;
  const int64_t C = g.channels, rows = g.extra + g.from_h * g.from_w;
  const double to_h = static_cast<double>(g.to_h) + g.offset, to_w = static_cast<double>(g.to_w) + g.offset;
  for (int64_t r = Team::first_row(); r < rows; r += Team::row_step()) {
    const int64_t cell = r - g.extra, u = cell < 0 ? 0 : cell / g.from_w, v = cell < 0 ? 0 : cell % g.from_w;
    const TapRange down = CubicTaps::reached_by(u, g.from_h, to_h, g.to_h);
    const TapRange along = CubicTaps::reached_by(v, g.from_w, to_w, g.to_w);
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      float d[W], total[W] = {};
      if (cell < 0) load_row<W, kWide>(total, dy + r * C, c, C);
      for (int64_t i = down.begin; cell >= 0 && i < down.end; ++i) {
        const float factor = CubicTaps(i, g.from_h, to_h).of(u);
        if (factor == 0.0f) continue;
        for (int64_t j = along.begin; j < along.end; ++j) {
          const float weight = factor * CubicTaps(j, g.from_w, to_w).of(v);
          if (weight == 0.0f) continue;
          load_row<W, kWide>(d, dy + (g.extra + i * g.to_w + j) * C, c, C);
          ACCRETE_UNROLL
          for (int k = 0; k < W; ++k) total[k] += weight * d[k];
        }
      }
      load_row<W, kWide>(d, dx + r * C, c, C);
      ACCRETE_UNROLL
      for (int k = 0; k < W; ++k) d[k] += total[k];
      store_row<W, kWide>(dx + r * C, c, C, d);
    }
  }
}

}  // namespace

template <class T>
void resize_bilinear(const Gpu& ctx, T* y, const T* x, int64_t planes, int64_t H, int64_t W, int64_t h, int64_t w) {
  if (planes * h * w <= 0) return;
  ACCRETE_LAUNCH(resize_kernel<T>, dim3{blocks_for(planes * h, kBlockWarps, 65536)}, dim3{kWarpSize, kBlockWarps}, 0,
                 ctx, y, x, planes * h, H, W, h, w);
}

template <class T>
void resize_bilinear_backward(const Gpu& ctx, T* dx, const T* dy, int64_t planes, int64_t H, int64_t W, int64_t h,
                              int64_t w) {
  if (planes * H * W <= 0) return;
  ACCRETE_LAUNCH(resize_backward_kernel<T>, dim3{blocks_for(planes * H, kBlockWarps, 65536)},
                 dim3{kWarpSize, kBlockWarps}, 0, ctx, dx, dy, planes * H, H, W, h, w);
}

template <class T>
void resample_table(const Gpu& ctx, T* y, const T* x, TableGrid g) {
  const int64_t rows = g.extra + g.to_h * g.to_w;
  if (rows <= 0 || g.channels <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(rows)}, block{kBlockSize};
  if (wide_rows(y, W, g.channels) && wide_rows(x, W, g.channels)) {
    ACCRETE_LAUNCH(table_kernel<T, true>, grid, block, 0, ctx, y, x, g);
  } else {
    ACCRETE_LAUNCH(table_kernel<T, false>, grid, block, 0, ctx, y, x, g);
  }
}

template <class T>
void resample_table_backward(const Gpu& ctx, float* dx, const T* dy, TableGrid g) {
  const int64_t rows = g.extra + g.from_h * g.from_w;
  if (rows <= 0 || g.channels <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const dim3 grid{RowTeam<false>::blocks(rows)}, block{kBlockSize};
  if (wide_rows(dy, W, g.channels) && wide_rows(dx, W, g.channels)) {
    ACCRETE_LAUNCH(table_backward_kernel<T, true>, grid, block, 0, ctx, dx, dy, g);
  } else {
    ACCRETE_LAUNCH(table_backward_kernel<T, false>, grid, block, 0, ctx, dx, dy, g);
  }
}

#define ACCRETE_INSTANTIATE(T)                                                                                   \
  template void resize_bilinear(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t);          \
  template void resize_bilinear_backward(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t); \
  template void resample_table(const Gpu&, T*, const T*, TableGrid);                                             \
  template void resample_table_backward(const Gpu&, float*, const T*, TableGrid);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
