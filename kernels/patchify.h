// Images to patches and back: a permutation.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// patches[b, i * (W / P) + j, c, r, s] = images[b, c, i * P + r, j * P + s].   images: (B, C, H, W); patches: (B, (H /
// P) * (W / P), C * P * P); P divides H and W; no aliasing
ACCRETE_KERNEL(patchify, T* patches, const T* images, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P);
// The inverse.
ACCRETE_KERNEL(unpatchify, T* images, const T* patches, int64_t B, int64_t C, int64_t H, int64_t W, int64_t P);

}  // namespace accrete::kernels
