// Which group a place belongs to, found by bisection in the offsets of the groups.
#pragma once

#include <cstdint>

#include "core/scalar.h"

namespace fusion3d {

// The last group that starts at or before the place: groups before it may be empty, it is not.
FUSION3D_BOTH int64_t group_of_place(const int64_t* splits, int64_t groups, int64_t place) {
  int64_t low = 0, high = groups;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (splits[middle] <= place)
      low = middle;
    else
      high = middle;
  }
  return low;
}

}  // namespace fusion3d
