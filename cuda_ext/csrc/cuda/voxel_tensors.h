// What voxelize_op.cpp and kernel_map_op.cpp share: coordinates packed and checked, distinct keys numbered.
#pragma once

#include "cuda/device.h"
#include "cuda/torch_order.h"
#include "cuda/voxel_launch.h"
#include "voxel_check.h"

namespace fusion3d::cuda {

// Keys of coordinates in range. With `rising`, refuses keys that do not rise. Waits for the stream.
inline Tensor keys_of(const Tensor& coordinates, bool rising, void* stream) {
  constexpr int64_t kWords = sizeof(VoxelFindings) / sizeof(int64_t);
  const int64_t count = coordinates.size(0);
  Tensor keys = torch::stable::new_empty(coordinates, {count}), on_device = torch::stable::new_empty(coordinates, {kWords});
  VoxelFindings found;
  succeed("packing voxels", pack_voxels(data<int64_t>(coordinates), count, output<int64_t>(keys),
                                        output<VoxelFindings>(on_device), &found, stream));
  check_range(found.bounds);
  if (rising && found.falling) refuse_order();
  return keys;
}

inline int64_t last_of(const Tensor& integers, void* stream) {
  int64_t last = 0;
  succeed("reading a sum", read_integers(data<int64_t>(integers), integers.numel() - 1, 1, 1, &last, stream));
  return last;
}

// For each of the sorted keys, how many distinct ones there are up to it.
inline Tensor distinct_so_far(const Tensor& sorted, void* stream) {
  Tensor starts = torch::stable::new_empty(sorted, {sorted.numel()});
  succeed("marking voxels", mark_starts(data<int64_t>(sorted), sorted.numel(), output<int64_t>(starts), stream));
  return running_sum(starts);
}

}  // namespace fusion3d::cuda
