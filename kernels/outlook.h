// Outlook attention with 3 x 3 windows at stride 2 and a border of 1 (Yuan et al. 2022), in gather form.
//
// Window (i, j) covers rows 2i-1 .. 2i+1 and the like columns; its 9 places are numbered row by row. With a[r, q] =
// softmax over q of scale * logits[r, q], place r of a window receives sum_q a[r, q] v[place q], v being 0 outside of
// the grid; a cell adds up what it receives as a place of each window that covers it (1, 2 or 4 windows).
//   v, y: (batch, height, width, heads * head_dim);   logits: (batch, windows_h, windows_w, heads, 9 (r), 9 (q))
#pragma once

#include "kernels/device.h"

namespace accrete::kernels {

struct OutlookShape {
  int64_t batch = 0, height = 0, width = 0, heads = 0, head_dim = 0;
  float scale = 1.0f;
  ACCRETE_HD int64_t windows_h() const { return (height + 1) / 2; }
  ACCRETE_HD int64_t windows_w() const { return (width + 1) / 2; }
  ACCRETE_HD int64_t channels() const { return heads * head_dim; }
};

// No aliasing.
ACCRETE_KERNEL(outlook_forward, T* y, const T* v, const T* logits, const OutlookShape& s);
// With d_o[r] = dy at place r (0 outside), for each window and head:
//   da[r, q] = d_o[r] . v[q],  dlogits[r, q] = scale a[r, q] (da[r, q] - sum_q a[r, q] da[r, q])
//   dv of a cell = sum over its windows, in which it is place q, of sum_r a[r, q] d_o[r]
// Both are overwritten. turned: scratch (batch, windows_h, windows_w, heads, 9 (q), 9 (r)) f32, becomes a with q and r
// exchanged. Deterministic; no aliasing.
ACCRETE_KERNEL(outlook_backward, T* dv, T* dlogits, float* turned, const T* dy, const T* v, const T* logits,
               const OutlookShape& s);

}  // namespace accrete::kernels
