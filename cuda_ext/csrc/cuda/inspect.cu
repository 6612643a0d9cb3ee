// Values that a caller gave are looked at before a kernel uses them as addresses; and offsets of sorted cells.
#include "cuda/inspect.h"
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) find_outside(const int64_t* index, int64_t count, int64_t size, int64_t* outside) {
  for (int64_t i = global_thread(); i < count; i += grid_threads())
    if (uint64_t(index[i]) >= uint64_t(size)) *outside = 1;
}

__global__ void __launch_bounds__(kThreads) find_infinite(const double* values, int64_t count, int64_t* infinite) {
  for (int64_t i = global_thread(); i < count; i += grid_threads())
    if (!(values[i] - values[i] == 0)) *infinite = 1;
}

__global__ void __launch_bounds__(kThreads)
search_first_places(const int64_t* sorted, int64_t count, int64_t cells, int64_t* splits) {
  for (int64_t cell = global_thread(); cell <= cells; cell += grid_threads()) {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (sorted[middle] < cell)
        low = middle + 1;
      else
        high = middle;
    }
    splits[cell] = low;
  }
}

}  // namespace

Status inspect_index(const int64_t* index, int64_t count, int64_t size, int64_t* outside, void* stream) {
  if (count == 0) return nullptr;
  find_outside<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(index, count, size, outside);
  return launched();
}

Status inspect_finite(const double* values, int64_t count, int64_t* infinite, void* stream) {
  if (count == 0) return nullptr;
  find_infinite<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, count, infinite);
  return launched();
}

Status first_places(const int64_t* sorted, int64_t count, int64_t cells, int64_t* splits, void* stream) {
  search_first_places<<<blocks_for(cells + 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(sorted, count, cells, splits);
  return launched();
}

Status fetch(void* on_host, const void* on_device, int64_t bytes, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  cudaMemcpyAsync(on_host, on_device, bytes, cudaMemcpyDeviceToHost, queue);
  const cudaError_t error = cudaStreamSynchronize(queue);
  return error == cudaSuccess ? launched() : cudaGetErrorString(error);
}

}  // namespace fusion3d::cuda
