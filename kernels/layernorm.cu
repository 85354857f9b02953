// Layer normalisation over rows of C channels. Bandwidth-bound; bytes per element of bf16, and nothing else but the
// statistics of each row:
//   forward 4 (read x, write y); with residual 8 (read x, residual, write sum, y)
//   backward 6, or 8 with dx_add (read dy, x, dx_add, write dx), 2 more with dbranch; dgamma and dbeta come out of the
//   same read
// A row is read once and stays in registers (row_registers.h); rows that do not fit there (above 16 KB, not aligned, C
// no multiple of 16 bytes) take kernels that read it again, from the cache where they can.
//
// Gradient of x, with h = (x - mean) rstd and g = dy gamma: mean and rstd depend on every x of the row, so
//   dx_i = rstd (g_i - d mean - h_i d rstd),   d mean = mean_c(g),   d rstd = mean_c(g h)
#include "kernels/layernorm.h"

#include "kernels/column_reduce.h"
#include "kernels/row_registers.h"

namespace accrete::kernels {

namespace {

template <int W>
__device__ __forceinline__ void fill_ones(float (&v)[W]) {
  ACCRETE_UNROLL
  for (int j = 0; j < W; ++j) v[j] = 1.0f;
}

// ---- rows in registers ----------------------------------------------------------------------------------------------

// With kResidual: sum = residual + the branch x is stored and then normalised as it was stored (rounded to T), because
// that is what the backward pass will see. A team takes R rows at a time: more bytes on their way, and gamma and beta
// are fetched once for all of them.
template <class T, bool kResidual, int kWarps, int kPacks>
__global__ void __launch_bounds__(kBlockSize)
    layernorm_held_kernel(T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual, const float* gamma,
                          const float* beta, int64_t N, int64_t C, float eps, BranchEnd end) {
  using Row = HeldRow<T, kWarps, kPacks>;
  constexpr int W = Row::W, R = kPacks < 4 ? 2 : 1;
  ACCRETE_SHARED(float, part, R* kBlockWarps);
  const float count = static_cast<float>(C);
  RowFactor factors(end.drop, end.rows_per_sample);
  const int64_t step = static_cast<int64_t>(gridDim.x) * Row::kTeams * R;
  for (int64_t n0 = static_cast<int64_t>(blockIdx.x) * Row::kTeams * R; n0 < N; n0 += step) {
    const int64_t n = n0 + Row::team() * R;  // rows n .. n + R - 1
    Words<T, W> row[R][kPacks], other[R][kPacks];
    float m[R] = {}, r[R] = {}, factor[R], v[W];
    ACCRETE_UNROLL
    for (int i = 0; i < R; ++i) {
      bool there = n + i < N;
      if constexpr (kResidual) {
        Row::load(other[i], residual + (n + i) * C, C, there);
        factor[i] = there ? factors.at(n + i) : 0.0f;
        there = factor[i] != 0.0f;
      }
      Row::load(row[i], x + (n + i) * C, C, there);
    }
    ACCRETE_UNROLL
    for (int i = 0; i < R; ++i) {
      ACCRETE_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        if constexpr (kResidual) {
          float w[W], g[W];
          unpack<T>(v, row[i][p]);
          unpack<T>(w, other[i][p]);
          fill_ones(g);
          if (end.gamma && Row::column(p) < C) load_vec(g, end.gamma + Row::column(p));
          ACCRETE_UNROLL
          for (int j = 0; j < W; ++j) v[j] = w[j] + factor[i] * (g[j] * v[j]);
          row[i][p] = packed<T>(v);
          if (n + i < N && Row::column(p) < C) store_words(sum + (n + i) * C + Row::column(p), row[i][p]);
        }
        unpack<T>(v, row[i][p]);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) m[i] += v[j];
      }
    }
    Row::sum(m, part);
    ACCRETE_UNROLL
    for (int i = 0; i < R; ++i) {
      m[i] /= count;
      ACCRETE_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        unpack<T>(v, row[i][p]);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) r[i] += Row::column(p) < C ? (v[j] - m[i]) * (v[j] - m[i]) : 0.0f;
      }
    }
    Row::sum(r, part);
    ACCRETE_UNROLL
    for (int i = 0; i < R; ++i) {
      r[i] = 1.0f / sqrtf(r[i] / count + eps);
      if (Row::rank() == 0 && n + i < N) {
        mean[n + i] = m[i];
        rstd[n + i] = r[i];
      }
    }
    ACCRETE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      const int64_t c = Row::column(p);
      if (c >= C) continue;
      float scale[W], shift[W] = {};
      load_vec(scale, gamma + c);
      if (beta) load_vec(shift, beta + c);
      ACCRETE_UNROLL
      for (int i = 0; i < R; ++i) {
        unpack<T>(v, row[i][p]);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) v[j] = (v[j] - m[i]) * r[i] * scale[j] + shift[j];
        if (n + i < N) store_vec(y + (n + i) * C + c, v);
      }
    }
  }
}

// Partial sums of dgamma and dbeta, (blocks, 2, slots) f32: 2 % of the traffic at 65,536 rows of 768.
constexpr int64_t kPartials = 1 << 21;
ACCRETE_DEVICE_ARRAY(float, partials, kPartials);

// dx as derived above (+ dx_add), and this block's part of dgamma = sum_n dy h and dbeta = sum_n dy. A thread sees the
// same columns in every row, so their sums stay in its registers until the block has seen all its rows; the teams then
// add up through shared memory. Slot q * kThreads + rank holds element q of thread `rank` of the team.
template <class T, int kWarps, int kPacks>
__global__ void __launch_bounds__(kBlockSize, kPacks < 4 ? 2 : 1)
    layernorm_backward_held_kernel(T* dx, T* dbranch, const T* dx_add, const T* dy, const T* x, const float* gamma,
                                   const float* mean, const float* rstd, int64_t N, int64_t C, BranchEnd end) {
  using Row = HeldRow<T, kWarps, kPacks>;
  constexpr int W = Row::W;
  ACCRETE_SHARED(float, part, 2 * kBlockWarps);
  ACCRETE_SHARED(float, columns, kPacks* W* kBlockSize);
  float totals[2][kPacks][W] = {};
  RowFactor factors(end.drop, end.rows_per_sample);
  const int64_t step = static_cast<int64_t>(gridDim.x) * Row::kTeams;
  for (int64_t n0 = static_cast<int64_t>(blockIdx.x) * Row::kTeams; n0 < N; n0 += step) {
    const int64_t n = n0 + Row::team();
    const bool there = n < N;
    Words<T, W> rows_x[kPacks], rows_dy[kPacks], rows_add[kPacks];
    Row::load(rows_x, x + n * C, C, there);
    Row::load(rows_dy, dy + n * C, C, there);
    if (dx_add) Row::load(rows_add, dx_add + n * C, C, there);
    const float m = there ? mean[n] : 0.0f, r = there ? rstd[n] : 0.0f;
    float g[W], h[W], scale[W], sums[2] = {};
    ACCRETE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      if (Row::column(p) >= C) continue;
      load_vec(scale, gamma + Row::column(p));
      unpack<T>(g, rows_dy[p]);
      unpack<T>(h, rows_x[p]);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        h[j] = (h[j] - m) * r;
        totals[0][p][j] += g[j] * h[j];
        totals[1][p][j] += g[j];
        sums[0] += g[j] * scale[j];
        sums[1] += g[j] * scale[j] * h[j];
      }
    }
    Row::sum(sums, part);
    const float mean_g = sums[0] / static_cast<float>(C), mean_gh = sums[1] / static_cast<float>(C);
    ACCRETE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      const int64_t c = Row::column(p);
      if (c >= C || !there) continue;
      float add[W] = {};
      if (dx_add) unpack<T>(add, rows_add[p]);
      load_vec(scale, gamma + c);
      unpack<T>(g, rows_dy[p]);
      unpack<T>(h, rows_x[p]);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) g[j] = r * (g[j] * scale[j] - mean_g - (h[j] - m) * r * mean_gh) + add[j];
      const Words<T, W> rounded = packed<T>(g);
      store_words(dx + n * C + c, rounded);
      if (!dbranch) continue;
      const float factor = factors.at(n);
      fill_ones(scale);
      if (end.gamma) load_vec(scale, end.gamma + c);
      unpack<T>(g, rounded);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) g[j] = g[j] * factor * scale[j];
      store_vec(dbranch + n * C + c, g);
    }
  }
  ACCRETE_UNROLL
  for (int k = 0; k < 2; ++k) {
    ACCRETE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) columns[(p * W + j) * kBlockSize + static_cast<int>(threadIdx.x)] = totals[k][p][j];
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < Row::kSlots; i += kBlockSize) {
      const int at = i / Row::kThreads * kBlockSize + i % Row::kThreads;
      float total = columns[at];
      ACCRETE_UNROLL
      for (int t = 1; t < Row::kTeams; ++t) total += columns[at + t * Row::kThreads];
      partials[(static_cast<int64_t>(blockIdx.x) * 2 + k) * Row::kSlots + i] = total;
    }
    __syncthreads();
  }
}

// dgamma (blockIdx.y 0) and dbeta (1) += the sums over the blocks. 32 slots per block; warp w adds partial sums w, w +
// kFinishWarps, ... in order.
constexpr int kFinishWarps = 16;
__global__ void layernorm_parameters_kernel(float* dgamma, float* dbeta, int64_t blocks, int64_t slots, int threads,
                                            int width, int64_t C) {
  ACCRETE_SHARED(float, part, kFinishWarps* kWarpSize);
  float* const gradient = blockIdx.y == 0 ? dgamma : dbeta;
  if (!gradient) return;  // the whole block
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarpSize + lane;
  float total = 0.0f;
  ACCRETE_UNROLL_BY_4
  for (int64_t b = warp; b < blocks; b += kFinishWarps) total += partials[(b * 2 + blockIdx.y) * slots + i];
  part[warp * kWarpSize + lane] = total;
  __syncthreads();
  const int64_t q = i / threads, c = (q / width * threads + i % threads) * width + q % width;
  if (warp != 0 || c >= C) return;
  for (int w = 1; w < kFinishWarps; ++w) total += part[w * kWarpSize + lane];
  gradient[c] += total;
}

// ---- any rows -------------------------------------------------------------------------------------------------------

// The same with a warp per row, or a block for long rows. Each thread reads back only what it wrote itself.
template <class T, bool kResidual, bool kBlock, bool kWide>
__global__ void layernorm_kernel(T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
                                 const float* gamma, const float* beta, int64_t N, int64_t C, float eps,
                                 BranchEnd end) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  RowFactor factors(end.drop, end.rows_per_sample);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const T* row = kResidual ? sum + n * C : x + n * C;
    const float factor = kResidual ? factors.at(n) : 1.0f;
    float v[W], total = 0.0f;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      if constexpr (kResidual) {
        float r[W], g[W], b[W] = {};
        fill_ones(g);
        if (end.gamma) load_row<W, kWide>(g, end.gamma, c, C);
        if (factor != 0.0f) load_row<W, kWide>(b, x + n * C, c, C);
        load_row<W, kWide>(r, residual + n * C, c, C);
        ACCRETE_UNROLL
        for (int j = 0; j < W; ++j) v[j] = to_float(from_float<T>(r[j] + factor * (g[j] * b[j])));
        store_row<W, kWide>(sum + n * C, c, C, v);
      } else {
        load_row<W, kWide>(v, row, c, C);
      }
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) total += v[j];
    }
    const float m = Team::sum(total, part) / static_cast<float>(C);

    float squares = 0.0f;
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load_row<W, kWide>(v, row, c, C, m);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) squares += (v[j] - m) * (v[j] - m);
    }
    const float r = 1.0f / sqrtf(Team::sum(squares, part) / static_cast<float>(C) + eps);
    if (Team::rank() == 0) {
      mean[n] = m;
      rstd[n] = r;
    }

    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      float scale[W], shift[W] = {};
      load_row<W, kWide>(v, row, c, C);
      load_row<W, kWide>(scale, gamma, c, C);
      if (beta) load_row<W, kWide>(shift, beta, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) v[j] = (v[j] - m) * r * scale[j] + shift[j];
      store_row<W, kWide>(y + n * C, c, C, v);
    }
  }
}

// dx as derived above (+ dx_add).
template <class T, bool kBlock, bool kWide>
__global__ void layernorm_backward_kernel(T* dx, T* dbranch, const T* dx_add, const T* dy, const T* x,
                                          const float* gamma, const float* mean, const float* rstd, int64_t N,
                                          int64_t C, BranchEnd end) {
  using Team = RowTeam<kBlock>;
  constexpr int W = kLaneWidth<T>;
  ACCRETE_SHARED(float, part, kBlockWarps);
  RowFactor factors(end.drop, end.rows_per_sample);
  for (int64_t n = Team::first_row(); n < N; n += Team::row_step()) {
    const float m = mean[n], r = rstd[n], factor = dbranch ? factors.at(n) : 1.0f;
    float g[W], h[W], scale[W], sum_g = 0.0f, sum_gh = 0.0f;
    const auto load = [&](int64_t c) {
      load_row<W, kWide>(g, dy + n * C, c, C);
      load_row<W, kWide>(h, x + n * C, c, C, m);
      load_row<W, kWide>(scale, gamma, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        g[j] *= scale[j];
        h[j] = (h[j] - m) * r;
      }
    };
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load(c);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) {
        sum_g += g[j];
        sum_gh += g[j] * h[j];
      }
    }
    const float mean_g = Team::sum(sum_g, part) / static_cast<float>(C);
    const float mean_gh = Team::sum(sum_gh, part) / static_cast<float>(C);
    for (int64_t c = Team::rank() * W; c < C; c += Team::kSize * W) {
      load(c);
      float add[W] = {};
      if (dx_add) load_row<W, kWide>(add, dx_add + n * C, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) g[j] = to_float(from_float<T>(r * (g[j] - mean_g - h[j] * mean_gh) + add[j]));
      store_row<W, kWide>(dx + n * C, c, C, g);
      if (!dbranch) continue;
      fill_ones(scale);
      if (end.gamma) load_row<W, kWide>(scale, end.gamma, c, C);
      ACCRETE_UNROLL
      for (int j = 0; j < W; ++j) g[j] = g[j] * factor * scale[j];
      store_row<W, kWide>(dbranch + n * C, c, C, g);
    }
  }
}

// dgamma = sum_n dy h, dbeta = sum_n dy
template <class T>
struct ParameterTerm {
  const T *dy, *x;
  const float *mean, *rstd;
  int64_t C;
  __device__ void operator()(int64_t n, int64_t c, float (&sums)[2]) const {
    const float g = to_float(dy[n * C + c]);
    sums[0] += g * (to_float(x[n * C + c]) - mean[n]) * rstd[n];
    sums[1] += g;
  }
};

template <class T, bool kResidual>
void normalise(const Gpu& ctx, T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
               const float* gamma, const float* beta, int64_t N, int64_t C, float eps, const BranchEnd& end) {
  if (N <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const bool wide = wide_rows(sum, W, C) && wide_rows(y, W, C) && wide_rows(x, W, C) && wide_rows(residual, W, C) &&
                    wide_rows(gamma, W) && wide_rows(beta, W) && wide_rows(end.gamma, W);
  const auto held = [&]<int kWarps, int kPacks>() {
    const uint32_t blocks = blocks_for(N, HeldRow<T, kWarps, kPacks>::kTeams * (kPacks < 4 ? 2 : 1), 65536);
    ACCRETE_LAUNCH(layernorm_held_kernel<T, kResidual, kWarps, kPacks>, dim3{blocks}, dim3{kBlockSize}, 0, ctx, sum, y,
                   mean, rstd, x, residual, gamma, beta, N, C, eps, end);
  };
  if (wide && with_held_row<T>(C, held)) return;
  with_row_team(C, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(layernorm_kernel<T, kResidual, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0,
                   ctx, sum, y, mean, rstd, x, residual, gamma, beta, N, C, eps, end);
  });
}

}  // namespace

template <class T>
void layernorm_forward(const Gpu& ctx, T* y, float* mean, float* rstd, const T* x, const float* gamma,
                       const float* beta, int64_t N, int64_t C, float eps) {
  normalise<T, false>(ctx, nullptr, y, mean, rstd, x, nullptr, gamma, beta, N, C, eps, {});
}

template <class T>
void residual_layernorm_forward(const Gpu& ctx, T* sum, T* y, float* mean, float* rstd, const T* x, const T* residual,
                                const float* gamma, const float* beta, int64_t N, int64_t C, float eps,
                                const BranchEnd& end) {
  normalise<T, true>(ctx, sum, y, mean, rstd, x, residual, gamma, beta, N, C, eps, end);
}

template <class T>
void layernorm_backward(const Gpu& ctx, T* dx, float* dgamma, float* dbeta, const T* dx_add, const T* dy, const T* x,
                        const float* gamma, const float* mean, const float* rstd, int64_t N, int64_t C, T* dbranch,
                        const BranchEnd& end) {
  if (N <= 0 || C <= 0) return;
  constexpr int W = kLaneWidth<T>;
  const bool wide = wide_rows(dx, W, C) && wide_rows(dx_add, W, C) && wide_rows(dy, W, C) && wide_rows(x, W, C) &&
                    wide_rows(gamma, W) && wide_rows(dbranch, W, C) && wide_rows(end.gamma, W);
  // The number of blocks, and with it the order of the sums, follows from the sizes. Two for each of an H200's 132
  // multiprocessors are resident at once; each has at least four rows per team to make its end worth while.
  const auto held = [&]<int kWarps, int kPacks>() {
    using Row = HeldRow<T, kWarps, kPacks>;
    constexpr int64_t kFit = kPartials / (2 * Row::kSlots);
    const uint32_t blocks = blocks_for(N, 4 * Row::kTeams, kFit < 264 ? kFit : 264);
    ACCRETE_LAUNCH(layernorm_backward_held_kernel<T, kWarps, kPacks>, dim3{blocks}, dim3{kBlockSize}, 0, ctx, dx,
                   dbranch, dx_add, dy, x, gamma, mean, rstd, N, C, end);
    if (!dgamma && !dbeta) return;
    ACCRETE_LAUNCH(layernorm_parameters_kernel, dim3{Row::kSlots / kWarpSize, 2}, dim3{kWarpSize, kFinishWarps}, 0, ctx,
                   dgamma, dbeta, blocks, Row::kSlots, Row::kThreads, W, C);
  };
  if (wide && with_held_row<T>(C, held)) return;
  if (dgamma || dbeta) {
    column_reduce(ctx, ColumnSums<2>{{dgamma, dbeta}, true}, ParameterTerm<T>{dy, x, mean, rstd, C}, N, C);
  }
  with_row_team(C, wide, [&]<bool kBlock, bool kWide>() {
    ACCRETE_LAUNCH(layernorm_backward_kernel<T, kBlock, kWide>, dim3{RowTeam<kBlock>::blocks(N)}, dim3{kBlockSize}, 0,
                   ctx, dx, dbranch, dx_add, dy, x, gamma, mean, rstd, N, C, end);
  });
}

#define ACCRETE_INSTANTIATE(T)                                                                                   \
  template void layernorm_forward(const Gpu&, T*, float*, float*, const T*, const float*, const float*, int64_t, \
                                  int64_t, float);                                                               \
  template void residual_layernorm_forward(const Gpu&, T*, T*, float*, float*, const T*, const T*, const float*, \
                                           const float*, int64_t, int64_t, float, const BranchEnd&);             \
  template void layernorm_backward(const Gpu&, T*, float*, float*, const T*, const T*, const T*, const float*,   \
                                   const float*, const float*, int64_t, int64_t, T*, const BranchEnd&);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
