// The pairs of voxels that a sparse convolution joins, as fusion3d/ops/kernel_map.py draws them, and what may be wrong with them.
#pragma once

#include <cstdint>

#include "core/scalar.h"

namespace fusion3d {

// Kernel element k joins input row from[p] with output row to[p] for the pairs p of offsets[k]..offsets[k + 1]. Both rows rise
// within an element, so the pairs of a range of rows lie side by side in each element: nothing has to be sorted again, neither
// for the outputs nor, with `from` and `to` exchanged, for the inputs, and no row occurs twice in an element.
struct KernelPairs {
  const int64_t* from;
  const int64_t* to;
  const int64_t* offsets;
  int64_t elements;
  int64_t inputs;
  int64_t outputs;

  FUSION3D_BOTH KernelPairs transposed() const { return {to, from, offsets, elements, outputs, inputs}; }
  FUSION3D_BOTH int64_t count() const { return offsets[elements]; }
};

// What a walk over the pairs found; the host turns it into words. The order is the order in which they are reported.
enum class PairFault : int32_t { none = 0, in_outside = 1, out_outside = 2, in_order = 3, out_order = 4 };

// Rows that rise stay in range if the first and the last do. `begin` and `end` are the bounds of the pair's element.
FUSION3D_BOTH PairFault fault_of_pair(const KernelPairs& map, int64_t pair, int64_t begin, int64_t end) {
  const int64_t from = map.from[pair], to = map.to[pair];
  if (pair == begin && from < 0) return PairFault::in_outside;
  if (pair == begin && to < 0) return PairFault::out_outside;
  if (pair == end - 1 && from >= map.inputs) return PairFault::in_outside;
  if (pair == end - 1 && to >= map.outputs) return PairFault::out_outside;
  if (pair > begin && from <= map.from[pair - 1]) return PairFault::in_order;
  if (pair > begin && to <= map.to[pair - 1]) return PairFault::out_order;
  return PairFault::none;
}

// First pair of [begin, end) whose row is `row` or more.
FUSION3D_BOTH int64_t first_pair(const int64_t* rows, int64_t begin, int64_t end, int64_t row) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (rows[middle] < row)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

}  // namespace fusion3d
