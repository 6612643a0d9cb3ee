// Voxels on CUDA: keys and their range in one walk; sorting and running sums are torch's own, between the launches.
#include "cuda/kernel.cuh"
#include "cuda/voxel_launch.h"

namespace fusion3d::cuda {
namespace {

constexpr int64_t kInspectBlocks = 2048;  // each warp ends with eight atomics

__global__ void __launch_bounds__(kThreads, 4)
pack_and_inspect(const int64_t* coordinates, int64_t count, int64_t* keys, VoxelFindings* findings) {
  Bounds bounds;
  for (int64_t i = global_thread(); i < count; i += grid_threads()) {
    const int64_t* const voxel = coordinates + 4 * i;
    bounds.take(voxel);
    keys[i] = pack(voxel);
    if (i > 0 && pack(voxel - 4) >= keys[i]) findings->falling = 1;
  }
  combine_warp(bounds);
  if (threadIdx.x % kWarp == 0) {
    for (int axis = 0; axis < 4; ++axis) {  // the extremes do not depend on the order
      atomicMin(reinterpret_cast<long long*>(&findings->bounds.low[axis]), (long long)bounds.low[axis]);
      atomicMax(reinterpret_cast<long long*>(&findings->bounds.high[axis]), (long long)bounds.high[axis]);
    }
  }
}

__global__ void __launch_bounds__(kThreads) mark_start(const int64_t* keys, int64_t count, int64_t* starts) {
  for (int64_t i = global_thread(); i < count; i += grid_threads()) starts[i] = i == 0 || keys[i] != keys[i - 1];
}

__global__ void __launch_bounds__(kThreads)
number(const int64_t* keys, const int64_t* ends, const int64_t* permutation, int64_t count, int64_t* voxels, int64_t* inverse,
       int64_t* row_splits) {
  for (int64_t i = global_thread(); i < count; i += grid_threads()) {
    const int64_t voxel = ends[i] - 1;
    const bool first = i == 0 || ends[i - 1] <= voxel;
    if (first) unpack(keys[i], voxels + 4 * voxel);
    if (!permutation) continue;
    inverse[permutation[i]] = voxel;
    if (first) row_splits[voxel] = i;
    if (i == count - 1) row_splits[voxel + 1] = count;
  }
}

__global__ void __launch_bounds__(kThreads)
coarse_key_of(const int64_t* coordinates, int64_t count, int64_t stride, int64_t* keys) {
  for (int64_t i = global_thread(); i < count; i += grid_threads()) keys[i] = coarse_key(coordinates + 4 * i, stride);
}

__global__ void __launch_bounds__(kThreads) origin_key_of(const int64_t* coarse, int64_t count, int64_t stride, int64_t* keys) {
  for (int64_t i = global_thread(); i < count; i += grid_threads()) keys[i] = origin_key(coarse + 4 * i, stride);
}

}  // namespace

Status pack_voxels(
    const int64_t* coordinates, int64_t count, int64_t* keys, VoxelFindings* on_device, VoxelFindings* on_host, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  *on_host = {};
  cudaMemcpyAsync(on_device, on_host, sizeof *on_host, cudaMemcpyHostToDevice, queue);
  const unsigned blocks = unsigned(std::min<int64_t>(blocks_for(count), kInspectBlocks));
  pack_and_inspect<<<blocks, kThreads, 0, queue>>>(coordinates, count, keys, on_device);
  if (Status problem = launched()) return problem;
  cudaMemcpyAsync(on_host, on_device, sizeof *on_host, cudaMemcpyDeviceToHost, queue);
  const cudaError_t error = cudaStreamSynchronize(queue);
  return error == cudaSuccess ? launched() : cudaGetErrorString(error);
}

Status mark_starts(const int64_t* keys, int64_t count, int64_t* starts, void* stream) {
  mark_start<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(keys, count, starts);
  return launched();
}

Status number_voxels(
    const int64_t* keys, const int64_t* ends, const int64_t* permutation, int64_t count, int64_t* voxels, int64_t* inverse,
    int64_t* row_splits, void* stream) {
  number<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      keys, ends, permutation, count, voxels, inverse, row_splits);
  return launched();
}

Status coarse_keys(const int64_t* coordinates, int64_t count, int64_t stride, int64_t* keys, void* stream) {
  coarse_key_of<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(coordinates, count, stride, keys);
  return launched();
}

Status origin_keys(const int64_t* coarse, int64_t count, int64_t stride, int64_t* keys, void* stream) {
  origin_key_of<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(coarse, count, stride, keys);
  return launched();
}

Status read_integers(const int64_t* from, int64_t first, int64_t step, int64_t count, int64_t* to, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  cudaMemcpy2DAsync(to, sizeof *to, from + first, step * sizeof *from, sizeof *to, count, cudaMemcpyDeviceToHost, queue);
  const cudaError_t error = cudaStreamSynchronize(queue);
  return error == cudaSuccess ? launched() : cudaGetErrorString(error);
}

}  // namespace fusion3d::cuda
