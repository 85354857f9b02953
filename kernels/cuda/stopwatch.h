// Time of work on a stream, by two events.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace accrete::kernels::lt {

inline void check_cuda(cudaError_t status, const char* statement, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("[cuda] ") + cudaGetErrorString(status) + "; statement: " + statement + "; " +
                           file + ":" + std::to_string(line));
}
#define ACCRETE_CUDA(call) ::accrete::kernels::lt::check_cuda(call, #call, __FILE__, __LINE__)

// Not to be used while a graph is captured: it waits.
class Stopwatch {
 public:
  explicit Stopwatch(const Cuda& ctx) : stream_(static_cast<cudaStream_t>(ctx.stream)) {
    ACCRETE_CUDA(cudaEventCreate(&start_));
    const cudaError_t second = cudaEventCreate(&stop_);
    if (second != cudaSuccess) cudaEventDestroy(start_);
    check_cuda(second, "cudaEventCreate(&stop_)", __FILE__, __LINE__);
  }
  ~Stopwatch() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  // `work` queues kernels on the stream; waits until they have run.
  template <class Work>
  float milliseconds(Work&& work) const {
    ACCRETE_CUDA(cudaEventRecord(start_, stream_));
    work();
    ACCRETE_CUDA(cudaEventRecord(stop_, stream_));
    ACCRETE_CUDA(cudaEventSynchronize(stop_));
    float ms = 0;
    ACCRETE_CUDA(cudaEventElapsedTime(&ms, start_, stop_));
    return ms;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

// Shortest mean times of several ways to the same result, in milliseconds: they run by turns, so that a clock that
// changes changes for all. run(i) queues way i, whose kernels have been loaded; ms[i] is about what it takes.
template <class Run>
std::vector<float> race(const Stopwatch& watch, const std::vector<float>& ms, Run&& run) {
  constexpr int kRounds = 3, kMostRuns = 10;
  constexpr float kRoundMs = 2.0f;  // a way runs about so long in a round, at most kMostRuns times
  std::vector<float> best(ms.size(), std::numeric_limits<float>::infinity());
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < ms.size(); ++i) {
      const int runs = std::clamp(static_cast<int>(kRoundMs / std::max(ms[i], 1e-3f)), 1, kMostRuns);
      const float all = watch.milliseconds([&] {
        for (int n = 0; n < runs; ++n) run(i);
      });
      best[i] = std::min(best[i], all / static_cast<float>(runs));
    }
  }
  return best;
}

}  // namespace accrete::kernels::lt
