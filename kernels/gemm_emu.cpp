// Matrix products of the emulated device: the CPU's.
#include "kernels/emulator.h"
#include "kernels/gemm_compose.h"

namespace accrete::kernels {

template <class T, class Out>
void gemm(const Emu& ctx, Out* C, const T* A, const T* B, const float* bias, const GemmShape& s) {
  emu::queue(ctx, [=](const Emu& dev) {
    const emu::DeviceAccess open;
    gemm(dev.cpu, C, A, B, bias, s);
  });
}

template <class T, class Out>
void gemm(const Emu& ctx, Out* C, const T* A, const T* B, const Epilogue<Out>& e, const GemmShape& s) {
  gemm_composed(ctx, C, A, B, e, s);
}

#define ACCRETE_INSTANTIATE(T, Out)                                                         \
  template void gemm(const Emu&, Out*, const T*, const T*, const float*, const GemmShape&); \
  template void gemm(const Emu&, Out*, const T*, const T*, const Epilogue<Out>&, const GemmShape&);
ACCRETE_GEMM_TYPES(ACCRETE_INSTANTIATE)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
