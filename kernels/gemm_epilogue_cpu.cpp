// Products with an epilogue on the CPU: the product (oneDNN or our own), then our elementwise kernels, with the same
// bits as calling them one by one.
#include "kernels/gemm_compose.h"

namespace accrete::kernels {

template <class T, class Out>
void gemm(const Cpu& ctx, Out* C, const T* A, const T* B, const Epilogue<Out>& e, const GemmShape& s) {
  gemm_composed(ctx, C, A, B, e, s);
}

#define ACCRETE_INSTANTIATE(T, Out) \
  template void gemm(const Cpu&, Out*, const T*, const T*, const Epilogue<Out>&, const GemmShape&);
ACCRETE_GEMM_TYPES(ACCRETE_INSTANTIATE)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
