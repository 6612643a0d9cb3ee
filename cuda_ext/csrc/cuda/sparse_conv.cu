// sparse_conv on CUDA: the blocks of core/sparse_conv.h, and the walks that prepare and end them. The gradient of the features is
// the same convolution with the map turned round and the weight transposed.
#include "cuda/kernel.cuh"
#include "cuda/sparse_conv_launch.h"

namespace fusion3d::cuda {
namespace {

template <class A>
struct Block {
  ThreadSums<A> sums;

  template <class Work>
  __device__ void each(const Work& work) {
    work(int(threadIdx.x), sums);
    __syncthreads();
  }
};

__global__ void __launch_bounds__(kThreads) inspect(KernelPairs pairs, int64_t count, int32_t* found) {
  for (int64_t pair = global_thread(); pair < count; pair += grid_threads()) {
    const int64_t element = first_pair(pairs.offsets, 0, pairs.elements, pair + 1) - 1;
    const PairFault fault = fault_of_pair(pairs, pair, pairs.offsets[element], pairs.offsets[element + 1]);
    if (fault != PairFault::none) found[int(fault)] = 1;
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) find_starts(KernelPairs pairs, int64_t items, int64_t* starts) {
  for (int64_t item = global_thread(); item < items; item += grid_threads()) starts[item] = tile_start<S>(pairs, item);
}

// 8 blocks a multiprocessor: 64 registers a thread; without the bound, unrolled loads take 132.
template <class S>
__global__ void __launch_bounds__(kTeam, 8) convolve(Convolution<S> c, int64_t items) {
  __shared__ TileMemory<Accumulator<S>> memory;
  Block<Accumulator<S>> block;
  const int64_t sides = (c.channels + kSide - 1) / kSide;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x)
    convolve_tile(c, item / sides, item % sides * kSide, memory, block);
}

template <class S>
__global__ void __launch_bounds__(kTeam, 8) outer(WeightGradient<S> g, int64_t items) {
  __shared__ OuterMemory<Accumulator<S>> memory;
  Block<Accumulator<S>> block;
  const int64_t down = (g.depth + kSide - 1) / kSide, across = (g.channels + kSide - 1) / kSide;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x)
    outer_part(g, item / (down * across), item / across % down * kSide, item % across * kSide, memory, block);
}

template <class S>
__global__ void __launch_bounds__(kThreads) join(WeightGradient<S> g, int64_t items, S* grad_weight) {
  for (int64_t item = global_thread(); item < items; item += grid_threads()) grad_weight[item] = join_parts(g, item);
}

unsigned blocks_of(int64_t items) { return unsigned(std::min(items, kMostBlocks)); }

}  // namespace

Status inspect_pairs(const KernelPairs& pairs, int64_t count, int32_t* on_device, int32_t* on_host, void* stream) {
  if (count == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  inspect<<<blocks_for(count), kThreads, 0, queue>>>(pairs, count, on_device);
  if (Status problem = launched()) return problem;
  cudaMemcpyAsync(on_host, on_device, kPairFaults * sizeof *on_host, cudaMemcpyDeviceToHost, queue);
  const cudaError_t error = cudaStreamSynchronize(queue);
  return error == cudaSuccess ? launched() : cudaGetErrorString(error);
}

int64_t sparse_conv_tiles(FloatType type, int64_t rows) {
  return type == FloatType::f64 ? tiles_of<double>(rows) : tiles_of<float>(rows);
}

Status sparse_conv(
    FloatType type, const void* features, const void* weight, const KernelPairs& pairs, int64_t depth, int64_t channels,
    int64_t* starts, void* result, void* stream) {
  if (pairs.outputs == 0 || channels == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const int64_t tiles = tiles_of<S>(pairs.outputs), items = tiles * ((channels + kSide - 1) / kSide);
    const int64_t start_count = (tiles + 1) * pairs.elements;
    if (start_count > 0) find_starts<S><<<blocks_for(start_count), kThreads, 0, queue>>>(pairs, start_count, starts);
    const Convolution<S> c{static_cast<const S*>(features), static_cast<const S*>(weight), static_cast<S*>(result), pairs, starts,
                           depth, channels};
    convolve<S><<<blocks_of(items), kTeam, 0, queue>>>(c, items);
    return launched();
  });
}

Status sparse_conv_weight_gradient(
    FloatType type, const void* features, const void* grad, const KernelPairs& pairs, const Parts& parts, int64_t part_count,
    int64_t depth, int64_t channels, void* partial, void* grad_weight, void* stream) {
  if (pairs.elements == 0 || depth == 0 || channels == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const WeightGradient<S> g{static_cast<const S*>(features), static_cast<const S*>(grad), pairs, parts,
                              static_cast<Accumulator<S>*>(partial), depth, channels};
    const int64_t items = part_count * ((depth + kSide - 1) / kSide) * ((channels + kSide - 1) / kSide);
    if (items > 0) outer<S><<<blocks_of(items), kTeam, 0, queue>>>(g, items);
    const int64_t elements = pairs.elements * depth * channels;
    join<S><<<blocks_for(elements), kThreads, 0, queue>>>(g, elements, static_cast<S*>(grad_weight));
    return launched();
  });
}

}  // namespace fusion3d::cuda
