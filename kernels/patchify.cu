// Images to patches and back. Bandwidth-bound; floor: every element read once and written once. Patches are touched in
// their order, images in runs of P elements: with P = 16 these are whole sectors of 32 bytes in every type.
#include "kernels/patchify.h"

#include "kernels/vector.h"
#include "kernels/warp.h"

namespace accrete::kernels {

namespace {

// A thread per K elements of a row of a patch; n, W and P in units of K along a row. Index is 32-bit where n allows,
// since divisions are what this kernel spends its instructions on.
template <class T, int K, class Index, bool kBack>
__global__ void patchify_kernel(T* to, const T* from, Index n, Index C, Index H, Index W, Index P_rows, Index P) {
  const Index step = static_cast<Index>(gridDim.x) * kBlockSize, across = W / P, down = H / P_rows;
  for (Index i = static_cast<Index>(blockIdx.x) * kBlockSize + threadIdx.x; i < n; i += step) {
    Index rest = i;
    const auto digit = [&](Index base) {
      const Index d = rest % base;
      rest /= base;
      return d;
    };
    const Index s = digit(P), r = digit(P_rows), c = digit(C), column = digit(across), row = digit(down), b = rest;
    const int64_t image = (static_cast<int64_t>(b * C + c) * H + row * P_rows + r) * W + column * P + s, patch = i;
    const int64_t target = kBack ? image : patch, source = kBack ? patch : image;
    store_pack(to + target * K, load_pack<K>(from + source * K));
  }
}

template <class T, int K, bool kBack>
void move(const Gpu& ctx, T* to, const T* from, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P) {
  const int64_t n = B * C * H * W / K;
  const dim3 grid{blocks_for(n, kBlockSize, 65536)}, block{kBlockSize};
  if (n < (int64_t{1} << 31)) {  // leaves room for one step beyond the end
    ACCRETE_LAUNCH(patchify_kernel<T, K, uint32_t, kBack>, grid, block, 0, ctx, to, from, n, C, H, W / K, P, P / K);
  } else {
    ACCRETE_LAUNCH(patchify_kernel<T, K, int64_t, kBack>, grid, block, 0, ctx, to, from, n, C, H, W / K, P, P / K);
  }
}

template <class T, bool kBack>
void move(const Gpu& ctx, T* to, const T* from, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P) {
  if (B * C * H * W <= 0) return;
  constexpr int K = kLaneWidth<T>;
  if (wide_rows(to, K, P) && wide_rows(from, K, P)) {
    move<T, K, kBack>(ctx, to, from, B, C, H, W, P);
  } else if (wide_rows(to, 2, P) && wide_rows(from, 2, P)) {  // P = 14
    move<T, 2, kBack>(ctx, to, from, B, C, H, W, P);
  } else {
    move<T, 1, kBack>(ctx, to, from, B, C, H, W, P);
  }
}

}  // namespace

template <class T>
void patchify(const Gpu& ctx, T* patches, const T* images, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P) {
  move<T, false>(ctx, patches, images, B, C, H, W, P);
}

template <class T>
void unpatchify(const Gpu& ctx, T* images, const T* patches, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P) {
  move<T, true>(ctx, images, patches, B, C, H, W, P);
}

#define ACCRETE_INSTANTIATE(T)                                                                   \
  template void patchify(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t); \
  template void unpatchify(const Gpu&, T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
