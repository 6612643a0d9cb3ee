// What an element of a convolution kernel adds to a voxel's key, and the search for the sum: a key is linear in its coordinates.
#pragma once

#include <cstdint>

#include "core/voxel_key.h"

namespace fusion3d {

// A kernel of size^3 elements, numbered (level * size + row) * size + column; element `before` along each axis is the centre.
struct Kernel {
  int64_t size, before, dilation;

  FUSION3D_BOTH int64_t plane() const { return size * size; }
  FUSION3D_BOTH int64_t elements() const { return size * size * size; }

  FUSION3D_BOTH int64_t step(int64_t element) const {
    const int64_t level = element / plane(), row = element / size % size, column = element % size;
    const int64_t unit_row = int64_t(1) << kRowShift, unit_column = int64_t(1) << kColumnShift;
    return ((level - before) + (row - before) * unit_row + (column - before) * unit_column) * dilation;
  }
};

// First place in keys[low..high) whose key is not below `wanted`, or `high`.
FUSION3D_BOTH int64_t first_not_below(const int64_t* keys, int64_t low, int64_t high, int64_t wanted) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] < wanted)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Looking up one kernel element at one output voxel: how CUDA finds pairs. `searched` elements are looked up, the first ones of
// the kernel; for the other half of a submanifold kernel their pairs are turned round.
struct PairSearch {
  const int64_t* keys;  // of the input voxels, rising
  int64_t inputs;
  const int64_t* origins;  // keys of the output voxels' first input voxels
  int64_t outputs;
  Kernel kernel;
  int64_t searched;

  // The input voxel of a pair, or -1.
  FUSION3D_BOTH int64_t input(int64_t element, int64_t out) const {
    if (out >= outputs) return -1;
    const int64_t wanted = origins[out] + kernel.step(element), place = first_not_below(keys, 0, inputs, wanted);
    return place < inputs && keys[place] == wanted ? place : -1;
  }
};

// Where pairs go. An element's output voxels are cut into blocks; ends[element * blocks + block] pairs are found up to there.
struct PairPlaces {
  const int64_t* ends;
  int64_t blocks;

  FUSION3D_BOTH int64_t start(int64_t item) const { return item ? ends[item - 1] : 0; }
  FUSION3D_BOTH int64_t element_start(int64_t element) const { return start(element * blocks); }

  // The place of the turned pair in the opposite element, behind the pairs of both `searched` elements and of the middle one.
  FUSION3D_BOTH int64_t opposite(int64_t place, int64_t element, int64_t searched, int64_t voxels) const {
    return 2 * element_start(searched) + voxels - element_start(element + 1) + (place - element_start(element));
  }
};

}  // namespace fusion3d
