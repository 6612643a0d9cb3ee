// Voxel coordinates (chip, level, row, column) and the 64-bit key that orders them, as fusion3d/ops/voxelize.py draws it.
#pragma once

#include <cstdint>

#include "core/scalar.h"

namespace fusion3d {

constexpr int kPlaneBits = 18, kLevelBits = 14;
constexpr int kColumnShift = kLevelBits, kRowShift = kLevelBits + kPlaneBits, kChipShift = kLevelBits + 2 * kPlaneBits;
constexpr int64_t kLargestReach = 1 << 12;  // voxels; a neighbour that far away still fits its own field of the key
constexpr int64_t kLowest[] = {0, -(1 << 12), -(1 << 16), -(1 << 16)};
constexpr int64_t kPastHighest[] = {1 << 13, 1 << 12, 1 << 16, 1 << 16};
constexpr int64_t kPastEveryKey = INT64_MAX;  // and past every neighbour's: rows of its field stay far below 2^18 - 1

// Coordinates outside their range give some key; whoever packs them checks the range as well.
FUSION3D_BOTH int64_t pack(int64_t chip, int64_t level, int64_t row, int64_t column) {
  uint64_t key = (uint64_t(chip) << kPlaneBits) + uint64_t(row) + (1u << (kPlaneBits - 1));
  key = (key << kPlaneBits) + uint64_t(column) + (1u << (kPlaneBits - 1));
  return int64_t((key << kLevelBits) + uint64_t(level) + (1u << (kLevelBits - 1)));
}

FUSION3D_BOTH int64_t pack(const int64_t* voxel) { return pack(voxel[0], voxel[1], voxel[2], voxel[3]); }

FUSION3D_BOTH void unpack(int64_t key, int64_t* voxel) {
  constexpr int64_t kPlane = (1 << kPlaneBits) - 1, kLevel = (1 << kLevelBits) - 1;
  voxel[0] = key >> kChipShift;
  voxel[1] = (key & kLevel) - (1 << (kLevelBits - 1));
  voxel[2] = (key >> kRowShift & kPlane) - (1 << (kPlaneBits - 1));
  voxel[3] = (key >> kColumnShift & kPlane) - (1 << (kPlaneBits - 1));
}

// Lowest and highest value of each coordinate seen so far.
struct Bounds {
  int64_t low[4], high[4];

  FUSION3D_BOTH Bounds() {
    for (int axis = 0; axis < 4; ++axis) low[axis] = INT64_MAX, high[axis] = INT64_MIN;
  }

  FUSION3D_BOTH void take(const int64_t* voxel) {
    for (int axis = 0; axis < 4; ++axis) {
      low[axis] = voxel[axis] < low[axis] ? voxel[axis] : low[axis];
      high[axis] = voxel[axis] > high[axis] ? voxel[axis] : high[axis];
    }
  }

  FUSION3D_BOTH void combine(const Bounds& other) {
    take(other.low);
    take(other.high);
  }
};

// Of values in range, which 32 bits hold: their division is several times faster than that of 64.
FUSION3D_BOTH int64_t floor_divide(int64_t value, int64_t divisor) {
  const int32_t v = int32_t(value), d = int32_t(divisor);
  return v / d - (v % d < 0);
}

// The key of the coarse voxel, `stride` times as large, that a voxel lies in, and the key of its first voxel.
FUSION3D_BOTH int64_t coarse_key(const int64_t* voxel, int64_t stride) {
  return pack(voxel[0], floor_divide(voxel[1], stride), floor_divide(voxel[2], stride), floor_divide(voxel[3], stride));
}

FUSION3D_BOTH int64_t origin_key(const int64_t* coarse, int64_t stride) {
  return pack(coarse[0], coarse[1] * stride, coarse[2] * stride, coarse[3] * stride);
}

}  // namespace fusion3d
