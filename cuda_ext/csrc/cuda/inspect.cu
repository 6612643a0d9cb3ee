// Values that a caller gave are looked at before a kernel uses them as addresses.
#include "cuda/inspect.h"
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) find_outside(const int64_t* index, int64_t count, int64_t size, int64_t* outside) {
  for (int64_t i = global_thread(); i < count; i += grid_threads())
    if (uint64_t(index[i]) >= uint64_t(size)) *outside = 1;
}

}  // namespace

Status inspect_index(const int64_t* index, int64_t count, int64_t size, int64_t* outside, void* stream) {
  if (count == 0) return nullptr;
  find_outside<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(index, count, size, outside);
  return launched();
}

Status fetch(void* on_host, const void* on_device, int64_t bytes, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  cudaMemcpyAsync(on_host, on_device, bytes, cudaMemcpyDeviceToHost, queue);
  const cudaError_t error = cudaStreamSynchronize(queue);
  return error == cudaSuccess ? launched() : cudaGetErrorString(error);
}

}  // namespace fusion3d::cuda
