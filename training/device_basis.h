// A basis whose rows lie in the memory of a device: both products of a step run there (kernels/subspace.h), and only
// the coefficients' few numbers go to the host and come back.
#pragma once

#include "engine/core/transfer.h"
#include "engine/ops/subspace.h"
#include "training/basis.h"

namespace accrete {

class DeviceBasis {
 public:
  // Brings the rows from their file, as they are stored there, to `device`. OutOfMemory where they do not fit. The
  // basis must outlive it.
  DeviceBasis(const Basis& basis, Device device);
  // Of the rows in device memory.
  static int64_t bytes(const Basis& basis);

  struct Projection {
    double factor = 0;
    std::vector<double> gradient;  // P^T g over all shares; empty where the factor is not finite
  };
  // Waits for g, a flat buffer, and for the factor that goes with it: (1) f32. All on the device.
  Projection project(const Tensor& g, const Tensor& factor);
  // Queues out = start + P change, as Basis::expand does on the host.
  void expand(const Tensor& out, const Tensor& start, std::span<const double> change);

 private:
  void bring();

  const Basis& basis_;
  update::SubspaceRows rows_;
  Tensor numbers_;  // the factor, then the sums of all coefficients
  Readback readback_;
  BatchFeed feed_;
};

}  // namespace accrete
