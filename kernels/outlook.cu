// Outlook attention without atomics. Each of the 9 rows of probabilities of a window serves one cell, so a kernel that
// gathers for cells computes every softmax once and needs none from memory. Traffic of the forward pass per cell of C
// channels: v and y once (neighbours come from the caches), 2.25 rows of 9 logits per head.
//
// Backward: one kernel goes over windows (dlogits, and the probabilities turned so that a column lies in one piece),
// then dv gathers over cells as the forward pass does, with columns of the probabilities in place of rows.
#include "kernels/outlook.h"

#include "kernels/math.h"
#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

constexpr int kPlaces = 9;

// p[q] = softmax of scale * row[q].
template <class T>
__device__ __forceinline__ void softmax_row(float (&p)[kPlaces], const T* row, float scale) {
  float top = -INFINITY, total = 0.0f;
  ACCRETE_UNROLL
  for (int q = 0; q < kPlaces; ++q) {
    p[q] = scale * to_float(row[q]);
    top = fmaxf(top, p[q]);
  }
  ACCRETE_UNROLL
  for (int q = 0; q < kPlaces; ++q) {
    p[q] = exp_f32(p[q] - top);
    total += p[q];
  }
  const float factor = 1.0f / total;
  ACCRETE_UNROLL
  for (int q = 0; q < kPlaces; ++q) p[q] *= factor;
}

// out[cell] = sum over the windows of the cell of sum_k w[k] in[place k]. The cell is place `mine` of the window;
// w[k] = a[mine, k] made of `logits`, or for kTransposed a[k, mine] from `turned`. A warp per cell, lanes along the
// channels, W of one head at a time.
template <class T, int W, bool kTransposed>
__global__ void outlook_gather_kernel(T* out, const T* in, const T* logits, const float* turned, OutlookShape s) {
  using Team = RowTeam<false>;
  const int height = static_cast<int>(s.height), width = static_cast<int>(s.width);
  const int C = static_cast<int>(s.channels()), D = static_cast<int>(s.head_dim);
  const int last_i = static_cast<int>(s.windows_h()) - 1, last_j = static_cast<int>(s.windows_w()) - 1;
  for (int64_t cell = Team::first_row(); cell < s.batch * height * width; cell += Team::row_step()) {
    const int64_t image = cell / (height * width);
    const int y = static_cast<int>(cell % (height * width)) / width, x = static_cast<int>(cell % width);
    const int i1 = (y + 1) / 2 < last_i ? (y + 1) / 2 : last_i, j1 = (x + 1) / 2 < last_j ? (x + 1) / 2 : last_j;
    const T* grid = in + image * height * width * C;
    for (int c = Team::rank() * W; c < C; c += Team::kSize * W) {
      const int head = c / D;
      float total[W] = {};
      for (int i = y / 2; i <= i1; ++i) {
        for (int j = x / 2; j <= j1; ++j) {
          const int mine = (y - 2 * i + 1) * 3 + x - 2 * j + 1;
          const int64_t at = ((image * (last_i + 1) + i) * (last_j + 1) + j) * s.heads + head;
          float w[kPlaces], v[W];
          if constexpr (kTransposed) {
            ACCRETE_UNROLL
            for (int k = 0; k < kPlaces; ++k) w[k] = turned[(at * kPlaces + mine) * kPlaces + k];
          } else {
            softmax_row(w, logits + (at * kPlaces + mine) * kPlaces, s.scale);
          }
          ACCRETE_UNROLL
          for (int k = 0; k < kPlaces; ++k) {
            const int r = 2 * i - 1 + k / 3, q = 2 * j - 1 + k % 3;
            if (r < 0 || r >= height || q < 0 || q >= width) continue;
            load_vec(v, grid + (static_cast<int64_t>(r) * width + q) * C + c);
            ACCRETE_UNROLL
            for (int e = 0; e < W; ++e) total[e] += w[k] * v[e];
          }
        }
      }
      store_vec(out + cell * C + c, total);
    }
  }
}

constexpr int kDims = 32;          // channels of a head that are in shared memory at a time
constexpr int kPitch = kDims + 1;  // rows start in different banks
constexpr int kTile = kPlaces * kPitch, kSquare = kPlaces * kPlaces;
constexpr int kEntries = (kSquare + kWarpSize - 1) / kWarpSize;  // of the 9 x 9 matrix per lane

// dlogits and `turned`. A warp per window and head: rows of d_o and v in shared memory, up to three entries of da per
// lane.
template <class T>
__global__ void __launch_bounds__(kBlockSize)
    outlook_logits_kernel(T* dlogits, float* turned, const T* dy, const T* v, const T* logits, OutlookShape s) {
  ACCRETE_SHARED(float, tiles, kBlockWarps * 2 * kTile);
  ACCRETE_SHARED(float, squares, kBlockWarps * 2 * kSquare);
  using Team = RowTeam<false>;
  const int lane = Team::rank(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int g_tile = warp * 2 * kTile, v_tile = g_tile + kTile;  // d_o and v, (9, kPitch)
  const int a_at = warp * 2 * kSquare, da_at = a_at + kSquare;   // probabilities and their gradients, (9, 9)
  const int height = static_cast<int>(s.height), width = static_cast<int>(s.width);
  const int C = static_cast<int>(s.channels()), D = static_cast<int>(s.head_dim);
  const int64_t windows = s.windows_h() * s.windows_w();
  for (int64_t task = Team::first_row(); task < s.batch * windows * s.heads; task += Team::row_step()) {
    const int head = static_cast<int>(task % s.heads);
    const int64_t window = task / s.heads, image = window / windows;
    const int top = 2 * static_cast<int>(window % windows / s.windows_w()) - 1;
    const int left = 2 * static_cast<int>(window % s.windows_w()) - 1;
    float da[kEntries] = {};
    for (int d0 = 0; d0 < D; d0 += kDims) {
      for (int k = 0; k < kPlaces; ++k) {
        const int r = top + k / 3, q = left + k % 3, d = d0 + lane;
        const bool there = r >= 0 && r < height && q >= 0 && q < width && d < D;
        const int64_t at = ((image * height + r) * width + q) * C + head * D + d;
        tiles[g_tile + k * kPitch + lane] = there ? to_float(dy[at]) : 0.0f;
        tiles[v_tile + k * kPitch + lane] = there ? to_float(v[at]) : 0.0f;
      }
      __syncwarp();
      ACCRETE_UNROLL
      for (int n = 0; n < kEntries; ++n) {
        const int e = lane + n * kWarpSize;
        if (e >= kSquare) continue;
        const int r = g_tile + e / kPlaces * kPitch, q = v_tile + e % kPlaces * kPitch;
        float total = 0.0f;
        for (int d = 0; d < kDims; ++d) total += tiles[r + d] * tiles[q + d];
        da[n] += total;
      }
      __syncwarp();
    }
    ACCRETE_UNROLL
    for (int n = 0; n < kEntries; ++n) {
      const int e = lane + n * kWarpSize;
      if (e >= kSquare) continue;
      squares[da_at + e] = da[n];
      squares[a_at + e] = s.scale * to_float(logits[task * kSquare + e]);
    }
    __syncwarp();
    if (lane < kPlaces) {  // a lane per row: its probabilities, and dlogits in place of da
      float p[kPlaces], peak = -INFINITY, total = 0.0f, inner = 0.0f;
      ACCRETE_UNROLL
      for (int q = 0; q < kPlaces; ++q) {
        p[q] = squares[a_at + lane * kPlaces + q];
        peak = fmaxf(peak, p[q]);
      }
      ACCRETE_UNROLL
      for (int q = 0; q < kPlaces; ++q) {
        p[q] = exp_f32(p[q] - peak);
        total += p[q];
        inner += p[q] * squares[da_at + lane * kPlaces + q];
      }
      const float factor = 1.0f / total;
      ACCRETE_UNROLL
      for (int q = 0; q < kPlaces; ++q) {
        const float d = squares[da_at + lane * kPlaces + q];
        squares[a_at + lane * kPlaces + q] = p[q] * factor;
        squares[da_at + lane * kPlaces + q] = s.scale * p[q] * factor * (d - inner * factor);
      }
    }
    __syncwarp();
    ACCRETE_UNROLL
    for (int n = 0; n < kEntries; ++n) {
      const int e = lane + n * kWarpSize;
      if (e >= kSquare) continue;
      dlogits[task * kSquare + e] = from_float<T>(squares[da_at + e]);
      turned[task * kSquare + e] = squares[a_at + e % kPlaces * kPlaces + e / kPlaces];
    }
    __syncwarp();
  }
}

template <bool kTransposed, class T>
void gather(const Gpu& ctx, T* out, const T* in, const T* logits, const float* turned, const OutlookShape& s) {
  const dim3 grid{RowTeam<false>::blocks(s.batch * s.height * s.width)}, block{kBlockSize};
  constexpr int W = kLaneWidth<T>;
  if (wide_rows(out, W, s.head_dim) && wide_rows(in, W, s.head_dim)) {
    ACCRETE_LAUNCH(outlook_gather_kernel<T, W, kTransposed>, grid, block, 0, ctx, out, in, logits, turned, s);
  } else {
    ACCRETE_LAUNCH(outlook_gather_kernel<T, 1, kTransposed>, grid, block, 0, ctx, out, in, logits, turned, s);
  }
}

}  // namespace

template <class T>
void outlook_forward(const Gpu& ctx, T* y, const T* v, const T* logits, const OutlookShape& s) {
  if (s.batch * s.height * s.width * s.channels() <= 0) return;
  gather<false, T>(ctx, y, v, logits, nullptr, s);
}

template <class T>
void outlook_backward(const Gpu& ctx, T* dv, T* dlogits, float* turned, const T* dy, const T* v, const T* logits,
                      const OutlookShape& s) {
  if (s.batch * s.height * s.width * s.channels() <= 0) return;
  const int64_t tasks = s.batch * s.windows_h() * s.windows_w() * s.heads;
  ACCRETE_LAUNCH(outlook_logits_kernel<T>, dim3{RowTeam<false>::blocks(tasks)}, dim3{kBlockSize}, 0, ctx, dlogits,
                 turned, dy, v, logits, s);
  gather<true, T>(ctx, dv, dy, logits, turned, s);
}

#define ACCRETE_INSTANTIATE(T)                                                            \
  template void outlook_forward(const Gpu&, T*, const T*, const T*, const OutlookShape&); \
  template void outlook_backward(const Gpu&, T*, T*, float*, const T*, const T*, const T*, const OutlookShape&);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
