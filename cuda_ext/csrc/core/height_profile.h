// Bodies of height_profile: the bin of a height, and what the rows of a column add to one bin.
#pragma once

#include <cstdint>

#include "core/csr.h"
#include "core/scalar.h"

namespace fusion3d {

// Bins lie between rising edges, bins + 1 of them. A height on an edge belongs to the bin above, on the last edge to the one below.
struct Bins {
  const double* edges;
  int64_t count;

  // NaN lies nowhere.
  FUSION3D_BOTH bool holds(double height) const { return height >= edges[0] && height <= edges[count]; }

  FUSION3D_BOTH bool holds(int64_t bin, double height) const {
    return height >= edges[bin] && (height < edges[bin + 1] || (bin == count - 1 && height == edges[count]));
  }

  // The bin, known to lie in [low, high], of a height that lies in one.
  FUSION3D_BOTH int64_t find(double height, int64_t low, int64_t high) const {
    while (low < high) {
      const int64_t middle = low + (high - low + 1) / 2;
      if (height >= edges[middle])
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }

  // `column * count + bin`, or -1 outside.
  FUSION3D_BOTH int64_t cell(int64_t column, double height) const {
    return holds(height) ? column * count + find(height, 0, count - 1) : -1;
  }
};

// Rows have weights, or count as 1.
struct NumberOfRows {
  using Result = int64_t;
  using Total = int64_t;

  FUSION3D_BOTH Total of_row(int64_t) const { return 1; }
  FUSION3D_BOTH static Result narrowed(Total total) { return total; }
};

template <class S>
struct WeightOfRows {
  using Result = S;
  using Total = Accumulator<S>;
  const S* weights;

  FUSION3D_BOTH Total of_row(int64_t row) const { return widen(weights[row]); }
  FUSION3D_BOTH static Result narrowed(Total total) { return narrow<S>(total); }
};

// What the rows first, first + step, ... below stop add to one bin. A monoid: a warp takes every 32nd row a lane and joins them.
template <class Amount>
struct BinTotal {
  typename Amount::Total total = 0;

  template <class H>
  FUSION3D_BOTH void take_rows(
      const H* heights, const Amount& amount, const Bins& bins, int64_t bin, int64_t first, int64_t stop, int64_t step) {
    for (int64_t row = first; row < stop; row += step)
      if (bins.holds(bin, double(widen(heights[row])))) total += amount.of_row(row);
  }

  FUSION3D_BOTH void combine(const BinTotal& other) { total += other.total; }
};

}  // namespace fusion3d
