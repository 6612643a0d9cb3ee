// What every .cu file shares: launch sizes, the status of a launch, one switch on dtype, a partial's way through a warp.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/schedule.h"
#include "cuda/launch.h"

namespace fusion3d::cuda {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 20;  // kernels step over the grid, so that a grid of any size is right

inline unsigned blocks_for(int64_t threads) {
  return unsigned(std::clamp<int64_t>((threads + kThreads - 1) / kThreads, 1, kMostBlocks));
}

inline Status launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class Body>
Status with_float_type(FloatType type, Body&& body) {
  switch (type) {
    case FloatType::f32: return body(float{});
    case FloatType::f64: return body(double{});
    case FloatType::f16: return body(Half{});
    case FloatType::bf16: return body(BFloat16{});
  }
  return "unknown float type";
}

template <class Body>
Status with_reduce(Reduce reduce, Body&& body) {
  switch (reduce) {
    case Reduce::sum: return body(std::integral_constant<Reduce, Reduce::sum>{});
    case Reduce::mean: return body(std::integral_constant<Reduce, Reduce::mean>{});
    case Reduce::max: return body(std::integral_constant<Reduce, Reduce::max>{});
  }
  return "unknown reduction";
}

// Calls body(constant) with the widest packet, 16 bytes, where every row of both tensors starts on 16 bytes; else with 1.
template <class Scalar, class Body>
Status with_packet(int64_t channels, const void* first, const void* second, Body&& body) {
  constexpr int kWide = 16 / int(sizeof(Scalar));
  if (channels % kWide == 0 && (uintptr_t(first) | uintptr_t(second)) % 16 == 0)
    return body(std::integral_constant<int, kWide>{});
  return body(std::integral_constant<int, 1>{});
}

#if defined(__CUDACC__)

__device__ inline int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t grid_threads() { return int64_t(gridDim.x) * blockDim.x; }

template <class Partial>
__device__ inline Partial from_lane_below(const Partial& partial, int offset) {
  static_assert(std::is_trivially_copyable_v<Partial> && sizeof(Partial) % sizeof(uint32_t) == 0);
  uint32_t words[sizeof(Partial) / sizeof(uint32_t)];
  memcpy(words, &partial, sizeof partial);
#pragma unroll
  for (uint32_t& word : words) word = __shfl_down_sync(0xffffffffu, word, offset);
  Partial other;
  memcpy(&other, words, sizeof other);
  return other;
}

// The tree of combine_as_a_warp (core/schedule.h), with shuffles. Every lane of the warp must call it; lane 0 holds the result.
template <class Partial>
__device__ inline void combine_warp(Partial& partial) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) partial.combine(from_lane_below(partial, offset));
}

#endif

}  // namespace fusion3d::cuda
