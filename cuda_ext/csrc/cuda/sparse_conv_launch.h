// Launches of sparse_conv, between g++ and nvcc as in cuda/launch.h. All pointers but those of `on_host` are of the device.
#pragma once

#include "core/kernel_pairs.h"
#include "core/sparse_conv.h"
#include "cuda/launch.h"

namespace fusion3d::cuda {

constexpr int kPairFaults = 5;

// `on_device`: kPairFaults zeros; `on_host[f]` is 1 where some pair has PairFault f. Waits for the stream.
Status inspect_pairs(const KernelPairs& pairs, int64_t count, int32_t* on_device, int32_t* on_host, void* stream);

int64_t sparse_conv_tiles(FloatType type, int64_t rows);

// `starts`: room for (tiles + 1) * elements.
Status sparse_conv(
    FloatType type, const void* features, const void* weight, const KernelPairs& pairs, int64_t depth, int64_t channels,
    int64_t* starts, void* result, void* stream);

// `partial`: room for part_count * depth * channels of float, double for float64.
Status sparse_conv_weight_gradient(
    FloatType type, const void* features, const void* grad, const KernelPairs& pairs, const Parts& parts, int64_t part_count,
    int64_t depth, int64_t channels, void* partial, void* grad_weight, void* stream);

}  // namespace fusion3d::cuda
