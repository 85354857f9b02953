// The device's side of an NVIDIA GPU through the CUDA runtime. Two queues (streams): one for everything that computes,
// one for copies from page-locked memory that run beside it; events order them.
#include "kernels/runtime.h"

#include <cuda_runtime.h>
#include "kernels/cuda/cublaslt.h"

#include <stdexcept>
#include <string>

namespace accrete::kernels {
namespace {

constexpr int kOldestCapability = 80;  // bf16 matrix instructions and cp.async
constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;

void check(cudaError_t status, const char* statement, int line) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("[cuda] ") + cudaGetErrorString(status) + "; statement: " + statement + "; " +
                           __FILE__ + ":" + std::to_string(line));
}
#define ACCRETE_RT(call) check(call, #call, __LINE__)

cudaStream_t compute(const Cuda& ctx) { return static_cast<cudaStream_t>(ctx.stream); }
cudaStream_t sending(const Cuda& ctx) { return static_cast<cudaStream_t>(ctx.send_stream); }
cudaEvent_t of(Event* event) { return reinterpret_cast<cudaEvent_t>(event); }
cudaGraphExec_t of(Recorded* recorded) { return reinterpret_cast<cudaGraphExec_t>(recorded); }
size_t size(int64_t bytes) { return static_cast<size_t>(bytes); }

void refuse_while_recording(const Cuda& ctx, const char* what) {
  if (ctx.capturing) throw std::runtime_error(std::string("[cuda] ") + what + " cannot be recorded");
}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

[[noreturn]] void no_gpu(const std::string& what) { throw std::runtime_error("[cuda] " + what); }

}  // namespace

void* device_allocate(const Cuda& ctx, int64_t bytes) {
  ACCRETE_RT(cudaSetDevice(ctx.device));
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, size(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // forget it: the caller decides
    return nullptr;
  }
  check(status, "cudaMalloc", __LINE__);
  return p;
}

// cudaFree waits for the device by itself.
void device_release(const Cuda&, void* p, int64_t) { ACCRETE_RT(cudaFree(p)); }

void* host_allocate(const Cuda&, int64_t bytes) {
  void* p = nullptr;
  ACCRETE_RT(cudaMallocHost(&p, size(bytes)));
  return p;
}
void host_release(const Cuda&, void* p) { ACCRETE_RT(cudaFreeHost(p)); }

void copy_in(const Cuda& ctx, void* device, const void* host, int64_t bytes) {
  refuse_while_recording(ctx, "a copy from the host");
  ACCRETE_RT(cudaMemcpyAsync(device, host, size(bytes), cudaMemcpyHostToDevice, compute(ctx)));
  ACCRETE_RT(cudaStreamSynchronize(compute(ctx)));
}
void copy_out(const Cuda& ctx, void* host, const void* device, int64_t bytes) {
  refuse_while_recording(ctx, "a copy to the host");
  ACCRETE_RT(cudaMemcpyAsync(host, device, size(bytes), cudaMemcpyDeviceToHost, compute(ctx)));
  ACCRETE_RT(cudaStreamSynchronize(compute(ctx)));
}
void send(const Cuda& ctx, void* device, const void* pinned, int64_t bytes) {
  refuse_while_recording(ctx, "a copy from the host");
  ACCRETE_RT(cudaMemcpyAsync(device, pinned, size(bytes), cudaMemcpyHostToDevice, sending(ctx)));
}
void fetch(const Cuda& ctx, void* pinned, const void* device, int64_t bytes) {
  refuse_while_recording(ctx, "a copy to the host");
  ACCRETE_RT(cudaMemcpyAsync(pinned, device, size(bytes), cudaMemcpyDeviceToHost, compute(ctx)));
}
void copy_within(const Cuda& ctx, void* to, const void* from, int64_t bytes) {
  ACCRETE_RT(cudaMemcpyAsync(to, from, size(bytes), cudaMemcpyDeviceToDevice, compute(ctx)));
}
void fill_bytes(const Cuda& ctx, void* p, uint8_t value, int64_t bytes) {
  ACCRETE_RT(cudaMemsetAsync(p, value, size(bytes), compute(ctx)));
}

void wait(const Cuda& ctx) {
  refuse_while_recording(ctx, "waiting");
  ACCRETE_RT(cudaStreamSynchronize(compute(ctx)));
}

Event* make_event(const Cuda& ctx) {
  ACCRETE_RT(cudaSetDevice(ctx.device));
  cudaEvent_t event = nullptr;
  ACCRETE_RT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return reinterpret_cast<Event*>(event);
}
void drop_event(const Cuda&, Event* event) { ACCRETE_RT(cudaEventDestroy(of(event))); }
void mark(const Cuda& ctx, Event* event) { ACCRETE_RT(cudaEventRecord(of(event), compute(ctx))); }
void mark_sent(const Cuda& ctx, Event* event) { ACCRETE_RT(cudaEventRecord(of(event), sending(ctx))); }
void await(const Cuda&, Event* event) { ACCRETE_RT(cudaEventSynchronize(of(event))); }
void compute_after(const Cuda& ctx, Event* event) { ACCRETE_RT(cudaStreamWaitEvent(compute(ctx), of(event), 0)); }
void send_after(const Cuda& ctx, Event* event) { ACCRETE_RT(cudaStreamWaitEvent(sending(ctx), of(event), 0)); }

// Relaxed: other threads (loaders) may go on calling CUDA, and the allocator may ask for memory in between.
void begin_recording(Cuda& ctx) {
  ACCRETE_RT(cudaStreamBeginCapture(compute(ctx), cudaStreamCaptureModeRelaxed));
  ctx.capturing = true;
}
Recorded* end_recording(Cuda& ctx) {
  ctx.capturing = false;
  cudaGraph_t graph = nullptr;
  ACCRETE_RT(cudaStreamEndCapture(compute(ctx), &graph));
  cudaGraphExec_t runnable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&runnable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate", __LINE__);
  ACCRETE_RT(cudaGraphUpload(runnable, compute(ctx)));
  return reinterpret_cast<Recorded*>(runnable);
}
void abandon_recording(Cuda& ctx) noexcept {
  ctx.capturing = false;
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(compute(ctx), &graph);
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}
void replay(const Cuda& ctx, Recorded* recorded) {
  refuse_while_recording(ctx, "a replay");
  ACCRETE_RT(cudaGraphLaunch(of(recorded), compute(ctx)));
  if (ctx.sync_each) wait(ctx);
}
void drop_recorded(const Cuda&, Recorded* recorded) { ACCRETE_RT(cudaGraphExecDestroy(of(recorded))); }

bool cuda_driver_present() {
  int driver = 0;
  return cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
}

Cuda open_cuda(int index) {
  int driver = 0, count = 0;
  cudaDriverGetVersion(&driver);  // 0 where no driver is installed
  if (driver == 0)
    no_gpu("no NVIDIA driver was found; expected one for CUDA " + version(CUDART_VERSION) +
           " or newer; install it, or use --device cpu");
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorInsufficientDriver)
    no_gpu("the NVIDIA driver is too old; expected one for CUDA " + version(CUDART_VERSION) + " or newer; got CUDA " +
           version(driver) + "; update the driver, or use --device cpu");
  if (counted != cudaSuccess || count == 0)
    no_gpu("no usable NVIDIA GPU was found (driver for CUDA " + version(driver) + ": " +
           cudaGetErrorString(counted == cudaSuccess ? cudaErrorNoDevice : counted) + "); use --device cpu");
  if (index >= count)
    no_gpu("there is no GPU " + std::to_string(index) + "; expected cuda:0" +
           (count > 1 ? " to cuda:" + std::to_string(count - 1) : "") + "; got cuda:" + std::to_string(index));
  cudaDeviceProp properties{};
  ACCRETE_RT(cudaGetDeviceProperties(&properties, index));
  if (properties.major * 10 + properties.minor < kOldestCapability)
    no_gpu(std::string("GPU ") + std::to_string(index) + " (" + properties.name +
           ") is too old; expected compute capability 8.0 or newer (A100, RTX 30, H100 ...); got " +
           std::to_string(properties.major) + "." + std::to_string(properties.minor) + "; use --device cpu");
  const cudaError_t started = cudaSetDevice(index);  // makes the context, some 500 MB
  if (started == cudaErrorMemoryAllocation)
    no_gpu(std::string(properties.name) + " is full: not even a start has room; end other programs");
  check(started, "cudaSetDevice", __LINE__);
  Cuda ctx;
  ctx.device = index;
  ctx.shared_limit = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  cudaStream_t stream = nullptr, send_stream = nullptr;
  ACCRETE_RT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  ACCRETE_RT(cudaStreamCreateWithFlags(&send_stream, cudaStreamNonBlocking));
  ctx.stream = stream;
  ctx.send_stream = send_stream;
  cublasLtHandle_t blas = nullptr;
  if (cublaslt().Create(&blas) != CUBLAS_STATUS_SUCCESS)
    no_gpu("cuBLASLt " + version(static_cast<int>(cublaslt().GetVersion())) + " does not start on " + properties.name);
  ctx.blas = blas;
  ctx.workspace = device_allocate(ctx, kWorkspaceBytes);
  if (!ctx.workspace) {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    no_gpu(std::string(properties.name) + " is full; expected 64 MiB for a start; got " + std::to_string(free >> 20) +
           " of " + std::to_string(total >> 20) + " MiB free; end other programs");
  }
  ctx.workspace_bytes = kWorkspaceBytes;
  return ctx;
}

int64_t cuda_free_memory(const Cuda& ctx) {
  ACCRETE_RT(cudaSetDevice(ctx.device));
  size_t free = 0, total = 0;
  ACCRETE_RT(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

std::string cuda_device_name(const Cuda& ctx) {
  cudaDeviceProp properties{};
  ACCRETE_RT(cudaGetDeviceProperties(&properties, ctx.device));
  int driver = 0;
  cudaDriverGetVersion(&driver);
  return std::string(properties.name) + ", " + std::to_string(properties.multiProcessorCount) +
         " multiprocessors, compute capability " + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + ", driver for CUDA " + version(driver);
}

}  // namespace accrete::kernels
