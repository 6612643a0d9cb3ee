// What the bindings of every operator on voxel coordinates refuse, in the words of fusion3d/ops/voxelize.py and kernel_map.py.
#pragma once

#include "binding.h"
#include "core/kernel_map.h"
#include "core/voxel_key.h"

namespace fusion3d {

inline void check_coordinates(const Tensor& coordinates) {
  if (coordinates.scalar_type() != ScalarType::Long || coordinates.dim() != 2 || coordinates.size(1) != 4)
    refuse("coordinates must be int64 of shape [V, 4]");
}

// `bounds` of no voxel at all are inside.
inline void check_range(const Bounds& bounds) {
  constexpr const char* kNames[] = {"chip", "level", "row", "column"};
  for (int axis = 0; axis < 4; ++axis)
    if (bounds.low[axis] <= bounds.high[axis] &&
        (bounds.low[axis] < kLowest[axis] || bounds.high[axis] >= kPastHighest[axis]))
      refuse("voxel ", kNames[axis], "s run from ", bounds.low[axis], " to ", bounds.high[axis], ", outside [", kLowest[axis],
             ", ", kPastHighest[axis], "); use larger voxels or chips");
}

[[noreturn]] inline void refuse_order() {
  refuse("coordinates are not distinct voxels in the order of their keys; take them from voxelize");
}

inline Kernel submanifold_kernel(int64_t size, int64_t dilation) {
  if (size < 1 || size % 2 == 0) refuse("a submanifold kernel has an odd size, not ", size);
  if (dilation < 1 || dilation > kLargestReach || size > 2 * kLargestReach + 1 || size / 2 * dilation > kLargestReach)
    refuse("a kernel of ", size, " with dilation ", dilation, " must reach 0 to ", kLargestReach, " voxels");
  return {size, size / 2, dilation};
}

inline Kernel strided_kernel(int64_t size, int64_t stride) {
  if (stride < 1 || stride > size || size > kLargestReach)
    refuse("a kernel of ", size, " with stride ", stride, " must satisfy 1 <= stride <= kernel <= ", kLargestReach);
  return {size, (size - 1) / 2, 1};
}

}  // namespace fusion3d
