// Rows grouped by column (compressed sparse rows), as fusion3d/ops/csr.py draws them, and what may be wrong with them.
#pragma once

#include <cstdint>

#include "core/scalar.h"

namespace fusion3d {

// Column m owns the places row_splits[m]..row_splits[m + 1]; place k is row permutation[k], or row k without a permutation.
struct Columns {
  const int64_t* row_splits;
  const int64_t* permutation;  // or nullptr
  int64_t places;
  int64_t columns;
  int64_t channels;

  FUSION3D_BOTH int64_t row(int64_t place) const { return permutation ? permutation[place] : place; }
};

// What a walk over the offsets found; the host turns it into words. The order is the order in which they are reported.
enum class CsrFault : int32_t { none = 0, splits = 1, outside = 2, twice = 3, long_column = 4 };

constexpr int64_t kLongestColumn = INT32_MAX;  // positions inside a column are int32

FUSION3D_BOTH bool splits_fit(const int64_t* row_splits, int64_t column, int64_t columns, int64_t places) {
  const int64_t start = row_splits[column], stop = row_splits[column + 1];
  return start <= stop && (column > 0 || start == 0) && (column < columns - 1 || stop == places);
}

}  // namespace fusion3d
