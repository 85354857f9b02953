// What this machine can do, measured: the figures that every speed is compared with.
#pragma once

#include "engine/core/config.h"
#include "engine/core/device.h"
#include "engine/core/dtype.h"

namespace accrete {

struct Ceilings {
  Device device;
  double gemm_f32 = 0, gemm_bf16 = 0, gemm_f16 = 0;  // FLOP/s of the best large matrix product, all threads
  double copy_one = 0, copy_all = 0;  // bytes/s of copying memory beyond the caches, read + written, 1 and all threads

  double flops(DType dtype) const {
    return dtype == DType::bf16 ? gemm_bf16 : dtype == DType::f16 ? gemm_f16 : gemm_f32;
  }
  // The least time for this much arithmetic and memory traffic, when neither hides the other.
  double floor_seconds(double work_flops, double work_bytes, DType dtype) const {
    return work_flops / flops(dtype) + work_bytes / copy_all;
  }
};

// About a second. On the CPU: the threads of its context. On a GPU: products of 8192 x 8192 matrices and a copy of 4
// GiB (less where the memory is smaller), random numbers, since equal ones are multiplied faster.
Ceilings measure_ceilings(Device device = kCpu);

Json to_json(const Ceilings& c);
std::string to_text(const Ceilings& c);

double now_seconds();

// Middle, smallest and largest of repeated measurements.
struct Spread {
  double median = 0, low = 0, high = 0;
};
Spread spread_of(std::vector<double> values);
Json to_json(const Spread& s);

}  // namespace accrete
