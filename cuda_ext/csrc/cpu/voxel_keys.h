// Keys of voxel coordinates, and their range.
#pragma once

#include <mutex>

#include "cpu/parallel.h"
#include "voxel_check.h"

namespace fusion3d {

// Packs count coordinates [count, 4] and refuses those outside their range.
inline Bounds pack_voxels(const int64_t* coordinates, int64_t count, int64_t* keys) {
  Bounds bounds;
  std::mutex joining;
  for_parts(count, 8, [&](int64_t begin, int64_t end) {
    Bounds part;
    for (int64_t i = begin; i < end; ++i) {
      part.take(coordinates + 4 * i);
      keys[i] = pack(coordinates + 4 * i);
    }
    const std::lock_guard<std::mutex> lock(joining);
    bounds.combine(part);
  });
  check_range(bounds);
  return bounds;
}

}  // namespace fusion3d
