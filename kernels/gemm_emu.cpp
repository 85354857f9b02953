// Matrix products of the emulated device: the CPU's.
#include "kernels/gemm.h"

namespace accrete::kernels {

template <class T, class Out>
void gemm(const Emu& ctx, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s) {
  gemm(ctx.cpu, C, A, B, bias, s);
}

template void gemm(const Emu&, float*, const float*, const float*, const float*, const GemmShape&);
template void gemm(const Emu&, bf16*, const bf16*, const bf16*, const float*, const GemmShape&);
template void gemm(const Emu&, float*, const bf16*, const bf16*, const float*, const GemmShape&);

}  // namespace accrete::kernels
