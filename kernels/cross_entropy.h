// Softmax cross-entropy with label smoothing, from logits. N rows, V classes, rows `stride` elements apart (stride >=
// V). loss = lse - (1 - s) * x[t] - s/V * sum_v x[v], where lse = log sum exp x and s the smoothing. A negative target
// is ignored: its loss is 0 and its gradient row is 0. A target >= V makes its loss and its gradient row NaN.
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

// counts[0] = number of targets >= 0, counts[1] = 1 / counts[0] (0 when there is none).   counts: (2); targets: (N)
ACCRETE_KERNEL_F32(count_targets, float* counts, const int32_t* targets, int64_t N);
// loss, lse: (N) f32; logits: (N, stride) of T; targets: (N)
ACCRETE_KERNEL(cross_entropy_forward, float* loss, float* lse, const T* logits, const int32_t* targets, int64_t N,
               int64_t V, int64_t stride, float smoothing);
// dlogits[n, v] = scale[0] * (exp(x - lse) - (1 - s) [v = t] - s/V); columns V..stride-1 become 0. dlogits may alias
// logits. dlogits: (N, stride); scale: one f32 in device memory (upstream gradient divided by the number of counted
// rows)
ACCRETE_KERNEL(cross_entropy_backward, T* dlogits, const T* logits, const float* lse, const int32_t* targets,
               const float* scale, int64_t N, int64_t V, int64_t stride, float smoothing);

}  // namespace accrete::kernels
